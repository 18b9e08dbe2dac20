"""Factorization machines of order 2, trained by row-sparse RMSprop."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import issparse
from sklearn.utils._param_validation import Interval
from sklearn.utils.extmath import safe_sparse_dot

from rmsprop_fast.estimators.base import TableEstimator, set_parameters
from rmsprop_fast.estimators.docstrings import (
    CLASSIFIER,
    COST_OF_A_STEP,
    REGRESSOR,
    completed,
)
from rmsprop_fast.estimators.table import Table
from rmsprop_fast.estimators.targets import TableClassifier, TableRegressor

__all__ = ["FactorizationMachineClassifier", "FactorizationMachineRegressor"]

Array = np.ndarray[Any, Any]

PAIRS = """
Rendle 2010, Factorization machines, equation 1: besides its intercept and its linear
part a prediction has a term ``<v_i, v_j> * x_i * x_j`` for each pair of features that
occur together; with several classes, each class has factors of its own. With a one-hot
user and a one-hot item that is matrix factorisation with biases. The cost is that of
the non-zeros times `n_factors`, not of the pairs.

The objective is the weighted mean of the losses plus half of
``alpha * coef_**2 + alpha_factors * factors_**2``, summed. The gradients of the losses
go through RMSprop, the penalties are proximal steps, as in `RMSpropClassifier`.
"""


class _FactorizationMachine(TableEstimator):
    """A weight and `n_factors` factors per feature and output."""

    _own_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_factors": [Interval(Integral, 1, None, closed="left")],
        "init_scale": [Interval(Real, 0, None, closed="neither")],
        "alpha_factors": [Interval(Real, 0, None, closed="left"), None],
    }

    n_factors: int
    init_scale: float
    alpha_factors: float | None
    coef_: Array
    factors_: Array
    intercept_: Array

    def _n_factors(self) -> int:
        return self.n_factors

    def _alpha_factors(self) -> float:
        return self.alpha if self.alpha_factors is None else self.alpha_factors

    def _penalties(self) -> dict[str, float]:
        # Predictions are `_y_scale` times the table's, so coef_ has that factor, and
        # the factors, of which two are multiplied, its root.
        unit = self._y_scale / self._loss_scale()
        return {
            "l1": 0.0,
            "l2": self.alpha * unit * self._y_scale,
            "l2_factors": self._alpha_factors() * unit,
        }

    def _start(self, table: Table) -> None:
        """Draw the factors: at zero their gradients would be zero for ever."""
        drawn = table.params[:-1, table.n_outputs :]
        for begin in range(0, len(drawn), 4096):  # in float64, a little at a time
            block = drawn[begin : begin + 4096]
            block[:] = self._random_state.normal(0, self.init_scale, block.shape)

    def _split_result(self, result: Array) -> tuple[Array, Array, Array]:
        """Return coefficients, factors and intercepts, with outputs first."""
        n_outputs = self._table.n_outputs
        factors = result[:-1, n_outputs:].reshape(len(result) - 1, n_outputs, -1)
        return (
            result[:-1, :n_outputs].T,
            factors.transpose(1, 0, 2),
            result[-1, :n_outputs].copy(),
        )

    def _raw(self, X: Any) -> Array:
        """Rendle 2010, lemma 3.1: half of (sum of v x)^2 less sum of (v x)^2."""
        factors = self.factors_ if self.factors_.ndim == 3 else self.factors_[None]
        squares = X.multiply(X).tocsr() if issparse(X) else X * X
        coef = np.atleast_2d(self.coef_)
        raw = safe_sparse_dot(X, coef.T, dense_output=True) + self.intercept_
        for k, v in enumerate(factors):
            total = safe_sparse_dot(X, v, dense_output=True)
            own = safe_sparse_dot(squares, v * v, dense_output=True)
            raw[:, k] += (total * total - own).sum(axis=1) / 2
        return raw


@completed(PAIRS, COST_OF_A_STEP, **CLASSIFIER)
class FactorizationMachineClassifier(TableClassifier, _FactorizationMachine):
    """Classify by a linear model with factorised pairs of features.

    For sparse features of which pairs matter: users and items, categories, words.

    Parameters
    ----------
    loss : {"log_loss", "hinge", "modified_huber"}
        As for `RMSpropClassifier`.
    alpha_factors : float or None
        Weight of the L2 penalty of the factors, >= 0. None: as `alpha`.

    Attributes
    ----------
    factors_ : ndarray, shape (1 or n_classes, n_features, n_factors)
        The vectors whose inner products weigh the pairs.

    See Also
    --------
    RMSpropClassifier : The same without pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop_fast.estimators import FactorizationMachineClassifier
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    >>> X = np.hstack([X, 1 - X])  # one-hot
    >>> y = np.array([0, 1, 1, 0])  # whether the two differ: no linear model knows
    >>> model = FactorizationMachineClassifier(init_scale=0.3, random_state=0)
    >>> model.fit(X, y).predict(X)
    array([0, 1, 1, 0])
    """

    def __init__(
        self,
        loss: str = "log_loss",
        *,
        n_factors: int = 8,
        init_scale: float = 0.01,
        learning_rate: Any = 0.01,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        alpha: float = 1e-5,
        alpha_factors: float | None = None,
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
        **_FactorizationMachine._own_constraints,
    }

    def _fitted(self, result: Array) -> dict[str, Any]:
        coef, factors, intercept = self._split_result(result)
        return {"coef_": coef, "factors_": factors, "intercept_": intercept}


@completed(PAIRS, COST_OF_A_STEP, **REGRESSOR)
class FactorizationMachineRegressor(TableRegressor, _FactorizationMachine):
    """Predict a number by a linear model with factorised pairs of features.

    For sparse features of which pairs matter: ratings of items by users, categories.

    Parameters
    ----------
    loss : {"squared_error", "huber", "epsilon_insensitive"}
        As for `RMSpropRegressor`.
    alpha_factors : float or None
        Weight of the L2 penalty of the factors, >= 0; unit of y in place of its
        square. None: as `alpha`.

    Attributes
    ----------
    factors_ : ndarray, shape (n_features, n_factors)
        The vectors whose inner products weigh the pairs.

    See Also
    --------
    RMSpropRegressor : The same without pairs.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.preprocessing import OneHotEncoder
    >>> from rmsprop_fast.estimators import FactorizationMachineRegressor
    >>> pairs = np.array([(i, j) for i in range(5) for j in range(5)])
    >>> X = OneHotEncoder().fit_transform(pairs)
    >>> model = FactorizationMachineRegressor(init_scale=0.1, random_state=0)
    >>> model = model.fit(X, pairs[:, 0] * pairs[:, 1])
    >>> model.predict(X[[7, 18]]).round()  # 1 * 2 and 3 * 3
    array([2., 9.])
    """

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        n_factors: int = 8,
        init_scale: float = 0.01,
        learning_rate: Any = 0.01,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        alpha: float = 1e-5,
        alpha_factors: float | None = None,
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
        **_FactorizationMachine._own_constraints,
    }

    def _fitted(self, result: Array) -> dict[str, Any]:
        coef, factors, intercept = self._split_result(result)
        real = result.dtype.type
        scale = real(self._y_scale)
        return {
            "coef_": coef[0] * scale,
            "factors_": factors[0] * real(self._y_scale**0.5),
            "intercept_": intercept * scale + real(self._y_mean),
        }
