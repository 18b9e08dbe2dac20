"""Vectors computed by the real TensorFlow 2.0.0, with its own tolerances."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmsprop_fast import IndexedSlices, RMSprop, schedules

DATA = Path(__file__).parent / "data"


@cache
def cases() -> dict[str, Any]:
    golden = json.loads((DATA / "tensorflow_2_0_0.json").read_text())
    return {case["id"]: case for case in golden["cases"]}


def needs_catch_up(case: dict[str, Any]) -> bool:
    """Whether TensorFlow ran the dense algorithm on row-sparse gradients.

    Without momentum it decays the slots of all rows at each step, at the table's cost;
    with momentum it leaves the other rows alone.
    """
    return case["ctor"]["momentum"] == 0 and any(
        g and "indices" in g for step in case["steps"] for g in step
    )


def gradient(stored: dict[str, Any] | None, shape: list[int], dtype: str) -> Any:
    if stored is None:
        return None
    if "dense" in stored:
        return np.array(stored["dense"], dtype).reshape(shape)
    values = np.array(stored["values"], dtype).reshape(stored["values_shape"])
    return IndexedSlices(values, np.array(stored["indices"], np.int64))


def train(case: dict[str, Any], **options: Any) -> tuple[RMSprop, list[np.ndarray]]:
    ctor = dict(case["ctor"])
    if ctor["epsilon"] == 0:
        ctor["epsilon"] = None  # TensorFlow reads 0 as its default; ours is 0
    if "schedule" in case:
        stored = dict(case["schedule"])
        name = stored.pop("class_name")
        ctor["learning_rate"] = schedules.deserialize(
            {"class_name": name, "config": stored}
        )
    opt = RMSprop(**ctor, **options, catch_up=needs_catch_up(case))
    shapes = [var["shape"] for var in case["vars"]]
    variables = [
        np.array(var["init"], case["dtype"]).reshape(var["shape"])
        for var in case["vars"]
    ]
    for t, stored in enumerate(case["steps"]):
        for name, value in case.get("set", {}).get(str(t), {}).items():
            setattr(opt, name, value)
        grads = [
            gradient(g, shape, case["dtype"])
            for g, shape in zip(stored, shapes, strict=True)
        ]
        opt.apply_gradients(zip(grads, variables, strict=True))
    if needs_catch_up(case):
        opt.catch_up()
    return opt, variables


def assert_near(ours: np.ndarray, theirs: list[float], rtol: float, least=0.0) -> None:
    expected = np.array(theirs, np.float64).reshape(ours.shape)
    scale = max(np.abs(expected).max(initial=0), least)
    assert (np.abs(ours - expected) <= rtol * (np.abs(expected) + scale)).all()


def reach(var: dict[str, Any]) -> float:
    return max(map(abs, var["init"]), default=0.0)


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("name", cases())
def test_state_equals_that_of_tensorflow(name: str) -> None:
    case = cases()[name]
    final = case["final"]
    # r2.0 puts epsilon outside the root exactly when it was built without momentum.
    opt, variables = train(case, eps_in_sqrt=case["ctor"]["momentum"] != 0)
    assert opt.iterations == final["iterations"]
    assert opt.get_slot_names() == final["slot_names"]
    for ours, theirs, start in zip(variables, final["vars"], case["vars"], strict=True):
        assert_near(ours, theirs, case["rtol"], reach(start))
    for ours, slots in zip(variables, final["slots"], strict=True):
        for slot, theirs in slots.items():
            assert_near(opt.get_slot(ours, slot), theirs, case["rtol"])


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@pytest.mark.parametrize("eps_in_sqrt", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("name", cases())
def test_epsilon_stands_where_it_is_told(name: str, eps_in_sqrt: bool) -> None:
    case = cases()[name]
    _, variables = train(case, eps_in_sqrt=eps_in_sqrt)
    expected = case["variants"][f"eps_in_sqrt={eps_in_sqrt}"]["vars"]
    for ours, theirs, start in zip(variables, expected, case["vars"], strict=True):
        assert_near(ours, theirs, case["rtol"], reach(start))


def test_every_case_is_there() -> None:
    assert len(cases()) == 210  # as the file's own n_cases
    assert sum(map(needs_catch_up, cases().values())) == 60


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_without_catching_up_the_slots_differ(monkeypatch) -> None:
    """The cases that need it have teeth."""
    name = "f64-sparse2d-m0-c0-none-decay0"
    caught_up = train(cases()[name])[0].get_weights()[1:]
    monkeypatch.setattr(RMSprop, "catch_up", lambda self: None)
    missing = train(cases()[name])[0].weights[1:]
    assert any((a != b).any() for a, b in zip(caught_up, missing, strict=True))
