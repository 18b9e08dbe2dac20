# The rows of a row-sparse gradient: copied, checked, and put in order.

from libc.stdint cimport uint32_t, uint64_t

# A row number and where in `indices` it stood. Two sizes: 32-bit halves the traffic.
ctypedef struct Occurrence32:
    uint32_t row
    uint32_t position

ctypedef struct Occurrence64:
    uint64_t row
    uint64_t position

# A gradient's row numbers: n integers of a NumPy type number, `stride` bytes apart.
ctypedef struct Indices:
    const char *data
    Py_ssize_t stride
    int typenum
    Py_ssize_t n
    Py_ssize_t n_rows      # each must be in [0, n_rows)

# Whether n occurrences among n_rows rows need Occurrence64.
cdef bint is_wide(Py_ssize_t n, Py_ssize_t n_rows) noexcept nogil

# The bytes that sort_rows needs.
cdef Py_ssize_t sort_bytes(const Indices *indices, int n_threads) noexcept nogil

# Copy the rows and sort the copy: stable, in linear time. Returns the occurrences,
# somewhere in `memory`, or NULL when a row is out of range.
cdef const void *sort_rows(
    const Indices *indices, void *memory, int n_threads) noexcept nogil
