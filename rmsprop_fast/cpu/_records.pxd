# The bound variables as C structs, and the gradients of one call.

from cpython.ref cimport PyObject

from rmsprop_fast.cpu._extents cimport Extents
from rmsprop_fast.cpu._gradients cimport Gradient
from rmsprop_fast.cpu._layout cimport Layout
from rmsprop_fast.cpu._sort cimport Indices
from rmsprop_fast.cpu._variable cimport Variable

cimport numpy as cnp

cdef enum:
    HOST = -1  # in place of a device's number

# One bound variable. On a device its addresses are the device's.
ctypedef struct Record:
    Variable var
    int device
    int typenum               # the NumPy type number of the dtype
    Layout *layout            # one block with its dims and strides
    PyObject *owner           # a view of the variable: it must outlive its address
    PyObject *seen            # on a device: the array last found to be the variable
    PyObject *grad_seen       # on a device: weak reference to a gradient that fits,
    const char *grad_data     # and the address of the last one that did
    const char *grad_low      # the last gradient whose addresses were found free
    const char *grad_high
    Py_ssize_t grad_epoch
    Py_ssize_t step           # the last step that updated it, how often in that step
    Py_ssize_t repeats

# One gradient of a call and the variable that it updates.
ctypedef struct Entry:
    Layout layout             # of the gradient, on the host
    Py_ssize_t record
    Py_ssize_t repeat         # 0 for a variable's first update in the call, then 1, ...
    Py_ssize_t pair           # place in grads_and_vars
    int device
    bint is_sparse
    Indices indices           # row-sparse only, as what follows
    const void *occurrences   # sorted; of the host


cdef class Buffer:
    """Memory that grows and is kept from step to step."""
    cdef void *data
    cdef size_t size
    cdef void *reserve(self, size_t size) except NULL


# The gradients of one call in one kind of place, in the order of their pairs.
cdef class Entries:
    cdef Py_ssize_t n
    cdef Entry *entries
    cdef Gradient *grads
    cdef Buffer _entries, _grads
    cdef int reserve(self, Py_ssize_t n) except -1


cdef class Records:
    cdef object slots           # slots.Slots
    cdef object state           # the slots.State that the records show
    cdef dict by_key
    cdef Extents extents
    cdef set warned_missing
    cdef Record *records
    cdef Py_ssize_t n, capacity
    cdef Py_ssize_t epoch       # changes with `extents`
    cdef Py_ssize_t steps
    cdef list held              # the arrays that gradients stand for
    cdef type device_array      # cupy.ndarray, once a variable is on a device
    cdef readonly bint counts_rows
    cdef Entries host, device   # of the last call of `collect`

    # Follow the state of `slots`; cheap when nothing has changed.
    cdef int follow(self, slots) except -1

    # Test every rule but those about row numbers and finite values; False: one is
    # broken, or a variable is unknown.
    cdef bint collect(self, list pairs, int variant, bint overlaps_checked) except -1

    cdef int _reset(self) except -1
    cdef int _bind(self, Py_ssize_t index, bound) except -1
    cdef int _grow(self) except -1
    cdef Py_ssize_t _find(self, var, Py_ssize_t hint) except -2
    cdef bint _is_free(
        self, Record *record, const char *low, const char *high) noexcept
    cdef object _key_of_missing(self, var)
    cdef bint _takes(self, Record *record, grad, bint overlaps_checked, Entry *entry,
                     Gradient *described) except -1
    cdef bint _takes_on_device(
        self, Record *record, grad, bint overlaps_checked, Entry *entry,
        Gradient *described) except -1


# Point `grad` at a NumPy array of float32 or float64.
cdef void describe(cnp.ndarray array, Gradient *grad, Layout *layout) noexcept

# Describe a vector of integers in native byte order.
cdef Indices describe_indices(cnp.ndarray rows, Py_ssize_t n_rows) noexcept
