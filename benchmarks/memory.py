"""How much more memory a process needs during a step than before it.

Asked of Linux in a fresh process: writing 5 to /proc/self/clear_refs sets the peak back
to what is resident now. That covers what malloc, NumPy and the thread team take, with a
resolution of about 100 kB. Our first step counts, which allocates what is kept from
step to step; peers may first make two, as they make their slots in them.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

from benchmarks.harness import (
    OURS,
    Case,
    Contestant,
    Effort,
    Entry,
    RefusedError,
    Target,
)
from benchmarks.peers import Numba, NumPy, Ours, Peer, Torch, TorchForeach, is_installed
from benchmarks.problems import Dense, Problem, Sparse
from benchmarks.sparse_peers import SPARSE_PEERS, OursRows

__all__ = ["cases"]

CLEAR_REFS = Path("/proc/self/clear_refs")
PAGE = 4096.0
ALLOWED, ALLOWED_PER_INDEX = 1e6, 32
ALLOWANCE = "1 MB + 32 B/index"
TARGET = Target((ALLOWANCE,), 1, "< 1 MB + 32 bytes per index")

# What is stepped, and how many indices it has.
PROBLEMS: dict[str, tuple[Callable[[], Problem], int]] = {
    "dense-1e5": (partial(Dense, [(10**5,)]), 0),
    "dense-1e7": (partial(Dense, [(10**7,)]), 0),
    "1000x64": (partial(Dense, [(64,)] * 1000), 0),
    "rows-16384": (partial(Sparse, 10**6, 64), 16_384),
    "rows-1e6": (partial(Sparse, 10**6, 8, 10**6), 10**6),
}
QUICK = ("dense-1e7", "rows-16384")
DENSE_PEERS = (Ours, NumPy, Numba, Torch, TorchForeach)


def cases(effort: Effort) -> Iterator[Case]:
    """Yield dense and row-sparse steps."""
    for name in QUICK if effort.quick else PROBLEMS:
        entries = partial(contestants, name, effort)
        yield Case(f"memory/{name}", "byte", entries, (TARGET,))


def peers_for(name: str) -> dict[str, type[Peer]]:
    """Return those that can be asked, by name."""
    peers = [OursRows, *SPARSE_PEERS] if PROBLEMS[name][1] else DENSE_PEERS
    return {peer.name: peer for peer in filter(is_installed, peers)}


def contestants(name: str, effort: Effort) -> Iterator[Entry]:
    """Yield ourselves, what is allowed, and peers."""
    allowed = ALLOWED + ALLOWED_PER_INDEX * PROBLEMS[name][1]
    yield OURS, partial(ask, name, OURS, effort)
    yield ALLOWANCE, lambda: Contestant(lambda: None, cost=lambda: allowed)
    if not effort.quick:
        for peer in peers_for(name):
            if peer != OURS:
                yield peer, partial(ask, name, peer, effort)


def ask(name: str, peer: str, effort: Effort) -> Contestant:
    """Return a contestant whose cost a process of its own finds out, once."""
    if not CLEAR_REFS.exists():
        raise RefusedError(f"there is no {CLEAR_REFS}")

    @cache
    def cost() -> float:
        words = [sys.executable, "-m", __name__, name, peer, str(effort.n_threads)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1])

    return Contestant(lambda: None, cost=cost)


# --- In the process that is asked ----------------------------------------------------


def resident(field: str) -> int:
    """Return VmRSS or VmHWM, the peak, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def growth(name: str, peer: str, n_threads: int) -> float:
    """Return the bytes by which one step raises the peak."""
    team = Dense([(2**16,)], n_threads=n_threads)
    Ours(team).step()  # starts the threads
    problem = PROBLEMS[name][0]()
    problem.n_threads = n_threads
    contestant = peers_for(name)[peer](problem)
    if peer != OURS:
        contestant.step()
        contestant.step()
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text("5")
    before = resident("VmRSS")
    contestant.step()
    return max(PAGE, resident("VmHWM") - before)


if __name__ == "__main__":
    print(growth(sys.argv[1], sys.argv[2], int(sys.argv[3])))
