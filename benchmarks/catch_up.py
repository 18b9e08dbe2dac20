"""Row-sparse steps that equal dense ones: against lazy steps, and against dense ones.

With momentum a training catches the batch's rows up before its loss reads them, and a
step is measured with that call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import cycle

from benchmarks.harness import OURS, Case, Contestant, Effort, Entry, Target
from benchmarks.peers import Ours, enter
from benchmarks.problems import MOMENTUM, PLAIN, Array, Dense, Sparse, Variant, short
from benchmarks.sparse_peers import OursRows

__all__ = ["CaughtUp", "cases"]

N = 16_384
LAZY = "lazy"
WITH_MOMENTUM = Variant("momentum", momentum=MOMENTUM)
# variant, distribution, rows, width
MAIN = (PLAIN, "uniform", 10**6, 64)
TABLES = (
    MAIN,
    (WITH_MOMENTUM, "uniform", 10**6, 64),
    (PLAIN, "zipf", 10**6, 64),
    (PLAIN, "uniform", 10**5, 64),
    (PLAIN, "uniform", 10**6, 8),
)
TARGET = Target((LAZY,), 1 / 1.3, "<= 1.3x lazy steps")


class CaughtUp(OursRows):
    """This package, by the dense algorithm."""

    def __init__(self, problem: Sparse) -> None:
        super().__init__(problem)
        if problem.variant.momentum:
            batches, step = cycle(problem.batches), self.step

            def catch_up_and_step() -> None:
                self.opt.catch_up(self.table, next(batches))
                step()

            self.step = catch_up_and_step

    def params(self) -> list[Array]:
        self.opt.catch_up()
        return super().params()


def cases(effort: Effort) -> Iterator[Case]:
    """Yield tables; the main one with a target."""
    for table in TABLES[:2] if effort.quick else TABLES:
        variant, distribution, n_rows, width = table
        yield Case(
            f"catch_up/{variant.name}/{distribution}/{short(n_rows)}x{width}",
            "row",
            partial(contestants, *table, effort),
            (TARGET,) if table == MAIN else (),
        )


def contestants(
    variant: Variant, distribution: str, n_rows: int, width: int, effort: Effort
) -> Iterator[Entry]:
    """Yield ourselves by the three ways to make a row-sparse step."""

    def problem(variant: Variant) -> Sparse:
        return Sparse(n_rows, width, N, distribution, effort.n_threads, variant)

    counted, lazy = problem(replace(variant, catch_up=True)), problem(variant)
    yield OURS, lambda: enter(CaughtUp(counted), counted, N)
    yield LAZY, lambda: enter(OursRows(lazy), lazy, N)

    def dense() -> Contestant:
        whole = Dense([(n_rows, width)], variant=variant, n_threads=effort.n_threads)
        return enter(Ours(whole), whole, N)  # a row of the batch, not of the table

    yield "dense", dense
