"""The linear estimators: right steps, right optimum, and scikit-learn's manners."""

from __future__ import annotations

import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from estimator_problems import assert_same_model, sparse_problem
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix
from scipy.special import logsumexp
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import (
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from rmsprop_fast import IndexedSlices, RMSprop, schedules
from rmsprop_fast.estimators import RMSpropClassifier, RMSpropRegressor, _train

ESTIMATORS = [RMSpropClassifier, RMSpropRegressor]

Array = np.ndarray[Any, Any]


@pytest.fixture(params=ESTIMATORS, ids=lambda estimator: estimator.__name__)
def estimator(request: pytest.FixtureRequest) -> type:
    return request.param


def targets_for(estimator: type, X: Any, y: Array) -> Array:
    """Return y, or numbers for a regressor."""
    if estimator is RMSpropClassifier:
        return y
    return 10 + 3 * y + X @ np.arange(X.shape[1])


def cancer() -> tuple[Array, Array]:
    X, y = load_breast_cancer(return_X_y=True)
    return StandardScaler().fit_transform(X), y


# --- scikit-learn's own checks -------------------------------------------------------


@parametrize_with_checks([estimator() for estimator in ESTIMATORS])
def test_scikit_learn_finds_nothing_wrong(estimator: Any, check: Any) -> None:
    check(estimator)


# --- The steps -----------------------------------------------------------------------


def steps_of_the_facade(
    X: csr_array, y: Array, n_epochs: int, batch_size: int, optimizer: RMSprop
) -> Iterator[tuple[Array, Array]]:
    """Train softmax regression in NumPy and our optimizer; yield each step's result."""
    w, b = np.zeros((X.shape[1], y.max() + 1)), np.zeros(y.max() + 1)
    for _ in range(n_epochs):
        for start in range(0, len(y), batch_size):
            x, label = X[start : start + batch_size], y[start : start + batch_size]
            z = x @ w + b
            d = np.exp(z - logsumexp(z, axis=1, keepdims=True))
            d[np.arange(len(label)), label] -= 1
            d /= len(label)
            values = x.data[:, None] * np.repeat(d, np.diff(x.indptr), axis=0)
            slices = IndexedSlices(values, x.indices)
            optimizer.apply_gradients([(slices, w), (d.sum(axis=0), b)])
            yield w.copy(), b.copy()


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        (0.02, 0.02),
        (lambda: 0.02, 0.02),
        (schedules.ExponentialDecay(0.02, 5, 0.5),) * 2,
    ],
    ids=["number", "callable", "schedule"],
)
def test_steps_are_those_of_the_optimizer(
    centered: bool, momentum: float, given: Any, rate: Any
) -> None:
    X, y = sparse_problem()
    optimizer = RMSprop(rate, rho=0.8, momentum=momentum, centered=centered)
    *_, (w, b) = steps_of_the_facade(X, y, 3, 16, optimizer)
    model = RMSpropClassifier(
        learning_rate=given,
        rho=0.8,
        momentum=momentum,
        centered=centered,
        alpha=0,
        batch_size=16,
        max_iter=3,
        tol=None,
        shuffle=False,
    ).fit(X, y)
    # The same float64 operations, sums in another order.
    assert_allclose(model.coef_.T, w, rtol=1e-9, atol=1e-12)
    assert_allclose(model.intercept_, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("start", [0, 200])
def test_average_is_the_mean_of_the_parameters_after_each_step(start: int) -> None:
    X, y = sparse_problem()
    after = [*steps_of_the_facade(X, y, 4, 16, RMSprop(0.02))]
    # 120 samples make 8 steps of an epoch, the last of 8; samples seen after each:
    seen = np.cumsum([16, 16, 16, 16, 16, 16, 16, 8] * 4)
    counted = [step for step, n in zip(after, seen, strict=True) if n > start]
    model = RMSpropClassifier(
        learning_rate=0.02,
        alpha=0,
        average=start or True,
        batch_size=16,
        max_iter=4,
        tol=None,
        shuffle=False,
    ).fit(X, y)
    assert 0 < len(counted) <= len(after)
    mean_w = np.mean([w for w, _ in counted], axis=0)
    mean_b = np.mean([b for _, b in counted], axis=0)
    assert_allclose(model.coef_.T, mean_w, rtol=1e-9, atol=1e-12)
    assert_allclose(model.intercept_, mean_b, rtol=1e-9, atol=1e-12)


def test_l1_settled_late_is_l1_at_every_step(centered: bool) -> None:
    rng = np.random.default_rng(4)
    X, y = sparse_problem(n_classes=2)
    rows, rate, l1, rho = X.toarray(), 0.05, 2e-3, 0.9
    w, rms, mg = (np.zeros(X.shape[1]) for _ in range(3))
    order = []
    for _ in range(3):
        order.append(rng.permutation(len(y)))
        for start in range(0, len(y), 8):
            batch = order[-1][start : start + 8]
            sign = 2 * y[batch] - 1
            slope = -sign / (1 + np.exp(sign * (rows[batch] @ w))) / len(batch)
            here = (rows[batch] != 0).any(axis=0)
            grad = (slope @ rows[batch])[here]
            rms[here] = rho * rms[here] + (1 - rho) * grad**2
            mg[here] = rho * mg[here] + (1 - rho) * grad
            size = rate / np.sqrt(rms - centered * mg**2 + 1e-7)
            w[here] -= size[here] * grad
            # Eagerly: every feature, at every step, whether it occurred or not.
            w = np.sign(w) * np.maximum(np.abs(w) - size * l1, 0)
    model = RMSpropClassifier(
        learning_rate=rate,
        alpha=l1,
        l1_ratio=1,
        centered=centered,
        batch_size=8,
        fit_intercept=False,
        shuffle=False,
    )
    for rows_of_epoch in order:
        model.partial_fit(X[rows_of_epoch], y[rows_of_epoch], classes=[0, 1])
    assert 0 < (w == 0).sum() < len(w)
    assert_allclose(model.coef_[0], w, rtol=1e-9, atol=1e-12)


def test_a_feature_that_never_occurs_keeps_a_zero_coefficient() -> None:
    X, y = sparse_problem()
    X = csr_array((X.data, X.indices, X.indptr), shape=(X.shape[0], 10_000))
    model = RMSpropClassifier(max_iter=3, tol=None, average=True).fit(X, y)
    assert model.coef_.shape == (3, 10_000)
    assert not model.coef_[:, 60:].any()
    assert model.coef_[:, :60].any()


# --- Equal bits ----------------------------------------------------------------------

SETTINGS = [
    {"alpha": 0},
    {"alpha": 1e-3, "l1_ratio": 0.3, "average": True},
    {"alpha": 1e-4, "momentum": 0.9, "centered": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "penalty", "all-slots"])
def test_storage_does_not_change_the_result(
    estimator: type, settings: dict[str, Any], dtype: type
) -> None:
    X, y = sparse_problem(dtype=dtype)
    y = targets_for(estimator, X, y)
    wide = csr_array(X)
    wide.indices, wide.indptr = X.indices.astype(np.int64), X.indptr.astype(np.int64)
    narrow = csr_matrix(X)
    narrow.indices = X.indices.astype(np.int32)
    narrow.indptr = X.indptr.astype(np.int32)
    with_zeros = wide.copy()
    with_zeros.data = np.append(wide.data, np.zeros(3, dtype))
    with_zeros.indices = np.append(wide.indices, [1, 5, 7])
    with_zeros.indptr[-1] += 3
    model = estimator(max_iter=4, tol=None, random_state=0, batch_size=16, **settings)
    fits = [
        clone(model).fit(x, y)
        for x in (X.toarray(), wide, narrow, with_zeros, np.asfortranarray(X.toarray()))
    ]
    assert fits[0].coef_.dtype == dtype
    for fit in fits[1:]:
        assert_same_model(fits[0], fit)


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "penalty", "all-slots"])
def test_threads_do_not_change_the_result(
    estimator: type,
    settings: dict[str, Any],
    dtype: type,
    n_threads: int,
    any_batch_is_shared: None,
) -> None:
    X, y = sparse_problem(dtype=dtype)
    y = targets_for(estimator, X, y)
    model = estimator(max_iter=4, tol=None, random_state=0, batch_size=16, **settings)
    one = clone(model).set_params(num_threads=1).fit(X, y)
    assert_same_model(one, model.set_params(num_threads=n_threads).fit(X, y))


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "penalty", "all-slots"])
def test_instruction_sets_do_not_change_the_result(
    training_isa: str, settings: dict[str, Any], dtype: type
) -> None:
    X, y = sparse_problem(dtype=dtype, n_classes=17)
    model = RMSpropClassifier(max_iter=3, tol=None, random_state=0, **settings)
    here = clone(model).fit(X, y)
    _train.use("baseline")
    assert_same_model(here, model.fit(X, y))


# --- The optimum ---------------------------------------------------------------------

LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "log_loss": lambda z, y: np.logaddexp(0, -y * z),
    "hinge": lambda z, y: np.maximum(0, 1 - y * z),
    "modified_huber": lambda z, y: np.where(
        y * z >= -1, np.maximum(0, 1 - y * z) ** 2, -4 * y * z
    ),
    "squared_error": lambda z, y: (z - y) ** 2 / 2,
    "huber": lambda z, y: np.where(
        abs(z - y) <= 20, (z - y) ** 2 / 2, 20 * abs(z - y) - 200
    ),
    "epsilon_insensitive": lambda z, y: np.maximum(0, abs(z - y) - 20),
}


def objective(model: Any, X: Array, y: Array, alpha: float, l1_ratio: float) -> float:
    w = model.coef_.ravel()
    loss = LOSSES[model.loss](X @ w + model.intercept_, y).mean()
    return loss + alpha * (l1_ratio * abs(w).sum() + (1 - l1_ratio) / 2 * (w @ w))


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
def test_no_other_solver_gets_far_below_our_objective(
    loss: str, l1_ratio: float
) -> None:
    if loss in ("log_loss", "hinge", "modified_huber"):
        X, y = cancer()
        ours: Any = RMSpropClassifier(loss)
        rival: Any = SGDClassifier(loss)
        y, alpha = 2 * y - 1, 0.01
    else:
        X, y = load_diabetes(return_X_y=True)
        X = StandardScaler().fit_transform(X)
        ours = RMSpropRegressor(loss, delta=20)
        rival = SGDRegressor(loss, epsilon=20)
        alpha = {"squared_error": 0.5, "huber": 0.1, "epsilon_insensitive": 0.01}[loss]
    ours.set_params(
        learning_rate=schedules.PolynomialDecay(0.02, 300 * len(y) // 64, 1e-5),
        max_iter=300,
    )
    rival.set_params(penalty="elasticnet", learning_rate="invscaling", eta0=0.01)
    rival.set_params(max_iter=300, average=True)
    fits = [
        model.set_params(alpha=alpha, l1_ratio=l1_ratio, tol=None, random_state=1).fit(
            X, y
        )
        for model in (ours, rival)
    ]
    here, there = (objective(fit, X, y, alpha, l1_ratio) for fit in fits)
    assert here <= 1.01 * there


@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_coefficients_approach_those_of_logistic_regression(l1_ratio: float) -> None:
    X, y = cancer()
    alpha = 0.02
    exact = LogisticRegression(
        C=1 / (alpha * len(y)), l1_ratio=l1_ratio, solver="saga", max_iter=10_000
    ).fit(X, y)
    ours = RMSpropClassifier(
        alpha=alpha,
        l1_ratio=l1_ratio,
        learning_rate=schedules.PolynomialDecay(0.02, 5000, 1e-6),
        max_iter=600,  # 9 steps each: 5,400
        tol=None,
        random_state=0,
    ).fit(X, y)
    # Mini-batch noise. With L1 it moves weight among features that correlate by .99.
    part = 8 if l1_ratio else 20
    assert_allclose(ours.coef_, exact.coef_, atol=abs(exact.coef_).max() / part)
    assert (ours.coef_ == 0).any() == (exact.coef_ == 0).any() == bool(l1_ratio)


def test_softmax_is_multinomial_logistic_regression() -> None:
    X, y = load_digits(return_X_y=True)
    X = X / 16
    alpha = 1e-3
    exact = LogisticRegression(C=1 / (alpha * len(y)), max_iter=1000).fit(X, y)
    ours = RMSpropClassifier(
        alpha=alpha,
        learning_rate=schedules.PolynomialDecay(0.02, 2800, 1e-5),
        max_iter=100,  # 29 steps each: 2,900
        tol=None,
        random_state=0,
    ).fit(X, y)
    p, q = ours.predict_proba(X), exact.predict_proba(X)
    assert_allclose(p.sum(axis=1), 1)
    assert abs(p - q).mean() < 0.005


def test_the_unit_of_y_does_not_matter() -> None:
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    settings: dict[str, Any] = {"alpha": 0.1, "random_state": 0, "tol": None}
    settings |= {"max_iter": 20}
    one = RMSpropRegressor(**settings).fit(X, y)
    other = RMSpropRegressor(**settings).fit(X, 1000 * y + 7)
    assert_allclose(other.coef_, 1000 * one.coef_, rtol=1e-6)
    assert_allclose(other.predict(X), 1000 * one.predict(X) + 7, rtol=1e-6)
    assert_allclose(other.loss_curve_, 1e6 * np.array(one.loss_curve_), rtol=1e-6)


def test_default_regressor_comes_close_to_ridge() -> None:
    X, y = load_diabetes(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    ours = cross_val_score(RMSpropRegressor(random_state=0, average=True), X, y)
    exact = cross_val_score(Ridge(), X, y)
    assert ours.mean() > exact.mean() - 0.02


# --- Weights -------------------------------------------------------------------------


def test_weight_two_is_a_sample_twice(estimator: type) -> None:
    X, y = sparse_problem(n_samples=60)
    y = targets_for(estimator, X, y)
    twice = np.arange(0, 60, 3)
    weight = np.ones(60)
    weight[twice] = 2
    again = np.append(np.arange(60), twice)
    # One mini-batch: its gradient is the whole mean in either case.
    model = estimator(batch_size=1000, max_iter=20, tol=None, alpha=1e-3)
    one = clone(model).fit(X, y, sample_weight=weight)
    other = clone(model).fit(X[again], y[again])
    assert_allclose(one.coef_, other.coef_, rtol=1e-6, atol=1e-9)


def test_class_weight_is_a_sample_weight() -> None:
    X, y = sparse_problem()
    model = RMSpropClassifier(max_iter=5, tol=None, random_state=0)
    by_class = clone(model).set_params(class_weight={0: 3, 1: 1, 2: 0.5}).fit(X, y)
    by_sample = clone(model).fit(X, y, sample_weight=np.array([3, 1, 0.5])[y])
    assert_same_model(by_class, by_sample)
    balanced = clone(model).set_params(class_weight="balanced").fit(X, y)
    by_count = clone(model).fit(X, y, sample_weight=1 / np.bincount(y)[y])
    assert_allclose(balanced.coef_, by_count.coef_, rtol=1e-9, atol=1e-12)


# --- Going on ------------------------------------------------------------------------


@pytest.mark.parametrize("settings", SETTINGS, ids=["plain", "penalty", "all-slots"])
def test_fit_is_partial_fit_again_and_again(
    estimator: type, settings: dict[str, Any], dtype: type
) -> None:
    X, y = sparse_problem(dtype=dtype)
    y = targets_for(estimator, X, y)
    first = {} if estimator is RMSpropRegressor else {"classes": np.unique(y)}
    model = estimator(max_iter=4, tol=None, random_state=0, batch_size=16, **settings)
    straight = clone(model).fit(X, y)
    parts = clone(model).partial_fit(X, y, **first)
    for _ in range(3):
        parts = pickle.loads(pickle.dumps(parts)).partial_fit(X, y)
    warm = clone(model).set_params(max_iter=1, warm_start=True).fit(X, y)
    warm.set_params(max_iter=3).fit(X, y)
    assert_same_model(straight, parts)
    assert_same_model(straight, warm)
    assert straight.n_iter_ == parts.n_iter_ == warm.n_iter_ == 4


def test_without_warm_start_fit_begins_anew(estimator: type) -> None:
    X, y = sparse_problem()
    y = targets_for(estimator, X, y)
    model = estimator(max_iter=3, tol=None, random_state=0)
    first = clone(model).fit(X, y)
    assert_same_model(first, model.fit(X[:50], y[:50]).fit(X, y))


def test_settings_may_change_between_calls() -> None:
    X, y = sparse_problem()
    model = RMSpropClassifier(
        warm_start=True, max_iter=3, tol=None, random_state=0, alpha=0, batch_size=16
    ).fit(X, y)
    kept = model.coef_.copy()
    # No step moves anything at this rate: what changes is due to the penalty before.
    model.set_params(alpha=1e-2, l1_ratio=1, momentum=0.9, centered=True)
    model.set_params(learning_rate=1e-300, max_iter=1).fit(X, y)
    assert_allclose(model.coef_, kept, rtol=1e-12)
    model.set_params(learning_rate=0.01, max_iter=20).fit(X, y)
    penalised = model.coef_.copy()
    assert (penalised == 0).sum() > (kept == 0).sum()
    model.set_params(alpha=0, momentum=0, average=True, max_iter=1).fit(X, y)
    assert model.n_iter_ == 25


def test_a_model_mapped_from_a_file_can_go_on(estimator: type, tmp_path: Any) -> None:
    X, y = sparse_problem()
    y = targets_for(estimator, X, y)
    model = estimator(max_iter=2, tol=None, random_state=0).fit(X, y)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert_array_equal(mapped.predict(X), model.predict(X))
    assert_same_model(mapped.partial_fit(X, y), model.partial_fit(X, y))


def test_samples_may_be_mapped_read_only(estimator: type, tmp_path: Any) -> None:
    X, y = sparse_problem(dtype=np.float32)
    y = targets_for(estimator, X, y)
    joblib.dump((X, X.toarray(), y), tmp_path / "samples")
    sparse, dense, labels = joblib.load(tmp_path / "samples", mmap_mode="r")
    assert not sparse.data.flags.writeable
    model = estimator(max_iter=2, tol=None, random_state=0)
    expected = clone(model).fit(X, y)
    assert_same_model(expected, clone(model).fit(sparse, labels))
    assert_same_model(expected, clone(model).fit(dense, labels))


# --- Stopping ------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_epoch() -> None:
    X, y = sparse_problem(n_samples=400)
    model = RMSpropClassifier(
        early_stopping=True, learning_rate=0.3, random_state=0, n_iter_no_change=4
    ).fit(X, y)
    scores = model.validation_scores_
    assert len(scores) == model.n_iter_ == len(model.loss_curve_)
    assert model.best_validation_score_ == max(scores)
    best = scores.index(max(scores))
    assert len(scores) - 1 - best >= 4 - 1  # epochs that gained less than tol count too
    # The same run, ended after its best epoch, has the same coefficients.
    with pytest.warns(ConvergenceWarning):
        ended = clone(model).set_params(max_iter=best + 1).fit(X, y)
    assert_array_equal(ended.coef_, model.coef_)


def test_early_stopping_scores_what_it_returns() -> None:
    X, y = load_diabetes(return_X_y=True)
    model = RMSpropRegressor(
        early_stopping=True, alpha=1e-3, average=True, random_state=0, tol=None
    ).set_params(max_iter=1)
    model.fit(X, y)
    _, validation = model._split(y)
    score = model.score(X[validation], y[validation])
    assert_allclose(score, model.best_validation_score_, rtol=1e-9)


def test_an_unconverged_fit_warns(estimator: type) -> None:
    X, y = sparse_problem()
    y = targets_for(estimator, X, y)
    with pytest.warns(ConvergenceWarning, match="within max_iter=2 epochs"):
        estimator(max_iter=2).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator(max_iter=2, tol=None).fit(X, y)
        converged = estimator(learning_rate=0.05).fit(X, y)
    assert converged.n_iter_ < converged.max_iter


def test_an_overflowing_loss_is_an_error() -> None:
    X = np.full((10, 1), 1e38, np.float32)
    y = np.arange(10)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match=r"loss must stay finite, got .* in epoch"),
    ):
        RMSpropRegressor(learning_rate=1e30).fit(X, y)


# --- Refusals ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"learning_rate": 0}, "learning_rate"),
        ({"rho": 1.0}, "rho"),
        ({"momentum": 1.0}, "momentum"),
        ({"epsilon": 0}, "epsilon"),
        ({"alpha": -1}, "alpha"),
        ({"l1_ratio": 2}, "l1_ratio"),
        ({"batch_size": 0}, "batch_size"),
        ({"loss": "log"}, "loss"),
        ({"num_threads": 0}, "num_threads"),
        ({"learning_rate": lambda: -1.0}, "learning_rate must give finite numbers"),
    ],
)
def test_a_wrong_parameter_is_refused(
    estimator: type, settings: dict[str, Any], words: str
) -> None:
    X, y = sparse_problem()
    with pytest.raises(ValueError, match=words):
        estimator(**settings).fit(X, targets_for(estimator, X, y))


def test_partial_fit_refuses_what_needs_all_data() -> None:
    X, y = sparse_problem()
    with pytest.raises(ValueError, match="early_stopping must be False"):
        RMSpropClassifier(early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="class_weight must not be 'balanced'"):
        RMSpropClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="classes must be passed"):
        RMSpropClassifier().partial_fit(X, y)
    model = RMSpropClassifier().partial_fit(X, y, classes=[0, 1, 2])
    before = model.coef_.copy()
    with pytest.raises(ValueError, match="y must hold classes of the first call"):
        model.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match=r"sum > 0|non-zero number"):
        model.partial_fit(X, y, sample_weight=np.zeros(len(y)))
    assert_array_equal(model.coef_, before)


def test_indices_out_of_range_are_refused(estimator: type) -> None:
    X, y = sparse_problem()
    y = targets_for(estimator, X, y)
    X.indices[3] = 60
    with pytest.raises(ValueError, match="indices"):
        estimator().fit(X, y)


def test_hinge_has_no_probabilities() -> None:
    X, y = sparse_problem()
    model = RMSpropClassifier("hinge", max_iter=1, tol=None).fit(X, y)
    assert not hasattr(model, "predict_proba")
    smooth = clone(model).set_params(loss="modified_huber").fit(X, y)
    assert_allclose(smooth.predict_proba(X).sum(axis=1), 1)
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


# --- Among scikit-learn's tools ------------------------------------------------------


def test_grid_search_in_processes_and_threads_gives_one_result() -> None:
    X, y = cancer()
    pipeline = make_pipeline(StandardScaler(), RMSpropClassifier(random_state=0))
    grid = {"rmspropclassifier__learning_rate": [0.003, 0.03]}
    found = []
    for backend in ("loky", "threading"):
        with joblib.parallel_backend(backend, n_jobs=2):
            found.append(GridSearchCV(pipeline, grid, cv=3).fit(X, y))
    assert found[0].best_params_ == found[1].best_params_
    assert_array_equal(*(f.cv_results_["mean_test_score"] for f in found))
    assert found[0].best_score_ > 0.95


def test_hinge_can_be_calibrated() -> None:
    X, y = cancer()
    model = RMSpropClassifier("hinge", random_state=0)
    calibrated = CalibratedClassifierCV(model, cv=3).fit(X, y)
    p = calibrated.predict_proba(X)[:, 1]
    assert np.mean((p - y) ** 2) < 0.05


def test_progress_is_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = sparse_problem()
    RMSpropClassifier(verbose=1, max_iter=3, tol=None).fit(X, y)
    shown = capsys.readouterr().err
    assert "RMSpropClassifier: 100%" in shown
    assert "3/3" in shown
    assert "loss=" in shown
    RMSpropClassifier(max_iter=3, tol=None).fit(X, y)
    assert capsys.readouterr().err == ""


def test_callbacks_see_every_epoch_and_may_stop_it() -> None:
    pytest.importorskip("sklearn.callback", reason="callbacks came with 1.9")

    class Watch:
        def __init__(self) -> None:
            self.scores: list[float] = []

        def setup(self, estimator: Any, context: Any) -> None:
            self.was_set_up = True

        def teardown(self, estimator: Any, context: Any) -> None:
            self.was_torn_down = True

        def on_fit_task_begin(self, estimator: Any, context: Any, **_: Any) -> None:
            pass

        def on_fit_task_end(
            self,
            estimator: Any,
            context: Any,
            *,
            X: Any = None,
            y: Any = None,
            fitted_estimator: Any = None,
            **_: Any,
        ) -> bool:
            if context.task_name != "epoch":
                return False
            self.scores.append(fitted_estimator.score(X, y))
            return len(self.scores) == 5

    X, y = sparse_problem()
    for settings in ({}, {"alpha": 1e-3, "average": True}):
        watch = Watch()
        model = RMSpropClassifier(random_state=0, batch_size=16, **settings)
        watched = clone(model).set_callbacks(watch).fit(X, y)
        assert watch.was_set_up
        assert watch.was_torn_down
        assert watched.n_iter_ == len(watch.scores) == 5
        assert watch.scores[-1] == watched.score(X, y)
        plain = model.set_params(max_iter=5, tol=None).fit(X, y)
        assert_same_model(watched, plain)


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_does_not_import_scikit_learn() -> None:
    assert (
        run("""
        import sys, rmsprop_fast
        print([m for m in sys.modules if m.partition(".")[0] == "sklearn"])
    """).strip()
        == "[]"
    )


def test_without_scikit_learn_the_error_names_the_extra() -> None:
    assert 'pip install "rmsprop-fast[sklearn]"' in run("""
        import sys
        sys.modules["sklearn"] = None
        try:
            import rmsprop_fast.estimators
        except ImportError as error:
            print(error)
    """)
