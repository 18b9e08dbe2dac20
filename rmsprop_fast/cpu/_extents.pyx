"""Which addresses are in use: sorted, disjoint intervals.

For every gradient, a step asks whether its memory may be that of a variable or a slot.
The answer "no" must take only nanoseconds. After "perhaps", `step_rules` checks exactly.
"""

cimport numpy as cnp
from libc.stdlib cimport free, malloc


cdef inline Py_ssize_t _append(
    Interval *intervals, Py_ssize_t n, Interval next,
) noexcept nogil:
    """Append an interval that begins last, or merge it; return how many there are."""
    if next.low >= next.high:
        return n
    if n > 0 and next.low < intervals[n - 1].high:
        intervals[n - 1].high = max(intervals[n - 1].high, next.high)
        return n
    intervals[n] = next
    return n + 1


cdef class Extents:
    """The union of the address ranges that were added."""

    def __dealloc__(self):
        free(self.intervals)

    cdef Py_ssize_t _first_after(self, size_t low) noexcept nogil:
        cdef Py_ssize_t begin = 0, end = self.n, middle
        while begin < end:
            middle = (begin + end) // 2
            if self.intervals[middle].high <= low:
                begin = middle + 1
            else:
                end = middle
        return begin

    cdef bint touches(self, size_t low, size_t high) noexcept nogil:
        cdef Py_ssize_t k = self._first_after(low)
        return low < high and k < self.n and self.intervals[k].low < high

    def add_all(self, list bounds):
        """Add many ranges (low, high); each is merged with those that it overlaps.

        After a MemoryError nothing is added.
        """
        cdef Py_ssize_t capacity = self.n + len(bounds), k = 0, n = 0
        cdef Interval *merged
        cdef Interval next
        if not bounds:
            return
        merged = <Interval *> malloc(capacity * sizeof(Interval))
        if merged == NULL:
            raise MemoryError
        try:
            for low, high in sorted(bounds):
                while k < self.n and self.intervals[k].low <= <size_t> low:
                    n = _append(merged, n, self.intervals[k])
                    k += 1
                next.low, next.high = low, high
                n = _append(merged, n, next)
        except BaseException:
            free(merged)
            raise
        while k < self.n:
            n = _append(merged, n, self.intervals[k])
            k += 1
        free(self.intervals)
        self.intervals = merged
        self.n = n

    def may_touch(self, size_t low, size_t high):
        """Return whether any address in [low, high) is in use."""
        return self.touches(low, high)


cdef void find_bounds(
    cnp.ndarray array, const char **low, const char **high,
) noexcept:
    cdef const char *start = <const char *> cnp.PyArray_DATA(array)
    cdef const char *end = start + cnp.PyArray_ITEMSIZE(array)
    cdef Py_ssize_t distance
    cdef int axis
    for axis in range(cnp.PyArray_NDIM(array)):
        if cnp.PyArray_DIM(array, axis) == 0:
            low[0] = high[0] = start
            return
        distance = (cnp.PyArray_DIM(array, axis) - 1) * cnp.PyArray_STRIDE(array, axis)
        if distance < 0:
            start += distance
        else:
            end += distance
    low[0] = start
    high[0] = end


def address_of(cnp.ndarray array):
    """Return where the first element of a NumPy array is."""
    return <size_t> cnp.PyArray_DATA(array)


def bounds_of(cnp.ndarray array):
    """Return the first address of the elements of an array, and the end."""
    cdef const char *low
    cdef const char *high
    find_bounds(array, &low, &high)
    return <size_t> low, <size_t> high
