"""Targets: classes and numbers, encoded for the loops and decoded again."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import expit
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import softmax
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    check_classification_targets,
)

from rmsprop_fast.estimators.base import ALL_IN_Y, TableEstimator

__all__ = ["TableClassifier", "TableRegressor"]

Array = np.ndarray[Any, Any]


class TableClassifier(ClassifierMixin, TableEstimator):
    """Targets that are classes."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableEstimator._parameter_constraints,
        "loss": [StrOptions({"log_loss", "hinge", "modified_huber"})],
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    class_weight: Any
    classes_: Array
    _y_scale = 1.0  # classes have no unit

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Make one epoch over a part of the data.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)
            As for `fit`; converted to the dtype of the first call.
        y : array-like, shape (n_samples,)
            Classes.
        classes : array-like, shape (n_classes,), optional
            All classes that will ever occur; needed in the first call.
        sample_weight : array-like, shape (n_samples,), optional
            As for `fit`.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError
            As for `fit`; also with early_stopping or class_weight="balanced", which
            need all of the data.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight must not be 'balanced' with partial_fit: give "
                "compute_class_weight('balanced', classes=classes, y=y) as a dict"
            )
        return self._partial_fit(X, y, sample_weight, classes)

    def _encode(
        self, y: Array, weight: Array, classes: Any, fresh: bool
    ) -> tuple[Array, Array, int]:
        check_classification_targets(y)
        if fresh and hasattr(self, "classes_"):
            del self.classes_
        if classes is not ALL_IN_Y:
            _check_partial_fit_first_call(self, classes)
        elif fresh:
            self.classes_ = np.unique(y)
        n_classes = len(self.classes_)
        if n_classes < 2:
            raise ValueError(
                "The number of classes has to be greater than one; got 1 class"
            )
        number = np.searchsorted(self.classes_, y)
        number[number == n_classes] = 0
        unknown = self.classes_[number] != y
        if unknown.any():
            raise ValueError(
                f"y must hold classes of the first call, got {y[unknown][0]!r}"
            )
        by_class = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        weight = weight * by_class[number]
        if n_classes == 2:
            return 2.0 * number - 1.0, weight, 1
        return number.astype(np.float64), weight, n_classes

    def _score(self, y: Array, prediction: Array, weight: Array) -> float:
        if prediction.shape[1] == 1:
            return float(
                accuracy_score(y > 0, prediction[:, 0] > 0, sample_weight=weight)
            )
        return float(accuracy_score(y, prediction.argmax(axis=1), sample_weight=weight))

    def decision_function(self, X: Any) -> Array:
        """Return the confidence that each sample is of each class.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)

        Returns
        -------
        ndarray, shape (n_samples,) or (n_samples, n_classes)
            With two classes, positive for the second of `classes_`. With log_loss, log
            odds or unnormalised log probabilities.
        """
        raw = self._raw(self._checked_X(X))
        return raw[:, 0] if raw.shape[1] == 1 else raw

    def predict(self, X: Any) -> Array:
        """Return the most likely class of each sample.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)

        Returns
        -------
        ndarray, shape (n_samples,)
            Elements of `classes_`.
        """
        raw = self._raw(self._checked_X(X))
        number = raw[:, 0] > 0 if raw.shape[1] == 1 else raw.argmax(axis=1)
        return self.classes_[number.astype(np.intp)]

    def _has_probabilities(self) -> bool:
        if self.loss == "hinge":
            raise AttributeError(
                "probabilities need loss='log_loss' or 'modified_huber'"
            )
        return True

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)

        Returns
        -------
        ndarray, shape (n_samples, n_classes)
            Columns in the order of `classes_`; rows sum to one.

        Notes
        -----
        With log_loss the model's own: logistic or softmax. With modified_huber those of
        Zadrozny and Elkan 2002, (clip(decision, -1, 1) + 1) / 2, scaled to a sum of one
        where there are more than two classes. Not with hinge: see
        `sklearn.calibration.CalibratedClassifierCV`.
        """
        raw = self._raw(self._checked_X(X))
        if self.loss == "log_loss" and raw.shape[1] > 1:
            return softmax(raw)
        p = expit(raw) if self.loss == "log_loss" else (np.clip(raw, -1, 1) + 1) / 2
        if p.shape[1] == 1:
            return np.hstack([1 - p, p])
        p[p.sum(axis=1) == 0] = 1  # no class is likely: all get the same probability
        return p / p.sum(axis=1, keepdims=True)

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)

        Returns
        -------
        ndarray, shape (n_samples, n_classes)
            Columns in the order of `classes_`.
        """
        return np.log(self.predict_proba(X))


class TableRegressor(RegressorMixin, TableEstimator):
    """Targets that are numbers: trained in units of their standard deviation.

    So one learning rate suits seconds and years alike. Mean and deviation are those of
    the first call.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **TableEstimator._parameter_constraints,
        "loss": [StrOptions({"squared_error", "huber", "epsilon_insensitive"})],
        "delta": [Interval(Real, 0, None, closed="left")],
    }

    delta: float
    _y_mean: float

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Make one epoch over a part of the data.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)
            As for `fit`; converted to the dtype of the first call.
        y : array-like, shape (n_samples,)
            Targets. Those of the first call set the scale of the steps, so they should
            be typical.
        sample_weight : array-like, shape (n_samples,), optional
            As for `fit`.

        Returns
        -------
        self : object
            The estimator itself.

        Raises
        ------
        ValueError
            As for `fit`; also with early_stopping, which needs all of the data.
        """
        return self._partial_fit(X, y, sample_weight, None)

    def _encode(
        self, y: Array, weight: Array, classes: Any, fresh: bool
    ) -> tuple[Array, Array, int]:
        y = np.asarray(y, np.float64)
        if fresh:
            total = weight.sum()
            self._y_mean = self._y_scale = 0.0
            if total > 0 and self.fit_intercept:
                self._y_mean = float(np.average(y, weights=weight))
            if total > 0:
                square = np.average((y - self._y_mean) ** 2, weights=weight)
                self._y_scale = math.sqrt(square)
            # All targets are equal: any scale is right.
            self._y_scale = self._y_scale or 1.0
        return (y - self._y_mean) / self._y_scale, weight, 1

    def _steepest(self) -> float:
        return min(1.0, self._delta()) or 1.0 if self.loss == "huber" else 1.0

    def _loss_scale(self) -> float:
        scale = self._y_scale
        if self.loss == "epsilon_insensitive":
            return scale
        return scale * scale * self._steepest()

    def _delta(self) -> float:
        return self.delta / self._y_scale

    def _score(self, y: Array, prediction: Array, weight: Array) -> float:
        if len(y) < 2:
            return -float(np.average((y - prediction[:, 0]) ** 2, weights=weight))
        return float(r2_score(y, prediction[:, 0], sample_weight=weight))

    def predict(self, X: Any) -> Array:
        """Return the predicted target of each sample.

        Parameters
        ----------
        X : {array-like, CSR matrix or array}, shape (n_samples, n_features)

        Returns
        -------
        ndarray, shape (n_samples,)
            In the unit of y.
        """
        return self._raw(self._checked_X(X))[:, 0]
