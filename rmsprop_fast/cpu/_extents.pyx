"""Which addresses are taken: sorted, disjoint intervals.

A step asks for every gradient whether its memory may be a variable's or a slot's. The
answer "no" must cost nanoseconds; "perhaps" is settled exactly by `step_rules`.
"""

from libc.stdlib cimport free, realloc
from libc.string cimport memmove


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

    def add(self, size_t low, size_t high):
        """Add [low, high), merging what it meets."""
        cdef Py_ssize_t first, last
        cdef Interval *grown
        if low >= high:
            return
        if self.n == self.capacity:
            grown = <Interval *> realloc(
                self.intervals, (2 * self.capacity + 16) * sizeof(Interval))
            if grown == NULL:
                raise MemoryError
            self.intervals = grown
            self.capacity = 2 * self.capacity + 16
        first = last = self._first_after(low)
        while last < self.n and self.intervals[last].low < high:
            low = min(low, self.intervals[last].low)
            high = max(high, self.intervals[last].high)
            last += 1
        memmove(&self.intervals[first + 1], &self.intervals[last],
                (self.n - last) * sizeof(Interval))
        self.n += 1 - (last - first)
        self.intervals[first].low = low
        self.intervals[first].high = high

    def may_touch(self, size_t low, size_t high):
        """Return whether any address in [low, high) is taken."""
        return self.touches(low, high)
