"""The formula again, in plain Python: the oracle that all kernels must equal exactly.

Every operation is done in double and rounded to the variable's dtype at once. For
float32 that is exact IEEE float32 arithmetic: a double holds more than twice its bits,
so rounding twice gives what rounding once would. Independent of the header: if the two
agree, each was written from the specification.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmsprop_fast import IndexedSlices


@dataclass
class Reference:
    """RMSprop over one variable; `update` returns what the variable becomes."""

    dtype: Any
    learning_rate: float = 0.001
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False
    eps_in_sqrt: bool = True
    clipvalue: float = math.inf
    clipnorm: float = math.inf
    weight_decay: float = 0.0
    catches_up: bool = False
    steps: int = 0
    row_steps: np.ndarray | None = None  # the steps that each row has
    slots: dict[str, np.ndarray] = field(default_factory=dict)

    def round(self, x: Any) -> np.ndarray:
        """Round doubles to the dtype; the result is held as doubles again."""
        with np.errstate(over="ignore", under="ignore"):
            return np.asarray(x, np.float64).astype(self.dtype).astype(np.float64)

    def flush(self, x: np.ndarray) -> np.ndarray:
        """Replace what is smaller than the smallest normal number by zero."""
        return np.where(np.abs(x) < np.finfo(self.dtype).smallest_normal, 0.0, x)

    def clip(self, raw: np.ndarray, scale: float) -> np.ndarray:
        """Scale and clip raw gradient values; a NaN stays one."""
        g = self.round(self.round(scale) * raw)
        c = self.round(self.clipvalue)
        return np.where(g < -c, -c, np.where(g > c, c, g))

    def update_elements(
        self, var: np.ndarray, g: np.ndarray, slots: dict[str, np.ndarray]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the elements and slots after one update; all arguments are doubles."""
        r = self.round
        rho, lr, epsilon = r(self.rho), r(self.learning_rate), r(self.epsilon)
        rest = r(1.0 - rho)
        new = {}
        new["rms"] = self.flush(r(r(rho * slots["rms"]) + r(rest * r(g * g))))
        d = new["rms"]
        if self.centered:
            new["mg"] = self.flush(r(r(rho * slots["mg"]) + r(rest * g)))
            d = r(new["rms"] - r(new["mg"] * new["mg"]))
            d = np.where(d < 0, 0.0, d)
        if self.eps_in_sqrt:
            denominator = r(np.sqrt(r(d + epsilon)))
        else:
            denominator = r(r(np.sqrt(d)) + epsilon)
        inc = r(r(lr * g) / denominator)
        if self.momentum > 0:
            mom = r(self.momentum)
            new["momentum"] = inc = self.flush(r(r(mom * slots["momentum"]) + inc))
        keep = r(1.0 - self.learning_rate * self.weight_decay)
        return r(r(keep * var) - inc), new

    def update(
        self, var: np.ndarray, grad: Any, scale: float | None = None
    ) -> np.ndarray:
        """Return `var` after one step; the slots are kept here."""
        names = self.slot_names()
        for name in names:
            self.slots.setdefault(name, np.zeros(var.shape))
        sparse = isinstance(grad, IndexedSlices)
        raw = np.array(grad.values if sparse else grad, np.float64)
        if scale is None:
            scale = norm_scale(sum_of_squares(raw), self.clipnorm)
        with np.errstate(all="ignore"):
            g = self.clip(raw, scale)
            var = var.astype(np.float64)
            if sparse:
                rows, g = self.sum_duplicates(grad.indices, g)
            else:
                rows = ...
            if self.catches_up:
                var = self.catch_up(var, rows)
                self.steps += 1
                self.row_steps[rows] = self.steps
            held = {name: self.slots[name][rows] for name in names}
            var[rows], new = self.update_elements(var[rows], g, held)
            for name in names:
                self.slots[name][rows] = new[name]
        return var.astype(self.dtype)

    def slot_names(self) -> list[str]:
        return ["rms", *["momentum"] * (self.momentum > 0), *["mg"] * self.centered]

    def catch_up(self, var: np.ndarray, rows: Any = ...) -> np.ndarray:
        """Return `var` after the steps with a zero gradient that some rows missed."""
        if self.row_steps is None:
            self.row_steps = np.zeros(len(var), np.int64)
        r, var = self.round, var.astype(np.float64)
        with np.errstate(all="ignore"):
            for row in np.arange(len(var))[rows]:
                missed = self.steps - int(self.row_steps[row])
                if missed == 0:
                    continue
                rho, _ = self.powers(float(r(self.rho)), missed)
                slots = {name: self.slots[name][row] for name in self.slot_names()}
                for name in {"rms", "mg"} & set(slots):
                    slots[name] = self.flush(r(self.flush(r(rho)) * slots[name]))
                if "momentum" in slots:
                    last, reach = self.powers(float(r(self.momentum)), missed)
                    var[row] = r(var[row] - r(r(reach) * slots["momentum"]))
                    slots["momentum"] = self.flush(
                        r(self.flush(r(last)) * slots["momentum"])
                    )
                for name, values in slots.items():
                    self.slots[name][row] = values
                self.row_steps[row] = self.steps
        return var

    @staticmethod
    def powers(base: float, k: int) -> tuple[float, float]:
        """Return base^k and base + ... + base^k, in double, by the bits of k."""
        power, total = 1.0, 0.0
        block_power = block_total = base  # of 1, 2, 4, ... factors
        while k:
            if k % 2:
                total += power * block_total
                power *= block_power
            block_total += block_power * block_total
            block_power *= block_power
            k //= 2
        return power, total

    def sum_duplicates(
        self, indices: np.ndarray, g: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Sum each row's occurrences in order: runs of 32, then the runs' sums."""
        rows = np.unique(indices)
        sums = np.zeros((len(rows), *g.shape[1:]))
        for k, row in enumerate(rows):
            own = g[np.flatnonzero(indices == row)]
            runs = [self.add_up(own[i : i + 32]) for i in range(0, len(own), 32)]
            sums[k] = self.add_up(runs)
        return rows.astype(np.intp), sums

    def add_up(self, terms: Any) -> np.ndarray:
        """Add in order, starting from the first."""
        total = terms[0]
        for term in terms[1:]:
            total = self.round(total + term)
        return total


def sum_of_squares(values: np.ndarray) -> float:
    """Add squares in double: 32 lanes per block of 4,096, folded; blocks in order."""
    flat = [float(x) for x in values.ravel()]
    total = 0.0
    for start in range(0, len(flat), 4096):
        lanes = [0.0] * 32
        for j, x in enumerate(flat[start : start + 4096]):
            lanes[j % 32] += x * x
        for width in (16, 8, 4, 2, 1):
            for j in range(width):
                lanes[j] += lanes[j + width]
        total += lanes[0]
    return total


def norm_scale(squares: float, norm: float) -> float:
    """Return what a gradient of this sum of squares is multiplied by."""
    if norm == math.inf:
        return 1.0
    length = math.sqrt(squares) if squares >= 0 else math.nan
    return 1.0 if length <= norm else norm / length
