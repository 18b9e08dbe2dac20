"""Check contestants, then measure them in turns: a slow moment hits all of them."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

__all__ = [
    "OURS",
    "Case",
    "Contestant",
    "Effort",
    "Entry",
    "Figures",
    "Outcome",
    "RefusedError",
    "Target",
    "make_effort",
    "run",
]

Costs = np.ndarray[Any, Any]  # of one contestant: per unit, one for each round
Quartiles = tuple[float, float, float]

OURS = "rmsprop_fast"

# Before its turn a contestant waits until the others' idle threads have stopped
# spinning (libgomp's do for 3 to 5 ms), and warms up its own and the caches.
SETTLE = 6e-3
WARM_UP = 2e-3


class RefusedError(Exception):
    """A contestant cannot take part; the message says why."""


@dataclass(frozen=True)
class Effort:
    """How much to measure, and with how many threads."""

    n_threads: int
    quick: bool = False
    rounds: int = 15
    fewest_rounds: int = 7
    block: float = 20e-3  # seconds that one turn is timed for, at least
    budget: float = 8.0  # seconds per case; beyond it only the fewest rounds


def make_effort(n_threads: int | None, quick: bool) -> Effort:
    """Return the effort, and let every library have only so many CPUs."""
    cpus = sorted(os.sched_getaffinity(0))
    n_threads = min(n_threads or len(cpus), len(cpus))
    if n_threads < len(cpus):
        os.sched_setaffinity(0, cpus[:n_threads])
    if quick:
        return Effort(
            n_threads, quick=True, rounds=7, fewest_rounds=3, block=4e-3, budget=2.0
        )
    return Effort(n_threads)


@dataclass
class Contestant:
    """One way to do a case's work.

    `check` says what is wrong with the results, None if nothing; it is asked before
    anything is timed. `cost`, where given, is asked once a round in place of a clock.
    """

    step: Callable[[], Any]
    units: float = 1  # of the case's unit, per step
    n_bytes: int = 0  # read and written per step; 0: not known
    check: Callable[[], str | None] = lambda: None
    cost: Callable[[], float] | None = None


Entry = tuple[str, Callable[[], Contestant]]


@dataclass(frozen=True)
class Target:
    """The rival's cost per unit over ours must be at least `ratio`.

    Of several rivals that are there, the best counts.
    """

    rivals: tuple[str, ...]
    ratio: float
    words: str  # the same as one says it: "<= 6x np.add"
    # A limit that moves fewer bytes per second than this part of a plain copy is weak
    # itself, and nothing to be held against. None: the rival is no limit.
    least_of_copy: float | None = None


@dataclass(frozen=True)
class Case:
    """One comparison. `entries` builds the contestants; one of them is OURS."""

    name: str
    unit: str
    entries: Callable[[], Iterator[Entry]]
    targets: tuple[Target, ...] = ()


@dataclass(frozen=True)
class Figures:
    """What was measured of one contestant; quartiles over the rounds."""

    cost: Quartiles  # per unit: seconds, or bytes of memory
    ratio: Quartiles | None = None  # its cost over ours
    rate: float | None = None  # bytes read and written per second
    of_copy: float | None = None  # that over the plain copy's


@dataclass
class Outcome:
    """What came of a case."""

    case: Case
    figures: dict[str, Figures] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def run(case: Case, effort: Effort) -> Outcome:
    """Build and check a case's contestants, and measure those that are right."""
    gc.collect()  # the arrays of the case before
    outcome = Outcome(case)
    contestants: dict[str, Contestant] = {}
    for name, build in case.entries():
        try:
            contestant = build()
            wrong = contestant.check()
        except RefusedError as error:
            outcome.refused[name] = str(error)
        except Exception as error:  # whatever a peer raises must not end the run
            outcome.refused[name] = repr(error).partition("\\n")[0][:200]
        else:
            if wrong is None:
                contestants[name] = contestant
            else:
                outcome.refused[name] = f"wrong result, not timed: {wrong}"
    outcome.figures = summarise(measure(contestants, effort), contestants)
    return outcome


def measure(contestants: dict[str, Contestant], effort: Effort) -> dict[str, Costs]:
    """Return each contestant's costs, all of them asked in turns."""
    calls: dict[str, int] = {}
    round_time = 1e-9
    for name, contestant in contestants.items():
        seconds = about(contestant)
        calls[name] = max(1, round(effort.block / seconds))
        round_time += SETTLE + WARM_UP + seconds * calls[name]
    fitting = max(effort.fewest_rounds, int(effort.budget / round_time))
    costs: dict[str, list[float]] = {name: [] for name in contestants}
    gc.disable()
    try:
        for number in range(min(effort.rounds, fitting)):
            names = list(contestants)
            for name in names if number % 2 else reversed(names):
                cost = turn(contestants[name], calls[name])
                costs[name].append(cost / contestants[name].units)
    finally:
        gc.enable()
    return {name: np.array(cost) for name, cost in costs.items()}


def about(contestant: Contestant) -> float:
    """Return roughly how many seconds one step takes."""
    if contestant.cost:
        return 1.0
    fastest, spent = float("inf"), 0.0
    while spent < WARM_UP:
        seconds = clock(contestant.step, 1)
        fastest, spent = min(fastest, seconds), spent + seconds
    return fastest


def turn(contestant: Contestant, calls: int) -> float:
    """Return the cost of one step, the mean over `calls`."""
    if contestant.cost:
        return contestant.cost()
    time.sleep(SETTLE)
    warm = time.perf_counter() + WARM_UP
    # A step long enough to be called only once does not feel its first milliseconds.
    while calls > 1 and time.perf_counter() < warm:
        contestant.step()
    return clock(contestant.step, calls) / calls


def clock(step: Callable[[], Any], calls: int) -> float:
    """Return the seconds that so many calls take."""
    start = time.perf_counter()
    for _ in repeat(None, calls):
        step()
    return time.perf_counter() - start


def quartiles(values: Costs) -> Quartiles:
    """Return the lower quartile, the median and the upper quartile."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return float(low), float(median), float(high)


def summarise(
    costs: dict[str, Costs], contestants: dict[str, Contestant]
) -> dict[str, Figures]:
    """Return the figures; a ratio is taken within each round, then its quartiles."""
    rates = {
        name: contestant.n_bytes / contestant.units / costs[name]
        for name, contestant in contestants.items()
        if contestant.n_bytes
    }
    return {
        name: Figures(
            cost=quartiles(cost),
            ratio=quartiles(cost / costs[OURS]) if OURS in costs else None,
            rate=float(np.median(rates[name])) if name in rates else None,
            of_copy=(
                float(np.median(rates[name] / rates["copy"]))
                if name in rates and "copy" in rates
                else None
            ),
        )
        for name, cost in costs.items()
    }
