"""An interrupt or a failed allocation leaves an estimator as it was."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from estimator_problems import sparse_problem
from faults import interrupted_at, lines_of, once_each
from numpy.testing import assert_array_equal

from rmsprop_fast import estimators
from rmsprop_fast.estimators import (
    FactorizationMachineClassifier,
    FactorizationMachineRegressor,
    RMSpropClassifier,
    RMSpropMLPClassifier,
    RMSpropMLPRegressor,
    RMSpropRegressor,
    _train,
)
from rmsprop_fast.estimators.table import Table

X, y = sparse_problem(n_samples=40, n_features=20)
OTHER_X, OTHER_Y = sparse_problem(n_samples=30, n_features=12)
SETTINGS: dict[str, Any] = {"max_iter": 2, "tol": None, "random_state": 0}
TABLES = [
    RMSpropClassifier,
    RMSpropRegressor,
    FactorizationMachineClassifier,
    FactorizationMachineRegressor,
]


def fitted_attributes(model: Any) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(model).items()
        if name.endswith("_") and not name.startswith("_")
    }


def assert_same_fit(one: Any, other: Any) -> None:
    left, right = fitted_attributes(one), fitted_attributes(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        values, others = value, right[name]
        if not isinstance(value, list):
            values, others = [value], [others]
        assert len(values) == len(others), name
        for a, b in zip(values, others, strict=True):
            assert_array_equal(a, b, err_msg=name)


def refit(model: Any) -> None:
    model.fit(OTHER_X, OTHER_Y)


def go_on_with_an_average(model: Any) -> None:
    model.set_params(warm_start=True, average=True, centered=True, momentum=0.5)
    model.fit(X, y)


def go_on_without_a_penalty(model: Any) -> None:
    model.set_params(warm_start=True, alpha=0).fit(X, y)


def stop_early(model: Any) -> None:
    model.set_params(early_stopping=True, validation_fraction=0.3, verbose=1)
    model.fit(X, y)


def one_part_more(model: Any) -> None:
    model.partial_fit(X, y)


def check_each_line(model: Any, call: Callable[[Any], object], n_calls: int) -> None:
    """Interrupt `call` at each line; it must have changed all or nothing."""
    expected = copy.deepcopy(model)
    lines = lines_of(lambda: call(expected), [estimators])
    assert len(lines) > n_calls
    for k in once_each(lines):
        now = copy.deepcopy(model)
        with interrupted_at(k, [estimators]) as fault:
            call(now)
        assert fault.happened, fault.place
        try:
            assert_same_fit(now, model)
        except AssertionError:
            assert_same_fit(now, expected)  # interrupted after its last change
        else:
            call(now)
            assert_same_fit(now, expected)


CALLS = [
    refit,
    go_on_with_an_average,
    go_on_without_a_penalty,
    stop_early,
    one_part_more,
]


# Together they execute the lines of classifiers and regressors, with and without pairs.
@pytest.mark.parametrize(
    "estimator", [RMSpropRegressor, FactorizationMachineClassifier]
)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_an_interrupt_at_any_line_changes_nothing(
    estimator: type, call: Callable[[Any], object]
) -> None:
    check_each_line(estimator(**SETTINGS).fit(X, y), call, 50)


@pytest.mark.parametrize("call", [refit, one_part_more], ids=lambda call: call.__name__)
@pytest.mark.parametrize("estimator", [RMSpropMLPClassifier, RMSpropMLPRegressor])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_failing_update_changes_no_perceptron(
    estimator: type, call: Callable[[Any], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rmsprop_fast import RMSprop

    model = estimator((4,), max_iter=2, random_state=0, batch_size=10).fit(X, y)
    expected, now = copy.deepcopy(model), copy.deepcopy(model)
    call(expected)
    apply = RMSprop.apply_gradients
    n_steps = 0

    def fail_at_the_third(self: RMSprop, pairs: Any) -> int:
        nonlocal n_steps
        n_steps += 1
        if n_steps == 3:
            raise MemoryError
        return apply(self, pairs)

    monkeypatch.setattr(RMSprop, "apply_gradients", fail_at_the_third)
    with pytest.raises(MemoryError):
        call(now)
    monkeypatch.undo()
    assert_same_fit(now, model)
    call(now)
    assert_same_fit(now, expected)


@pytest.mark.parametrize("estimator", TABLES, ids=lambda one: one.__name__)
def test_a_learning_rate_that_raises_changes_nothing(estimator: type) -> None:
    model = estimator(**SETTINGS, batch_size=10).fit(X, y)
    expected, now = copy.deepcopy(model), copy.deepcopy(model)
    expected.set_params(warm_start=True).fit(X, y)
    n_rates = 0

    def rate() -> float:
        nonlocal n_rates
        n_rates += 1
        if n_rates == 7:  # in the second of two epochs with 4 steps each
            raise OSError("the file of rates is gone")
        return 0.01

    with pytest.raises(OSError, match="file of rates"):
        now.set_params(warm_start=True, learning_rate=rate).fit(X, y)
    assert_same_fit(now, model)
    assert_same_fit(now.set_params(learning_rate=0.01).fit(X, y), expected)


def test_a_failed_allocation_changes_nothing() -> None:
    pytest.importorskip("_testcapi", reason="this CPython cannot fail an allocation")
    script = """
    import copy, sys, warnings
    warnings.simplefilter("ignore")
    from faults import failing_allocation
    from test_estimators_faults import (
        SETTINGS, X, RMSpropClassifier, assert_same_fit, go_on_with_an_average, y,
    )
    model = RMSpropClassifier(**SETTINGS).fit(X, y)
    expected = copy.deepcopy(model)
    go_on_with_an_average(expected)
    n_failed = 0
    for k in range(0, 100_000, 37):
        now = copy.deepcopy(model)
        try:
            with failing_allocation(k) as fault:
                go_on_with_an_average(now)
        except Exception:
            pass  # some of CPython's and NumPy's code reports it as another error
        try:
            assert_same_fit(now, expected)
        except AssertionError:
            n_failed += 1
            assert_same_fit(now, model)
            go_on_with_an_average(now)
            assert_same_fit(now, expected)
        else:
            if not fault.happened and k > 20_000:
                break
    assert n_failed > 20, n_failed
    print("all or nothing")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "all or nothing" in done.stdout


# --- The compiled side ---------------------------------------------------------------


def a_trainer(table: Table, **settings: Any) -> _train.Trainer:
    plain: dict[str, Any] = {
        "loss": 0,
        "fit_intercept": True,
        "rho": 0.9,
        "momentum": 0.0,
        "epsilon": 1e-7,
        "l1": 0.0,
        "l2": 0.0,
        "l2_factors": 0.0,
        "delta": 0.0,
        "average_after": None,
        "num_threads": 1,
    }
    return _train.Trainer(table, **(plain | settings))


def a_table() -> Table:
    slots = {"centered": True, "momentum": True, "penalised": True, "averaged": True}
    return Table(20, 3, 0, np.float64, **slots)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("average_clock", None),  # the crash: an average without its clock
        ("average", None),
        ("penalty_clock", None),
        ("rms", None),
        ("rms", np.zeros((20, 3))),
        ("mg", np.zeros((21, 3), np.float32)),
        ("mom", np.zeros((3, 21)).T),
        ("average_clock", np.zeros(20, np.int64)),
        ("penalty_clock", np.zeros(21)),
        ("n_outputs", 4),
    ],
)
def test_a_table_whose_arrays_do_not_fit_is_an_error(name: str, value: Any) -> None:
    table = a_table()
    a_trainer(table, l2=0.1, average_after=0)
    setattr(table, name, value)
    with pytest.raises(ValueError, match=r"^table\."):
        a_trainer(table, l2=0.1, average_after=0)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"order": np.array([40])}, IndexError),
        ({"order": np.array([-1])}, IndexError),
        ({"order": np.array([], np.int64)}, ValueError),
        ({"y": np.zeros(39)}, ValueError),
        ({"y": np.full(40, 3.0)}, ValueError),
        ({"y": np.full(40, np.nan)}, ValueError),
        ({"weight": np.ones(41)}, ValueError),
        ({"learning_rates": np.ones(3)}, ValueError),
        ({"batch_size": 0}, ValueError),
    ],
)
def test_an_epoch_over_arrays_that_do_not_fit_is_an_error(
    changed: dict[str, Any], error: type[Exception]
) -> None:
    arguments = {
        "x": _train.Samples(X),
        "y": np.zeros(40),
        "weight": np.ones(40),
        "order": np.arange(40),
        "batch_size": 10,
        "learning_rates": np.ones(4),
    }
    trainer = a_trainer(a_table(), average_after=0)
    trainer.epoch(**arguments)
    with pytest.raises(error):
        trainer.epoch(**(arguments | changed))


def test_samples_whose_rows_leave_their_arrays_are_an_error() -> None:
    broken = X.copy()
    broken.indptr[-1] += 1
    with pytest.raises(ValueError, match=r"X\.indptr"):
        _train.Samples(broken)
