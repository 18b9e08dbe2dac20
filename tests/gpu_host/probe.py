"""Steps of every kind on the kernels of one library, against the host's bits.

Ends with status 0 when they are equal. A process of its own: under sanitizers, and with
bugs put into the kernels, it may not come back.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gpu_host import build, fake_cupy

from rmsprop_fast import IndexedSlices, RMSprop
from rmsprop_fast.gpu import launches

SIZES = 1, 3, 70, 255, 1025, 8193, 0
# Rows, width, occurrences: several tiles, duplicates, hot rows, whole packs, none.
TABLES = (70, 4, 6000), (40, 8, 300), (9, 3, 500), (1, 4, 70), (300, 130, 40), (5, 1, 0)


def make(
    rng: np.random.Generator, dtype: Any, tables: Any
) -> tuple[list[Any], list[Any]]:
    """Return variables and gradients of every kind of work."""
    variables = [rng.standard_normal(n).astype(dtype) for n in SIZES]
    grads: list[Any] = [rng.standard_normal(n).astype(dtype) for n in SIZES]
    for n_rows, width, n in tables:
        variables.append(rng.standard_normal((n_rows, width)).astype(dtype))
        indices = np.minimum(rng.zipf(1.3, n) - 1, n_rows - 1)
        values = rng.standard_normal((n, width)).astype(dtype)
        grads.append(IndexedSlices(values, indices))
    return variables, grads


def move(cupy: ModuleType, array: Any, offset: int) -> Any:
    """Return an array or a gradient on the device, `offset` elements off."""
    if isinstance(array, IndexedSlices):
        values, indices = move(cupy, array.values, offset), move(cupy, array.indices, 0)
        return IndexedSlices(values, indices)
    shifted = np.concatenate([np.zeros(offset, array.dtype), array.ravel()])
    return cupy.asarray(shifted)[offset:].reshape(array.shape)


def differs(
    cupy: ModuleType, dtype: Any, tables: Any, options: dict[str, Any], offset: int
) -> bool:
    """Return whether a few steps give other bits than the host's."""
    variables, grads = make(np.random.default_rng(7), dtype, tables)
    ours = [move(cupy, var, offset) for var in variables]
    moved = [move(cupy, grad, offset) for grad in grads]
    opt, twin = (RMSprop(0.01, centered=True, **options) for _ in range(2))
    for _ in range(2):
        twin.apply_gradients(zip(grads, variables, strict=True))
        opt.apply_gradients(zip(moved, ours, strict=True))
    arrays = [*[var.get() for var in ours], *opt.get_weights()]
    expected = [*variables, *twin.get_weights()]
    return any(
        a.tobytes() != b.tobytes() for a, b in zip(arrays, expected, strict=True)
    )


def ignores_bad_rows(cupy: ModuleType) -> bool:
    """Return whether a row out of range changes anything."""
    table = cupy.asarray(np.ones((5, 4), np.float32))
    dense = cupy.asarray(np.ones(9, np.float32))
    opt = RMSprop(centered=True, momentum=0.5)
    opt.build([table, dense])
    values = cupy.asarray(np.ones((2, 4), np.float32))
    bad = IndexedSlices(values, cupy.asarray(np.array([1, 5])))
    grad = cupy.asarray(np.ones(9, np.float32))
    opt.apply_gradients([(grad, dense), (bad, table)])
    try:
        opt.check()
    except IndexError:
        return bool((table.get() != 1).any() or (dense.get() != 1).any())
    return True


def catches_up_otherwise(cupy: ModuleType, offset: int) -> bool:
    """Return whether rows catch up to other bits than the host's."""
    rng = np.random.default_rng(8)
    variables, grads = make(rng, np.float32, TABLES[1:])
    variables.append(rng.standard_normal((2, 9000)).astype(np.float32))
    grads.append(IndexedSlices(np.ones((1, 9000), np.float32), np.array([1])))
    ours = [move(cupy, var, offset) for var in variables]
    opt, twin = (
        RMSprop(0.01, centered=True, momentum=0.9, catch_up=True) for _ in range(2)
    )
    for t in range(4):
        if t:  # few rows
            grads = [
                IndexedSlices(grad.values[:3], grad.indices[:3])
                if isinstance(grad, IndexedSlices)
                else grad
                for grad in grads
            ]
        twin.apply_gradients(zip(grads, variables, strict=True))
        moved = [move(cupy, grad, offset) for grad in grads]
        opt.apply_gradients(zip(moved, ours, strict=True))
        if t == 2:
            hot = np.array([7, 7, 8, 7])
            twin.catch_up(variables[len(SIZES)], hot)
            opt.catch_up(ours[len(SIZES)], cupy.asarray(hot))
    for _ in range(2):  # the second time there is nothing to do
        twin.catch_up()
        opt.catch_up()
    arrays = [*[var.get() for var in ours], *opt.get_weights()]
    expected = [*variables, *twin.get_weights()]
    return any(
        a.tobytes() != b.tobytes() for a, b in zip(arrays, expected, strict=True)
    )


def misses_bad_elements(cupy: ModuleType) -> bool:
    """Return whether a step is made that has an element that is not finite."""
    for bad in np.nan, np.inf:
        for check in True, "skip":
            var = cupy.asarray(np.ones(4097, np.float32))
            grad = np.ones(4097, np.float32)
            grad[4096] = bad
            opt = RMSprop(centered=True, momentum=0.5, check_finite=check)
            opt.apply_gradients([(cupy.asarray(grad), var)])
            try:
                opt.check()
            except FloatingPointError:
                check = "skip"  # has the same result
            if check is True or (var.get() != 1).any() or opt.iterations != 0:
                return True
    return False


def main(path: str) -> int:
    library = build.Library(Path(path))
    cupy = fake_cupy.make(library)
    sys.modules["cupy"], sys.modules["cupy.cuda"] = cupy, cupy.cuda
    norms = (
        {"momentum": 0.9, "clipnorm": 0.5},
        {"momentum": 0.9, "global_clipnorm": 3.0},
    )
    has_f64 = library.parameter_size("rmsprop_dense_f64_7") > 0
    failures = []
    kinds = [(np.float32, 2**32)]
    if has_f64:
        kinds += [(np.float64, 2**32), (np.float32, 0), (np.float64, 0)]
    for dtype, launches.WIDE_FROM in kinds:
        for offset, options, order in (0, norms[0], "random"), (1, norms[1], "reverse"):
            library.set_order(order, 3)
            # Several tiles are a sort of the same kind: long, and so once.
            tables = TABLES if (dtype, offset) == (np.float32, 0) else TABLES[1:]
            if differs(cupy, dtype, tables, options, offset):
                failures.append((dtype.__name__, offset, launches.WIDE_FROM))
    if ignores_bad_rows(cupy):
        failures.append("bad rows")
    if catches_up_otherwise(cupy, 0) or catches_up_otherwise(cupy, 1):
        failures.append("rows that catch up")
    if misses_bad_elements(cupy):
        failures.append("bad elements")
    if failures:
        print(*failures, sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RMSPROP_FAST_CACHE"] = cache
        sys.exit(main(sys.argv[1]))
