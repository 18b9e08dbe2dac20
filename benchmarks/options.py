"""What weight decay and a check of the gradients add to a dense step."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.harness import OURS, Case, Effort, Entry
from benchmarks.peers import Ours, enter
from benchmarks.problems import PLAIN, Dense, Variant, short

__all__ = ["cases"]

SIZES = (10**5, 10**7)  # in cache, in memory
DECAYED = Variant("weight_decay", weight_decay=0.5)
OPTIONS: dict[str, tuple[Variant, dict[str, Any]]] = {
    "weight_decay": (DECAYED, {}),
    "check_finite": (PLAIN, {"check_finite": True}),
    # Whose squares are summed anyway: finite sums have finite terms.
    "check_finite+clipnorm": (PLAIN, {"check_finite": True, "clipnorm": 1e9}),
}


def cases(effort: Effort) -> Iterator[Case]:
    """Yield each option in cache and in memory."""
    for option in OPTIONS:
        for size in SIZES[-1:] if effort.quick else SIZES:
            entries = partial(contestants, option, size, effort)
            yield Case(f"options/{option}/{short(size)}", "element", entries)


def contestants(option: str, size: int, effort: Effort) -> Iterator[Entry]:
    """Yield ourselves with the option and without."""
    variant, options = OPTIONS[option]
    problem = Dense([(size,)], variant=variant, n_threads=effort.n_threads)
    yield OURS, lambda: enter(Ours(problem, **options), problem, size)
    without = Dense([(size,)], n_threads=effort.n_threads)
    rest = {k: v for k, v in options.items() if k != "check_finite"}
    yield "without", lambda: enter(Ours(without, **rest), without, size)
