"""How many threads a step may use, and what happens at a fork."""

from __future__ import annotations

import math
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmsprop_fast.cpu import _platform

__all__ = ["call_on_change", "count", "limit", "renew_lock_in_child"]

# Set in a forked child whose parent could not end its OpenMP threads.
_alone = False


def _allowed_cpus() -> int:
    """Return how many CPUs the affinity mask and the cgroup's quota allow."""
    affinity = (
        len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1
    )
    return max(1, math.ceil(min(affinity, _cgroup_cpus(Path("/sys/fs/cgroup")))))


def _cgroup_cpus(root: Path) -> float:
    """Return the CPU quota of a control group in CPUs, inf without one."""
    try:
        if (root / "cpu.max").exists():  # version 2: "max 100000" or "150000 100000"
            quota, period = (root / "cpu.max").read_text().split()
        else:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        if quota in ("max", "-1"):
            return math.inf
        return int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


# For how many seconds an answer of the operating system is used again. To ask takes
# 50 us, as long as a step over 50,000 elements, and limits change rarely.
FRESH = 1.0

# OpenMP read the affinity mask when the process started, and it never reads a quota.
# A user who sets OMP_NUM_THREADS has decided: then nobody asks.
_omp_decides = "OMP_NUM_THREADS" in os.environ

# The last answer and when it becomes too old.
_allowed = 0
_fresh_until = -math.inf
_listeners: list[Callable[[], object]] = []


def limit() -> int | None:
    """Return how many threads the machine and its control group allow now.

    The answer is at most `FRESH` seconds old.

    Returns
    -------
    int or None
        None when the environment variable OMP_NUM_THREADS decides.
    """
    global _allowed, _fresh_until
    if _omp_decides:
        return None
    now = time.monotonic()
    if now >= _fresh_until:
        before, _allowed = _allowed, _allowed_cpus()
        _fresh_until = now + FRESH
        if before not in (0, _allowed):
            for listener in _listeners:
                listener()
    return _allowed


def call_on_change(listener: Callable[[], object]) -> None:
    """Call `listener` whenever `limit` has found another number of threads.

    Compiled code that runs without the GIL keeps a copy of the limit, and cannot ask.

    Parameters
    ----------
    listener : callable
        Called without arguments. It is kept for ever.
    """
    _listeners.append(listener)


def count(num_threads: int | None = None) -> int:
    """Return the size of the next team.

    Parameters
    ----------
    num_threads : int, optional
        Taken literally when given. Otherwise OMP_NUM_THREADS decides, or what the
        machine and its control group allow, see `limit`. OpenMP is asked at every
        call, so a limit set by threadpoolctl takes effect at once.

    Returns
    -------
    int
    """
    if _alone or not _platform.OPENMP:
        return 1
    if num_threads is not None:
        return num_threads
    most = _platform.max_threads()
    allowed = limit()
    return most if allowed is None else min(most, allowed)


# --- Fork ----------------------------------------------------------------------------

# The idle threads of libgomp do not survive a fork, and the first parallel region of
# the child would wait for them for ever. So they are ended before the fork. To start
# them again takes 0.1 ms.
_safe = True

# A lock that another thread holds at a fork would stay locked in the child for ever.
_owners: weakref.WeakSet[Any] = weakref.WeakSet()


def renew_lock_in_child(owner: Any) -> None:
    """Give `owner`, while it lives, a new ``_lock`` in every forked child."""
    _owners.add(owner)


def _before_fork() -> None:
    global _safe
    _safe = _platform.end_threads()


def _after_fork_in_child() -> None:
    global _alone
    _alone = _alone or not _safe
    for owner in list(_owners):
        owner._lock = type(owner._lock)()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
