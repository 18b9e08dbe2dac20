"""The loops themselves: one thread, in cache, against one C file with the header."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks import native
from benchmarks.harness import OURS, Case, Effort, Entry, Target
from benchmarks.peers import Ours, enter
from benchmarks.problems import VARIANTS, Dense

__all__ = ["cases"]

SIZE = 16 * 1024  # in float64 with all slots 640 KiB: in the second-level cache
TARGET = Target(("C file",), 0.95, ">= 0.95 of a C file, -march=native")


def cases(effort: Effort) -> Iterator[Case]:
    """Yield each variant and dtype."""
    for variant in VARIANTS:
        for dtype in ("float32", "float64"):
            problem = Dense([(SIZE,)], dtype, variant)
            name = f"in_cache/{variant.name}/{dtype}/16Ki"
            yield Case(name, "element", partial(contestants, problem), (TARGET,))


def contestants(problem: Dense) -> Iterator[Entry]:
    """Yield our kernel and the C file's, and our kernel within a whole call."""
    arrays = [problem.zeros()[0] for _ in range(4)]
    yield OURS, partial(native.package, problem, arrays)
    yield "C file", partial(native.c_file, problem, arrays)
    yield "apply_gradients", lambda: enter(Ours(problem), problem, SIZE)
