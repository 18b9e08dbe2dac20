"""The work that all contestants of a case are given, and the result it must have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "CHECKED_STEPS",
    "EPSILON",
    "LEARNING_RATE",
    "MOMENTUM",
    "RHO",
    "VARIANTS",
    "Dense",
    "Problem",
    "Sparse",
    "Variant",
    "last_level_cache",
    "short",
    "zipf",
]

Array = np.ndarray[Any, Any]
Rate = Callable[[int], float]  # of a step, counted from 1

# Keras keeps the learning rate in float32 whatever the variable: take one it can hold.
LEARNING_RATE = 2**-10
RHO = 0.9
MOMENTUM = 0.9
# Large enough for its place, inside or outside the root, to show in the check.
EPSILON = 2**-10

CHECKED_STEPS = 2
PERIOD = 2**16  # gradients repeat one block of random numbers of this length
# The libraries order their operations differently: a few roundings apart.
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}


@dataclass(frozen=True)
class Variant:
    """Which slots the update has in addition to rms, and which other options."""

    name: str
    centered: bool = False
    momentum: float = 0.0
    weight_decay: float = 0.0
    catch_up: bool = False  # rows that are in no batch have a gradient of zero

    @property
    def n_slots(self) -> int:
        return 1 + self.centered + (self.momentum > 0)

    @property
    def streams(self) -> int:
        """Return how often an element is read or written: grad once, others twice."""
        return 3 + 2 * self.n_slots


PLAIN = Variant("plain")
VARIANTS = (
    PLAIN,
    Variant("centered", centered=True),
    Variant("momentum", momentum=MOMENTUM),
    Variant("centered+momentum", centered=True, momentum=MOMENTUM),
)


def short(number: float) -> str:
    """Return 1e5 for 100000: names of cases are keys of the baseline."""
    return f"{number:.0e}".replace("e+0", "e")


def last_level_cache() -> int:
    """Return the bytes of the largest cache, or 32 MiB where Linux does not say."""
    sizes = [
        int(path.read_text().strip().rstrip("K")) * 1024
        for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    ]
    return max(sizes, default=2**25)


def constant(step: int) -> float:
    return LEARNING_RATE


def after(
    grads: Sequence[Array], variant: Variant, eps_in_sqrt: bool, rate: Rate
) -> Array:
    """Return what steps with these gradients make of zeros: textbook, in double."""
    param, rms, mg, mom = (np.zeros(grads[0].shape) for _ in range(4))
    for step, grad in enumerate(grads, 1):
        used = np.any(grad != 0, axis=tuple(range(1, grad.ndim)))  # rows, or elements
        used |= variant.catch_up
        g = grad[used].astype(np.float64)
        rms[used] = RHO * rms[used] + (1 - RHO) * g**2
        mg[used] = RHO * mg[used] + (1 - RHO) * g
        d = rms[used] - mg[used] ** 2 if variant.centered else rms[used]
        root = np.sqrt(d + EPSILON) if eps_in_sqrt else np.sqrt(d) + EPSILON
        mom[used] = variant.momentum * mom[used] + rate(step) * g / root
        param[used] *= 1 - rate(step) * variant.weight_decay
        param[used] -= mom[used]
    return param


def difference(result: Array, expected: Array, rtol: float, atol: float) -> str | None:
    """Return how two arrays differ, None if they agree."""
    if np.allclose(result, expected, rtol=rtol, atol=atol):
        return None
    return f"off by up to {np.abs(result - expected).max() / LEARNING_RATE:.1e} steps"


class Dense:
    """Variables that start at zero, and their gradients.

    All gradients repeat one block of random numbers, so a billion bytes can be checked
    without a second billion. Contestants share the gradients and only read them.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtype: str = "float32",
        variant: Variant = PLAIN,
        n_threads: int = 1,
    ) -> None:
        self.variant = variant
        self.n_threads = n_threads
        self.shapes = list(shapes)
        self.dtype = np.dtype(dtype)
        rng = np.random.default_rng(20121106)
        self.block = rng.standard_normal(PERIOD).astype(dtype)
        self.grads = [np.resize(self.block, shape) for shape in shapes]
        self.size = sum(grad.size for grad in self.grads)
        self.n_bytes = variant.streams * self.dtype.itemsize * self.size

    def zeros(self) -> list[Array]:
        """Return new zeros, every page of which has been touched."""
        return [np.full(shape, 0, self.dtype) for shape in self.shapes]

    def mistake(
        self, params: Sequence[Array], eps_in_sqrt: bool, rate: Rate = constant
    ) -> str | None:
        """Return what is wrong with what were zeros CHECKED_STEPS steps ago."""
        grads = [self.block] * CHECKED_STEPS
        expected = after(grads, self.variant, eps_in_sqrt, rate)
        rtol = TOLERANCE[self.dtype.name]
        for shape, param in zip(self.shapes, params, strict=True):
            if param.dtype != self.dtype or param.shape != shape:
                return f"{param.dtype} {param.shape} where {self.dtype} {shape} was"
            flat = param.reshape(-1)
            for start in range(0, flat.size, PERIOD):
                part = flat[start : start + PERIOD]
                wrong = difference(part, expected[: part.size], rtol, 0)
                if wrong:
                    return wrong
        return None


class Sparse:
    """A table that starts at zero, batches of rows, and one block of their gradients.

    The batches together touch several times the last-level cache, so that rows come
    from memory, as a training's do; the gradient has just been computed, and does not.
    """

    def __init__(
        self,
        n_rows: int,
        width: int,
        n: int = 16_384,
        distribution: str = "uniform",
        n_threads: int = 1,
        variant: Variant = PLAIN,
    ) -> None:
        self.variant = variant
        self.shape = (n_rows, width)
        self.n = n
        self.n_threads = n_threads
        rng = np.random.default_rng(20121106)
        self.values = rng.standard_normal((n, width), np.float32)
        touched = 2 * n * max(4 * width, 64)  # table and rms, whole cache lines
        n_batches = min(64, CHECKED_STEPS + 4 * last_level_cache() // touched)
        if distribution == "zipf":
            self.batches = zipf(rng, n_rows, (n_batches, n))
        else:
            self.batches = rng.integers(0, n_rows, (n_batches, n))

    @cached_property
    def distinct(self) -> list[Array]:
        """Return the sorted rows of each batch, and where each row is first."""
        return [
            np.stack(np.unique(batch, return_index=True), axis=1).astype(np.uint32)
            for batch in self.batches
        ]

    @property
    def n_bytes(self) -> int:
        """Return what a step reads and writes: values once, table and rms twice."""
        n_distinct = sum(map(len, self.distinct)) // len(self.distinct)
        return 5 * 4 * self.shape[1] * n_distinct

    def zeros(self) -> Array:
        """Return a new table of zeros, every page of which has been touched."""
        return np.full(self.shape, 0, np.float32)

    def mistake(
        self, params: Sequence[Array], eps_in_sqrt: bool, rate: Rate = constant
    ) -> str | None:
        """Return what is wrong with what were zeros CHECKED_STEPS batches ago."""
        (table,) = params
        batches = self.batches[:CHECKED_STEPS]
        rows = np.unique(batches)
        grads = np.zeros((CHECKED_STEPS, rows.size, self.shape[1]))
        for grad, batch in zip(grads, batches, strict=True):
            np.add.at(grad, np.searchsorted(rows, batch), self.values)
        # Sums of a thousand values in float32 differ by 1e-5, small ones by as much.
        wrong = difference(
            table[rows],
            after(grads, self.variant, eps_in_sqrt, rate),
            rtol=TOLERANCE["float32"],
            atol=1e-3 * LEARNING_RATE,
        )
        if wrong is None and np.count_nonzero(table.any(axis=1)) > rows.size:
            return "rows changed that are not in the batch"
        return wrong


def zipf(rng: np.random.Generator, n_rows: int, shape: tuple[int, ...]) -> Array:
    """Return rows of which the k-th most frequent has a chance in proportion to 1/k.

    So do words of a text. Which rows are frequent is random.
    """
    total = np.cumsum(1 / np.arange(1, n_rows + 1))
    ranks = np.searchsorted(total, rng.random(shape) * total[-1])
    return rng.permutation(n_rows)[ranks]


Problem = Dense | Sparse
