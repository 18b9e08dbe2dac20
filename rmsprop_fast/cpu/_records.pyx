"""Bound variables, on the host and on devices, and the rules about their gradients.

The tests here say only yes or no. `step_rules` has the same rules in Python: it finds
the broken rule and raises the error. A property test checks that both refuse the same
arguments. This module reads CuPy arrays through their public attributes, so it is
compiled and imported without CuPy.
"""

cimport numpy as cnp
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_FromVoidPtr
from cpython.ref cimport Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from rmsprop_fast.cpu._extents cimport find_bounds
from rmsprop_fast.cpu._spans cimport dtype_of, param_size
from rmsprop_fast.header cimport (
    RMSPROP_CENTERED, RMSPROP_MOMENTUM, RMSPROP_SLOT_MG, RMSPROP_SLOT_MOM,
    RMSPROP_SLOT_RMS,
)

from weakref import ref

from rmsprop_fast import backends
from rmsprop_fast.indexed_slices import IndexedSlices

cnp.import_array()

cdef extern from "Python.h":
    PyObject *PyDict_GetItemWithError(object mapping, object key) except? NULL

cdef extern from *:
    """
    #define RMSPROP_FLAG_ROW(name, bit) {#name, bit},
    static const struct { const char *name; int bit; } rmsprop_flag_rows[] = {
        RMSPROP_FLAGS(RMSPROP_FLAG_ROW) {0, 0}
    };
    """
    struct rmsprop_flag_row:
        const char *name
        int bit
    const rmsprop_flag_row *rmsprop_flag_rows


cdef dict _flags():
    cdef dict flags = {}
    cdef int k = 0
    while rmsprop_flag_rows[k].name != NULL:
        flags[rmsprop_flag_rows[k].name.decode().lower()] = rmsprop_flag_rows[k].bit
        k += 1
    return flags


# The bits of a variant, by the names of their hyperparameters: the header's list.
FLAGS = _flags()

# The slots that an update uses, by name, and the bit of a variant that needs each.
SLOTS = {"rms": 0, "momentum": RMSPROP_MOMENTUM, "mg": RMSPROP_CENTERED}


cdef class Buffer:

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


cdef class Entries:

    def __cinit__(self):
        self._entries = Buffer()
        self._grads = Buffer()

    cdef int reserve(self, Py_ssize_t n) except -1:
        self.n = 0
        self.entries = <Entry *> self._entries.reserve(n * sizeof(Entry))
        self.grads = <Gradient *> self._grads.reserve(n * sizeof(Gradient))
        return 0


# --- NumPy arrays ---------------------------------------------------------------------


cdef inline bint _is_real(cnp.ndarray array) noexcept:
    return dtype_of(cnp.PyArray_TYPE(array)) >= 0 and cnp.PyArray_ISNOTSWAPPED(array)


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


cdef void describe(cnp.ndarray array, Gradient *grad, Layout *layout) noexcept:
    grad.dtype = dtype_of(cnp.PyArray_TYPE(array))
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


cdef Indices describe_indices(cnp.ndarray rows, Py_ssize_t n_rows) noexcept:
    return Indices(
        <const char *> cnp.PyArray_DATA(rows), cnp.PyArray_STRIDE(rows, 0),
        cnp.PyArray_TYPE(rows), cnp.PyArray_DIM(rows, 0), n_rows)


cdef bint _is_known(cnp.ndarray var, const Record *record) noexcept:
    """Whether `var` is that array: same address, shape, strides and dtype."""
    cdef int axis, ndim = cnp.PyArray_NDIM(var)
    if (<char *> cnp.PyArray_DATA(var) != record.var.param
            or cnp.PyArray_TYPE(var) != record.typenum or ndim != record.layout.ndim
            or record.device != HOST
            or not cnp.PyArray_ISNOTSWAPPED(var)
            or not cnp.PyArray_CHKFLAGS(var, cnp.NPY_ARRAY_WRITEABLE)):
        return False
    for axis in range(ndim):
        if cnp.PyArray_DIM(var, axis) != record.layout.dims[axis]:
            return False
        # The stride of an axis of length 1 is never used: it may have any value.
        if (cnp.PyArray_STRIDE(var, axis) != record.layout.strides[axis]
                and record.layout.dims[axis] != 1):
            return False
    return True


cdef bint _takes_array(const Record *record, cnp.ndarray grad) noexcept:
    """Whether a dense gradient fits the record."""
    return (
        cnp.PyArray_TYPE(grad) == record.typenum
        and cnp.PyArray_ISNOTSWAPPED(grad)
        and cnp.PyArray_NDIM(grad) == record.layout.ndim
        and memcmp(cnp.PyArray_DIMS(grad), record.layout.dims,
                   record.layout.ndim * sizeof(Py_ssize_t)) == 0)


cdef bint _takes_slices(const Record *record, Entry *entry, slices) except -1:
    """Whether row-sparse `slices` fit the record; the row numbers are tested later."""
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
    entry.indices = describe_indices(array, record.layout.dims[0])
    return dense_shape is None or dense_shape == (<object> record.owner).shape


# --- CuPy arrays ----------------------------------------------------------------------


cdef inline bint _is_contiguous(array) except -1:
    # Reading the flags of a CuPy array creates an object: ten times slower.
    try:
        return array._c_contiguous
    except AttributeError:
        return array.flags.c_contiguous


cdef inline char *_device_address(array) except? NULL:
    return <char *> <size_t> array.data.ptr


cdef bint _takes_device_array(
    type device_array, Record *record, grad, Gradient *described,
) except -1:
    cdef object data, dtype
    described.size = record.var.size
    if record.grad_seen != NULL and (<object> record.grad_seen)() is grad:
        described.data = record.grad_data  # what is tested below never changes
        return True
    if not isinstance(grad, device_array):
        return False
    data = grad.data
    dtype = grad.dtype
    if (dtype.num != record.typenum or not dtype.isnative
            or grad.shape != (<object> record.owner).shape or not _is_contiguous(grad)
            or data.device_id != record.device):
        return False
    described.data = <const char *> <size_t> data.ptr
    # The same address as last time: the caller uses one buffer again. Note the array.
    _replace(&record.grad_seen,
             ref(grad) if described.data == record.grad_data else None)
    record.grad_data = described.data
    return True


cdef bint _takes_device_slices(
    type device_array, const Record *record, slices, Entry *entry, Gradient *described,
) except -1:
    cdef object values = slices._values
    cdef object indices = slices._indices
    cdef object dense_shape = slices._dense_shape
    cdef tuple shape = (<object> record.owner).shape
    if (not isinstance(values, device_array) or not isinstance(indices, device_array)
            or values.dtype.num != record.typenum or not values.dtype.isnative
            or not shape or values.ndim != len(shape)
            or values.shape[1:] != shape[1:] or indices.ndim != 1
            or indices.size != values.shape[0]
            or indices.dtype.kind not in "iu" or not indices.dtype.isnative
            or not _is_contiguous(values) or not _is_contiguous(indices)
            or values.data.device_id != record.device
            or indices.data.device_id != record.device
            or dense_shape is not None and dense_shape != shape):
        return False
    described.data = _device_address(values)
    described.size = values.size
    entry.is_sparse = True
    entry.indices = Indices(
        _device_address(indices), indices.dtype.itemsize, indices.dtype.num,
        indices.size, record.var.n_rows)
    return True


# --- Records --------------------------------------------------------------------------


cdef inline int _replace(PyObject **held, value) except -1:
    """Hold a reference to `value`, None for nothing, instead of the one held."""
    cdef PyObject *before = held[0]
    held[0] = NULL
    if value is not None:
        Py_INCREF(value)
        held[0] = <PyObject *> value
    Py_XDECREF(before)
    return 0


cdef inline bint _has_slots(const Record *record, int variant) noexcept:
    cdef const Variable *v = &record.var
    if v.size == 0:
        return True  # on a device its slots have no address
    return v.slots[RMSPROP_SLOT_RMS] != NULL and (
        v.slots[RMSPROP_SLOT_MG] != NULL or not variant & RMSPROP_CENTERED) and (
        v.slots[RMSPROP_SLOT_MOM] != NULL or not variant & RMSPROP_MOMENTUM)


cdef char *_address(array) except? NULL:
    if array is None:
        return NULL
    if cnp.PyArray_Check(array):
        return <char *> cnp.PyArray_DATA(array)
    return _device_address(array)


cdef class Records:
    """The bound variables of one optimizer, as a step needs them."""

    def __cinit__(self):
        self.host = Entries()
        self.device = Entries()
        self.held = []

    def __dealloc__(self):
        self._reset()
        free(self.records)

    cdef int follow(self, slots) except -1:
        cdef object state = slots.state
        cdef Py_ssize_t index
        if state is self.state:
            return 0
        if self.state is None or state.bound is not self.state.bound:
            self._reset()
        self.state = None  # until all of it is followed
        self.slots = slots
        self.by_key = state.by_key
        self.extents = state.extents
        self.warned_missing = slots.warned_missing
        self.counts_rows = slots.counts_rows
        self.epoch += 1
        if not state.is_restored:
            for index in range(self.n, state.n):
                self._bind(index, state.bound[index])
        self.state = state
        return 0

    cdef int _reset(self) except -1:
        cdef Record *record
        while self.n > 0:
            self.n -= 1
            record = &self.records[self.n]
            Py_XDECREF(record.owner)
            Py_XDECREF(record.seen)
            Py_XDECREF(record.grad_seen)
            free(record.layout)
        return 0

    cdef int _grow(self) except -1:
        """Make room for one more record."""
        cdef Record *grown
        if self.n == self.capacity:
            grown = <Record *> realloc(
                self.records, (2 * self.capacity + 8) * sizeof(Record))
            if grown == NULL:
                raise MemoryError
            self.records = grown
            self.capacity = 2 * self.capacity + 8
        return 0

    cdef int _bind(self, Py_ssize_t index, bound) except -1:
        """Append a record of a slots.Bound."""
        cdef object var = bound.var
        cdef dict slots = bound.slots, counters = bound.counters
        cdef tuple shape = bound.shape
        cdef Py_ssize_t n_bytes = len(shape) * sizeof(Py_ssize_t)
        cdef Py_ssize_t *extents
        cdef Layout *layout
        cdef Layout unused
        cdef Gradient seen
        cdef Record *record
        cdef char *steps = _address(counters.get("steps"))
        cdef int axis
        self._grow()
        record = &self.records[self.n]
        memset(record, 0, sizeof(Record))
        record.device = HOST if cnp.PyArray_Check(var) else var.data.device_id
        record.typenum = bound.dtype.num
        record.var.dtype = dtype_of(record.typenum)
        record.var.param = _address(var)
        record.var.size = var.size
        record.var.n_rows = shape[0] if shape else 1
        record.var.width = record.var.size // max(record.var.n_rows, <Py_ssize_t> 1)
        record.var.row_stride = var.strides[0] if shape else 0
        record.var.rows_are_runs = True
        record.var.slots[RMSPROP_SLOT_RMS] = _address(slots.get("rms"))
        record.var.slots[RMSPROP_SLOT_MOM] = _address(slots.get("momentum"))
        record.var.slots[RMSPROP_SLOT_MG] = _address(slots.get("mg"))
        record.var.counts.steps = <int64_t *> steps
        record.var.counts.all_rows = NULL if steps == NULL else <int64_t *> steps + 1
        record.var.counts.row = <int64_t *> _address(counters.get("row_steps"))
        record.var.decays = not bound.is_excluded
        layout = <Layout *> malloc(sizeof(Layout) + 2 * n_bytes)
        if layout == NULL:
            raise MemoryError
        extents = <Py_ssize_t *> (layout + 1)
        layout.ndim = len(shape)
        layout.dims = extents
        layout.strides = extents + layout.ndim
        if record.device == HOST:
            describe(var, &seen, &unused)
            record.var.layout = NULL if seen.layout == NULL else layout
            record.var.rows_are_runs = seen.rows_are_runs
            memcpy(extents, unused.dims, n_bytes)
            memcpy(extents + layout.ndim, unused.strides, n_bytes)
        else:
            for axis in range(layout.ndim):
                extents[axis] = shape[axis]
                extents[layout.ndim + axis] = 0  # contiguous, and never read
        record.layout = layout
        Py_INCREF(var)
        record.owner = <PyObject *> var
        self.n += 1
        return 0

    # --- The rules --------------------------------------------------------------------

    cdef Py_ssize_t _find(self, var, Py_ssize_t hint) except -2:
        """Return the record that `var` is the array of, or -1."""
        cdef bint on_host = cnp.PyArray_Check(var)
        cdef PyObject *found
        cdef object key
        cdef Record *record
        # Most steps have the variables in the same order: try the next record first.
        if hint < self.n:
            record = &self.records[hint]
            if _is_known(var, record) if on_host else record.seen == <PyObject *> var:
                return hint
        key = PyLong_FromVoidPtr(_address(var))
        if var.size == 0:
            key = (key, var.shape)  # as in Slots.key: an empty array has no memory
        found = PyDict_GetItemWithError(self.by_key, key)
        if found == NULL:
            return -1
        hint = <object> found
        if hint >= self.n:
            return -1
        record = &self.records[hint]
        if on_host:
            return hint if _is_known(var, record) else -1
        if (record.device == HOST or var.shape != (<object> record.owner).shape
                or var.dtype.num != record.typenum or not _is_contiguous(var)):
            return -1
        _replace(&record.seen, var)
        return hint

    cdef bint _is_free(
        self, Record *record, const char *low, const char *high,
    ) noexcept:
        """Whether a gradient certainly shares no memory with a variable or a slot."""
        if (low == record.grad_low and high == record.grad_high
                and record.grad_epoch == self.epoch):
            return True
        if self.extents.touches(<size_t> low, <size_t> high):
            return False
        record.grad_low = low
        record.grad_high = high
        record.grad_epoch = self.epoch
        return True

    cdef object _key_of_missing(self, var):
        """Return the key of a variable in `warned_missing`, None for no variable."""
        if cnp.PyArray_Check(var):
            if not _is_real(var) or not cnp.PyArray_CHKFLAGS(
                    var, cnp.NPY_ARRAY_WRITEABLE):
                return None
        elif not backends.is_array(var):
            return None
        return backends.address(var), var.shape, var.strides

    cdef bint _takes(
        self, Record *record, grad, bint overlaps_checked, Entry *entry,
        Gradient *described,
    ) except -1:
        """Describe the gradient of a variable on the host; False: it does not fit."""
        cdef cnp.ndarray array
        cdef const char *low
        cdef const char *high
        if type(grad) is IndexedSlices:
            if not _takes_slices(record, entry, grad):
                return False
            array = grad._values
        else:
            if not cnp.PyArray_Check(grad):
                grad = backends.adopt(grad)
                if not cnp.PyArray_Check(grad):
                    return False
                self.held.append(grad)
            array = grad
            if not _takes_array(record, array):
                return False
        if not overlaps_checked:
            find_bounds(array, &low, &high)
            if not self._is_free(record, low, high):
                return False
        describe(array, described, &entry.layout)
        return True

    cdef bint _takes_on_device(
        self, Record *record, grad, bint overlaps_checked, Entry *entry,
        Gradient *described,
    ) except -1:
        """The same for a variable on a device."""
        cdef Py_ssize_t item
        described.dtype = record.var.dtype
        described.layout = NULL
        described.row_stride = record.var.row_stride
        described.rows_are_runs = True
        described.scale = 1
        if type(grad) is IndexedSlices:
            if not _takes_device_slices(
                    self.device_array, record, grad, entry, described):
                return False
        elif not _takes_device_array(self.device_array, record, grad, described):
            return False
        item = param_size(record.var.dtype)
        return overlaps_checked or described.size == 0 or self._is_free(
            record, described.data, described.data + described.size * item)

    cdef bint collect(
        self, list pairs, int variant, bint overlaps_checked,
    ) except -1:
        cdef Py_ssize_t n = PyList_GET_SIZE(pairs), k, index
        cdef object pair, grad, var, key
        cdef list missing = None
        cdef Record *record
        cdef Entries entries
        cdef Entry *entry
        self.steps += 1
        if self.held:
            self.held = []
        self.host.reserve(n)
        self.device.reserve(0 if self.device_array is None else n)
        for k in range(n):
            pair = <object> PyList_GET_ITEM(pairs, k)
            if not PyTuple_CheckExact(pair) or PyTuple_GET_SIZE(pair) != 2:
                return False
            grad = <object> PyTuple_GET_ITEM(pair, 0)
            var = <object> PyTuple_GET_ITEM(pair, 1)
            if grad is None:
                key = self._key_of_missing(var)
                if key is None:
                    return False
                if missing is None:
                    missing = []
                missing.append(key)
                continue
            if not cnp.PyArray_Check(var) and (
                    self.device_array is None or not isinstance(var, self.device_array)):
                return False
            index = self._find(var, self.host.n + self.device.n)
            if index < 0:
                return False
            record = &self.records[index]
            if not _has_slots(record, variant):
                return False
            entries = self.host if record.device == HOST else self.device
            entry = &entries.entries[entries.n]
            entry.record = index
            entry.pair = k
            entry.device = record.device
            entry.is_sparse = False
            if record.device == HOST:
                if not self._takes(record, grad, overlaps_checked, entry,
                                   &entries.grads[entries.n]):
                    return False
            elif not self._takes_on_device(record, grad, overlaps_checked, entry,
                                           &entries.grads[entries.n]):
                return False
            if record.step != self.steps:
                record.step = self.steps
                record.repeats = 0
            entry.repeat = record.repeats
            record.repeats += 1
            entries.n += 1
        if missing is not None and frozenset(missing) not in self.warned_missing:
            return False
        return self.host.n + self.device.n > 0
