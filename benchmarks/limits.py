"""What memory allows: loops in C, compiled here, called by ctypes."""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import c_int, c_ssize_t, c_void_p
from functools import cache, partial
from pathlib import Path

from benchmarks.harness import Contestant, RefusedError
from benchmarks.problems import Array, Sparse
from rmsprop_fast import get_include

__all__ = ["compiler", "copy", "dense", "library", "pointer", "rows", "suffix", "team"]

HERE = Path(__file__).parent
SERIAL_BELOW = 32_768  # elements, as in cpu/_step.pyx: below, a team costs more
WORK = 2**20  # elements in one call: what the call itself costs does not show

# Without the last GCC calls memcpy, which is a slower copy.
LIMIT_FLAGS = ("-O3", "-fopenmp", "-fno-tree-loop-distribute-patterns")


def compiler() -> str:
    """Return the C compiler's command."""
    command = os.environ.get("CC", "cc")
    if shutil.which(command) is None:
        raise RefusedError(f"there is no C compiler {command}")
    return command


def package_flags() -> list[str]:
    """Return the flags that setup.py gives every loop."""
    spec = importlib.util.spec_from_file_location("setup", HERE.parent / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    flags = setup.COMPILE_FLAGS["unix"] + setup.OPENMP_FLAGS["unix"]
    return [*flags, "-I", get_include()]


@cache
def library(name: str) -> ctypes.CDLL:
    """Compile and load one of the C files beside this one."""
    flags = LIMIT_FLAGS if name == "limits" else package_flags()
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder, f"{name}.so"))
        subprocess.run(
            [compiler(), *flags, "-march=native", "-shared", "-fPIC", "-o", output]
            + [str(HERE / f"{name}.c")],
            check=True,
        )
        return ctypes.CDLL(output)


def pointer(array: Array) -> c_void_p:
    """Return the array's address; it keeps the array alive."""
    return array.ctypes.data_as(c_void_p)


def suffix(array: Array) -> str:
    """Return what the names of C functions for this dtype end in."""
    return "f32" if array.itemsize == 4 else "f64"


def team(n: int, n_threads: int) -> int:
    return 1 if n < SERIAL_BELOW else n_threads


def dense(
    param: Array, grad: Array, slots: Sequence[Array], n_threads: int, c: float = 0.0
) -> Contestant:
    """Return the dense update's streams: param and slots += c * grad.

    With c = 0 the arrays keep their values, so they may be another contestant's: then
    both run over the very same pages.
    """
    times = max(1, WORK // param.size)
    step = partial(
        getattr(library("limits"), f"limit_dense_{suffix(param)}"),
        *map(pointer, (param, grad, *[*slots, param, param][:3])),
        c_ssize_t(param.size),
        ctypes.c_float(c) if param.itemsize == 4 else ctypes.c_double(c),
        c_int(len(slots)),
        c_int(times),
        c_int(team(param.size, n_threads)),
    )
    n_bytes = (3 + 2 * len(slots)) * param.nbytes
    return Contestant(step, units=times * param.size, n_bytes=times * n_bytes)


def copy(target: Array, source: Array, n_threads: int) -> Contestant:
    """Return a plain copy from one array to another."""
    times = max(1, WORK // source.size)
    step = partial(
        library("limits").plain_copy,
        pointer(target),
        pointer(source),
        c_ssize_t(source.nbytes // 8),
        c_int(times),
        c_int(team(source.size, n_threads)),
    )
    n_bytes = 2 * source.nbytes
    return Contestant(step, units=times * source.size, n_bytes=times * n_bytes)


def rows(problem: Sparse, table: Array, rms: Array, c: float = 0.0) -> Contestant:
    """Return the row update's streams: distinct rows, sorted already, += c * grad."""
    width = problem.shape[1]
    batches = [
        partial(
            library("limits").limit_rows_f32,
            *map(pointer, (table, problem.values, rms, occurrences)),
            c_ssize_t(len(occurrences)),
            c_ssize_t(width),
            ctypes.c_float(c),
            c_int(problem.n_threads),
        )
        for occurrences in problem.distinct
    ]
    following = itertools.cycle(batches)
    return Contestant(lambda: next(following)(), problem.n, problem.n_bytes)
