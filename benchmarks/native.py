"""What the compiler allows: one C file with the header, and the package's loops."""

from __future__ import annotations

import ctypes
import importlib
from ctypes import c_char_p, c_double, c_int, c_ssize_t, c_void_p
from functools import partial

import numpy as np

from benchmarks.harness import Contestant, RefusedError
from benchmarks.limits import library, pointer, suffix
from benchmarks.problems import (
    CHECKED_STEPS,
    EPSILON,
    LEARNING_RATE,
    RHO,
    Array,
    Dense,
)
from rmsprop_fast.cpu import dispatch
from rmsprop_fast.cpu._records import FLAGS

__all__ = ["c_file", "package"]

CAPSULE = b"rmsprop_fast.cpu.spans"
SPANS_VERSION = 4  # of cpu/_spans.pxd
TIMES = 64  # updates in one call: what the call itself costs does not show


class Spans(ctypes.Structure):
    """The beginning of Spans in cpu/_spans.pxd."""

    _fields_ = [("version", c_int), ("update", c_void_p * 2)]


def package(problem: Dense, arrays: list[Array]) -> Contestant:
    """Return the update that the package runs on this machine, called as a kernel.

    Both contestants get the same four arrays, for param and slots: which addresses meet
    in the cache's sets differs from array to array, by up to a quarter of the time.
    """
    loops = importlib.import_module(f"rmsprop_fast.cpu._loops_{dispatch.ISA}")
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = c_void_p, [ctypes.py_object, c_char_p]
    spans = Spans.from_address(get_pointer(loops.spans, CAPSULE))
    if spans.version != SPANS_VERSION:
        raise RefusedError(f"the loops have version {spans.version}")
    return calls(spans.update[problem.dtype == np.float64], problem, arrays)


def c_file(problem: Dense, arrays: list[Array]) -> Contestant:
    """Return the update as the C compiler makes it with -march=native."""
    function = getattr(library("native"), f"native_{suffix(problem.grads[0])}")
    return calls(ctypes.cast(function, c_void_p).value, problem, arrays)


def calls(update: int | None, problem: Dense, arrays: list[Array]) -> Contestant:
    """Return calls from C that update the problem's only variable.

    Its threads, if there are several, run freely; they must divide its size.
    """
    variant = problem.variant
    # The order of arguments: param, rms, mg, mom; the last two are ignored when absent.
    repeat = partial(library("native").repeat, c_void_p(update))
    arguments = (
        pointer(arrays[0]),
        pointer(problem.grads[0]),
        *map(pointer, arrays[1:]),
        c_ssize_t(problem.size),
        c_ssize_t(problem.dtype.itemsize),
        c_int(
            FLAGS["centered"] * variant.centered
            + FLAGS["momentum"] * (variant.momentum > 0)
            + FLAGS["eps_in_sqrt"]
        ),
        *map(c_double, (LEARNING_RATE, RHO, variant.momentum, EPSILON)),
        c_int(problem.n_threads),
    )

    def check() -> str | None:
        for array in arrays:
            array.fill(0)
        repeat(c_int(CHECKED_STEPS), *arguments)
        return problem.mistake(arrays[:1], eps_in_sqrt=True)

    return Contestant(
        partial(repeat, c_int(TIMES), *arguments),
        units=TIMES * problem.size,
        n_bytes=TIMES * problem.n_bytes,
        check=check,
    )
