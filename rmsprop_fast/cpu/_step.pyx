"""One step over any number of variables: every rule tested, one task list, one run.

The tests here are macros and say only yes or no. `step_rules` holds the same rules in
Python, finds the broken one and words the error; a property test compares the two.
"""

cimport numpy as cnp
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_FromVoidPtr
from cpython.ref cimport PyObject, Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.math cimport INFINITY, fabs, isfinite, sqrt
from libc.stdint cimport INT64_MAX, int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from rmsprop_fast.cpu cimport _tasks
from rmsprop_fast.cpu._extents cimport Extents
from rmsprop_fast.cpu._gradients cimport (
    Gradient, count_nonfinite, sum_squares, take,
)
from rmsprop_fast.cpu._layout cimport Layout
from rmsprop_fast.cpu._sort cimport Indices, sort_bytes, sort_rows
from rmsprop_fast.cpu._spans cimport CENTERED, F32, F64, MOMENTUM, Coef
from rmsprop_fast.cpu._tasks cimport (
    OCCURRENCE_WORK, Task, Variable, add_catch_up, add_dense, add_rows, max_tasks,
    note_hot_rows, run, work_after,
)
from rmsprop_fast.header cimport (
    rmsprop_coef_make_f32, rmsprop_coef_make_f64, rmsprop_idle_f32, rmsprop_idle_f64,
    rmsprop_idle_powers_f32, rmsprop_idle_powers_f64,
)

from rmsprop_fast import rules, threads
from rmsprop_fast.indexed_slices import IndexedSlices

cnp.import_array()

cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL

cdef enum:
    NORM_BLOCKS = 8192    # block sums held at once: 64 KiB at any size of gradient
    HOLD_GIL_BELOW = 4096  # work: letting go of the GIL costs about as much
    # What another thread costs per gradient, in elements: it reads the task, the
    # record and the gradient's address, which this one has just written.
    GRADIENT_COST = 64
    COUNT_BITS = 63        # of a count of steps

# What `update` returns in place of the count of iterations.
cdef enum:
    _REFUSED = -1
    _NOT_FINITE = -2

REFUSED, NOT_FINITE = _REFUSED, _NOT_FINITE


def set_serial_below(Py_ssize_t work):
    """Set the work below which one thread runs a step; return what it was."""
    before = _tasks.serial_below
    _tasks.serial_below = work
    return before


cdef int _team(Py_ssize_t work, Py_ssize_t n, num_threads) except -1:
    """Return how many threads that much work on n gradients deserves."""
    work = max(work - n * GRADIENT_COST, <Py_ssize_t> 0)
    return threads.count(num_threads) if work >= _tasks.serial_below else 1


# --- What a step knows of a variable, and of a gradient -------------------------------

cdef struct Record:
    Variable var
    Layout *layout            # one block with its dims and strides
    PyObject *owner           # the array: it must outlive its address
    int typenum
    const char *grad_low      # the last gradient whose addresses were found free
    const char *grad_high
    Py_ssize_t grad_epoch
    Py_ssize_t step           # the last step that met it, and how often in that step
    Py_ssize_t meetings

cdef struct Entry:
    Layout layout             # of the gradient
    Py_ssize_t record
    Py_ssize_t round          # the k-th update of one variable within a step
    bint is_sparse
    Indices indices           # row-sparse only, as what follows
    const void *occurrences   # sorted


cdef inline bint _is_real(cnp.ndarray array) noexcept:
    cdef int typenum = cnp.PyArray_TYPE(array)
    return (typenum == cnp.NPY_FLOAT or typenum == cnp.NPY_DOUBLE) and (
        cnp.PyArray_ISNOTSWAPPED(array))


cdef inline bint _is_run(cnp.ndarray array) noexcept:
    return cnp.PyArray_CHKFLAGS(
        array, cnp.NPY_ARRAY_C_CONTIGUOUS | cnp.NPY_ARRAY_ALIGNED)


cdef inline bint _rows_are_runs(cnp.ndarray array) noexcept:
    """Whether each array[k] is one aligned C-contiguous run."""
    cdef Py_ssize_t stride = cnp.PyArray_ITEMSIZE(array)
    cdef int axis
    if not cnp.PyArray_CHKFLAGS(array, cnp.NPY_ARRAY_ALIGNED):
        return False
    for axis in range(cnp.PyArray_NDIM(array) - 1, 0, -1):
        if cnp.PyArray_DIM(array, axis) != 1:
            if cnp.PyArray_STRIDE(array, axis) != stride:
                return False
            stride *= cnp.PyArray_DIM(array, axis)
    return True


cdef void _bounds(cnp.ndarray array, const char **low, const char **high) noexcept:
    """Find the addresses that the array's elements lie between."""
    cdef const char *start = <const char *> cnp.PyArray_DATA(array)
    cdef const char *end = start + cnp.PyArray_ITEMSIZE(array)
    cdef Py_ssize_t reach
    cdef int axis
    for axis in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, axis) == 0:
            low[0] = high[0] = start
            return
        reach = (cnp.PyArray_DIM(array, axis) - 1) * cnp.PyArray_STRIDE(array, axis)
        if reach < 0:
            start += reach
        else:
            end += reach
    low[0] = start
    high[0] = end


cdef void _describe(cnp.ndarray array, Gradient *grad, Layout *layout) noexcept:
    """Point `grad` at an array of _is_real."""
    grad.dtype = F32 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT else F64
    grad.data = <const char *> cnp.PyArray_DATA(array)
    grad.size = cnp.PyArray_SIZE(array)
    grad.layout = NULL
    layout.ndim = cnp.PyArray_NDIM(array)
    layout.dims = <const Py_ssize_t *> cnp.PyArray_DIMS(array)
    layout.strides = <const Py_ssize_t *> cnp.PyArray_STRIDES(array)
    if not _is_run(array):
        grad.layout = layout
    grad.row_stride = 0
    grad.rows_are_runs = False
    if layout.ndim > 0:
        grad.row_stride = layout.strides[0]
        grad.rows_are_runs = _rows_are_runs(array)
    grad.scale = 1


cdef Indices _describe_indices(cnp.ndarray rows, Py_ssize_t n_rows) noexcept:
    """Describe a vector of integers in native byte order."""
    return Indices(
        <const char *> cnp.PyArray_DATA(rows), cnp.PyArray_STRIDE(rows, 0),
        cnp.PyArray_TYPE(rows), cnp.PyArray_DIM(rows, 0), n_rows)


cdef Coef _coef(
    double lr, double rho, double momentum, double epsilon, double keep, double clip,
) noexcept:
    cdef Coef coef
    coef.f32 = rmsprop_coef_make_f32(lr, rho, momentum, epsilon, keep, 1, clip)
    coef.f64 = rmsprop_coef_make_f64(lr, rho, momentum, epsilon, keep, 1, clip)
    coef.idle_f32 = NULL
    coef.idle_f64 = NULL
    return coef


cdef double _norm_scale(double squares, double norm, double factor) noexcept nogil:
    """Return what multiplies raw gradients that `factor` multiplies before clipping."""
    cdef double length = fabs(factor) * sqrt(squares)
    return factor if length <= norm else factor * (norm / length)


cdef void _set_scales(
    Gradient *grads, Py_ssize_t n, double factor, double clipnorm,
    double global_clipnorm, double *blocks, int n_threads,
) noexcept nogil:
    """Set what multiplies each gradient's raw values: `factor`, then the norms."""
    cdef double squares = 0
    cdef Py_ssize_t k
    if clipnorm == INFINITY and global_clipnorm == INFINITY:
        for k in range(n):
            grads[k].scale = factor
        return
    sum_squares(grads, n, blocks, NORM_BLOCKS, n_threads)
    for k in range(n):
        squares += grads[k].sum
    for k in range(n):
        if clipnorm < INFINITY:
            grads[k].scale = _norm_scale(grads[k].sum, clipnorm, factor)
        else:
            grads[k].scale = _norm_scale(squares, global_clipnorm, factor)


cdef bint _are_finite(
    Gradient *grads, Py_ssize_t n, bint are_summed, double *blocks, int n_threads,
) noexcept nogil:
    """Whether every gradient is; `are_summed` says that their squares are known."""
    cdef Py_ssize_t k
    cdef double count = 0
    if are_summed:
        for k in range(n):
            if not isfinite(grads[k].sum):
                break
        else:
            return True
        # The squares of large finite float64 overflow too.
    count_nonfinite(grads, n, blocks, NORM_BLOCKS, n_threads)
    for k in range(n):
        count += grads[k].sum
    return count == 0


cdef class Buffer:
    """Memory that grows and is kept from step to step."""

    cdef void *data
    cdef size_t size

    def __dealloc__(self):
        free(self.data)

    cdef void *reserve(self, size_t size) except NULL:
        if size > self.size or self.data == NULL:
            size = max(size, <size_t> 64)
            free(self.data)  # not realloc: nothing in it is worth a copy
            self.size = 0
            self.data = malloc(size)
            if self.data == NULL:
                raise MemoryError(f"a step needs {size} bytes for its task list")
            self.size = size
        return self.data


# --- The step -------------------------------------------------------------------------


cdef class Step:
    """The bound variables' addresses, and steps over them.

    Parameters
    ----------
    by_key : dict of int to int
        From an array's address to its index, kept by `slots.Slots`.
    extents : Extents
        The addresses of every bound variable and slot, kept by `slots.Slots`.
    iterations : ndarray, int64, 0-d
        Incremented by each step.
    silent : set of frozenset of (address, shape, strides)
        Sets of variables whose missing gradients were warned about.
    """

    cdef dict by_key
    cdef Extents extents
    cdef cnp.ndarray iterations
    cdef set silent
    cdef Record *records
    cdef Py_ssize_t n_records, capacity
    cdef Py_ssize_t epoch        # changes with `extents`
    cdef Py_ssize_t steps
    cdef bint counts_rows        # of any variable
    cdef Buffer entries, gradients, tasks, occurrences, blocks
    cdef rmsprop_idle_f32[COUNT_BITS] idle_f32
    cdef rmsprop_idle_f64[COUNT_BITS] idle_f64
    # The team that ran the last step, for tests and for `show_config`.
    cdef readonly int team

    def __init__(self, dict by_key, Extents extents, iterations, set silent):
        self.by_key = by_key
        self.extents = extents
        self.iterations = iterations
        self.silent = silent
        self.entries = Buffer()
        self.gradients = Buffer()
        self.tasks = Buffer()
        self.occurrences = Buffer()
        self.blocks = Buffer()
        self.team = 0

    def __dealloc__(self):
        cdef Py_ssize_t k
        for k in range(self.n_records):
            Py_XDECREF(self.records[k].owner)
            free(self.records[k].layout)
        free(self.records)

    def bind(
        self, Py_ssize_t index, cnp.ndarray var, rms, momentum, mg, steps=None,
        row_steps=None, bint decays=True,
    ):
        """Note where variable `index` and its slots are; again when it gets a slot.

        A slot is a C-contiguous array of the variable's shape and dtype, or None.
        `extents` holds them all already. Indices come in order. `steps` and `row_steps`
        count steps as `slots.Slots` says, or are None; `decays` says whether weight
        decay reaches the variable.
        """
        cdef Record *record
        cdef Gradient seen
        cdef Layout layout
        self.epoch += 1
        _describe(var, &seen, &layout)
        if index == self.n_records:
            self._append(var, &layout)
        record = &self.records[index]
        record.typenum = cnp.PyArray_TYPE(var)
        record.var.dtype = seen.dtype
        record.var.param = <char *> seen.data
        record.var.layout = NULL if seen.layout == NULL else record.layout
        record.var.size = seen.size
        record.var.n_rows = layout.dims[0] if layout.ndim else 1
        record.var.width = seen.size // max(record.var.n_rows, <Py_ssize_t> 1)
        record.var.row_stride = seen.row_stride
        record.var.rows_are_runs = seen.rows_are_runs
        record.var.rms = _data(rms)
        record.var.mom = _data(momentum)
        record.var.mg = _data(mg)
        record.var.counts.steps = <int64_t *> _data(steps)
        record.var.counts.all_rows = record.var.counts.steps
        if steps is not None:
            record.var.counts.all_rows += 1
            self.counts_rows = True
        record.var.counts.row = <int64_t *> _data(row_steps)
        record.var.decays = decays

    def hold_place(self, Py_ssize_t index):
        """Keep the count when variable `index` is on a device: no array matches it."""
        if index == self.n_records:
            self._grow()
            memset(&self.records[index], 0, sizeof(Record))
            self.records[index].typenum = cnp.NPY_NOTYPE
            self.n_records += 1

    cdef int _grow(self) except -1:
        """Make room for one more record."""
        cdef Record *grown
        if self.n_records == self.capacity:
            grown = <Record *> realloc(
                self.records, (2 * self.capacity + 8) * sizeof(Record))
            if grown == NULL:
                raise MemoryError
            self.records = grown
            self.capacity = 2 * self.capacity + 8
        return 0

    cdef int _append(self, cnp.ndarray var, const Layout *layout) except -1:
        """Add a record that owns the array and a copy of its layout."""
        cdef Layout *copy
        cdef Py_ssize_t *extents
        cdef Py_ssize_t n_bytes = layout.ndim * sizeof(Py_ssize_t)
        self._grow()
        copy = <Layout *> malloc(sizeof(Layout) + 2 * n_bytes)
        if copy == NULL:
            raise MemoryError
        extents = <Py_ssize_t *> (copy + 1)
        memcpy(extents, layout.dims, n_bytes)
        memcpy(extents + layout.ndim, layout.strides, n_bytes)
        copy.ndim = layout.ndim
        copy.dims = extents
        copy.strides = extents + layout.ndim
        memset(&self.records[self.n_records], 0, sizeof(Record))
        self.records[self.n_records].layout = copy
        self.records[self.n_records].owner = <PyObject *> var
        Py_INCREF(var)
        self.n_records += 1
        return 0

    # --- The rules --------------------------------------------------------------------

    cdef Py_ssize_t _find(self, cnp.ndarray var, Py_ssize_t hint) except -2:
        """Return the record that `var` is the array of, or -1."""
        cdef PyObject *found
        cdef object key
        # Steps come in the same order: the record is most often the next one.
        if hint < self.n_records and self._is_known(var, &self.records[hint]):
            return hint
        key = PyLong_FromVoidPtr(cnp.PyArray_DATA(var))
        if cnp.PyArray_SIZE(var) == 0:
            key = (key, (<object> var).shape)  # as in slots.key: nothing is at its address
        found = PyDict_GetItemWithError(self.by_key, key)
        if found == NULL:
            return -1
        hint = <object> found
        return hint if self._is_known(var, &self.records[hint]) else -1

    cdef bint _is_known(self, cnp.ndarray var, const Record *record) noexcept:
        """Whether `var` is that array: same address, shape, strides and dtype."""
        cdef int axis, ndim = cnp.PyArray_NDIM(var)
        if (<char *> cnp.PyArray_DATA(var) != record.var.param
                or cnp.PyArray_TYPE(var) != record.typenum or ndim != record.layout.ndim
                or not cnp.PyArray_ISNOTSWAPPED(var)
                or not cnp.PyArray_CHKFLAGS(var, cnp.NPY_ARRAY_WRITEABLE)):
            return False
        for axis in range(ndim):
            if cnp.PyArray_DIM(var, axis) != record.layout.dims[axis]:
                return False
            # The stride of an axis of length 1 reaches nothing and may be anything.
            if (cnp.PyArray_STRIDE(var, axis) != record.layout.strides[axis]
                    and record.layout.dims[axis] != 1):
                return False
        return True

    cdef bint _has_slots(self, const Record *record, int variant) noexcept:
        return record.var.rms != NULL and (
            record.var.mg != NULL or not variant & CENTERED) and (
            record.var.mom != NULL or not variant & MOMENTUM)

    cdef bint _is_free(self, cnp.ndarray array, Record *record) noexcept:
        """Whether a gradient's memory is surely no variable's and no slot's."""
        cdef const char *low
        cdef const char *high
        _bounds(array, &low, &high)
        if (low == record.grad_low and high == record.grad_high
                and record.grad_epoch == self.epoch):
            return True
        if self.extents.touches(<size_t> low, <size_t> high):
            return False
        record.grad_low = low
        record.grad_high = high
        record.grad_epoch = self.epoch
        return True

    cdef bint _takes_slices(
        self, const Record *record, Entry *entry, object slices,
    ) except -1:
        """Whether row-sparse `slices` fit the record; the rows are tested later."""
        cdef object values = slices._values
        cdef object indices = slices._indices
        cdef object dense_shape = slices._dense_shape
        cdef cnp.ndarray array = values
        cdef Py_ssize_t n
        cdef int axis
        if (not cnp.PyArray_Check(values) or not cnp.PyArray_Check(indices)
                or cnp.PyArray_TYPE(array) != record.typenum
                or not cnp.PyArray_ISNOTSWAPPED(array)
                or record.layout.ndim == 0
                or cnp.PyArray_NDIM(array) != record.layout.ndim):
            return False
        for axis in range(1, record.layout.ndim):
            if cnp.PyArray_DIM(array, axis) != record.layout.dims[axis]:
                return False
        n = cnp.PyArray_DIM(array, 0)
        array = indices
        if (not cnp.PyArray_ISINTEGER(array) or not cnp.PyArray_ISNOTSWAPPED(array)
                or cnp.PyArray_NDIM(array) != 1
                or cnp.PyArray_DIM(array, 0) != n):
            return False
        entry.is_sparse = True
        entry.indices = _describe_indices(array, record.layout.dims[0])
        return dense_shape is None or dense_shape == (<object> record.owner).shape

    cdef bint _takes_array(self, const Record *record, cnp.ndarray grad) noexcept:
        """Whether a dense gradient fits the record."""
        return (
            cnp.PyArray_TYPE(grad) == record.typenum
            and cnp.PyArray_ISNOTSWAPPED(grad)
            and cnp.PyArray_NDIM(grad) == record.layout.ndim
            and memcmp(cnp.PyArray_DIMS(grad), record.layout.dims,
                       record.layout.ndim * sizeof(Py_ssize_t)) == 0)

    cdef Py_ssize_t _collect(
        self, list pairs, int variant, bint overlaps_checked,
    ) except -2:
        """Test every rule but the rows'; return the number of gradients, or -1."""
        cdef Py_ssize_t n = PyList_GET_SIZE(pairs), k, used = 0, index
        cdef Entry *entries = <Entry *> self.entries.reserve(n * sizeof(Entry))
        cdef Gradient *grads = <Gradient *> self.gradients.reserve(n * sizeof(Gradient))
        cdef Record *record
        cdef Entry *entry
        cdef object pair, grad, var, array
        cdef list missing = None
        self.steps += 1
        for k in range(n):
            pair = <object> PyList_GET_ITEM(pairs, k)
            if not PyTuple_CheckExact(pair) or PyTuple_GET_SIZE(pair) != 2:
                return -1
            grad = <object> PyTuple_GET_ITEM(pair, 0)
            var = <object> PyTuple_GET_ITEM(pair, 1)
            if not cnp.PyArray_Check(var):
                return -1
            if grad is None:
                if missing is None:
                    missing = []
                if not _is_real(var) or not cnp.PyArray_CHKFLAGS(
                        var, cnp.NPY_ARRAY_WRITEABLE):
                    return -1
                missing.append((PyLong_FromVoidPtr(cnp.PyArray_DATA(var)),
                                var.shape, var.strides))
                continue
            index = self._find(var, used)
            if index < 0:
                return -1
            record = &self.records[index]
            if not self._has_slots(record, variant):
                return -1
            entry = &entries[used]
            entry.record = index
            entry.is_sparse = False
            if type(grad) is IndexedSlices:
                if not self._takes_slices(record, entry, grad):
                    return -1
                array = grad._values
            else:
                if not cnp.PyArray_Check(grad) or not self._takes_array(record, grad):
                    return -1
                array = grad
            if not overlaps_checked and not self._is_free(array, record):
                return -1
            _describe(array, &grads[used], &entry.layout)
            if record.step != self.steps:
                record.step = self.steps
                record.meetings = 0
            entry.round = record.meetings
            record.meetings += 1
            used += 1
        if used == 0 or (missing is not None and frozenset(missing) not in self.silent):
            return -1
        return used

    # --- The work ---------------------------------------------------------------------

    cdef Py_ssize_t _work(self, Py_ssize_t n) noexcept:
        cdef Entry *entries = <Entry *> self.entries.data
        cdef Gradient *grads = <Gradient *> self.gradients.data
        cdef Py_ssize_t k, work = 0
        for k in range(n):
            work += grads[k].size
            if entries[k].is_sparse:
                work += entries[k].indices.n * OCCURRENCE_WORK
        return work

    cdef int _reserve(self, Py_ssize_t n, int n_threads) except -1:
        """Reserve what a step of n gradients needs; returns its number of rounds."""
        cdef Entry *entries = <Entry *> self.entries.data
        cdef Py_ssize_t k, n_tasks = 0, n_bytes = 0, n_rounds = 0
        for k in range(n):
            n_rounds = max(n_rounds, entries[k].round + 1)
            if entries[k].is_sparse:
                n_bytes += sort_bytes(&entries[k].indices, n_threads)
                n_tasks += max_tasks(entries[k].indices.n, n_threads)
            else:
                n_tasks += 1
        self.occurrences.reserve(n_bytes)
        self.tasks.reserve(n_tasks * sizeof(Task))
        self.blocks.reserve(NORM_BLOCKS * sizeof(double))
        return n_rounds

    cdef bint _sort(self, Py_ssize_t n, int n_threads) noexcept nogil:
        """Put every row-sparse gradient's rows in order; False: one is out of range."""
        cdef Entry *entries = <Entry *> self.entries.data
        cdef char *memory = <char *> self.occurrences.data
        cdef Py_ssize_t k
        for k in range(n):
            if entries[k].is_sparse:
                entries[k].occurrences = sort_rows(
                    &entries[k].indices, memory, n_threads)
                if entries[k].occurrences == NULL:
                    return False
                memory += sort_bytes(&entries[k].indices, n_threads)
        return True

    cdef Py_ssize_t _list(
        self, Py_ssize_t n, Py_ssize_t turn, int n_threads,
    ) noexcept nogil:
        """Fill the task list with the updates that are their variable's `turn`-th."""
        cdef Entry *entries = <Entry *> self.entries.data
        cdef Gradient *grads = <Gradient *> self.gradients.data
        cdef Task *tasks = <Task *> self.tasks.data
        cdef Py_ssize_t k, count = 0, work = 0
        cdef const Variable *var
        for k in range(n):
            if entries[k].round != turn or grads[k].size == 0:
                continue
            var = &self.records[entries[k].record].var
            if not entries[k].is_sparse:
                count += add_dense(&tasks[count], work, var, &grads[k])
            else:
                count += add_rows(
                    &tasks[count], work, var, &grads[k], entries[k].occurrences,
                    entries[k].indices.n, n_threads)
            work = work_after(&tasks[count - 1])
        return count

    cdef int64_t _most_steps(self, Py_ssize_t n) noexcept:
        """Return the most steps that a variable of this step made; -1: none counts."""
        cdef Entry *entries = <Entry *> self.entries.data
        cdef const Variable *var
        cdef int64_t most = -1
        cdef Py_ssize_t k
        if not self.counts_rows:
            return most
        for k in range(n):
            var = &self.records[entries[k].record].var
            if var.counts.row != NULL:
                most = max(most, var.counts.steps[0])
        return most

    cdef void _allow_for(self, Coef *coef, int64_t steps) noexcept:
        """Prepare what rows that missed up to so many steps catch up by."""
        rmsprop_idle_powers_f32(self.idle_f32, coef.f32, steps)
        rmsprop_idle_powers_f64(self.idle_f64, coef.f64, steps)
        coef.idle_f32 = self.idle_f32
        coef.idle_f64 = self.idle_f64

    cdef void _count(self, Py_ssize_t n, Py_ssize_t turn) noexcept nogil:
        """Count the steps of the variables whose rows are counted."""
        cdef Entry *entries = <Entry *> self.entries.data
        cdef const Variable *var
        cdef Py_ssize_t k
        for k in range(n):
            var = &self.records[entries[k].record].var
            if entries[k].round == turn and var.counts.row != NULL:
                var.counts.steps[0] += 1
                if not entries[k].is_sparse:
                    var.counts.all_rows[0] = var.counts.steps[0]

    cdef int _run(
        self, Py_ssize_t n, int n_rounds, const Coef *coef, int variant,
        double factor, double clipnorm, double global_clipnorm, bint check_finite,
        int n_threads,
    ) noexcept nogil:
        """Update everything and return 0; or nothing, and say why not."""
        cdef Gradient *grads = <Gradient *> self.gradients.data
        cdef Task *tasks = <Task *> self.tasks.data
        cdef double *blocks = <double *> self.blocks.data
        cdef bint are_summed = clipnorm < INFINITY or global_clipnorm < INFINITY
        cdef Py_ssize_t n_tasks
        cdef int turn
        if not self._sort(n, n_threads):
            return _REFUSED
        _set_scales(grads, n, factor, clipnorm, global_clipnorm, blocks, n_threads)
        if check_finite and not _are_finite(grads, n, are_summed, blocks, n_threads):
            return _NOT_FINITE
        for turn in range(n_rounds):
            # The same variable twice must not be in one parallel region.
            n_tasks = self._list(n, turn, n_threads)
            self.team = run(tasks, n_tasks, coef, variant, n_threads)
            if coef.idle_f32 != NULL:
                note_hot_rows(tasks, n_tasks)
                self._count(n, turn)
        return 0

    def update(
        self, list pairs, int variant, double lr, double rho, double momentum,
        double epsilon, double clipvalue=INFINITY, double clipnorm=INFINITY,
        double global_clipnorm=INFINITY, double grad_factor=1, num_threads=None,
        bint overlaps_checked=False, double weight_decay=0, bint check_finite=False,
    ):
        """Update every variable once and return the new count of iterations.

        Returns REFUSED, with nothing changed, when any rule is broken or a variable is
        new; the caller asks `step_rules` which. Returns NOT_FINITE, with nothing
        changed, when that is checked and an element of a gradient is not.

        Parameters
        ----------
        pairs : list of (gradient, variable) tuples
            Nobody else holds the list.
        variant : int
            The sum of CENTERED (1), MOMENTUM (2) and EPS_IN_SQRT (4).
        lr, rho, momentum, epsilon : float
            Checked by the caller.
        clipvalue, clipnorm, global_clipnorm : float
            inf when off.
        grad_factor : float
            Multiplies every gradient before it is clipped.
        num_threads : int or None
            As given to the optimizer.
        overlaps_checked : bool
            The caller has found no gradient that overlaps a variable or a slot.
        weight_decay : float
            Checked by the caller; 0 is off.
        check_finite : bool or str
            Whether every element of every gradient must be finite; "skip" is true.
        """
        cdef Coef coef = _coef(
            lr, rho, momentum, epsilon, 1 - lr * weight_decay, clipvalue)
        cdef Py_ssize_t n = self._collect(pairs, variant, overlaps_checked)
        cdef cnp.int64_t *count = <cnp.int64_t *> cnp.PyArray_DATA(self.iterations)
        cdef Py_ssize_t work
        cdef int64_t most_steps
        cdef int n_threads, n_rounds, refusal
        if n < 0:
            return REFUSED
        if count[0] == INT64_MAX:
            rules.too_many_iterations()
        work = self._work(n)
        n_threads = _team(work, n, num_threads)
        n_rounds = self._reserve(n, n_threads)
        most_steps = self._most_steps(n)
        if most_steps >= 0:
            self._allow_for(&coef, most_steps + n_rounds)
        if n_threads > 1 or work >= HOLD_GIL_BELOW:
            with nogil:
                refusal = self._run(n, n_rounds, &coef, variant, grad_factor, clipnorm,
                                    global_clipnorm, check_finite, n_threads)
        else:
            refusal = self._run(n, n_rounds, &coef, variant, grad_factor, clipnorm,
                                global_clipnorm, check_finite, n_threads)
        if refusal != 0:
            return refusal
        count[0] += 1
        return count[0]

    def catch_up(
        self, list indices, rows, int variant, double rho, double momentum,
        num_threads=None,
    ):
        """Make up for the steps that rows have missed.

        Parameters
        ----------
        indices : list of int
            Which variables; one alone when `rows` is given.
        rows : ndarray of integers, 1-D, native byte order, or None
            Which rows; all if None.
        variant, rho, momentum, num_threads
            As for `update`.

        Returns
        -------
        bool
            Whether all of `rows` were in range; if not, nothing is changed.
        """
        cdef Coef coef = _coef(0, rho, momentum, 0, 1, INFINITY)
        cdef Py_ssize_t n_tasks = 0, work = 0, index, k
        cdef Task *tasks = <Task *> self.tasks.reserve(len(indices) * sizeof(Task))
        cdef const void *occurrences = NULL
        cdef Py_ssize_t n = 0
        cdef const Variable *var
        cdef int64_t most_steps = 0
        cdef int n_threads
        if rows is not None:
            n = cnp.PyArray_DIM(rows, 0)
            var = &self.records[indices[0]].var
            n_threads = _team(n * (var.width + OCCURRENCE_WORK), 1, num_threads)
            occurrences = self._sorted(rows, var.n_rows, n_threads)
            if occurrences == NULL:
                return False
        for index in indices:
            var = &self.records[index].var
            if var.counts.row == NULL or var.counts.all_rows[0] == var.counts.steps[0]:
                continue
            most_steps = max(most_steps, var.counts.steps[0])
            n_tasks += add_catch_up(&tasks[n_tasks], work, var, occurrences, n)
            work = work_after(&tasks[n_tasks - 1])
        self._allow_for(&coef, most_steps)
        n_threads = _team(work, n_tasks, num_threads)
        with nogil:
            self.team = run(tasks, n_tasks, &coef, variant, n_threads)
        if rows is None:
            for k in range(n_tasks):
                tasks[k].var.counts.all_rows[0] = tasks[k].var.counts.steps[0]
        return True

    cdef const void *_sorted(
        self, cnp.ndarray rows, Py_ssize_t n_rows, int n_threads,
    ) except? NULL:
        """Return occurrences in order, or NULL where one is out of range."""
        cdef Indices indices = _describe_indices(rows, n_rows)
        cdef void *memory = self.occurrences.reserve(sort_bytes(&indices, n_threads))
        cdef const void *occurrences
        with nogil:
            occurrences = sort_rows(&indices, memory, n_threads)
        return occurrences


cdef char *_data(slot) except? NULL:
    return NULL if slot is None else <char *> cnp.PyArray_DATA(slot)


def clipped(
    list grads, double clipvalue=INFINITY, double clipnorm=INFINITY,
    double global_clipnorm=INFINITY, double grad_factor=1, num_threads=None,
):
    """Return new C-contiguous arrays: the gradients as an update would see them.

    Parameters
    ----------
    grads : list of ndarray, float32 or float64
        Read only, any layout; values for a row-sparse gradient.
    clipvalue, clipnorm, global_clipnorm, grad_factor, num_threads
        As for `Step.update`.

    Returns
    -------
    list of ndarray
    """
    cdef Py_ssize_t n = PyList_GET_SIZE(grads), k, work = 0
    cdef Buffer described = Buffer(), layouts = Buffer(), blocks = Buffer()
    cdef Gradient *g = <Gradient *> described.reserve(n * sizeof(Gradient))
    cdef Layout *layout = <Layout *> layouts.reserve(n * sizeof(Layout))
    cdef double *sums = <double *> blocks.reserve(NORM_BLOCKS * sizeof(double))
    cdef Coef coef = _coef(0, 0, 0, 0, 1, clipvalue)
    cdef int n_threads
    cdef list out = []
    for k in range(n):
        _describe(<object> PyList_GET_ITEM(grads, k), &g[k], &layout[k])
        work += g[k].size
        out.append(cnp.PyArray_EMPTY(
            layout[k].ndim, <cnp.npy_intp *> layout[k].dims,
            cnp.NPY_FLOAT if g[k].dtype == F32 else cnp.NPY_DOUBLE, False))
    n_threads = _team(work, n, num_threads)
    _set_scales(g, n, grad_factor, clipnorm, global_clipnorm, sums, n_threads)
    for k in range(n):
        take(cnp.PyArray_DATA(<object> PyList_GET_ITEM(out, k)), &g[k], &coef)
    return out
