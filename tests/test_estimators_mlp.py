"""scikit-learn's perceptron runs on our optimizer, through two private names."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from rmsprop_fast import RMSprop
from rmsprop_fast.estimators import RMSpropMLPClassifier, RMSpropMLPRegressor

ESTIMATORS = [RMSpropMLPClassifier, RMSpropMLPRegressor]

Array = np.ndarray[Any, Any]


def digits(dtype: Any = np.float64) -> tuple[Array, Array]:
    X, y = load_digits(return_X_y=True)
    return (X[:600] / 16).astype(dtype), y[:600]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks([estimator() for estimator in ESTIMATORS])
def test_scikit_learn_finds_nothing_wrong(estimator: Any, check: Any) -> None:
    check(estimator)


# --- What may break with a new version -----------------------------------------------


@pytest.mark.parametrize("base", [MLPClassifier, MLPRegressor])
def test_private_names_of_scikit_learn_are_where_we_need_them(base: type) -> None:
    version = f"scikit-learn {sklearn.__version__}"
    from sklearn.neural_network import _stochastic_optimizers

    for name in ("BaseOptimizer", "AdamOptimizer"):
        assert hasattr(_stochastic_optimizers, name), (
            f"{version} has no sklearn.neural_network._stochastic_optimizers.{name}"
        )
    for name in ("update_params", "iteration_ends", "trigger_stopping"):
        assert hasattr(_stochastic_optimizers.BaseOptimizer, name), (
            f"{version} has no BaseOptimizer.{name}"
        )
    assert hasattr(base, "_fit_stochastic"), f"{version} has no {base}._fit_stochastic"
    text = inspect.getsource(base._fit_stochastic)
    for use in (
        "self._optimizer = AdamOptimizer(",
        "self._optimizer.update_params(params, grads)",
    ):
        assert use in text, f"{version}: {base}._fit_stochastic has no {use!r} any more"


@pytest.mark.parametrize(
    ("ours", "base"),
    [(RMSpropMLPClassifier, MLPClassifier), (RMSpropMLPRegressor, MLPRegressor)],
)
def test_every_parameter_of_scikit_learn_is_there_or_fixed(
    ours: type, base: type
) -> None:
    made = ours()
    for name in base().get_params():
        assert hasattr(made, name), f"scikit-learn {sklearn.__version__} added {name}"


# --- What it does --------------------------------------------------------------------


def test_updates_are_those_of_the_optimizer(
    centered: bool, momentum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = digits()
    model = RMSpropMLPClassifier(
        (8,), max_iter=1, rho=0.8, momentum=momentum, centered=centered, random_state=0
    )
    seen: list[tuple[list[Array], list[Array]]] = []
    apply = RMSprop.apply_gradients

    def watch(self: RMSprop, grads_and_vars: Any, *rest: Any) -> int:
        pairs = list(grads_and_vars)
        seen.append(([g.copy() for g, _ in pairs], [v.copy() for _, v in pairs]))
        return apply(self, pairs, *rest)

    monkeypatch.setattr(RMSprop, "apply_gradients", watch)
    model.partial_fit(X, y, classes=range(10))
    monkeypatch.undo()
    assert len(seen) == 3  # mini-batches of 200
    params = [v.copy() for v in seen[0][1]]
    optimizer = RMSprop(0.001, rho=0.8, momentum=momentum, centered=centered)
    for grads, before in seen:
        for one, other in zip(params, before, strict=True):
            assert_array_equal(one, other)
        optimizer.apply_gradients(zip(grads, params, strict=True))
    for one, other in zip(params, model.coefs_ + model.intercepts_, strict=True):
        assert_array_equal(one, other)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_pickled_model_goes_on_bit_for_bit(estimator: type, dtype: type) -> None:
    X, y = digits(dtype)
    model = estimator((16,), momentum=0.5, centered=True, random_state=0)
    first = {"classes": range(10)} if estimator is RMSpropMLPClassifier else {}
    straight = clone(model).partial_fit(X, y, **first)
    parts = pickle.loads(pickle.dumps(clone(model).partial_fit(X, y, **first)))
    for _ in range(2):
        straight.partial_fit(X, y)
        parts = pickle.loads(pickle.dumps(parts)).partial_fit(X, y)
    for one, other in zip(straight.coefs_, parts.coefs_, strict=True):
        assert one.dtype == dtype
        assert_array_equal(one, other)


def test_parameters_may_be_replaced_by_copies(dtype: type) -> None:
    X, y = digits(dtype)
    model = RMSpropMLPClassifier((16,), random_state=0)
    one, other = (clone(model).partial_fit(X, y, classes=range(10)) for _ in range(2))
    other.coefs_ = [coef.copy() for coef in other.coefs_]
    one.partial_fit(X, y)
    other.partial_fit(X, y)
    assert other._optimizer.rmsprop.iterations == 6
    assert_array_equal(one.coefs_[0], other.coefs_[0])


def test_it_learns_as_well_as_with_adam() -> None:
    X, y = load_digits(return_X_y=True)
    train, test, known, asked = train_test_split(X / 16, y, random_state=0)
    scores = [
        estimator((32,), random_state=0, early_stopping=True)
        .fit(train, known)
        .score(test, asked)
        for estimator in (RMSpropMLPClassifier, MLPClassifier)
    ]
    assert scores[0] > 0.9
    assert scores[0] > scores[1] - 0.02


@pytest.mark.parametrize(
    "settings", [{"rho": 1.5}, {"epsilon": -1}, {"num_threads": 0}, {"momentum": 2}]
)
def test_a_wrong_parameter_is_refused(settings: dict[str, Any]) -> None:
    X, y = digits()
    with pytest.raises(ValueError, match=next(iter(settings))):
        RMSpropMLPClassifier(**settings).fit(X, y)
