"""scikit-learn's multi-layer perceptron with RMSprop in place of Adam.

scikit-learn creates an `AdamOptimizer`, stores it as `_optimizer` and asks it for every
update. Storing ours instead is all that happens here; tests/test_estimators_mlp.py says
which of these private names moved when a new version breaks it.
"""

from __future__ import annotations

import copy
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._stochastic_optimizers import BaseOptimizer
from sklearn.utils._param_validation import Interval

from rmsprop_fast import RMSprop
from rmsprop_fast.estimators.base import set_parameters
from rmsprop_fast.estimators.docstrings import PERCEPTRON, completed
from rmsprop_fast.estimators.draft import on_a_draft

__all__ = ["RMSpropMLPClassifier", "RMSpropMLPRegressor"]

Array = np.ndarray[Any, Any]

# What scikit-learn's methods change in place.
CHANGED = ("coefs_", "intercepts_", "loss_curve_", "_rmsprop_optimizer")


class _RMSpropOptimizer(BaseOptimizer):
    """Our optimizer behind the methods that scikit-learn's perceptron calls."""

    def __init__(self, rmsprop: RMSprop) -> None:
        super().__init__(rmsprop.learning_rate)
        self.rmsprop = rmsprop
        self.params: list[Array] = []

    def update_params(self, params: list[Array], grads: list[Array]) -> None:
        """Update `params` in place."""
        same = len(params) == len(self.params) and all(
            one is other for one, other in zip(params, self.params, strict=True)
        )
        if not same:
            # Unpickled, or replaced by the user: a copied optimizer finds its variables
            # by their position.
            self.rmsprop = copy.copy(self.rmsprop)
            self.params = list(params)
        # partial_fit may be given float64 where the model is float32.
        cast = [
            np.asarray(grad, param.dtype)
            for grad, param in zip(grads, params, strict=True)
        ]
        self.rmsprop.apply_gradients(zip(cast, params, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "params": []}


class _RMSpropMLP:
    """What both perceptrons have: the hyperparameters, and the swap."""

    # Adam's and SGD's, which scikit-learn reads to make the optimizer that we replace.
    solver = "adam"
    learning_rate = "constant"
    power_t = 0.5
    nesterovs_momentum = False
    beta_1, beta_2 = 0.9, 0.999
    max_fun = 15_000

    # What mypy has to know of __init__.
    learning_rate_init: float
    rho: float
    momentum: float
    epsilon: float
    centered: bool
    num_threads: int | None

    _own_constraints: ClassVar[dict[str, list[Any]]] = {
        "rho": [Interval(Real, 0, 1, closed="both")],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "centered": ["boolean"],
        "num_threads": [Interval(Integral, 1, 1024, closed="both"), None],
    }

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate_init: float = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        num_threads: int | None = 1,
    ) -> None:
        set_parameters(self, locals())

    @property
    def _optimizer(self) -> _RMSpropOptimizer:
        return self._rmsprop_optimizer

    @_optimizer.setter
    def _optimizer(self, created: Any) -> None:
        """Keep ours; `created` is the optimizer that scikit-learn made."""
        rmsprop = RMSprop(
            self.learning_rate_init,
            rho=self.rho,
            momentum=self.momentum,
            epsilon=self.epsilon,
            centered=self.centered,
            num_threads=self.num_threads,
        )
        self._rmsprop_optimizer = _RMSpropOptimizer(rmsprop)


@completed(**PERCEPTRON)
class RMSpropMLPClassifier(_RMSpropMLP, MLPClassifier):
    """Classify by `sklearn.neural_network.MLPClassifier`, trained by RMSprop.

    An epoch takes less time than with Adam where the update is what takes it: small
    mini-batches, wide layers. Methods and attributes are scikit-learn's.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : The same with Adam, SGD or L-BFGS.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from rmsprop_fast.estimators import RMSpropMLPClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> model = RMSpropMLPClassifier((64,), early_stopping=True, random_state=0)
    >>> bool(model.fit(X / 16, y).best_validation_score_ > 0.95)
    True
    """

    loss = "log_loss"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MLPClassifier._parameter_constraints,
        **_RMSpropMLP._own_constraints,
    }

    fit = on_a_draft(MLPClassifier.fit, CHANGED)
    partial_fit = on_a_draft(MLPClassifier.partial_fit, CHANGED)


@completed(**PERCEPTRON)
class RMSpropMLPRegressor(_RMSpropMLP, MLPRegressor):
    """Predict numbers by `sklearn.neural_network.MLPRegressor`, trained by RMSprop.

    An epoch takes less time than with Adam where the update is what takes it: small
    mini-batches, wide layers. Methods and attributes are scikit-learn's; the loss is
    the squared error.

    See Also
    --------
    sklearn.neural_network.MLPRegressor : The same with Adam, SGD or L-BFGS.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from rmsprop_fast.estimators import RMSpropMLPRegressor
    >>> X, y = load_diabetes(return_X_y=True)
    >>> X, y = X / X.std(), (y - y.mean()) / y.std()
    >>> model = RMSpropMLPRegressor((32,), early_stopping=True, random_state=0)
    >>> bool(model.fit(X, y).score(X, y) > 0.4)
    True
    """

    loss = "squared_error"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MLPRegressor._parameter_constraints,
        **_RMSpropMLP._own_constraints,
    }

    fit = on_a_draft(MLPRegressor.fit, CHANGED)
    partial_fit = on_a_draft(MLPRegressor.partial_fit, CHANGED)
