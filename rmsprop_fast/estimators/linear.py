"""Linear models, trained by row-sparse RMSprop."""

from __future__ import annotations

from numbers import Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval
from sklearn.utils.extmath import safe_sparse_dot

from rmsprop_fast.estimators.base import TableEstimator
from rmsprop_fast.estimators.targets import TableClassifier, TableRegressor

__all__ = ["RMSpropClassifier", "RMSpropRegressor"]

Array = np.ndarray[Any, Any]


class _Linear(TableEstimator):
    """One weight per feature and output."""

    l1_ratio: float
    coef_: Array
    intercept_: Array

    def _raw(self, X: Any) -> Array:
        coef = np.atleast_2d(self.coef_)
        product = safe_sparse_dot(X, coef.T, dense_output=True)
        return product + self.intercept_


class RMSpropClassifier(TableClassifier, _Linear):
    """Classify by a linear model, trained by RMSprop on mini-batches.

    For dense and CSR input; made for many sparse features, such as hashed text, and
    for many classes.

    Parameters
    ----------
    loss : {"log_loss", "hinge", "modified_huber"}, default "log_loss"
        Logistic regression, softmax regression where there are more than two classes;
        a linear support vector machine; a smooth hinge that tolerates outliers. The
        latter two train one class against the rest.
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
        Weight of the penalty, >= 0; as in `sklearn.linear_model.SGDClassifier`.
    l1_ratio : float, default 0.0
        Share of L1 in the penalty, in [0, 1]. 0 is L2 alone, 1 is L1 alone, which makes
        coefficients exactly zero.
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
        many samples. With L1 few coefficients are then exactly zero.
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
    sklearn.linear_model.SGDClassifier : One sample at a time, without softmax.
    sklearn.linear_model.LogisticRegression : To the optimum, where that is affordable.

    Notes
    -----
    The objective is the weighted mean of the losses plus
    ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w**2)`` summed over `coef_`. The
    losses' gradients go through RMSprop, see `rmsprop_fast.RMSprop`; the penalty is a
    proximal step in the same metric (Duchi, Hazan and Singer 2011, Adaptive subgradient
    methods, section 2.2), so that both weigh as the objective says.

    A step costs what the non-zeros of its mini-batch cost. A feature that is zero in
    the whole mini-batch keeps its parameters and slots; what the penalty and the
    average owe it is settled when it next occurs. Zeros count as absent in dense X too:
    dense and CSR give the same result. Penalty and average add a pass over all
    coefficients at the end of each call, not of each epoch.

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
        self.loss = loss
        self.learning_rate = learning_rate
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.alpha = alpha
        self.l1_ratio = l1_ratio
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
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
    }

    def _penalties(self) -> dict[str, float]:
        return {
            "l1": self.alpha * self.l1_ratio,
            "l2": self.alpha * (1 - self.l1_ratio),
            "l2_factors": 0.0,
        }

    def _fitted(self, result: Array) -> dict[str, Any]:
        return {"coef_": result[:-1].T, "intercept_": result[-1].copy()}


class RMSpropRegressor(TableRegressor, _Linear):
    """Predict a number by a linear model, trained by RMSprop on mini-batches.

    For dense and CSR input; made for many sparse features.

    Parameters
    ----------
    loss : {"squared_error", "huber", "epsilon_insensitive"}, default "squared_error"
        Half the squared error; squared up to `delta`, linear beyond; zero up to
        `delta`, linear beyond.
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
        Weight of the penalty, >= 0; as in `sklearn.linear_model.SGDRegressor`.
    l1_ratio : float, default 0.0
        Share of L1 in the penalty, in [0, 1]. 0 is L2 alone, 1 is L1 alone, which makes
        coefficients exactly zero.
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
        many samples. With L1 few coefficients are then exactly zero.
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
    sklearn.linear_model.SGDRegressor : One sample at a time.
    sklearn.linear_model.Ridge : The optimum itself, for squared errors and L2.

    Notes
    -----
    The objective is the weighted mean of the losses plus
    ``alpha * (l1_ratio * |w| + (1 - l1_ratio) / 2 * w**2)`` summed over `coef_`. The
    losses' gradients go through RMSprop, see `rmsprop_fast.RMSprop`; the penalty is a
    proximal step in the same metric (Duchi, Hazan and Singer 2011, Adaptive subgradient
    methods, section 2.2), so that both weigh as the objective says.

    A step costs what the non-zeros of its mini-batch cost. A feature that is zero in
    the whole mini-batch keeps its parameters and slots; what the penalty and the
    average owe it is settled when it next occurs. Zeros count as absent in dense X too:
    dense and CSR give the same result. Penalty and average add a pass over all
    coefficients at the end of each call, not of each epoch.

    Targets are trained on less their mean and divided by their standard deviation,
    those of the first call, so that `learning_rate` need not know their unit. That
    changes the path, not the objective.

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
        self.loss = loss
        self.learning_rate = learning_rate
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.alpha = alpha
        self.l1_ratio = l1_ratio
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
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
    }

    def _penalties(self) -> dict[str, float]:
        # coef_ is `_y_scale` times the table, and the loss `_loss_scale` times.
        unit = self._y_scale / self._loss_scale()
        return {
            "l1": self.alpha * self.l1_ratio * unit,
            "l2": self.alpha * (1 - self.l1_ratio) * unit * self._y_scale,
            "l2_factors": 0.0,
        }

    def _fitted(self, result: Array) -> dict[str, Any]:
        scale = result.dtype.type(self._y_scale)
        intercept = result[-1] * scale + result.dtype.type(self._y_mean)
        return {"coef_": result[:-1, 0] * scale, "intercept_": intercept}
