"""Steps over few rows and many row numbers, one way in: run by test_row_numbers.py.

A case that takes too long ends the process, with the place where it was.
"""

from __future__ import annotations

import faulthandler
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from rmsprop_fast import IndexedSlices, RMSprop, kernels
from rmsprop_fast.cpu import _step

Array = np.ndarray[Any, Any]

N_ROWS = [0, 1, 2]
# Around SERIAL_BELOW of the sort, which is 2,048.
N_INDICES = [0, 1, 2047, 2048, 100_000]
N_THREADS = [1, 2, 8]
SECONDS = 20  # a case takes milliseconds

WIDTH = 3
RHO = 0.9


def optimizer(n_threads: int, **options: Any) -> RMSprop:
    return RMSprop(0.01, RHO, momentum=0.5, num_threads=n_threads, **options)


def facade(var: Array, indices: Array, n_threads: int) -> list[Array]:
    opt = optimizer(n_threads)
    opt.build([var])
    values = np.ones((len(indices), WIDTH), var.dtype)
    opt.apply_gradients([(IndexedSlices(values, indices), var)])
    return [var, *opt.weights[1:]]


def catch_up(var: Array, indices: Array, n_threads: int) -> list[Array]:
    opt = optimizer(n_threads, catch_up=True)
    opt.build([var])
    opt.apply_gradients([(np.ones_like(var), var)])
    if len(var) > 0:  # the last row misses a step
        first = IndexedSlices(np.ones((1, WIDTH), var.dtype), np.array([0]))
        opt.apply_gradients([(first, var)])
    opt.catch_up(var, indices)
    return [var, *opt.weights[1:]]


def kernel(var: Array, indices: Array, n_threads: int) -> list[Array]:
    rms, mom = np.zeros_like(var), np.zeros_like(var)
    values = np.ones((len(indices), WIDTH), var.dtype)
    addresses = [a.ctypes.data for a in (var, values, rms)]
    sizes = len(indices), len(var), WIDTH
    scalars = 0.01, RHO, 0.5, 1e-7, 1.0, 1.0, math.inf, 1, n_threads
    update = kernels.function(
        f"rmsprop_rows_{'f32' if var.dtype == np.float32 else 'f64'}"
    )
    kernels.check(
        update(*addresses, 0, mom.ctypes.data, indices.ctypes.data, *sizes, *scalars)
    )
    return [var, rms, mom]


WAYS: dict[str, Callable[[Array, Array, int], list[Array]]] = {
    "facade": facade,
    "catch_up": catch_up,
    "kernel": kernel,
}


def check(way: str, n_rows: int, n: int, dtype: type) -> None:
    """Check that every number of threads gives the same bits, or IndexError."""
    indices = np.arange(n) % max(n_rows, 1)
    results = []
    for n_threads in N_THREADS:
        print(way, n_rows, "rows", n, "indices", n_threads, "threads", flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        var = np.ones((n_rows, WIDTH), dtype)
        try:
            arrays = WAYS[way](var, indices, n_threads)
        except IndexError:
            assert n_rows == 0
            assert n > 0
        else:
            assert n_rows > 0 or n == 0
            results.append([array.tobytes() for array in arrays])
        faulthandler.cancel_dump_traceback_later()
    assert all(result == results[0] for result in results)


if __name__ == "__main__":
    _step.set_serial_below(0)
    for case in itertools.product(N_ROWS, N_INDICES, (np.float32, np.float64)):
        check(sys.argv[1], *case)
