"""What the estimators share: checks, epochs, stopping, progress, resuming."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from rmsprop_fast import threads
from rmsprop_fast.estimators._compat import CallbackSupportMixin, with_callbacks
from rmsprop_fast.estimators._train import LOSSES, Samples, Trainer
from rmsprop_fast.estimators.draft import on_a_draft
from rmsprop_fast.estimators.patience import Patience
from rmsprop_fast.estimators.table import Table
from rmsprop_fast.schedules import LearningRateSchedule

__all__ = ["ALL_IN_Y", "TableEstimator", "set_parameters"]

Array = np.ndarray[Any, Any]

MAX_THREADS = 1024
ALL_IN_Y = object()
FLOATS = [np.float64, np.float32]  # any other dtype becomes the first


def set_parameters(estimator: object, arguments: dict[str, Any]) -> None:
    """Set the parameters of an estimator to `arguments`, the locals of its __init__."""
    for name, value in arguments.items():
        if name != "self":
            setattr(estimator, name, value)


class TableEstimator(CallbackSupportMixin, BaseEstimator, ABC):
    """An estimator whose parameters are a table with one row per feature.

    Derived classes set `n_factors`, list the penalties and say what the fitted
    attributes are; classifiers and regressors differ in their targets.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "learning_rate": [Interval(Real, 0, None, closed="neither"), callable],
        "rho": [Interval(Real, 0, 1, closed="left")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "centered": ["boolean"],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "shuffle": ["boolean"],
        "average": ["boolean", Interval(Integral, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
        "num_threads": [Interval(Integral, 1, MAX_THREADS, closed="both"), None],
    }

    # What mypy has to know of the derived classes' __init__.
    learning_rate: Any
    rho: float
    momentum: float
    epsilon: float
    centered: bool
    alpha: float
    fit_intercept: bool
    batch_size: int
    max_iter: int
    tol: float | None
    n_iter_no_change: int
    early_stopping: bool
    validation_fraction: float
    shuffle: bool
    average: bool | int
    warm_start: bool
    random_state: Any
    verbose: int
    num_threads: int | None
    loss: str
    n_features_in_: int
    _y_scale: float  # the unit in which y is trained
    _trained_with: dict[str, Any]

    @abstractmethod
    def _encode(
        self, y: Array, weight: Array, classes: Any, fresh: bool
    ) -> tuple[Array, Array, int]:
        """Return y and the weights in the form of the loops, and the number of outputs.

        `classes` is the argument of partial_fit, and ALL_IN_Y in fit.
        """

    @abstractmethod
    def _score(self, y: Array, prediction: Array, weight: Array) -> float:
        """Return the score of raw predictions of encoded y, for early stopping."""

    @abstractmethod
    def _penalties(self) -> dict[str, float]:
        """Return l1, l2 and l2_factors in the units of the encoded y."""

    @abstractmethod
    def _fitted(self, result: Array) -> dict[str, Any]:
        """Return the fitted attributes for a table of parameters."""

    def _n_factors(self) -> int:
        return 0

    def _start(self, table: Table) -> None:
        """Give the parameters their first values, where those are not zero."""

    def _delta(self) -> float:
        """Return the threshold of the loss in units of encoded y."""
        return 0.0

    def _loss_scale(self) -> float:
        """Return the loss in its own unit per loss that is trained."""
        return 1.0

    def _steepest(self) -> float:
        """Return the largest slope of the loss if it is below 1; it is trained as 1.

        Smaller gradients would be small next to epsilon, and progress next to tol.
        """
        return 1.0

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # --- fit and partial_fit ----------------------------------------------------------

    @on_a_draft
    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)
            float32 is kept, everything else becomes float64. Indices may be int32 or
            int64. Read only.
        y : array-like, shape (n_samples,)
            Targets.
        sample_weight : array-like, shape (n_samples,), optional
            Weights >= 0 of the samples' losses. They count relative to each other: in
            each call they are scaled to a mean of one.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError
            A parameter or an array breaks a rule, or the loss overflowed.
        """
        self._validate_params()
        fresh = not (self.warm_start and hasattr(self, "_table"))
        return self._fit(X, y, sample_weight, ALL_IN_Y, fresh, self.max_iter)

    @on_a_draft
    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any) -> Self:
        self._validate_params()
        if self.early_stopping:
            raise ValueError("early_stopping must be False with partial_fit")
        fresh = not hasattr(self, "_table")
        return self._fit(X, y, sample_weight, classes, fresh, None)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        classes: Any,
        fresh: bool,
        max_iter: int | None,
    ) -> Self:
        """Make up to `max_iter` epochs, or one for partial_fit, which never stops."""
        given_y = y
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=FLOATS if fresh else self._table.params.dtype,
            order="C",
            accept_large_sparse=True,
            reset=fresh,
            y_numeric=isinstance(self, RegressorMixin),
        )
        if issparse(X):
            X.check_format(full_check=True)  # the loops trust indices and indptr
        weight = _check_sample_weight(
            sample_weight, X, dtype=np.float64, ensure_non_negative=True
        )
        y, weight, n_outputs = self._encode(y, weight, classes, fresh)
        total = weight.sum()
        if not 0 < total < math.inf:
            raise ValueError(f"sample_weight must have a sum > 0, got {total}")
        weight = weight * (len(weight) / total / self._steepest())

        trainer = self._prepare(X.dtype, n_outputs, fresh)
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        task = {"estimator": self, "X": X, "y": given_y, "metadata": metadata}
        if max_iter is None:
            self._epoch(trainer, Samples(X), y, weight, np.arange(len(y)))
        else:
            self._epochs(trainer, X, y, weight, max_iter, task)
        if max_iter is None or not self.early_stopping:
            self._publish(trainer.result())
        return self

    # --- State -----------------------------------------------------------------------

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of the trainer; pending penalties depend on them."""
        average = None if self.average is False else int(self.average)
        return {
            "loss": LOSSES[self.loss],
            "fit_intercept": bool(self.fit_intercept),
            "rho": self.rho,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "delta": self._delta(),
            "average_after": average,
            "num_threads": threads.count(self.num_threads),
            **self._penalties(),
        }

    def _prepare(self, dtype: Any, n_outputs: int, fresh: bool) -> Trainer:
        """Return a trainer of a new table, or of the one there is."""
        settings = self._settings()
        penalised = settings["l1"] + settings["l2"] + settings["l2_factors"] > 0
        slots = {
            "centered": self.centered,
            "momentum": self.momentum > 0,
            "penalised": penalised,
            "averaged": settings["average_after"] is not None,
        }
        if fresh:
            self._random_state = check_random_state(self.random_state)
            self._split_seed = self._random_state.randint(2**31 - 1)
            n_rows, n_factors = self.n_features_in_, self._n_factors()
            self._table = Table(n_rows, n_outputs, n_factors, dtype, **slots)
            self._start(self._table)
            self.loss_curve_: list[float] = []
            self.n_iter_ = 0
        else:
            self._copy_what_training_changes()
            if settings != self._trained_with:
                Trainer(self._table, **self._trained_with).settle()
                self._table.set_slots(**slots)
        self._trained_with = settings
        return Trainer(self._table, **settings)

    def _copy_what_training_changes(self) -> None:
        """Let this draft no longer share what the loops and the epochs write into."""
        self._table = deepcopy(self._table)
        self.loss_curve_ = self.loss_curve_.copy()
        # A generator that the user passed, or NumPy's own, stays the user's.
        shared = self.random_state, check_random_state(None)
        if not any(self._random_state is generator for generator in shared):
            self._random_state = deepcopy(self._random_state)

    def _publish(self, result: Array) -> None:
        for name, value in self._fitted(result).items():
            setattr(self, name, value)

    # --- Epochs ----------------------------------------------------------------------

    def _learning_rates(self, n_steps: int) -> Array:
        first = self._table.n_steps
        if isinstance(self.learning_rate, LearningRateSchedule):
            steps = range(first, first + n_steps)
            rates = np.array([self.learning_rate(step) for step in steps], np.float64)
        elif callable(self.learning_rate):
            rates = np.array([self.learning_rate() for _ in range(n_steps)], np.float64)
        else:
            return np.full(n_steps, self.learning_rate, np.float64)
        if not (np.isfinite(rates) & (rates >= 0)).all():
            raise ValueError("learning_rate must give finite numbers >= 0")
        return rates

    def _epoch(
        self, trainer: Trainer, x: Samples, y: Array, weight: Array, rows: Array
    ) -> float:
        """Train on the samples `rows` once; return their mean loss."""
        if self.shuffle:
            rows = self._random_state.permutation(rows)
        order = np.ascontiguousarray(rows, np.int64)
        rates = self._learning_rates(-(-len(order) // self.batch_size))
        loss = trainer.epoch(x, y, weight, order, self.batch_size, rates)
        self.n_iter_ += 1
        self.loss_curve_.append(loss * self._loss_scale())
        if not math.isfinite(loss):
            raise ValueError(
                f"loss must stay finite, got {loss} in epoch {self.n_iter_}"
            )
        return loss

    def _epochs(
        self,
        trainer: Trainer,
        X: Any,
        y: Array,
        weight: Array,
        max_iter: int,
        task: dict[str, Any],
    ) -> None:
        """Train until nothing improves any more."""
        x = Samples(X)
        train, validation = self._split(y)
        root = self._init_callback_context(max_subtasks=max_iter)
        root.call_on_fit_task_begin(**task)
        watch = Patience(self.tol, self.n_iter_no_change)
        if validation is not None:
            self.validation_scores_: list[float] = []
        with self._progress(max_iter) as report:
            for _ in range(max_iter):
                context = root.subcontext(task_name="epoch")
                context.call_on_fit_task_begin(**task)
                loss = self._epoch(trainer, x, y, weight, train)
                if validation is None:
                    watch.add(-loss)
                    report({"loss": self.loss_curve_[-1]})
                else:
                    raw = trainer.predict(x, validation, self.batch_size)
                    score = self._score(y[validation], raw, weight[validation])
                    self.validation_scores_.append(score)
                    if watch.add(score):
                        best = np.array(trainer.result())
                    report({"loss": self.loss_curve_[-1], "score": score})
                fitted = self._as_if_ended(trainer)
                stop = context.call_on_fit_task_end(
                    **task, reconstruction_attributes=fitted
                )
                if watch.exhausted or stop:
                    break
            else:
                if self.tol is not None:
                    warnings.warn(
                        f"{type(self).__name__} did not converge within "
                        f"max_iter={max_iter} epochs",
                        ConvergenceWarning,
                        stacklevel=6,
                    )
        if validation is not None:
            self.best_validation_score_ = watch.best
            self._publish(best)
        root.call_on_fit_task_end(**task, reconstruction_attributes={})

    def _as_if_ended(self, trainer: Trainer) -> dict[str, Any] | None:
        """Return the present fitted attributes if there is a callback, else None."""
        if getattr(self, "_skl_callbacks", None):
            return self._fitted(trainer.result().copy())
        return None

    def _split(self, y: Array) -> tuple[Array, Array | None]:
        """Return the samples to train on, and those for early stopping."""
        rows = np.arange(len(y))
        if not self.early_stopping:
            return rows, None
        train, validation = train_test_split(
            rows,
            test_size=self.validation_fraction,
            random_state=self._split_seed,
            stratify=y if isinstance(self, ClassifierMixin) else None,
        )
        return np.sort(train), np.sort(validation)

    @contextmanager
    def _progress(self, max_iter: int) -> Iterator[Callable[[dict[str, float]], None]]:
        """Show a bar when verbose; yield what is called after each epoch."""
        if not self.verbose:
            yield lambda figures: None
            return
        try:
            from tqdm import tqdm
        except ImportError as error:
            raise ImportError(
                'verbose needs: pip install "rmsprop-fast[sklearn]"'
            ) from error
        with tqdm(total=max_iter, desc=type(self).__name__, unit="epoch") as bar:

            def report(figures: dict[str, float]) -> None:
                bar.set_postfix({name: f"{x:.4g}" for name, x in figures.items()})
                bar.update()

            yield report

    def _checked_X(self, X: Any) -> Any:
        """Return X for a prediction."""
        check_is_fitted(self)
        return validate_data(
            self,
            X,
            accept_sparse="csr",
            dtype=FLOATS,
            reset=False,
        )

    @abstractmethod
    def _raw(self, X: Any) -> Array:
        """Predict from the fitted attributes; shape (n_samples, n_outputs)."""
