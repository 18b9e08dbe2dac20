"""How many threads a step may use, and what happens at a fork."""

from __future__ import annotations

import math
import os
import weakref
from pathlib import Path
from typing import Any

from rmsprop_fast.cpu import _platform

__all__ = ["count", "renew_lock_in_child"]

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


# OpenMP heeds the affinity mask but no quota. Somebody who sets OMP_NUM_THREADS has
# decided, as for scikit-learn.
_limit = None if "OMP_NUM_THREADS" in os.environ else _allowed_cpus()


def count(num_threads: int | None = None) -> int:
    """Return the size of the next team.

    Parameters
    ----------
    num_threads : int, optional
        Taken literally when given. Otherwise OMP_NUM_THREADS, or what the machine and
        its control group allow; asked at every call, so that limits set by
        threadpoolctl count.

    Returns
    -------
    int
    """
    if _alone or not _platform.OPENMP:
        return 1
    if num_threads is not None:
        return num_threads
    if _limit is None:
        return _platform.max_threads()
    return min(_platform.max_threads(), _limit)


# --- Fork ----------------------------------------------------------------------------

# libgomp's idle threads do not survive a fork, and the child's first parallel region
# waits for them for ever. So they are ended before; they cost 0.1 ms to start again.
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
