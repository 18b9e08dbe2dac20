"""The first step over many variables: it binds them, and should cost each one alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.harness import (
    OURS,
    Case,
    Contestant,
    Effort,
    Entry,
    RefusedError,
    Target,
)
from benchmarks.problems import short
from rmsprop_fast import RMSprop

__all__ = ["cases"]

Array = np.ndarray[Any, Any]
Pairs = list[tuple[Array, Array]]

SIZES = (500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
QUICK_SIZES = (500, 1_000, 2_000, 10_000)
SMALLEST = SIZES[0]
WIDTH = 8  # elements of a variable
MANY = 10**6  # variables of one element
BOUNDS = {100_000: 2.0, MANY: 30.0}  # seconds, for `build` and for a first step

# In seconds. A first step that would take longer is not made: the growth from smaller
# steps tells. A slow one is not repeated in every round.
LONGEST = 60.0
REPEATED = 10.0

FEW = f"{SMALLEST} variables"
# From 500 to 100,000 variables, n log n costs less than 2 times as much per variable,
# n**2 200 times. Arrays that caches no longer hold may take the rest.
AS_CHEAP = Target((FEW,), 0.25, "per variable <= 4x the cost with 500")


def make_pairs(n: int, width: int) -> Pairs:
    """Return n gradients and variables; the order of the variables is random."""
    block, grad = np.ones((n, width), np.float32), np.ones(width, np.float32)
    order = np.random.default_rng(n).permutation(n).tolist()
    return [(grad, block[k]) for k in order]


def first_step(pairs: Pairs) -> RMSprop:
    """Bind the variables by a step."""
    opt = RMSprop()
    opt.apply_gradients(pairs)
    return opt


def build(pairs: Pairs) -> RMSprop:
    """Bind the variables, and nothing more."""
    opt = RMSprop()
    opt.build([var for _, var in pairs])
    return opt


WAYS: dict[str, Callable[[Pairs], RMSprop]] = {"first_step": first_step, "build": build}


def seconds(bind: Callable[[Pairs], RMSprop], pairs: Pairs) -> float:
    """Return how long a new optimizer takes to bind the variables."""
    start = time.perf_counter()
    opt = bind(pairs)
    taken = time.perf_counter() - start
    del opt  # its deletion is not measured
    return taken


@dataclass
class Bound:
    """The cost of binding n variables."""

    bind: Callable[[Pairs], RMSprop]
    n: int
    width: int
    longest: float = LONGEST
    pairs: Pairs = field(init=False)
    spent: float = field(init=False, default=0.0)
    last: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.refuse_if_too_long()
        self.pairs = make_pairs(self.n, self.width)

    def refuse_if_too_long(self) -> None:
        """Bind fewer variables first, and refuse when n would take too long.

        Cost grows by a power of the number, so the last tenfold says the next one.
        """
        sizes = [self.n // 10**k for k in (3, 2, 1) if self.n >= SMALLEST * 10**k]
        before = None
        for size in sizes:
            taken = seconds(self.bind, make_pairs(size, self.width))
            growth = 10.0 if before is None else max(10.0, taken / before)
            if taken * growth > self.longest:
                raise RefusedError(
                    f"{size:,} variables took {taken:.2g} s, so {10 * size:,} would "
                    f"take more than {self.longest:g} s"
                )
            before = taken

    def cost(self) -> float:
        """Return the seconds of one more optimizer, or the last again after a while."""
        if self.spent < REPEATED:
            self.last = seconds(self.bind, self.pairs)
            self.spent += self.last
        return self.last

    def check(self) -> str | None:
        """Compare with a step over the same elements as one variable."""
        expected = np.ones(self.n * self.width, np.float32)
        opt = self.bind(self.pairs)
        if opt.iterations == 0:
            opt.apply_gradients(self.pairs)
        RMSprop().apply_gradients([(np.ones_like(expected), expected)])
        updated = np.concatenate([var for _, var in self.pairs])
        return None if np.array_equal(updated, expected) else "another result"


def cases(effort: Effort) -> Iterator[Case]:
    """Yield both ways for every number of variables, then a million of one element."""
    sizes = QUICK_SIZES if effort.quick else (*SIZES, MANY)
    for way in WAYS:
        for n in sizes:
            targets = [Target((f"{s:g} s",), 1, f"<= {s:g} s") for s in bounds(n)]
            yield Case(
                f"binding/{way}/{short(n)}x{width_of(n)}",
                "variable",
                partial(contestants, way, n),
                (*targets, *((AS_CHEAP,) if n > SMALLEST else ())),
            )


def width_of(n: int) -> int:
    return 1 if n == MANY else WIDTH


def bounds(n: int) -> list[float]:
    return [BOUNDS[n]] if n in BOUNDS else []


def limit(allowed: float, n: int) -> Contestant:
    """Return the time that n variables may take."""
    return Contestant(lambda: None, units=n, cost=lambda: allowed)


def contestants(way: str, n: int) -> Iterator[Entry]:
    """Yield ourselves, the time allowed, and ourselves with few variables."""

    def bound(n: int, width: int) -> Contestant:
        one = Bound(WAYS[way], n, width)
        return Contestant(lambda: None, units=n, check=one.check, cost=one.cost)

    yield OURS, partial(bound, n, width_of(n))
    for allowed in bounds(n):
        yield f"{allowed:g} s", partial(limit, allowed, n)
    if n > SMALLEST:
        yield FEW, partial(bound, SMALLEST, width_of(n))
