"""Which addresses are taken: sorted, disjoint intervals.

A step asks for every gradient whether its memory may be a variable's or a slot's. The
answer "no" must cost nanoseconds; "perhaps" is settled exactly by `step_rules`.
"""

cimport numpy as cnp
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memmove

cdef enum:
    FEW = 64  # times as many are there already: moving them costs less than a merge


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

    cdef int _reserve(self, Py_ssize_t capacity) except -1:
        """Make room; after a MemoryError everything is as before."""
        cdef Interval *grown
        if capacity > self.capacity:
            capacity = max(capacity, 2 * self.capacity)
            grown = <Interval *> realloc(self.intervals, capacity * sizeof(Interval))
            if grown == NULL:
                raise MemoryError
            self.intervals = grown
            self.capacity = capacity
        return 0

    cdef void _insert(self, Interval new) noexcept nogil:
        """Insert one interval, for which there is room, merged with what it meets."""
        cdef Py_ssize_t first, last
        if new.low >= new.high:
            return
        first = last = self._first_after(new.low)
        while last < self.n and self.intervals[last].low < new.high:
            new.low = min(new.low, self.intervals[last].low)
            new.high = max(new.high, self.intervals[last].high)
            last += 1
        memmove(&self.intervals[first + 1], &self.intervals[last],
                (self.n - last) * sizeof(Interval))
        self.intervals[first] = new
        self.n += 1 - (last - first)

    cdef void _merge(self, const Interval *new, Py_ssize_t n_new) noexcept nogil:
        """Merge sorted intervals, for which there is room, in one pass."""
        cdef Py_ssize_t k = 0, n_old = self.n, n = 0
        cdef Interval *old = self.intervals + n_new
        memmove(old, self.intervals, n_old * sizeof(Interval))
        # As many places are free before `old` as intervals of `new` are left.
        while k < n_new or n_old > 0:
            if n_old > 0 and (k == n_new or old.low <= new[k].low):
                n = _append(self.intervals, n, old[0])
                old += 1
                n_old -= 1
            else:
                n = _append(self.intervals, n, new[k])
                k += 1
        self.n = n

    def add(self, size_t low, size_t high):
        """Add [low, high), merged with what it meets."""
        self._reserve(self.n + 1)
        self._insert(Interval(low, high))

    def add_all(self, list bounds):
        """Add many ranges (low, high), each merged with what it meets.

        A few are inserted and many are merged in one pass, so that any number of calls
        with any number of ranges takes little more than linear time. After an error
        nothing has been added.
        """
        cdef Py_ssize_t n_new = len(bounds), k
        cdef Interval *new
        if n_new * FEW < self.n:
            self._reserve(self.n + n_new)
            checked = [(<size_t> low, <size_t> high) for low, high in bounds]
            for low, high in checked:
                self._insert(Interval(low, high))
            return
        if n_new == 0:
            return
        new = <Interval *> malloc(n_new * sizeof(Interval))
        if new == NULL:
            raise MemoryError
        try:
            for k, (low, high) in enumerate(sorted(bounds)):
                new[k] = Interval(low, high)
            self._reserve(self.n + n_new)
            self._merge(new, n_new)
        finally:
            free(new)

    def may_touch(self, size_t low, size_t high):
        """Return whether any address in [low, high) is taken."""
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
    """Return the addresses that the elements of a NumPy array are between."""
    cdef const char *low
    cdef const char *high
    find_bounds(array, &low, &high)
    return <size_t> low, <size_t> high
