"""Dense steps of one variable, from cache to memory: against the limit and peers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks import limits
from benchmarks.harness import OURS, Case, Contestant, Effort, Entry, Target
from benchmarks.peers import PEERS, Ours, TorchCompiled, enter, entries
from benchmarks.problems import PLAIN, VARIANTS, Dense, Variant, last_level_cache, short

__all__ = ["cases"]

SIZES = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8)
QUICK_SIZES = (10**3, 10**5, 10**7, 10**8)
MOST_WITH_PEERS = 10**7  # beyond, their copies do not fit beside each other

LIMIT = Target(("limit",), 0.95, ">= 0.95 of the limit", least_of_copy=0.9)
PEER_TARGETS = (
    Target(("torch foreach", "torch for-loop"), 5, ">= 5x torch eager"),
    Target(("numba",), 0.97, ">= 0.97x numba"),
    Target(("torch.compile",), 0.97, ">= 0.97x torch.compile"),
    Target(("optax in jit",), 1.5, ">= 1.5x optax in jit"),
)


def cases(effort: Effort) -> Iterator[Case]:
    """Yield all sizes of each variant and dtype."""
    for variant in VARIANTS:
        for dtype in ("float32", "float64"):
            is_first = variant is PLAIN and dtype == "float32"
            for size in QUICK_SIZES if effort.quick else SIZES:
                if effort.quick and not is_first and size != 10**7:
                    continue
                has_peers = size <= MOST_WITH_PEERS and (
                    is_first or (size == 10**7 and not effort.quick)
                )
                yield Case(
                    f"dense/{variant.name}/{dtype}/{short(size)}",
                    "element",
                    partial(contestants, size, dtype, variant, has_peers, effort),
                    tuple(targets(size, dtype, has_peers)),
                )


def targets(size: int, dtype: str, has_peers: bool) -> Iterator[Target]:
    """Yield the targets for arrays of this size."""
    if size * np.dtype(dtype).itemsize > 4 * last_level_cache():
        yield LIMIT
    if size == 10**7 and has_peers:
        yield from PEER_TARGETS


def contestants(
    size: int, dtype: str, variant: Variant, has_peers: bool, effort: Effort
) -> Iterator[Entry]:
    """Yield ourselves, what memory allows, and peers."""
    problem = Dense([(size,)], dtype, variant, effort.n_threads)
    ours = Ours(problem)
    yield OURS, lambda: enter(ours, problem, size)
    (param,), (grad,) = ours.params(), problem.grads

    def limit() -> Contestant:
        return limits.dense(param, grad, ours.slots(), effort.n_threads)

    def copy() -> Contestant:
        return limits.copy(problem.zeros()[0], grad, effort.n_threads)

    yield "limit", limit
    yield "copy", copy
    if has_peers:
        # Compiling takes a quarter of a minute: once, unless there is time.
        compiled = size == 10**7 and not effort.quick
        peers = [peer for peer in PEERS if compiled or peer is not TorchCompiled]
        yield from entries(peers, problem, size)
