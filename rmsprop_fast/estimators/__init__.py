"""scikit-learn estimators trained by row-sparse RMSprop."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        'the estimators need: pip install "rmsprop-fast[sklearn]"'
    ) from error

from rmsprop_fast.estimators.factorization import (
    FactorizationMachineClassifier,
    FactorizationMachineRegressor,
)
from rmsprop_fast.estimators.linear import RMSpropClassifier, RMSpropRegressor
from rmsprop_fast.estimators.mlp import RMSpropMLPClassifier, RMSpropMLPRegressor

__all__ = [
    "FactorizationMachineClassifier",
    "FactorizationMachineRegressor",
    "RMSpropClassifier",
    "RMSpropMLPClassifier",
    "RMSpropMLPRegressor",
    "RMSpropRegressor",
]
