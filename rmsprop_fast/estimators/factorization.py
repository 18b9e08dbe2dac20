"""Factorization machines of order 2, trained by row-sparse RMSprop."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import issparse
from sklearn.utils._param_validation import Interval
from sklearn.utils.extmath import safe_sparse_dot

from rmsprop_fast.estimators.base import TableEstimator
from rmsprop_fast.estimators.table import Table
from rmsprop_fast.estimators.targets import TableClassifier, TableRegressor

__all__ = ["FactorizationMachineClassifier", "FactorizationMachineRegressor"]

Array = np.ndarray[Any, Any]


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


class FactorizationMachineClassifier(TableClassifier, _FactorizationMachine):
    """Classify by a linear model with factorised pairs of features.

    For sparse features of which pairs matter: users and items, categories, words.

    Parameters
    ----------
    loss : {"log_loss", "hinge", "modified_huber"}, default "log_loss"
        As for `RMSpropClassifier`.
    n_factors : int, default 8
        Length of the vector that each feature has for its pairs.
    init_scale : float, default 0.01
        Standard deviation of the factors' first values; > 0, for at zero they would
        stay there.
    learning_rate : float, schedule or callable, default 0.01
        Size of a step: a parameter with a steady gradient moves by so much, in log odds
        per unit of the feature. A schedule of `rmsprop_fast.schedules` is given the
        number of mini-batches so far; a callable takes no argument and is called for
        each.
    rho : float, default 0.9
        Weight of the past in the running mean of squared gradients, in [0, 1).
    momentum : float, default 0.0
        Weight of the past steps in a step, in [0, 1).
    epsilon : float, default 1e-7
        Added to the mean square inside the root; > 0, unit of the gradient squared.
        Gradients below its root make smaller steps.
    centered : bool, default False
        Divide by the standard deviation of the gradient instead.
    alpha : float, default 1e-5
        Weight of the L2 penalty of the coefficients, >= 0.
    alpha_factors : float or None, default None
        Weight of the L2 penalty of the factors, >= 0. None: as `alpha`.
    fit_intercept : bool, default True
        Whether there is an intercept. It is never penalised.
    batch_size : int, default 64
        Samples per step.
    max_iter : int, default 1000
        Most epochs of `fit`.
    tol : float or None, default 1e-3
        `fit` stops when the training loss, or with early stopping minus the score, has
        not fallen by `tol` below its best for `n_iter_no_change` epochs. None: never.
    n_iter_no_change : int, default 5
        See `tol`.
    early_stopping : bool, default False
        Set `validation_fraction` of the samples aside, stop by the accuracy on them,
        and keep the parameters of the best epoch.
    validation_fraction : float, default 0.1
        In (0, 1); used with early stopping.
    shuffle : bool, default True
        Shuffle the samples before each epoch.
    average : bool or int, default False
        Return the mean of the parameters over all steps; an int: over those after so
        many samples.
    class_weight : dict, "balanced" or None, default None
        Factors of the samples' weights by class.
    warm_start : bool, default False
        `fit` goes on with parameters and slots where the last call ended.
    random_state : int, RandomState or None, default None
        Decides the order of the samples and the validation split.
    verbose : int, default 0
        Above 0, show a progress bar (tqdm) with the loss.
    num_threads : int, optional
        Threads for large mini-batches; otherwise OMP_NUM_THREADS, or what the machine
        allows. The result is the same for any number.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        The classes, sorted.
    coef_ : ndarray, shape (1, n_features) or (n_classes, n_features)
        Coefficients; one row if there are two classes. The dtype is that of X.
    factors_ : ndarray, shape (1 or n_classes, n_features, n_factors)
        The vectors whose inner products weigh the pairs.
    intercept_ : ndarray, shape (1,) or (n_classes,)
        Intercepts.
    n_iter_ : int
        Epochs since the parameters had their first values.
    loss_curve_ : list of float
        Mean loss over the samples of each epoch, as they were met; without penalty.
    validation_scores_ : list of float
        The accuracy after each epoch. Only with early stopping.
    best_validation_score_ : float
        The best of them. Only with early stopping.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray, shape (n_features,)
        Names of the features, if X had any.

    See Also
    --------
    RMSpropClassifier : The same without pairs.

    Notes
    -----
    Rendle 2010, Factorization machines, equation 1: besides its intercept and its
    linear part a prediction has a term ``<v_i, v_j> * x_i * x_j`` for each pair of
    features that occur together; each class has factors of its own. With a one-hot user
    and a one-hot item that is matrix factorisation with biases. The cost is that of the
    non-zeros times `n_factors`, not of the pairs.

    The objective is the weighted mean of the losses plus half of
    ``alpha * coef_**2 + alpha_factors * factors_**2``, summed. Steps, penalties and
    what features cost that do not occur: as for `RMSpropClassifier`.

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
        self.loss = loss
        self.n_factors = n_factors
        self.init_scale = init_scale
        self.learning_rate = learning_rate
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.alpha = alpha
        self.alpha_factors = alpha_factors
        self.fit_intercept = fit_intercept
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.shuffle = shuffle
        self.average = average
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.num_threads = num_threads

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableClassifier._parameter_constraints,
        **_FactorizationMachine._own_constraints,
    }

    def _penalties(self) -> dict[str, float]:
        return {"l1": 0.0, "l2": self.alpha, "l2_factors": self._alpha_factors()}

    def _fitted(self, result: Array) -> dict[str, Any]:
        coef, factors, intercept = self._split_result(result)
        return {"coef_": coef, "factors_": factors, "intercept_": intercept}


class FactorizationMachineRegressor(TableRegressor, _FactorizationMachine):
    """Predict a number by a linear model with factorised pairs of features.

    For sparse features of which pairs matter: ratings of items by users, categories.

    Parameters
    ----------
    loss : {"squared_error", "huber", "epsilon_insensitive"}, default "squared_error"
        As for `RMSpropRegressor`.
    n_factors : int, default 8
        Length of the vector that each feature has for its pairs.
    init_scale : float, default 0.01
        Standard deviation of the factors' first values; > 0, for at zero they would
        stay there.
    learning_rate : float, schedule or callable, default 0.01
        Size of a step: a parameter with a steady gradient moves by so much, in standard
        deviations of y per unit of the feature. A schedule of `rmsprop_fast.schedules`
        is given the number of mini-batches so far; a callable takes no argument and is
        called for each.
    rho : float, default 0.9
        Weight of the past in the running mean of squared gradients, in [0, 1).
    momentum : float, default 0.0
        Weight of the past steps in a step, in [0, 1).
    epsilon : float, default 1e-7
        Added to the mean square inside the root; > 0, unit of the gradient squared.
        Gradients below its root make smaller steps.
    centered : bool, default False
        Divide by the standard deviation of the gradient instead.
    alpha : float, default 1e-5
        Weight of the L2 penalty of the coefficients, >= 0.
    alpha_factors : float or None, default None
        Weight of the L2 penalty of the factors, >= 0; unit of
        y in place of its square. None: as `alpha`.
    delta : float, default 0.1
        Threshold of huber and epsilon_insensitive, unit of y. (`epsilon` is RMSprop's.)
    fit_intercept : bool, default True
        Whether there is an intercept. It is never penalised.
    batch_size : int, default 64
        Samples per step.
    max_iter : int, default 1000
        Most epochs of `fit`.
    tol : float or None, default 1e-3
        `fit` stops when the training loss, or with early stopping minus the score, has
        not fallen by `tol` below its best for `n_iter_no_change` epochs. None: never.
    n_iter_no_change : int, default 5
        See `tol`.
    early_stopping : bool, default False
        Set `validation_fraction` of the samples aside, stop by the R2 on them, and
        keep the parameters of the best epoch.
    validation_fraction : float, default 0.1
        In (0, 1); used with early stopping.
    shuffle : bool, default True
        Shuffle the samples before each epoch.
    average : bool or int, default False
        Return the mean of the parameters over all steps; an int: over those after so
        many samples.
    warm_start : bool, default False
        `fit` goes on with parameters and slots where the last call ended.
    random_state : int, RandomState or None, default None
        Decides the order of the samples and the validation split.
    verbose : int, default 0
        Above 0, show a progress bar (tqdm) with the loss.
    num_threads : int, optional
        Threads for large mini-batches; otherwise OMP_NUM_THREADS, or what the machine
        allows. The result is the same for any number.

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,)
        Coefficients, unit of y per unit of the feature. The dtype is that of X.
    factors_ : ndarray, shape (n_features, n_factors)
        The vectors whose inner products weigh the pairs.
    intercept_ : ndarray, shape (1,)
        Intercept, unit of y.
    n_iter_ : int
        Epochs since the parameters had their first values.
    loss_curve_ : list of float
        Mean loss over the samples of each epoch, as they were met; without penalty,
        in the loss's unit (of y, or its square).
    validation_scores_ : list of float
        The R2 after each epoch. Only with early stopping.
    best_validation_score_ : float
        The best of them. Only with early stopping.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray, shape (n_features,)
        Names of the features, if X had any.

    See Also
    --------
    RMSpropRegressor : The same without pairs.

    Notes
    -----
    Rendle 2010, Factorization machines, equation 1: besides its intercept and its
    linear part a prediction has a term ``<v_i, v_j> * x_i * x_j`` for each pair of
    features that occur together. With a one-hot user and a one-hot item that is
    matrix factorisation with biases. The cost is that of the non-zeros times
    `n_factors`, not of the pairs.

    The objective is the weighted mean of the losses plus half of
    ``alpha * coef_**2 + alpha_factors * factors_**2``, summed. Steps, penalties and
    what features cost that do not occur: as for `RMSpropRegressor`.
    Targets are trained on less their mean and divided by their standard deviation,
    those of the first call.

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
        self.loss = loss
        self.n_factors = n_factors
        self.init_scale = init_scale
        self.learning_rate = learning_rate
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.alpha = alpha
        self.alpha_factors = alpha_factors
        self.delta = delta
        self.fit_intercept = fit_intercept
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.shuffle = shuffle
        self.average = average
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose
        self.num_threads = num_threads

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableRegressor._parameter_constraints,
        **_FactorizationMachine._own_constraints,
    }

    def _penalties(self) -> dict[str, float]:
        # Predictions are `_y_scale` times the table's, so coef_ has that factor, and
        # the factors, of which two are multiplied, its root.
        unit = self._y_scale / self._loss_scale()
        return {
            "l1": 0.0,
            "l2": self.alpha * unit * self._y_scale,
            "l2_factors": self._alpha_factors() * unit,
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
