"""The rows of a row-sparse gradient: copied, checked, and put in order."""

cimport numpy as cnp
from libc.stdint cimport (
    UINT32_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.string cimport memcpy, memset

cdef enum:
    DIGIT_BITS = 11  # 2,048 counters are 16 KiB: half of a first-level cache
    SMALL = 32       # at most this many are insertion-sorted: no counters to clear

cdef fused Integer:
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t

cdef fused Occurrence:
    Occurrence32
    Occurrence64


cdef bint is_wide(Py_ssize_t n, Py_ssize_t n_rows) noexcept nogil:
    return n > UINT32_MAX or n_rows > UINT32_MAX


cdef Py_ssize_t occurrence_size(Py_ssize_t n, Py_ssize_t n_rows) noexcept nogil:
    return sizeof(Occurrence64) if is_wide(n, n_rows) else sizeof(Occurrence32)


cdef Py_ssize_t _copy(
    const char *indices, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t n_rows,
    Occurrence *out, Integer _,
) noexcept nogil:
    cdef Integer index
    cdef uint64_t row, previous = 0
    cdef bint ascending = True
    cdef Py_ssize_t k
    for k in range(n):
        # memcpy: one load, of an address that need not be aligned.
        memcpy(&index, indices + k * stride, sizeof(Integer))
        row = <uint64_t> index  # a negative index becomes a huge row: out of range
        if row >= <uint64_t> n_rows:
            return k
        ascending &= row >= previous
        previous = row
        if Occurrence is Occurrence32:
            out[k].row = <uint32_t> row
            out[k].position = <uint32_t> k
        else:
            out[k].row = row
            out[k].position = <uint64_t> k
    return -1 if ascending else -2


cdef Py_ssize_t _copy_typed(
    const char *indices, Py_ssize_t stride, int typenum, Py_ssize_t n,
    Py_ssize_t n_rows, Occurrence *out,
) noexcept nogil:
    # NumPy has more type numbers than sizes (long, long long): decide by both.
    if typenum == cnp.NPY_BYTE:
        return _copy(indices, stride, n, n_rows, out, <int8_t> 0)
    if typenum == cnp.NPY_UBYTE:
        return _copy(indices, stride, n, n_rows, out, <uint8_t> 0)
    if typenum == cnp.NPY_SHORT:
        return _copy(indices, stride, n, n_rows, out, <int16_t> 0)
    if typenum == cnp.NPY_USHORT:
        return _copy(indices, stride, n, n_rows, out, <uint16_t> 0)
    if typenum == cnp.NPY_INT or (typenum == cnp.NPY_LONG and sizeof(long) == 4):
        return _copy(indices, stride, n, n_rows, out, <int32_t> 0)
    if typenum == cnp.NPY_UINT or (typenum == cnp.NPY_ULONG and sizeof(long) == 4):
        return _copy(indices, stride, n, n_rows, out, <uint32_t> 0)
    if typenum == cnp.NPY_LONG or typenum == cnp.NPY_LONGLONG:
        return _copy(indices, stride, n, n_rows, out, <int64_t> 0)
    return _copy(indices, stride, n, n_rows, out, <uint64_t> 0)


cdef Py_ssize_t copy_rows(
    const char *indices, Py_ssize_t stride, int typenum, Py_ssize_t n,
    Py_ssize_t n_rows, void *out,
) noexcept nogil:
    if is_wide(n, n_rows):
        return _copy_typed(indices, stride, typenum, n, n_rows, <Occurrence64 *> out)
    return _copy_typed(indices, stride, typenum, n, n_rows, <Occurrence32 *> out)


cdef void _insertion_sort(Occurrence *a, Py_ssize_t n) noexcept nogil:
    cdef Occurrence moved
    cdef Py_ssize_t i, j
    for i in range(1, n):
        moved = a[i]
        j = i
        while j > 0 and a[j - 1].row > moved.row:
            a[j] = a[j - 1]
            j -= 1
        a[j] = moved


cdef Occurrence *_radix_sort(
    Occurrence *a, Occurrence *b, Py_ssize_t n, Py_ssize_t n_rows,
) noexcept nogil:
    """Sort from the least significant digit up; each pass keeps equal digits in order."""
    cdef Py_ssize_t[1 << DIGIT_BITS] ends
    cdef int row_bits = 0, n_passes, bits, shift = 0
    cdef Py_ssize_t k, total, count
    cdef uint64_t mask, digit
    cdef Occurrence *swap
    while (n_rows - 1) >> row_bits:
        row_bits += 1
    n_passes = (row_bits + DIGIT_BITS - 1) // DIGIT_BITS
    if n_passes == 0:
        return a
    bits = (row_bits + n_passes - 1) // n_passes  # equal digits: the fewest counters
    mask = (<uint64_t> 1 << bits) - 1
    while shift < n_passes * bits:
        memset(ends, 0, (mask + 1) * sizeof(Py_ssize_t))
        for k in range(n):
            ends[(a[k].row >> shift) & mask] += 1
        total = 0
        for k in range(<Py_ssize_t> mask + 1):
            count = ends[k]
            ends[k] = total
            total += count
        for k in range(n):
            digit = (a[k].row >> shift) & mask
            b[ends[digit]] = a[k]
            ends[digit] += 1
        swap = a
        a = b
        b = swap
        shift += bits
    return a


cdef void *_sort(
    Occurrence *a, Occurrence *b, Py_ssize_t n, Py_ssize_t n_rows,
) noexcept nogil:
    if n <= SMALL:
        _insertion_sort(a, n)
        return a
    return _radix_sort(a, b, n, n_rows)


cdef void *sort_rows(
    void *occurrences, void *scratch, Py_ssize_t n, Py_ssize_t n_rows,
) noexcept nogil:
    if is_wide(n, n_rows):
        return _sort(<Occurrence64 *> occurrences, <Occurrence64 *> scratch, n, n_rows)
    return _sort(<Occurrence32 *> occurrences, <Occurrence32 *> scratch, n, n_rows)
