"""What the second thread brings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks import native
from benchmarks.harness import OURS, Case, Effort, Entry, Target
from benchmarks.peers import Ours, build
from benchmarks.problems import PLAIN, VARIANTS, Dense, Variant, short

__all__ = ["cases"]

SIZES = (100_000, 300_000, 1_000_000)
TARGET = Target(("1 thread",), 1.8, ">= 1.8x one thread")


def cases(effort: Effort) -> Iterator[Case]:
    """Yield sizes from cache, all variants; plain has a target."""
    if effort.n_threads < 2:
        return
    for variant in VARIANTS[:1] if effort.quick else VARIANTS:
        for dtype in ("float32", "float64"):
            for size in SIZES:
                yield Case(
                    f"threads/{variant.name}/{dtype}/{short(size)}",
                    "element",
                    partial(contestants, size, dtype, variant),
                    (TARGET,) if variant is PLAIN else (),
                )


def contestants(size: int, dtype: str, variant: Variant) -> Iterator[Entry]:
    """Yield ourselves with two threads and with one, and what two could do.

    Two threads that never meet tell what the machine has to give: virtual processors
    may be two halves of one core, which has one divider.
    """
    one, two = (Dense([(size,)], dtype, variant, n) for n in (1, 2))
    yield OURS, partial(build, Ours, two, size)
    yield "1 thread", partial(build, Ours, one, size)
    arrays = [two.zeros()[0] for _ in range(4)]
    yield "2 free threads", partial(native.c_file, two, arrays)
