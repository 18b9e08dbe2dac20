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
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.rho = rho
        self.momentum = momentum
        self.epsilon = epsilon
        self.centered = centered
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.num_threads = num_threads

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


class RMSpropMLPClassifier(_RMSpropMLP, MLPClassifier):
    """Classify by `sklearn.neural_network.MLPClassifier`, trained by RMSprop.

    An epoch takes less time than with Adam where the update is what takes it: small
    mini-batches, wide layers. Methods and attributes are scikit-learn's.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default (100,)
        Units of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu"}, default "relu"
        Of the hidden layers.
    alpha : float, default 0.0001
        Weight of the L2 penalty, >= 0; its gradient goes through RMSprop too.
    batch_size : int or "auto", default "auto"
        Samples per step; "auto" is 200, or all where there are fewer.
    learning_rate_init : float, default 0.001
        Size of a step, > 0: a weight with a steady gradient moves by so much.
    rho : float, default 0.9
        Weight of the past in the running mean of squared gradients, in [0, 1].
    momentum : float, default 0.0
        Weight of the past steps in a step, in [0, 1].
    epsilon : float, default 1e-7
        Added to the mean square inside the root; >= 0, unit of the gradient squared.
    centered : bool, default False
        Divide by the standard deviation of the gradient instead.
    max_iter : int, default 200
        Most epochs of `fit`.
    shuffle : bool, default True
        Shuffle the samples before each epoch.
    random_state : int, RandomState or None, default None
        Decides first weights, order of samples and validation split.
    tol : float, default 1e-4
        `fit` stops when loss or validation score has not improved by `tol` for
        `n_iter_no_change` epochs.
    verbose : bool, default False
        Print the loss of each epoch.
    warm_start : bool, default False
        `fit` goes on from the weights of the last call.
    early_stopping : bool, default False
        Stop by the score on `validation_fraction` of the samples.
    validation_fraction : float, default 0.1
        In [0, 1); used with early stopping.
    n_iter_no_change : int, default 10
        See `tol`.
    num_threads : int or None, default 1
        Threads of the updates; None is what `rmsprop_fast.Optimizer` chooses. More than
        one seldom pays: the products before and after run on threads of the BLAS, and
        two teams that wait by spinning take the cores from each other.

    See Also
    --------
    sklearn.neural_network.MLPClassifier : The same with Adam, SGD or L-BFGS.

    Notes
    -----
    RMSprop's arithmetic is not Adam's: try other learning rates. `partial_fit` goes on
    with the slots; `warm_start` begins with new ones, as scikit-learn does for Adam.

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


class RMSpropMLPRegressor(_RMSpropMLP, MLPRegressor):
    """Predict numbers by `sklearn.neural_network.MLPRegressor`, trained by RMSprop.

    An epoch takes less time than with Adam where the update is what takes it: small
    mini-batches, wide layers. Methods and attributes are scikit-learn's; the loss is
    the squared error.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default (100,)
        Units of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu"}, default "relu"
        Of the hidden layers.
    alpha : float, default 0.0001
        Weight of the L2 penalty, >= 0; its gradient goes through RMSprop too.
    batch_size : int or "auto", default "auto"
        Samples per step; "auto" is 200, or all where there are fewer.
    learning_rate_init : float, default 0.001
        Size of a step, > 0: a weight with a steady gradient moves by so much.
    rho : float, default 0.9
        Weight of the past in the running mean of squared gradients, in [0, 1].
    momentum : float, default 0.0
        Weight of the past steps in a step, in [0, 1].
    epsilon : float, default 1e-7
        Added to the mean square inside the root; >= 0, unit of the gradient squared.
    centered : bool, default False
        Divide by the standard deviation of the gradient instead.
    max_iter : int, default 200
        Most epochs of `fit`.
    shuffle : bool, default True
        Shuffle the samples before each epoch.
    random_state : int, RandomState or None, default None
        Decides first weights, order of samples and validation split.
    tol : float, default 1e-4
        `fit` stops when loss or validation score has not improved by `tol` for
        `n_iter_no_change` epochs.
    verbose : bool, default False
        Print the loss of each epoch.
    warm_start : bool, default False
        `fit` goes on from the weights of the last call.
    early_stopping : bool, default False
        Stop by the score on `validation_fraction` of the samples.
    validation_fraction : float, default 0.1
        In [0, 1); used with early stopping.
    n_iter_no_change : int, default 10
        See `tol`.
    num_threads : int or None, default 1
        Threads of the updates; None is what `rmsprop_fast.Optimizer` chooses. More than
        one seldom pays: the products before and after run on threads of the BLAS, and
        two teams that wait by spinning take the cores from each other.

    See Also
    --------
    sklearn.neural_network.MLPRegressor : The same with Adam, SGD or L-BFGS.

    Notes
    -----
    RMSprop's arithmetic is not Adam's: try other learning rates. `partial_fit` goes on
    with the slots; `warm_start` begins with new ones, as scikit-learn does for Adam.

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
