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
from rmsprop_fast.gpu import step

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
    for dtype, step.WIDE_FROM in kinds:
        for offset, options, order in (0, norms[0], "random"), (1, norms[1], "reverse"):
            library.set_order(order, 3)
            # Several tiles are a sort of the same kind: long, and so once.
            tables = TABLES if (dtype, offset) == (np.float32, 0) else TABLES[1:]
            if differs(cupy, dtype, tables, options, offset):
                failures.append((dtype.__name__, offset, step.WIDE_FROM))
    if ignores_bad_rows(cupy):
        failures.append("bad rows")
    if failures:
        print(*failures, sep="\n")
    return int(bool(failures))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["RMSPROP_FAST_CACHE"] = cache
        sys.exit(main(sys.argv[1]))
