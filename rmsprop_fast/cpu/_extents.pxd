# Which addresses are taken: sorted, disjoint intervals.

cimport numpy as cnp

cdef struct Interval:
    size_t low
    size_t high   # one past the end

cdef class Extents:
    cdef Interval *intervals
    cdef Py_ssize_t n, capacity

    # The first interval that ends after `low`.
    cdef Py_ssize_t _first_after(self, size_t low) noexcept nogil

    # Whether [low, high) meets any interval.
    cdef bint touches(self, size_t low, size_t high) noexcept nogil

    cdef int _reserve(self, Py_ssize_t capacity) except -1
    cdef void _insert(self, Interval new) noexcept nogil
    cdef void _merge(self, const Interval *new, Py_ssize_t n_new) noexcept nogil

# Find the addresses that the array's elements are between; equal without any.
cdef void find_bounds(
    cnp.ndarray array, const char **low, const char **high) noexcept
