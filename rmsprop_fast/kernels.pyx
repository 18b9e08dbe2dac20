"""Updates for compiled code: plain pointers and scalars, without the GIL.

Cython code cimports the functions that ``kernels.pxd`` declares and documents. Numba,
cffi and ctypes call them through `address` or `function`. The functions run the same
loops as `RMSprop.apply_gradients` and give the same bits, for any number of threads.
"""

import ctypes
import enum
import os

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free, malloc

from rmsprop_fast.cpu._gradients cimport Gradient, gradient_make
from rmsprop_fast.cpu._sort cimport Indices, sort_bytes, sort_rows
from rmsprop_fast.cpu._spans cimport F32, F64, Coef, coef_make, param_size, state_size
from rmsprop_fast.cpu._tasks cimport (
    OCCURRENCE_WORK, Task, add_dense, add_rows, max_tasks, run_tasks, serial_below,
)
from rmsprop_fast.cpu._variable cimport Variable, variable_make
from rmsprop_fast.header cimport (
    RMSPROP_N_SLOTS, RMSPROP_SLOT_MG, RMSPROP_SLOT_MOM, RMSPROP_SLOT_RMS, RMSPROP_VARIANT,
    rmsprop_needs_slot,
)

from rmsprop_fast import rules, threads

__all__ = ["Status", "address", "api_version", "check", "function", "signature"]

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "rmsprop_fast/cpu/_platform.h" nogil:
    int rmsprop_max_threads()

# The arguments that all functions have after the arrays, in their order.
cdef struct Scalars:
    double lr
    double rho
    double momentum
    double epsilon
    double keep
    double grad_scale
    double clip
    bint eps_in_sqrt
    int num_threads


# --- Threads --------------------------------------------------------------------------

# A copy of the limits that `threads` knows, for code without the GIL.
cdef int most_threads = rules.MAX_THREADS
cdef int default_limit
cdef bint is_alone


def _read_threads():
    """Copy the limits of `threads`: at import, in a forked child, after a change."""
    global default_limit, is_alone
    limit = threads.limit()
    default_limit = most_threads if limit is None else limit
    is_alone = threads.count(2) == 1


_read_threads()
threads.call_on_change(_read_threads)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_read_threads)  # after that of `threads`


cdef inline int _team(Py_ssize_t work, int num_threads) noexcept nogil:
    """Return the number of threads for so much work, as a step does."""
    if is_alone or work < serial_below:
        return 1
    return num_threads if num_threads > 0 else min(rmsprop_max_threads(), default_limit)


# --- The rules ------------------------------------------------------------------------


cdef inline bint _fits(Py_ssize_t n, Py_ssize_t width) noexcept nogil:
    """Whether n rows can be an array, and their order too: 32 bytes for each."""
    cdef Py_ssize_t most = PY_SSIZE_T_MAX // 64
    return 0 <= n <= most and width >= 0 and (width == 0 or n <= most // width)


cdef int _refuse_scalars(const Scalars *s) noexcept nogil:
    # Spelt so that NaN is refused.
    if not (0 <= s.lr < INFINITY and 0 <= s.rho <= 1 and 0 <= s.momentum <= 1
            and 0 <= s.epsilon < INFINITY and -INFINITY < s.keep < INFINITY
            and s.clip > 0):
        return RMSPROP_BAD_SCALAR
    if not 0 <= s.num_threads <= most_threads:
        return RMSPROP_BAD_THREADS
    return RMSPROP_DONE


cdef int _refuse_arrays(const Variable *v, const Gradient *grad) noexcept nogil:
    cdef Py_ssize_t item, size
    cdef uintptr_t[2 + RMSPROP_N_SLOTS] starts
    cdef uintptr_t[2 + RMSPROP_N_SLOTS] ends
    cdef int i, k
    starts[0] = <uintptr_t> grad.data
    starts[1] = <uintptr_t> v.param
    for k in range(RMSPROP_N_SLOTS):
        starts[2 + k] = <uintptr_t> v.slots[k]
    for i in range(2 + RMSPROP_N_SLOTS):
        item = param_size(v.dtype) if i < 2 else state_size(v.dtype)
        size = v.size if i > 0 else grad.size
        # Only the slots that every variant needs must be given.
        if size == 0 or (
                starts[i] == 0 and i >= 2 and not rmsprop_needs_slot(0, i - 2)):
            starts[i] = ends[i] = 0
            continue
        if starts[i] == 0 or starts[i] % item != 0:
            return RMSPROP_BAD_POINTER
        ends[i] = starts[i] + size * item
        for k in range(i):
            if starts[i] < ends[k] and starts[k] < ends[i]:
                return RMSPROP_BAD_OVERLAP
    return RMSPROP_DONE


# --- The updates ----------------------------------------------------------------------


cdef inline int _variant(const Variable *v, const Scalars *s) noexcept nogil:
    # As in a step, the momentum slot does not change while momentum is 0.
    return RMSPROP_VARIANT(
        v.slots[RMSPROP_SLOT_MG] != NULL,
        v.slots[RMSPROP_SLOT_MOM] != NULL and s.momentum > 0, s.eps_in_sqrt)


cdef inline Coef _coef(const Scalars *s) noexcept nogil:
    return coef_make(s.lr, s.rho, s.momentum, s.epsilon, s.keep, s.clip)


cdef int _describe(
    const Variable *v, Gradient *grad, const void *values, Py_ssize_t n,
    Py_ssize_t n_rows, Py_ssize_t width, const Scalars *s,
) noexcept nogil:
    """Describe the gradient; return the status of all but the row numbers."""
    cdef int status
    if not _fits(n, width) or not _fits(n_rows, width):
        return RMSPROP_BAD_SIZE
    grad[0] = gradient_make(v.dtype, <const char *> values, n, width, s.grad_scale)
    status = _refuse_scalars(s)
    if status != RMSPROP_DONE:
        return status
    if s.momentum != 0 and v.slots[RMSPROP_SLOT_MOM] == NULL:
        return RMSPROP_BAD_POINTER
    return _refuse_arrays(v, grad)


cdef int _dense(
    Variable *v, const void *grad, Py_ssize_t n, const Scalars *s,
) noexcept nogil:
    cdef Gradient g
    cdef Task task
    cdef Coef c
    cdef int status = _describe(v, &g, grad, n, n, 1, s)
    if status == RMSPROP_DONE and n > 0:
        add_dense(&task, 0, v, &g)
        c = _coef(s)
        run_tasks(&task, 1, &c, _variant(v, s), _team(n, s.num_threads))
    return status


cdef int _rows(
    Variable *v, const void *values, const Py_ssize_t *rows, Py_ssize_t n,
    Py_ssize_t n_rows, Py_ssize_t width, const Scalars *s,
) noexcept nogil:
    cdef Gradient g
    cdef Coef c
    cdef Indices indices = Indices(
        <const char *> rows, sizeof(Py_ssize_t), cnp.NPY_INTP, n, n_rows)
    cdef Task *tasks
    cdef const void *occurrences
    cdef size_t n_bytes
    cdef int n_threads, status = _describe(v, &g, values, n, n_rows, width, s)
    if status != RMSPROP_DONE or n == 0:
        return status
    if rows == NULL or <uintptr_t> rows % sizeof(Py_ssize_t) != 0:
        return RMSPROP_BAD_POINTER
    n_threads = _team(g.size + n * OCCURRENCE_WORK, s.num_threads)
    n_bytes = max_tasks(n, n_threads) * sizeof(Task)
    tasks = <Task *> malloc(n_bytes + sort_bytes(&indices, n_threads))
    if tasks == NULL:
        return RMSPROP_NO_MEMORY
    occurrences = sort_rows(&indices, <char *> tasks + n_bytes, n_threads)
    if occurrences == NULL:
        status = RMSPROP_BAD_ROW
    elif width > 0:
        c = _coef(s)
        run_tasks(
            tasks, add_rows(tasks, 0, v, &g, occurrences, n, n_threads), &c,
            _variant(v, s), n_threads)
    free(tasks)
    return status


# --- The doors ------------------------------------------------------------------------


cdef inline Variable _variable(
    int dtype, void *param, void *rms, void *mg, void *mom, Py_ssize_t n_rows,
    Py_ssize_t width,
) noexcept nogil:
    cdef Variable v
    if not _fits(n_rows, width):
        n_rows = width = 0  # the status is BAD_SIZE
    v = variable_make(dtype, <char *> param, n_rows, width)
    v.slots[RMSPROP_SLOT_RMS] = <char *> rms
    v.slots[RMSPROP_SLOT_MG] = <char *> mg
    v.slots[RMSPROP_SLOT_MOM] = <char *> mom
    return v


cdef int rmsprop_api_version() noexcept nogil:
    return RMSPROP_API_VERSION


cdef int rmsprop_dense_f32(
    float *param, const float *grad, float *rms, float *mg, float *mom, Py_ssize_t n,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads,
) noexcept nogil:
    cdef Variable v = _variable(F32, param, rms, mg, mom, n, 1)
    cdef Scalars s = Scalars(
        lr, rho, momentum, epsilon, keep, grad_scale, clip, eps_in_sqrt, num_threads)
    return _dense(&v, grad, n, &s)


cdef int rmsprop_dense_f64(
    double *param, const double *grad, double *rms, double *mg, double *mom, Py_ssize_t n,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads,
) noexcept nogil:
    cdef Variable v = _variable(F64, param, rms, mg, mom, n, 1)
    cdef Scalars s = Scalars(
        lr, rho, momentum, epsilon, keep, grad_scale, clip, eps_in_sqrt, num_threads)
    return _dense(&v, grad, n, &s)


cdef int rmsprop_rows_f32(
    float *param, const float *values, float *rms, float *mg, float *mom,
    const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t width,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads,
) noexcept nogil:
    cdef Variable v = _variable(F32, param, rms, mg, mom, n_rows, width)
    cdef Scalars s = Scalars(
        lr, rho, momentum, epsilon, keep, grad_scale, clip, eps_in_sqrt, num_threads)
    return _rows(&v, values, rows, n, n_rows, width, &s)


cdef int rmsprop_rows_f64(
    double *param, const double *values, double *rms, double *mg, double *mom,
    const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t width,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads,
) noexcept nogil:
    cdef Variable v = _variable(F64, param, rms, mg, mom, n_rows, width)
    cdef Scalars s = Scalars(
        lr, rho, momentum, epsilon, keep, grad_scale, clip, eps_in_sqrt, num_threads)
    return _rows(&v, values, rows, n, n_rows, width, &s)


# --- For Python -----------------------------------------------------------------------

api_version = RMSPROP_API_VERSION


class Status(enum.IntEnum):
    """The status that the functions return, as in ``kernels.pxd``."""

    DONE = RMSPROP_DONE
    BAD_SIZE = RMSPROP_BAD_SIZE
    BAD_POINTER = RMSPROP_BAD_POINTER
    BAD_OVERLAP = RMSPROP_BAD_OVERLAP
    BAD_SCALAR = RMSPROP_BAD_SCALAR
    BAD_THREADS = RMSPROP_BAD_THREADS
    BAD_ROW = RMSPROP_BAD_ROW
    NO_MEMORY = RMSPROP_NO_MEMORY


_RULES = {
    Status.BAD_SIZE: (ValueError, "n, n_rows and width must be >= 0 and fit into memory"),
    Status.BAD_POINTER: (
        ValueError,
        "arrays must be aligned, and only mg, mom (at momentum 0) and arrays without "
        "elements may be NULL",
    ),
    Status.BAD_OVERLAP: (
        ValueError,
        "param, grad or values, rms, mg and mom must not share memory",
    ),
    Status.BAD_SCALAR: (
        ValueError,
        "lr and epsilon must be finite and >= 0, rho and momentum in [0, 1], "
        "keep finite, clip > 0",
    ),
    Status.BAD_THREADS: (ValueError, f"num_threads must be in [0, {rules.MAX_THREADS}]"),
    Status.BAD_ROW: (IndexError, "rows must be in [0, n_rows)"),
    Status.NO_MEMORY: (MemoryError, "rows need 16 bytes each to be sorted"),
}


def check(status):
    """Raise unless a function of this module has returned 0.

    Parameters
    ----------
    status : int
        What the function returned.

    Raises
    ------
    ValueError, IndexError, MemoryError
        The class depends on the status. The function has changed nothing.

    Examples
    --------
    >>> from rmsprop_fast import kernels
    >>> kernels.check(0)
    >>> kernels.check(kernels.Status.BAD_ROW)
    Traceback (most recent call last):
        ...
    IndexError: rows must be in [0, n_rows)
    """
    if status != RMSPROP_DONE:
        kind, rule = _RULES[Status(status)]
        raise kind(rule)


def _capsule(name):
    """Return the capsule that Cython made for a function of kernels.pxd."""
    capsules = globals()["__pyx_capi__"]
    if name not in capsules:
        raise ValueError(f"name must be one of {', '.join(capsules)}, got {name!r}")
    return capsules[name]


def signature(name):
    """Return the C type of a function that ``kernels.pxd`` declares.

    Parameters
    ----------
    name : str
        As in ``rmsprop_dense_f32``.

    Returns
    -------
    str
        Types of result and arguments, without names, as Numba and Cython use them.

    Raises
    ------
    ValueError
        There is no such function.

    Examples
    --------
    >>> from rmsprop_fast import kernels
    >>> kernels.signature("rmsprop_api_version")
    'int (void)'
    """
    return PyCapsule_GetName(_capsule(name)).decode()


def address(name):
    """Return the address of a function that ``kernels.pxd`` declares.

    It stays the same while the process lives.

    Parameters
    ----------
    name : str
        As in ``rmsprop_dense_f32``.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        There is no such function.
    """
    capsule = _capsule(name)
    return <uintptr_t> PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))


# The C types that occur in signatures. Pointers are addresses: 0 or None is NULL.
_CTYPES = {
    "int": ctypes.c_int,
    "double": ctypes.c_double,
    "Py_ssize_t": ctypes.c_ssize_t,
}


def function(name):
    """Return a function that ``kernels.pxd`` declares, for ctypes and Numba.

    Parameters
    ----------
    name : str
        As in ``rmsprop_dense_f32``.

    Returns
    -------
    ctypes function
        It takes addresses (``array.ctypes.data``) for pointers, 0 for NULL, and
        releases the GIL. Numba can call it in compiled code. An address does not keep
        its array alive.

    Raises
    ------
    ValueError
        There is no such function.

    Examples
    --------
    >>> import math
    >>> import numpy as np
    >>> from rmsprop_fast import kernels
    >>> update = kernels.function("rmsprop_dense_f64")
    >>> param, grad, rms = np.ones(3), np.full(3, 0.5), np.zeros(3)
    >>> scalars = 0.01, 0.9, 0.0, 1e-7, 1.0, 1.0, math.inf
    >>> update(
    ...     param.ctypes.data, grad.ctypes.data, rms.ctypes.data, 0, 0, 3, *scalars, 1, 1
    ... )
    0
    >>> param.round(3)
    array([0.968, 0.968, 0.968])
    """
    result, _, arguments = signature(name).rstrip(")").partition(" (")
    types = [] if arguments == "void" else arguments.split(", ")
    prototype = ctypes.CFUNCTYPE(
        _CTYPES[result],
        *(ctypes.c_size_t if t.endswith("*") else _CTYPES[t] for t in types))
    return prototype(address(name))
