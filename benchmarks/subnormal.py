"""Slots that zero gradients have worn down to nothing, against slots in use.

Without a flush to zero they end as subnormal numbers and stay there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.harness import OURS, Case, Contestant, Effort, Entry, Target
from benchmarks.peers import Numba, Ours, Peer, Torch, enter, is_installed
from benchmarks.problems import PLAIN, VARIANTS, Dense, Variant

__all__ = ["cases"]

SIZE = 16 * 1024  # in cache, where arithmetic shows
# 0.9**6800 is below the smallest normal float64, 2**-1022; 0.9**830 below float32's.
ZERO_STEPS = 8_000
NORMAL = "normal slots"
TARGET = Target((NORMAL,), 1 / 1.1, "<= 1.1x normal slots")


def cases(effort: Effort) -> Iterator[Case]:
    """Yield the smallest and the largest variant."""
    for variant in (PLAIN, VARIANTS[-1]):
        for dtype in ("float32", "float64"):
            entries = partial(contestants, variant, dtype)
            yield Case(
                f"subnormal/{variant.name}/{dtype}", "element", entries, (TARGET,)
            )


def contestants(variant: Variant, dtype: str) -> Iterator[Entry]:
    """Yield ourselves on worn slots and on normal ones, then peers on both."""
    for peer in filter(is_installed, (Ours, Numba, Torch)):
        for is_worn in (True, False):
            name = peer.name if is_worn else f"{peer.name}, {NORMAL}"
            if peer is Ours:
                name = OURS if is_worn else NORMAL
            yield name, partial(build, peer, Dense([(SIZE,)], dtype, variant), is_worn)


def build(peer: type[Peer], problem: Dense, is_worn: bool) -> Contestant:
    """Return a contestant whose slots become small once they were checked."""
    contestant = enter(peer(problem), problem, SIZE)
    check = contestant.check

    def check_and_wear() -> str | None:
        wrong = check()
        problem.grads[0].fill(0)
        for _ in range(ZERO_STEPS):
            contestant.step()
        return wrong

    if is_worn:
        contestant.check = check_and_wear
    return contestant
