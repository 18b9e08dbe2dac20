"""The state of training between calls: a row of parameters and slots per feature."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["Table"]

Array = np.ndarray[Any, Any]


class Table:
    """The parameters of a model, their slots, and up to when each row is settled.

    Parameters
    ----------
    n_features, n_outputs, n_factors : int
        Row j belongs to feature j, the last row to the intercepts. A row holds a weight
        per output, then `n_factors` factors per output.
    dtype : dtype
        float32 or float64.
    centered, momentum, penalised, averaged : bool
        Which optional arrays there are.

    Notes
    -----
    `penalty_clock` and `average_clock` say up to when a row has been settled, see
    ``_train.pyx``; `clock` is the sum of the learning rates of all `n_steps` steps.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        n_factors: int,
        dtype: Any,
        *,
        centered: bool,
        momentum: bool,
        penalised: bool,
        averaged: bool,
    ) -> None:
        shape = n_features + 1, n_outputs * (1 + n_factors)
        self.n_outputs, self.n_factors = n_outputs, n_factors
        self.params: Array = np.zeros(shape, dtype)
        self.rms: Array = np.zeros(shape, dtype)
        self.mg = np.zeros(shape, dtype) if centered else None
        self.mom = np.zeros(shape, dtype) if momentum else None
        self.average = np.zeros(shape, dtype) if averaged else None
        self.penalty_clock = np.zeros(n_features) if penalised else None
        self.average_clock = np.zeros(shape[0], np.int64) if averaged else None
        self.clock = 0.0
        self.n_averaged = 0
        self.n_seen = 0
        self.n_steps = 0

    def set_slots(
        self, *, centered: bool, momentum: bool, penalised: bool, averaged: bool
    ) -> None:
        """Add and drop arrays for other settings, after all rows have been settled."""
        params = self.params

        def slot(kept: Array | None, wanted: bool) -> Array | None:
            return (np.zeros_like(params) if kept is None else kept) if wanted else None

        self.mg = slot(self.mg, centered)
        self.mom = slot(self.mom, momentum)
        self.average = slot(self.average, averaged)
        self.penalty_clock = np.full(len(params) - 1, self.clock) if penalised else None
        if not averaged:
            self.average_clock, self.n_averaged = None, 0
        elif self.average_clock is None:
            self.average_clock = np.zeros(len(params), np.int64)
