"""Interrupts and failed allocations between two lines: nothing is torn."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import interrupted_at, lines_of, once_each
from support import FULL, bits

import rmsprop_fast
from rmsprop_fast import IndexedSlices, RMSprop

PACKAGE = [rmsprop_fast]


class Life:
    """An optimizer with a table, a matrix and a scalar, and one call to interrupt."""

    def __init__(self, **options: Any) -> None:
        self.opt = RMSprop(**options)
        self.variables = [np.ones((5, 2)), np.ones((2, 3), np.float32), np.ones(())]

    @property
    def pairs(self) -> list[Any]:
        table, matrix, scalar, *_ = self.variables
        sparse = IndexedSlices(np.ones((3, 2)), [4, 1, 4])
        return [(sparse, table), (np.ones_like(matrix), matrix), (2 * scalar, scalar)]

    def step(self) -> None:
        self.opt.apply_gradients(self.pairs)

    def made(self) -> tuple[int, list[bytes]]:
        """Return what steps have made."""
        return self.opt.iterations, bits(self.variables)

    def everything(self) -> Any:
        state = self.opt._slots.to_save()
        arrays = {name: array.tobytes() for name, array in state.pop("arrays").items()}
        return self.made(), state, arrays, self.opt.get_config()


def after_a_step(**options: Any) -> Life:
    life = Life(**options)
    life.step()
    return life


def restored(**options: Any) -> Life:
    life = after_a_step(**options)
    life.opt = copy.deepcopy(life.opt)
    return life


def with_another_variable(life: Life) -> Life:
    life.variables.append(np.ones(7))
    return life


CALLS: dict[str, tuple[Callable[[], Life], Callable[[Life], Any]]] = {
    "the first step": (lambda: Life(**FULL), Life.step),
    "a later step": (lambda: after_a_step(**FULL), Life.step),
    "a step that catches up": (lambda: after_a_step(catch_up=True, **FULL), Life.step),
    "the first step of a copy": (lambda: restored(**FULL), Life.step),
    "build": (lambda: Life(**FULL), lambda life: life.opt.build(life.variables)),
    "build of more": (
        lambda: with_another_variable(after_a_step()),
        lambda life: life.opt.build(life.variables),
    ),
    "build of a copy": (
        lambda: restored(catch_up=True, **FULL),
        lambda life: life.opt.build(life.variables),
    ),
    "momentum": (
        lambda: after_a_step(),
        lambda life: setattr(life.opt, "momentum", 0.5),
    ),
    "rho with catch_up": (
        lambda: after_a_step(catch_up=True, **FULL),
        lambda life: setattr(life.opt, "rho", 0.5),
    ),
    "clipnorm": (Life, lambda life: setattr(life.opt, "clipnorm", 0.5)),
    "add_slot": (
        lambda: after_a_step(),
        lambda life: life.opt.add_slot(life.variables[1], "average", "ones"),
    ),
    "add_slot of a new variable": (
        Life,
        lambda life: life.opt.add_slot(life.variables[1], "average", "ones"),
    ),
    "exclude": (
        lambda: after_a_step(weight_decay=0.1),
        lambda life: life.opt.exclude_from_weight_decay(life.variables[:2]),
    ),
    "exclude before build": (
        lambda: Life(weight_decay=0.1),
        lambda life: (
            life.opt.exclude_from_weight_decay(life.variables[:2]),
            life.opt.build(life.variables),
        ),
    ),
    "catch_up": (
        lambda: after_a_step(catch_up=True, **FULL),
        lambda life: life.opt.catch_up(),
    ),
    "set_weights": (
        lambda: after_a_step(catch_up=True, **FULL),
        lambda life: life.opt.set_weights([w * 0 + 3 for w in life.opt.weights]),
    ),
    "iterations": (after_a_step, lambda life: setattr(life.opt, "iterations", 7)),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_at_any_line_leaves_the_old_or_the_new_state(call: str) -> None:
    make, act = CALLS[call]
    before = make().made()
    expected = make()
    act(expected)
    after = expected.everything()
    expected.step()
    later = expected.everything()
    life = make()
    lines = lines_of(lambda: act(life), PACKAGE)
    assert len(lines) > 2
    for k in once_each(lines):
        life = make()
        with interrupted_at(k, PACKAGE) as fault:
            act(life)
        assert fault.happened
        if life.made() == before:  # else the call was over
            act(life)
        assert life.everything() == after, fault.place
        life.step()
        assert life.everything() == later, fault.place


@pytest.mark.parametrize("call", CALLS)
def test_after_an_interrupt_the_next_step_is_whole(call: str) -> None:
    make, act = CALLS[call]
    first = make()
    for k in once_each(lines_of(lambda: act(first), PACKAGE)):
        life = make()
        with interrupted_at(k, PACKAGE) as fault:
            act(life)
        iterations = life.opt.iterations
        for _ in range(2):  # with whatever the call has left
            life.opt.apply_gradients(life.pairs)
        assert life.opt.iterations == iterations + 2, fault.place
        assert all(np.isfinite(var).all() for var in life.variables)
        copy.deepcopy(life.opt)


def test_an_interrupted_forget_has_forgotten_or_not() -> None:
    life = after_a_step(**FULL)
    lines = lines_of(lambda: life.opt.forget(life.variables[1]), PACKAGE)
    for k in once_each(lines):
        life = after_a_step(**FULL)
        with interrupted_at(k, PACKAGE) as fault:
            life.opt.forget(life.variables[1])
        assert len(life.opt.weights) in (1 + 3 * 3, 1 + 2 * 3), fault.place
        life.step()
        assert len(life.opt.weights) == 1 + 3 * 3
        assert life.opt.iterations == 2


FAILING_ALLOCATIONS = """
    import sys
    sys.path.insert(0, {tests!r})
    import _testcapi
    from test_interrupts import CALLS

    make, act = CALLS[{call!r}]
    before = make().made()
    expected = make()
    act(expected)
    expected.step()
    later = expected.everything()
    n_failed = 0
    for k in range(0, 4000, {stride}):
        life = make()
        _testcapi.set_nomemory(k, k + 1)
        try:
            act(life)
            failed = False
        except (MemoryError, SystemError):  # NumPy turns some into the latter
            failed = True
        finally:
            _testcapi.remove_mem_hooks()
        if failed and life.made() == before:
            act(life)
        life.step()
        assert life.everything() == later, k
        n_failed += failed
    print(n_failed)
"""


@pytest.mark.parametrize(
    "call", ["the first step", "a later step", "build of a copy", "set_weights"]
)
def test_after_a_failed_allocation_the_same_call_does_the_same(call: str) -> None:
    pytest.importorskip("_testcapi", reason="this Python has no _testcapi")
    code = textwrap.dedent(FAILING_ALLOCATIONS).format(
        tests=str(Path(__file__).parent), call=call, stride=7
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 3


class Forgetful:
    """A cycle whose finaliser uses the optimizer, in the middle of one of its calls."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self.act, self.me = act, self
        self.error: BaseException | None = None

    def __del__(self) -> None:
        try:
            self.act()
        except BaseException as error:
            RAISED.append(error)


RAISED: list[BaseException] = []


@pytest.mark.parametrize("word", ["forget", "step", "build"])
def test_a_finaliser_in_the_middle_of_a_call_is_refused(word: str, monkeypatch) -> None:
    life = after_a_step(**FULL)
    acts = {
        "forget": lambda: life.opt.forget(life.variables[0]),
        "step": life.step,
        "build": lambda: life.opt.build(life.variables),
    }
    RAISED.clear()

    def collected(*arguments: Any) -> Any:
        Forgetful(acts[word])
        gc.collect()
        return bind(*arguments)

    bind = life.opt._bind_new
    monkeypatch.setattr(life.opt, "_bind_new", collected)
    with_another_variable(life)
    pairs = [*life.pairs, (np.ones(7), life.variables[3])]
    assert life.opt.apply_gradients(pairs) == 2
    assert [type(error) for error in RAISED] == [RuntimeError]
    assert "in the middle of another call" in str(RAISED[0])
    assert life.opt.apply_gradients(pairs) == 3


def test_a_variable_resized_in_place_is_refused_until_it_is_forgotten() -> None:
    var, other = np.ones((10, 2)), np.ones(3)
    opt = RMSprop(catch_up=True)
    opt.build([var, other])
    opt.apply_gradients([(IndexedSlices(np.ones((1, 2)), [3]), var)])
    var.resize((100_000, 2), refcheck=False)
    match = r"variable 0 of shape \(10, 2\) was resized in place after it was bound"
    with pytest.raises(ValueError, match=match):
        opt.apply_gradients([(np.ones((100_000, 2)), var)])
    with pytest.raises(ValueError, match=match):
        opt.catch_up()
    opt.forget(var)
    opt.catch_up()
    assert opt.apply_gradients([(np.ones(3), other)]) == 2
