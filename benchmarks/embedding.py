"""How much time it saves to make the update in the loop of the gradient.

The gradient is an outer product of two short vectors: computed where it is used, it
costs no memory traffic. Fused, a plain float32 step reads and writes param and rms: 16
bytes per element. Apart, the gradient is written and then read: 24, of which the update
alone moves 20.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from ctypes import c_double, c_int, c_ssize_t
from functools import cached_property, partial

import numpy as np

from benchmarks.harness import OURS, Case, Contestant, Effort, Entry, Target
from benchmarks.limits import copy, library, pointer, team
from benchmarks.problems import (
    CHECKED_STEPS,
    EPSILON,
    LEARNING_RATE,
    PLAIN,
    RHO,
    TOLERANCE,
    Array,
    after,
    constant,
    difference,
    short,
)
from rmsprop_fast import RMSprop, kernels

__all__ = ["Outer", "cases"]

WIDTH = 1000
SIZES = (10**5, 10**7)
CHECKED_ROWS = 16  # against the textbook; all rows against apply_gradients
APART = ("outer, then apply_gradients", "outer, then kernels")
# By bytes 24/16. A store also reads the line it writes to: by traffic 28/16.
TARGET = Target(APART, 1.25, ">= 1.25x gradient, then update")


def cases(effort: Effort) -> Iterator[Case]:
    """Yield one size within the caches and one beyond."""
    for size in SIZES:
        yield Case(
            f"embedding/outer/float32/{short(size)}",
            "element",
            partial(contestants, size, effort),
            # Within the caches the divider decides, not bytes.
            (TARGET,) if size == SIZES[-1] else (),
        )


def contestants(size: int, effort: Effort) -> Iterator[Entry]:
    """Yield the fused loop, both ways to go through an array, and a plain copy."""
    problem = Outer(size // WIDTH, effort.n_threads)
    yield OURS, problem.fused
    yield APART[0], problem.then_apply_gradients
    yield APART[1], problem.then_kernels
    yield "copy", lambda: copy(*problem.zeros(2), problem.n_threads)


class Outer:
    """A matrix that starts at zero and the two vectors of its gradient."""

    def __init__(self, n_rows: int, n_threads: int) -> None:
        rng = np.random.default_rng(20121106)
        self.left = rng.standard_normal(n_rows).astype(np.float32)
        self.right = rng.standard_normal(WIDTH).astype(np.float32)
        self.shape = (n_rows, WIDTH)
        self.size = n_rows * WIDTH
        self.n_threads = team(self.size, n_threads)
        self.sizes = c_ssize_t(n_rows), c_ssize_t(WIDTH)

    def zeros(self, n: int) -> list[Array]:
        """Return new zeros, every page of which has been touched."""
        return [np.full(self.shape, 0, np.float32) for _ in range(n)]

    def fused(self) -> Contestant:
        param, rms = self.zeros(2)
        step = partial(
            library("fused").fused,
            *map(pointer, (param, rms, self.left, self.right)),
            *self.sizes,
            *map(c_double, (LEARNING_RATE, RHO, EPSILON)),
            c_int(self.n_threads),
        )
        return self.contestant(step, param, streams=4)

    def then_apply_gradients(self) -> Contestant:
        param, grad = self.zeros(2)
        opt = RMSprop(LEARNING_RATE, RHO, epsilon=EPSILON, num_threads=self.n_threads)
        opt.build([param])
        opt.weights[1].fill(0)  # touches every page
        return self.apart(grad, param, partial(opt.apply_gradients, [(grad, param)]))

    def then_kernels(self) -> Contestant:
        param, rms, grad = self.zeros(3)
        function = kernels.function("rmsprop_dense_f32")
        scalars = LEARNING_RATE, RHO, 0.0, EPSILON, 1.0, 1.0, math.inf, 1

        def update() -> None:  # it keeps the arrays: an address would not
            where = (array.ctypes.data for array in (param, grad, rms))
            kernels.check(function(*where, 0, 0, self.size, *scalars, self.n_threads))

        return self.apart(grad, param, update)

    def apart(
        self, grad: Array, param: Array, update: Callable[[], object]
    ) -> Contestant:
        outer = partial(
            library("fused").outer,
            *map(pointer, (grad, self.left, self.right)),
            *self.sizes,
            c_int(self.n_threads),
        )

        def step() -> None:
            outer()
            update()

        return self.contestant(step, param, streams=6)

    def contestant(
        self, step: Callable[[], object], param: Array, streams: int
    ) -> Contestant:
        def check() -> str | None:
            for _ in range(CHECKED_STEPS):
                step()
            return self.mistake(param)

        return Contestant(step, self.size, streams * param.nbytes, check)

    @cached_property
    def expected(self) -> Array:
        """Return what apply_gradients makes of zeros in CHECKED_STEPS."""
        param, grad = np.zeros(self.shape, np.float32), np.outer(self.left, self.right)
        opt = RMSprop(LEARNING_RATE, RHO, epsilon=EPSILON)
        for _ in range(CHECKED_STEPS):
            opt.apply_gradients([(grad, param)])
        return param

    def mistake(self, param: Array) -> str | None:
        """Return what is wrong with what was zero CHECKED_STEPS steps ago."""
        if not np.array_equal(param, self.expected):
            return "not the bits of apply_gradients"
        rows = slice(CHECKED_ROWS)
        grads = [np.outer(self.left[rows], self.right)] * CHECKED_STEPS
        textbook = after(grads, PLAIN, True, constant)
        return difference(param[rows], textbook, TOLERANCE["float32"], 0)
