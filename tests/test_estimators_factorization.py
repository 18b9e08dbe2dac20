"""Factorization machines: the pairs, the steps, and what only pairs can learn."""

from __future__ import annotations

import pickle
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from estimator_problems import assert_same_model, sparse_problem
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import parametrize_with_checks

from rmsprop_fast import RMSprop
from rmsprop_fast.estimators import (
    FactorizationMachineClassifier,
    FactorizationMachineRegressor,
    _train,
)

ESTIMATORS = [FactorizationMachineClassifier, FactorizationMachineRegressor]

Array = np.ndarray[Any, Any]


@pytest.fixture(params=ESTIMATORS, ids=lambda estimator: estimator.__name__)
def estimator(request: pytest.FixtureRequest) -> type:
    return request.param


@parametrize_with_checks([estimator() for estimator in ESTIMATORS])
def test_scikit_learn_finds_nothing_wrong(estimator: Any, check: Any) -> None:
    check(estimator)


# --- The model -----------------------------------------------------------------------


def test_prediction_is_the_sum_over_all_pairs(estimator: type, dtype: type) -> None:
    X, y = sparse_problem(dtype=dtype)
    model = estimator(n_factors=3, max_iter=20, tol=None, init_scale=0.5).fit(X, y)
    raw = getattr(model, "decision_function", model.predict)(X)
    raw = raw.reshape(len(y), -1)
    coef, factors = np.atleast_2d(model.coef_), model.factors_
    factors = factors.reshape(len(coef), X.shape[1], 3)
    expected = (X @ coef.T.astype(np.float64)) + model.intercept_
    for n, x in enumerate(X.toarray().astype(np.float64)):
        for i, j in combinations(np.flatnonzero(x), 2):
            expected[n] += (factors[:, i] * factors[:, j]).sum(axis=1) * x[i] * x[j]
    # About 30 products per sum, each rounded.
    assert_allclose(raw, expected, rtol=100 * np.finfo(dtype).eps, atol=1e-5)
    assert model.factors_.dtype == raw.dtype == dtype


def test_steps_are_those_of_the_optimizer(centered: bool, momentum: float) -> None:
    X, y = sparse_problem(n_classes=2)
    x, sign = X.toarray(), 2.0 * y - 1
    n_features, n_factors = x.shape[1], 4
    model = FactorizationMachineClassifier(
        n_factors=n_factors,
        init_scale=0.3,
        learning_rate=0.02,
        centered=centered,
        momentum=momentum,
        alpha=0,
        batch_size=120,  # all: then every feature occurs, and dense steps are the same
        max_iter=6,
        tol=None,
        random_state=0,
    ).fit(X, y)
    random = np.random.RandomState(0)
    random.randint(2**31 - 1)  # the seed of the validation split
    w, b = np.zeros(n_features), np.zeros(1)
    v = random.normal(0, 0.3, (n_features, n_factors))
    optimizer = RMSprop(0.02, momentum=momentum, centered=centered)
    others = 1 - np.eye(n_features)  # all j other than i
    for _ in range(6):
        pair_sums = np.einsum("ni,if,ij,jf,nj->n", x, v, others, v, x) / 2
        z = x @ w + b + pair_sums
        slope = -sign / (1 + np.exp(sign * z)) / len(sign)
        # dz/dv_i = x_i * (sum of v_j x_j over all other j)
        grad_v = np.einsum("n,ni,ij,jf,nj->if", slope, x, others, v, x)
        optimizer.apply_gradients(
            [(x.T @ slope, w), (slope.sum(keepdims=True), b), (grad_v, v)]
        )
    assert (X != 0).sum(axis=0).min() > 0
    # Sums in another order; epsilon damps what cancels.
    assert_allclose(model.coef_[0], w, rtol=1e-7, atol=1e-10)
    assert_allclose(model.factors_[0], v, rtol=1e-7, atol=1e-10)
    assert_allclose(model.intercept_, b, rtol=1e-7, atol=1e-10)


def one_hot_pairs(n: int, levels: int, n_samples: int) -> tuple[csr_array, Array]:
    """Return samples of two categories, one-hot, and the categories."""
    drawn = np.random.default_rng(n).integers(levels, size=(n_samples, 2))
    return csr_array(OneHotEncoder().fit_transform(drawn)), drawn


def test_pairs_are_learned_that_no_linear_model_knows() -> None:
    X, drawn = one_hot_pairs(0, 6, 2000)
    y = (drawn[:, 0] + drawn[:, 1]) % 2  # a matter of the pair alone
    train, test = slice(0, 1500), slice(1500, None)
    model = FactorizationMachineClassifier(
        n_factors=4, init_scale=0.1, random_state=0, early_stopping=True
    ).fit(X[train], y[train])
    assert model.score(X[test], y[test]) == 1.0
    linear = LogisticRegression().fit(X[train], y[train])
    assert linear.score(X[test], y[test]) < 0.7


def test_several_classes_have_factors_of_their_own() -> None:
    X, drawn = one_hot_pairs(1, 6, 3000)
    y = (drawn[:, 0] + drawn[:, 1]) % 3
    model = FactorizationMachineClassifier(
        n_factors=6, init_scale=0.1, random_state=0, learning_rate=0.02
    ).fit(X[:2000], y[:2000])
    assert model.factors_.shape == (3, 12, 6)
    assert model.score(X[2000:], y[2000:]) > 0.99
    assert_allclose(model.predict_proba(X[:5]).sum(axis=1), 1)


def test_a_product_is_a_regression_on_pairs() -> None:
    X, drawn = one_hot_pairs(2, 8, 3000)
    y = 100.0 * drawn[:, 0] * drawn[:, 1]
    model = FactorizationMachineRegressor(
        n_factors=4, init_scale=0.1, random_state=0, average=10_000
    ).fit(X[:2000], y[:2000])
    assert model.score(X[2000:], y[2000:]) > 0.99


def test_the_unit_of_y_does_not_matter() -> None:
    X, y = sparse_problem(n_samples=300)
    model = FactorizationMachineRegressor(
        alpha=1e-3, alpha_factors=1e-3, max_iter=20, tol=None, random_state=0
    )
    one, other = clone(model).fit(X, y), clone(model).set_params(alpha_factors=1.0)
    # The penalty of factors is in the unit of y, those of loss and coef_ in its square.
    other.fit(X, 1000.0 * y)
    assert_allclose(other.predict(X), 1000 * one.predict(X), rtol=1e-6)


def test_each_penalty_has_its_parameters() -> None:
    X, drawn = one_hot_pairs(0, 6, 500)
    y = drawn[:, 0] * drawn[:, 1] > 6
    settings: dict[str, Any] = {"max_iter": 50, "tol": None, "random_state": 0}
    strong = {"coef_": "alpha", "factors_": "alpha_factors"}
    free = FactorizationMachineClassifier(alpha=0, alpha_factors=0, **settings)
    free.fit(X, y)
    for attribute, name in strong.items():
        model = clone(free).set_params(**{name: 1.0}).fit(X, y)
        for other in strong:
            size = abs(getattr(model, other)).max() / abs(getattr(free, other)).max()
            assert size < 0.05 if other == attribute else size > 0.5
    same = clone(free).set_params(alpha=1e-3, alpha_factors=None).fit(X, y)
    both = clone(free).set_params(alpha=1e-3, alpha_factors=1e-3).fit(X, y)
    assert_array_equal(same.factors_, both.factors_)


# --- Equal bits ----------------------------------------------------------------------

SETTINGS = [{"alpha": 0}, {"alpha": 1e-3, "average": True, "momentum": 0.5}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "all"])
def test_storage_threads_and_instruction_sets_do_not_change_the_result(
    estimator: type,
    settings: dict[str, Any],
    dtype: type,
    training_isa: str,
    any_batch_is_shared: None,
) -> None:
    X, y = sparse_problem(dtype=dtype)
    model = estimator(n_factors=5, max_iter=3, tol=None, random_state=0, batch_size=16)
    model.set_params(num_threads=2, **settings)
    here = clone(model).fit(X, y)
    _train.use("baseline")
    serial = clone(model).set_params(num_threads=1).fit(X.toarray(), y)
    assert_same_model(here, serial)
    assert_array_equal(here.factors_, serial.factors_)


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "all"])
def test_fit_is_partial_fit_again_and_again(
    estimator: type, settings: dict[str, Any]
) -> None:
    X, y = sparse_problem()
    model = estimator(max_iter=3, tol=None, random_state=0, batch_size=16, **settings)
    straight = clone(model).fit(X, y)
    regressor = estimator is FactorizationMachineRegressor
    first = {} if regressor else {"classes": [0, 1, 2]}
    parts = clone(model).partial_fit(X, y, **first)
    for _ in range(2):
        parts = pickle.loads(pickle.dumps(parts)).partial_fit(X, y)
    assert_same_model(straight, parts)
    assert_array_equal(straight.factors_, parts.factors_)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"n_factors": 0}, "n_factors"),
        ({"init_scale": 0}, "init_scale"),
        ({"alpha_factors": -1}, "alpha_factors"),
    ],
)
def test_a_wrong_parameter_is_refused(
    estimator: type, settings: dict[str, Any], words: str
) -> None:
    X, y = sparse_problem()
    with pytest.raises(ValueError, match=words):
        estimator(**settings).fit(X, y)
