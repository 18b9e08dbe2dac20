"""Row-sparse steps: against gathering and scattering the same rows, and peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks import limits
from benchmarks.harness import OURS, Case, Contestant, Effort, Entry, Target
from benchmarks.peers import enter, entries
from benchmarks.problems import Sparse, short
from benchmarks.sparse_peers import SPARSE_PEERS, OursRows

__all__ = ["EQUAL", "cases"]

N = 16_384
COPIED_BYTES = 2**28  # of the table: more than fits into a cache

# distribution, rows, width
MAIN = ("uniform", 10**6, 64)
ZIPF = ("zipf", 10**6, 64)
SIZES = [("uniform", rows, 64) for rows in (10**5, 10**6, 10**7)]
TABLES = [
    *SIZES,
    *(("uniform", 10**6, width) for width in (8, 512)),
    *(("uniform", rows, 8) for rows in (10**5, 10**7)),
    *(("zipf", rows, 64) for rows in (10**5, 10**6)),
    *(("zipf", 10**6, width) for width in (8, 512)),
]
QUICK_TABLES = [*SIZES, ZIPF]

TARGETS = (
    # Random rows never move as fast as a copy, so nothing is asked of this limit. It
    # changed by less than 6 % with prefetches 6 to 48 rows ahead, for writing, into L2.
    Target(("limit",), 0.75, ">= 0.75 of the gather-scatter limit", least_of_copy=0),
    Target(("NumPy",), 20, ">= 20x NumPy"),
    Target(("torch SparseAdam",), 10, ">= 10x torch SparseAdam"),
    Target(("TensorFlow",), 15, ">= 15x TensorFlow"),
)
ZIPF_TARGET = Target(("uniform",), 1, "per occurrence no slower than uniform")


def case_name(distribution: str, n_rows: int, width: int) -> str:
    return f"sparse/{distribution}/{short(n_rows)}x{width}"


# Tables whose fractions of the limit should be equal, whatever their size.
EQUAL = tuple(case_name(*table) for table in SIZES)


def cases(effort: Effort) -> Iterator[Case]:
    """Yield tables from small to large."""
    for table in QUICK_TABLES if effort.quick else TABLES:
        targets = {MAIN: TARGETS, ZIPF: (ZIPF_TARGET,)}.get(table, ())
        built = partial(contestants, *table, effort)
        yield Case(case_name(*table), "row", built, targets)


def contestants(
    distribution: str, n_rows: int, width: int, effort: Effort
) -> Iterator[Entry]:
    """Yield ourselves, what memory allows, and peers."""
    problem = Sparse(n_rows, width, N, distribution, effort.n_threads)
    ours = OursRows(problem)
    yield OURS, lambda: enter(ours, problem, N)
    yield "limit", lambda: limits.rows(problem, ours.table, ours.rms)

    def copy() -> Contestant:
        source = ours.table[: COPIED_BYTES // (4 * width)]
        whole = limits.copy(np.zeros_like(source), source, effort.n_threads)
        return replace(whole, units=whole.units / width)

    yield "copy", copy
    if distribution == "zipf":
        uniform = Sparse(n_rows, width, N, n_threads=effort.n_threads)
        yield "uniform", lambda: enter(OursRows(uniform), uniform, N)
    if (n_rows, width) == MAIN[1:]:
        yield from entries(SPARSE_PEERS, problem, N)
