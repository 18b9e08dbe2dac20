# The rows of a row-sparse gradient: copied, checked, and put in order.

from libc.stdint cimport uint32_t, uint64_t

# A row number and where in `indices` it stood. Two sizes: 32-bit halves the traffic.
ctypedef struct Occurrence32:
    uint32_t row
    uint32_t position

ctypedef struct Occurrence64:
    uint64_t row
    uint64_t position

# Whether n occurrences among n_rows rows need Occurrence64.
cdef bint is_wide(Py_ssize_t n, Py_ssize_t n_rows) noexcept nogil

# The bytes of one of them.
cdef Py_ssize_t occurrence_size(Py_ssize_t n, Py_ssize_t n_rows) noexcept nogil

# Copy n integers of NumPy type number `typenum`, `stride` bytes apart, into out[0:n]
# as occurrences. -1: done, in ascending order already; -2: done, not in order;
# k >= 0: the row at position k is not in [0, n_rows).
cdef Py_ssize_t copy_rows(
    const char *indices, Py_ssize_t stride, int typenum, Py_ssize_t n,
    Py_ssize_t n_rows, void *out) noexcept nogil

# Sort by row, stable, in linear time, with n more occurrences of scratch. The result
# is in one of the two: the one returned.
cdef void *sort_rows(
    void *occurrences, void *scratch, Py_ssize_t n, Py_ssize_t n_rows) noexcept nogil
