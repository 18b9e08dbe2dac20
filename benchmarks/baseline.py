"""Compare a run with an earlier one by ratios, which hardly depend on the machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["differences", "worse"]

# Beyond what the quartiles allow: machines that share memory differ from day to day.
TOLERANCE = 0.1
NOT_OURS = ("rmsprop_fast", "copy")  # the copy is memory's own
MATTERS = ("cpu", "cores", "isa", "threads", "compiler")


def worse(new: dict[str, Any], old: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each ratio that got worse.

    Worse is a ratio whose upper quartile lies more than TOLERANCE below the earlier
    one's lower quartile. Cases and rivals that only one run has are passed over.
    """
    for name in new["cases"].keys() & old["cases"].keys():
        now, before = (run["cases"][name]["contestants"] for run in (new, old))
        for rival in now.keys() & before.keys() - set(NOT_OURS):
            _, median, high = now[rival]["ratio"]
            low_before, median_before, _ = before[rival]["ratio"]
            if high < low_before * (1 - TOLERANCE):
                yield f"{name}: {rival}/ours was {median_before:.3g}, is {median:.3g}"


def differences(new: dict[str, Any], old: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each difference between the machines that ratios may feel."""
    for key in MATTERS:
        now, before = new["machine"][key], old["machine"][key]
        if now != before:
            yield f"{key} was {before}, is {now}"
