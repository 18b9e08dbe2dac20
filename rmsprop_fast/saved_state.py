"""Rules about a state that comes from a file or a pickle.

Compiled code uses the counters and shapes of a state without another check. A digest
shows that a file has not changed, but not that an optimizer wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import numpy as np

from rmsprop_fast import rules

__all__ = ["check_state", "parts"]

Spec = tuple[tuple[int, ...], np.dtype[Any]]

MAX_STEPS = 2**62  # of one variable: no run makes so many, and sums of two fit an int64


def parts(key: str) -> tuple[str, int, str]:
    """Return kind, variable and name of an array of a state."""
    kind, number, name = key.split(".", 2)
    return kind, int(number), unquote(name)


def check_state(state: Mapping[str, Any]) -> None:
    """Refuse a state that no optimizer can have.

    Parameters
    ----------
    state : mapping
        As `Slots.to_save` returns it.

    Raises
    ------
    KeyError, TypeError, ValueError
        A part of it is missing, has a wrong type, or has an impossible value.
    """
    rules.integer("iterations", state["iterations"], 0, rules.MAX_ITERATIONS)
    rules.integer("skipped_steps", state["skipped_steps"], 0)
    rules.flag("is_closed", state["is_closed"])
    counts_rows = rules.flag("counts_rows", state["counts_rows"])
    specs = [
        (rules.shape("shape", list(shape)) or (), rules.slot_dtype("dtype", dtype))
        for shape, dtype in state["variables"]
    ]
    flags, arrays = state["is_excluded"], state["arrays"]
    if len(flags) != len(specs):
        raise ValueError(
            f"is_excluded must be of {len(specs)} variables, got {len(flags)}"
        )
    for value in flags:
        rules.flag("is_excluded", value)
    counted = {
        index
        for index, (shape, _) in enumerate(specs)
        if counts_rows and shape and 0 not in shape
    }
    for key, array in arrays.items():
        _check_array(key, array, specs, counted)
    with_slots = {parts(key)[1] for key in arrays if key.startswith("slot.")}
    for index in sorted(counted):
        if index not in with_slots:  # it shows that there is memory for so many rows
            raise ValueError(f"variable {index} must have a slot, got none")
        _check_counts(f"counter.{index}", arrays)


def _check_array(key: str, array: Any, specs: list[Spec], counted: set[int]) -> None:
    """Refuse an array that does not fit its variable."""
    kind, index, name = parts(key)
    if not 0 <= index < len(specs):
        raise ValueError(f"{key} must be of one of {len(specs)} variables")
    if key != f"{kind}.{index}.{quote(name, safe='')}":
        raise ValueError(f"{key} must be written as {kind}.{index}.{quote(name)}")
    shape, dtype = specs[index]
    if kind == "counter" and name in ("steps", "row_steps"):
        if index not in counted:
            raise ValueError(f"{key} must be of a variable whose rows are counted")
        shape = (2,) if name == "steps" else shape[:1]
        dtype = np.dtype(np.int64)
    elif kind != "slot":
        raise ValueError(f"{key} is of no kind that this rmsprop_fast knows")
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{key} must be a numpy.ndarray, got {type(array).__name__}")
    if (array.shape, array.dtype) != (shape, dtype):
        whose = "its variable's" if kind == "slot" else "the"
        raise ValueError(
            f"{key} must have {whose} shape {shape} and dtype {dtype}, got "
            f"{array.shape} and {array.dtype}"
        )


def _check_counts(key: str, arrays: Mapping[str, Any]) -> None:
    """Refuse counts of steps that a variable and its rows cannot have."""
    made, by_all = map(int, arrays[f"{key}.steps"])
    if not 0 <= by_all <= made <= MAX_STEPS:
        raise ValueError(
            f"{key}.steps must be two counts in [0, 2**62], the second not above the "
            f"first, got {[made, by_all]}"
        )
    if made == by_all:
        return  # of each row, too
    rows = arrays[f"{key}.row_steps"]
    least, most = int(rows.min()), int(rows.max())
    if not 0 <= least <= most <= made:
        wrong = least if least < 0 else most
        raise ValueError(f"{key}.row_steps must be in [0, {made}], got {wrong}")
