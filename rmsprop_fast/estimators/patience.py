"""When to stop."""

from __future__ import annotations

import math

__all__ = ["Patience"]


class Patience:
    """Notice that a score has not grown by `tol` for some epochs."""

    def __init__(self, tol: float | None, n_iter_no_change: int) -> None:
        self.tol, self.limit = tol, n_iter_no_change
        self.best = -math.inf
        self._target = -math.inf
        self._without = 0

    def add(self, score: float) -> bool:
        """Add the score of an epoch; return whether it is the best so far."""
        is_best = score > self.best
        self._without = 0 if score > self._target else self._without + 1
        if is_best:
            self.best = score
            self._target = score + (self.tol or 0.0)
        return is_best

    @property
    def exhausted(self) -> bool:
        """Whether to stop; never without a `tol`."""
        return self.tol is not None and self._without >= self.limit
