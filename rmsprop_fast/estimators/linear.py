"""Linear models, trained by row-sparse RMSprop."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval
from sklearn.utils.extmath import safe_sparse_dot

from rmsprop_fast.estimators.base import TableEstimator, set_parameters
from rmsprop_fast.estimators.docstrings import (
    CLASSIFIER,
    COST_OF_A_STEP,
    OBJECTIVE,
    REGRESSOR,
    completed,
)
from rmsprop_fast.estimators.targets import TableClassifier, TableRegressor

__all__ = ["RMSpropClassifier", "RMSpropRegressor"]

Array = np.ndarray[Any, Any]


class _Linear(TableEstimator):
    """One weight per feature and output."""

    l1_ratio: float
    coef_: Array
    intercept_: Array

    def _penalties(self) -> dict[str, float]:
        # coef_ is `_y_scale` times the table, and the loss `_loss_scale` times.
        unit = self._y_scale / self._loss_scale()
        return {
            "l1": self.alpha * self.l1_ratio * unit,
            "l2": self.alpha * (1 - self.l1_ratio) * unit * self._y_scale,
            "l2_factors": 0.0,
        }

    def _raw(self, X: Any) -> Array:
        coef = np.atleast_2d(self.coef_)
        product = safe_sparse_dot(X, coef.T, dense_output=True)
        return product + self.intercept_


@completed(OBJECTIVE, COST_OF_A_STEP, **CLASSIFIER)
class RMSpropClassifier(TableClassifier, _Linear):
    """Classify by a linear model, trained by RMSprop on mini-batches.

    For dense and CSR input; made for many sparse features, such as hashed text, and
    for many classes.

    Parameters
    ----------
    loss : {"log_loss", "hinge", "modified_huber"}
        Logistic regression, softmax regression where there are more than two classes;
        a linear support vector machine; a smooth hinge that tolerates outliers. The
        latter two train one class against the rest.
    alpha : float
        Weight of the penalty, >= 0; as in `sklearn.linear_model.SGDClassifier`.

    See Also
    --------
    sklearn.linear_model.SGDClassifier : One sample at a time, without softmax.
    sklearn.linear_model.LogisticRegression : To the optimum, where that is affordable.

    Examples
    --------
    >>> from sklearn.feature_extraction.text import HashingVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> from rmsprop_fast.estimators import RMSpropClassifier
    >>> names = ["Kyoto", "Osaka", "Nagoya", "Lyon", "Nantes", "Dijon"]
    >>> model = make_pipeline(
    ...     HashingVectorizer(analyzer="char_wb", ngram_range=(1, 3)),
    ...     RMSpropClassifier(random_state=0),
    ... )
    >>> model.fit(names, ["JP", "JP", "JP", "FR", "FR", "FR"]).predict(["Kyushu"])
    array(['JP'], dtype='<U2')
    """

    def __init__(
        self,
        loss: str = "log_loss",
        *,
        learning_rate: Any = 0.01,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        alpha: float = 1e-5,
        l1_ratio: float = 0.0,
        fit_intercept: bool = True,
        batch_size: int = 64,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        n_iter_no_change: int = 5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        shuffle: bool = True,
        average: bool | int = False,
        class_weight: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        num_threads: int | None = None,
    ) -> None:
        set_parameters(self, locals())

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableClassifier._parameter_constraints,
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
    }

    def _fitted(self, result: Array) -> dict[str, Any]:
        return {"coef_": result[:-1].T, "intercept_": result[-1].copy()}


@completed(OBJECTIVE, COST_OF_A_STEP, **REGRESSOR)
class RMSpropRegressor(TableRegressor, _Linear):
    """Predict a number by a linear model, trained by RMSprop on mini-batches.

    For dense and CSR input; made for many sparse features.

    Parameters
    ----------
    loss : {"squared_error", "huber", "epsilon_insensitive"}
        Half the squared error; squared up to `delta`, linear beyond; zero up to
        `delta`, linear beyond.
    alpha : float
        Weight of the penalty, >= 0; as in `sklearn.linear_model.SGDRegressor`.

    See Also
    --------
    sklearn.linear_model.SGDRegressor : One sample at a time.
    sklearn.linear_model.Ridge : The optimum itself, for squared errors and L2.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from rmsprop_fast.estimators import RMSpropRegressor
    >>> X, y = load_diabetes(return_X_y=True, scaled=False)
    >>> X = (X - X.mean(axis=0)) / X.std(axis=0)
    >>> model = RMSpropRegressor(average=True, random_state=0).fit(X, y)
    >>> round(model.score(X, y), 2)
    0.5
    """

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        learning_rate: Any = 0.01,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        alpha: float = 1e-5,
        l1_ratio: float = 0.0,
        delta: float = 0.1,
        fit_intercept: bool = True,
        batch_size: int = 64,
        max_iter: int = 1000,
        tol: float | None = 1e-3,
        n_iter_no_change: int = 5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        shuffle: bool = True,
        average: bool | int = False,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: int = 0,
        num_threads: int | None = None,
    ) -> None:
        set_parameters(self, locals())

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableRegressor._parameter_constraints,
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
    }

    def _fitted(self, result: Array) -> dict[str, Any]:
        scale = result.dtype.type(self._y_scale)
        intercept = result[-1] * scale + result.dtype.type(self._y_mean)
        return {"coef_": result[:-1, 0] * scale, "intercept_": intercept}
