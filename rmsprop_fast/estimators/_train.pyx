"""The training loops as Python calls them: arrays in, pointers down."""

import importlib

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

import numpy as np

from rmsprop_fast.cpu import dispatch
from rmsprop_fast.estimators._losses cimport (
    EPSILON_INSENSITIVE, HINGE, HUBER, LOG_LOSS, MODIFIED_HUBER, SQUARED_ERROR, Loss,
)
from rmsprop_fast.estimators._passes cimport (
    F32, F64, PASSES_VERSION, Batch, Model, Passes, Source,
)
from rmsprop_fast.header cimport rmsprop_coef_make_f32, rmsprop_coef_make_f64

# Multiply-adds of a mini-batch below which a team of threads costs more than it saves.
cdef Py_ssize_t serial_below = 1 << 16

cdef const Passes *passes = NULL


def use(isa):
    """Select the loops of the instruction set `isa`."""
    global passes
    loops = importlib.import_module(f"rmsprop_fast.estimators._loops_{isa}")
    cdef const Passes *table = <const Passes *> PyCapsule_GetPointer(
        loops.passes, "rmsprop_fast.estimators.passes")
    if table.version != PASSES_VERSION:
        raise ImportError(
            f"the loops have version {table.version}, this build needs {PASSES_VERSION}")
    passes = table


use(dispatch.ISA)

LOSSES = {
    "log_loss": LOG_LOSS,
    "hinge": HINGE,
    "modified_huber": MODIFIED_HUBER,
    "squared_error": SQUARED_ERROR,
    "huber": HUBER,
    "epsilon_insensitive": EPSILON_INSENSITIVE,
}


cdef class Samples:
    """The rows of X, dense or CSR, read from the arrays of X without a copy."""

    cdef Source source
    cdef readonly Py_ssize_t n
    cdef readonly object dtype
    cdef object _arrays

    def __init__(self, x):
        """Read X: C-contiguous, or CSR with int32 or int64 indices, checked before."""
        sparse = hasattr(x, "indptr")
        data = np.ascontiguousarray(x.data if sparse else x)
        if data.dtype not in (np.float32, np.float64):
            raise ValueError(f"X must have dtype float32 or float64, got {data.dtype}")
        self.n, self.source.n_columns = x.shape
        self.dtype = data.dtype
        self.source.data = address(data)
        self._arrays = [data]
        if sparse:
            indices = np.ascontiguousarray(x.indices)
            indptr = np.ascontiguousarray(x.indptr, indices.dtype)
            if indices.dtype not in (np.int32, np.int64):
                raise ValueError(f"X.indices must be int32 or int64, got {indices.dtype}")
            if len(indptr) != self.n + 1 or not (
                indptr[0] == 0 and 0 <= indptr[-1] <= min(len(indices), len(data))
                and (indptr[:-1] <= indptr[1:]).all()
            ):
                raise ValueError("X.indptr must divide X.indices and X.data into rows")
            self.source.wide = indices.dtype == np.int64
            # An empty array has no address, and a NULL here means dense.
            self._arrays += [indices if indices.size else np.zeros(1, indices.dtype)]
            self._arrays += [indptr]
            self.source.indices = address(self._arrays[1])
            self.source.indptr = address(indptr)


cdef void *address(array) except? NULL:
    return <void *> <size_t> array.ctypes.data if array is not None else NULL


cdef tuple checked_arrays(table):
    """Return the arrays of a table whose sizes are those that the loops index by."""
    shape, dtype = table.params.shape, table.params.dtype
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"table.params must have dtype float32 or float64, got {dtype}")
    if shape[0] < 1 or shape[1] != table.n_outputs * (1 + table.n_factors):
        raise ValueError(
            f"table.params must have {table.n_outputs} * (1 + {table.n_factors}) columns, "
            f"got shape {shape}")
    if (table.average is None) != (table.average_clock is None):
        raise ValueError("table.average must be there exactly if table.average_clock is")
    rules = {
        "params": (shape, dtype), "rms": (shape, dtype), "mg": (shape, dtype),
        "mom": (shape, dtype), "average": (shape, dtype),
        "penalty_clock": ((shape[0] - 1,), np.float64),
        "average_clock": ((shape[0],), np.int64),
    }
    arrays = []
    for name, (shape, dtype) in rules.items():
        array = getattr(table, name)
        if array is None and name not in ("params", "rms"):
            continue
        if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != dtype:
            raise ValueError(f"table.{name} must be {np.dtype(dtype)} of shape {shape}")
        if not (array.flags.c_contiguous and array.flags.writeable):
            raise ValueError(f"table.{name} must be writable and C-contiguous")
        arrays.append(array)
    return tuple(arrays)


cdef int check_order(Samples x, const int64_t[::1] order, Py_ssize_t batch_size) except -1:
    """Refuse an order of samples that names others than those of x."""
    cdef Py_ssize_t i, n = order.shape[0]
    if n < 1 or batch_size < 1:
        raise ValueError(f"a step must have at least one sample, got {n} by {batch_size}")
    for i in range(n):
        if not 0 <= order[i] < x.n:
            raise IndexError(f"order[{i}] must be in [0, {x.n}), got {order[i]}")
    return 0


cdef Py_ssize_t most_values(
    const Source *s, const int64_t *order, Py_ssize_t n, Py_ssize_t batch_size,
    bint fit_intercept,
) noexcept nogil:
    """Return the number of values in the largest mini-batch."""
    cdef Py_ssize_t i, in_batch = 0, most = 0
    for i in range(n):
        if i % batch_size == 0:
            in_batch = 0
        if s.indices == NULL:
            in_batch += s.n_columns
        elif s.wide:
            in_batch += (<const int64_t *> s.indptr)[order[i] + 1]
            in_batch -= (<const int64_t *> s.indptr)[order[i]]
        else:
            in_batch += (<const int32_t *> s.indptr)[order[i] + 1]
            in_batch -= (<const int32_t *> s.indptr)[order[i]]
        in_batch += fit_intercept
        most = max(most, in_batch)
    return most


def set_serial_below(Py_ssize_t work):
    """Set how many multiply-adds stay on one thread, for tests; return what it was."""
    global serial_below
    before = serial_below
    serial_below = work
    return before


cdef class Trainer:
    """The loops over one table. `table` is a `table.Table` and keeps the state."""

    cdef Model model
    cdef object table
    cdef tuple _arrays  # what `model` points into, kept alive
    cdef double rho, momentum, epsilon
    cdef object average_after
    cdef int n_threads
    cdef int kind

    def __init__(
        self, table, *, int loss, bint fit_intercept, double rho, double momentum,
        double epsilon, double l1, double l2, double l2_factors, double delta,
        average_after, int num_threads,
    ):
        cdef Model *m = &self.model
        self.table = table
        self.kind = F32 if table.params.dtype == np.float32 else F64
        self.rho, self.momentum, self.epsilon = rho, momentum, epsilon
        self.average_after, self.n_threads = average_after, num_threads
        self._arrays = checked_arrays(table)
        if (average_after is None) != (table.average is None):
            raise ValueError("table.average must be there exactly if there is an average")
        if l1 + l2 + l2_factors > 0 and table.penalty_clock is None:
            raise ValueError("table.penalty_clock must be there if there is a penalty")
        m.params, m.rms = address(table.params), address(table.rms)
        m.mg, m.mom = address(table.mg), address(table.mom)
        m.average = address(table.average)
        m.penalty_clock = <double *> address(table.penalty_clock)
        m.average_clock = <int64_t *> address(table.average_clock)
        m.n_features = table.params.shape[0] - 1
        m.width = table.params.shape[1]
        m.n_outputs, m.n_factors = table.n_outputs, table.n_factors
        m.fit_intercept, m.loss, m.delta = fit_intercept, <Loss> loss, delta
        m.l1, m.l2, m.l2_factors = l1, l2, l2_factors
        m.clock, m.n_averaged = table.clock, table.n_averaged
        # Momentum multiplies the effect of a gradient by 1 / (1 - momentum).
        m.unit.f32 = rmsprop_coef_make_f32(
            1 / (1 - momentum), 1, 0, epsilon, 1, 1, INFINITY)
        m.unit.f64 = rmsprop_coef_make_f64(
            1 / (1 - momentum), 1, 0, epsilon, 1, 1, INFINITY)

    def epoch(
        self, Samples x, const double[::1] y, const double[::1] weight,
        const int64_t[::1] order, Py_ssize_t batch_size,
        const double[::1] learning_rates,
    ):
        """Train on the samples in `order`; return the mean of weight times loss."""
        cdef Py_ssize_t i, n = order.shape[0], n_before = n
        cdef double total
        cdef Batch b
        cdef Model *m = &self.model
        check_order(x, order, batch_size)
        if y.shape[0] != x.n or weight.shape[0] != x.n:
            raise ValueError(
                f"y and weight must have {x.n} elements, got {y.shape[0]} and "
                f"{weight.shape[0]}")
        if m.n_outputs > 1:
            for i in range(n):
                if not 0 <= y[order[i]] < m.n_outputs:
                    raise ValueError(
                        f"y[{order[i]}] must be a class below {m.n_outputs}, "
                        f"got {y[order[i]]}")
        if learning_rates.shape[0] != (n + batch_size - 1) // batch_size:
            raise ValueError(
                f"learning_rates must have an element per step of {batch_size} of {n} "
                f"samples, got {learning_rates.shape[0]}")
        if self.average_after is not None:
            n_before = max(0, min(n, self.average_after - self.table.n_seen))
        self._allocate(&b, x, order, min(batch_size, n))
        try:
            with nogil:
                total = passes.epoch[self.kind](
                    m, &b, &x.source, &y[0], &weight[0], &order[0], n, batch_size,
                    &learning_rates[0], self.rho, self.momentum, self.epsilon, n_before)
        finally:
            release(&b)
        self.table.clock, self.table.n_averaged = m.clock, m.n_averaged
        self.table.n_seen += n
        self.table.n_steps += learning_rates.shape[0]
        return total / n

    def predict(self, Samples x, const int64_t[::1] order, Py_ssize_t batch_size):
        """Return predictions, shape (len(order), n_outputs), as of a fit that ends here."""
        cdef Py_ssize_t n = order.shape[0]
        cdef Batch b
        cdef Model *m = &self.model
        check_order(x, order, batch_size)
        self._allocate(&b, x, order, min(batch_size, n))
        out = np.empty((n, m.n_outputs), self.table.params.dtype)
        cdef void *target = address(out)
        cdef void *rows = malloc(
            min(b.nnz, m.n_features + 1) * m.width * self.table.params.itemsize + 1)
        try:
            if rows == NULL:
                raise MemoryError
            with nogil:
                passes.predict[self.kind](
                    target, m, &b, &x.source, &order[0], n, batch_size, rows)
        finally:
            free(rows)
            release(&b)
        return out

    def settle(self):
        """Bring every row up to date, in the table itself."""
        row = np.empty(self.model.width, self.table.params.dtype)
        cdef void *scratch = address(row)
        with nogil:
            passes.settle[self.kind](scratch, &self.model)

    def result(self):
        """Return the parameters as a fit that ends here leaves them.

        Without a penalty or an average they are the table itself.
        """
        cdef int team = 1
        cdef object params = self.table.params
        if not self.model.penalty_clock and not self.model.average:
            return params
        out = np.empty_like(params)
        cdef void *target = address(out)
        if params.size >= serial_below:
            team = self.n_threads
        with nogil:
            passes.result[self.kind](target, &self.model, team)
        return out

    cdef int _allocate(
        self, Batch *b, Samples x, const int64_t[::1] order, Py_ssize_t n,
    ) except -1:
        """Make room for the largest mini-batch of n samples."""
        cdef Model *m = &self.model
        cdef Py_ssize_t size = self.table.params.itemsize
        cdef Py_ssize_t most = most_values(
            &x.source, &order[0], order.shape[0], n, m.fit_intercept)
        cdef Py_ssize_t rows = min(most, m.n_features + 1)
        if x.source.n_columns != m.n_features or x.dtype != self.table.params.dtype:
            raise ValueError(
                f"X must have {m.n_features} columns of {self.table.params.dtype}, "
                f"got {x.source.n_columns} of {x.dtype}")
        if most >= 2**31 - 1:
            raise ValueError(
                f"a mini-batch must have fewer than 2**31 - 1 values, got {most}")
        memset(b, 0, sizeof(Batch))
        b.n_threads, b.serial_below = self.n_threads, serial_below
        b.nnz = most
        b.slot = <int32_t *> calloc(m.n_features + 1, sizeof(int32_t))
        b.feature = <Py_ssize_t *> malloc((rows + 1) * sizeof(Py_ssize_t))
        b.row = <void **> malloc((rows + 1) * sizeof(void *))
        b.sample_start = <Py_ssize_t *> malloc((n + 1) * sizeof(Py_ssize_t))
        b.local = <int32_t *> malloc((most + 1) * sizeof(int32_t))
        b.value = malloc((most + 1) * size)
        b.row_start = <Py_ssize_t *> malloc((rows + 2) * sizeof(Py_ssize_t))
        b.sample = <int32_t *> malloc((most + 1) * sizeof(int32_t))
        b.by_row = malloc((most + 1) * size)
        b.z = malloc(n * m.n_outputs * size)
        b.factor_sum = malloc(n * m.n_outputs * m.n_factors * size + 1)
        b.scratch = malloc(b.n_threads * m.width * size)
        b.loss = <double *> malloc(n * sizeof(double))
        if not (
            b.slot and b.feature and b.row and b.sample_start and b.local and b.value
            and b.row_start and b.sample and b.by_row and b.z and b.factor_sum
            and b.scratch and b.loss
        ):
            release(b)
            raise MemoryError
        return 0


cdef void release(Batch *b) noexcept:
    free(b.slot)
    free(b.feature)
    free(b.row)
    free(b.sample_start)
    free(b.local)
    free(b.value)
    free(b.row_start)
    free(b.sample)
    free(b.by_row)
    free(b.z)
    free(b.factor_sum)
    free(b.scratch)
    free(b.loss)
