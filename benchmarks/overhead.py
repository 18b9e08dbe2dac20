"""The call itself: one variable with one element."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks.harness import OURS, Case, Effort, Entry, Target
from benchmarks.many_tensors import np_add
from benchmarks.peers import PEERS, Ours, TorchCompiled, enter, entries
from benchmarks.problems import Dense

__all__ = ["cases"]

TARGET = Target(("np.add",), 1 / 6, "<= 6x one np.add(p, g, p)")


def cases(effort: Effort) -> Iterator[Case]:
    """Yield the one case."""
    yield Case("overhead/1x1", "call", partial(contestants, effort), (TARGET,))


def contestants(effort: Effort) -> Iterator[Entry]:
    """Yield ourselves, one np.add, and peers."""
    problem = Dense([(1,)], n_threads=effort.n_threads)
    yield OURS, lambda: enter(Ours(problem), problem, 1)
    yield "np.add", partial(np_add, 1)
    peers = [peer for peer in PEERS if not (effort.quick and peer is TorchCompiled)]
    yield from entries(peers, problem, 1)
