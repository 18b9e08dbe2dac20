"""The rows of a row-sparse gradient: copied, checked, and put in order.

All threads sort together when there are many rows. Each thread takes a range of rows; all
ranges have about the same number of occurrences. The thread sorts its range in the place
that the range has in the result, and later updates these rows. So it reads occurrences
that its own core wrote: to get them from another core would take longer than the sort.
"""

cimport numpy as cnp
from cython.parallel cimport parallel, threadid
from libc.stdint cimport (
    UINT32_MAX, int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t,
)
from libc.string cimport memcpy, memset

cdef extern from "rmsprop_fast/cpu/_platform.h" nogil:
    int rmsprop_team()

cdef enum:
    DIGIT_BITS = 11        # 2,048 counters are 16 KiB: half of a first-level cache
    SMALL = 32             # at most this many are insertion-sorted: nothing to clear
    SERIAL_BELOW = 2048    # fewer are sorted before another thread has started
    BLOCK = 256            # indices read at once, onto the stack

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

# What one thread sorts: the occurrences of rows [row, row_end), which the sorted whole
# has at [begin, end).
cdef struct Share:
    uint64_t row
    uint64_t row_end
    Py_ssize_t begin
    Py_ssize_t end
    bint is_full           # as many were found as had been counted
    const void *occurrences  # sorted


cdef bint is_wide(Py_ssize_t n, Py_ssize_t n_rows) noexcept nogil:
    return n > UINT32_MAX or n_rows > UINT32_MAX


cdef Py_ssize_t sort_bytes(const Indices *indices, int n_threads) noexcept nogil:
    cdef Py_ssize_t item = sizeof(Occurrence32)
    if is_wide(indices.n, indices.n_rows):
        item = sizeof(Occurrence64)
    return 2 * item * indices.n + n_threads * sizeof(Share)


cdef inline int _bits(Py_ssize_t n_rows) noexcept nogil:
    """Return how many bits a row number has; 0 where there is one row, or none."""
    cdef int bits = 0
    cdef Py_ssize_t last = max(n_rows, <Py_ssize_t> 1) - 1  # of -1 no shift is 0
    while last >> bits:
        bits += 1
    return bits


# --- Reading the indices --------------------------------------------------------------


cdef void _widen(
    const char *data, Py_ssize_t stride, Py_ssize_t n, uint64_t *rows, Integer _,
) noexcept nogil:
    cdef Integer index
    cdef Py_ssize_t k
    for k in range(n):
        # memcpy: one load, of an address that need not be aligned.
        memcpy(&index, data + k * stride, sizeof(Integer))
        rows[k] = <uint64_t> index  # a negative index becomes a huge row: out of range


cdef Py_ssize_t _read(
    const Indices *indices, Py_ssize_t start, uint64_t *rows,
) noexcept nogil:
    """Read up to BLOCK indices from `start`; returns how many, or -1: out of range."""
    cdef Py_ssize_t n = min(indices.n - start, <Py_ssize_t> BLOCK), k
    cdef Py_ssize_t stride = indices.stride
    cdef const char *data = indices.data + start * stride
    cdef int typenum = indices.typenum
    cdef bint in_range = True
    # NumPy has more type numbers than sizes (long, long long): decide by both.
    if typenum == cnp.NPY_BYTE:
        _widen(data, stride, n, rows, <int8_t> 0)
    elif typenum == cnp.NPY_UBYTE:
        _widen(data, stride, n, rows, <uint8_t> 0)
    elif typenum == cnp.NPY_SHORT:
        _widen(data, stride, n, rows, <int16_t> 0)
    elif typenum == cnp.NPY_USHORT:
        _widen(data, stride, n, rows, <uint16_t> 0)
    elif typenum == cnp.NPY_INT or (typenum == cnp.NPY_LONG and sizeof(long) == 4):
        _widen(data, stride, n, rows, <int32_t> 0)
    elif typenum == cnp.NPY_UINT or (typenum == cnp.NPY_ULONG and sizeof(long) == 4):
        _widen(data, stride, n, rows, <uint32_t> 0)
    elif typenum == cnp.NPY_LONG or typenum == cnp.NPY_LONGLONG:
        _widen(data, stride, n, rows, <int64_t> 0)
    else:
        _widen(data, stride, n, rows, <uint64_t> 0)
    for k in range(n):
        in_range &= rows[k] < <uint64_t> indices.n_rows
    return n if in_range else -1


cdef inline void _set(Occurrence *out, uint64_t row, Py_ssize_t position) noexcept nogil:
    if Occurrence is Occurrence32:
        out.row = <uint32_t> row
        out.position = <uint32_t> position
    else:
        out.row = row
        out.position = <uint64_t> position


# --- Sorting on one thread ------------------------------------------------------------

cdef enum Order:
    OUT_OF_RANGE
    ASCENDING
    MIXED


cdef Order _copy(const Indices *indices, Occurrence *out) noexcept nogil:
    cdef uint64_t[BLOCK] rows
    cdef uint64_t previous = 0
    cdef bint ascending = True
    cdef Py_ssize_t start = 0, k, n
    while start < indices.n:
        n = _read(indices, start, rows)
        if n < 0:
            return OUT_OF_RANGE
        for k in range(n):
            ascending &= rows[k] >= previous
            previous = rows[k]
            _set(&out[start + k], rows[k], start + k)
        start += n
    return ASCENDING if ascending else MIXED


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
    """Sort from the least significant digit up; each pass keeps equal digits in order.

    The result is in a or in b, which depends on n_rows alone.
    """
    cdef Py_ssize_t[1 << DIGIT_BITS] ends
    cdef int row_bits = _bits(n_rows), n_passes, bits, shift = 0
    cdef Py_ssize_t k, total, count
    cdef uint64_t mask, digit
    cdef Occurrence *swap
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


cdef const void *_sort_alone(const Indices *indices, Occurrence *a) noexcept nogil:
    cdef Order order = _copy(indices, a)
    if order == OUT_OF_RANGE:
        return NULL
    if order == ASCENDING:
        return a
    if indices.n <= SMALL:
        _insertion_sort(a, indices.n)
        return a
    return _radix_sort(a, a + indices.n, indices.n, indices.n_rows)


# --- Sorting on all threads -----------------------------------------------------------


cdef Order _divide(const Indices *indices, Share *shares, int n_shares) noexcept nogil:
    """Divide the rows into ranges with about equal numbers of occurrences."""
    cdef Py_ssize_t[1 << DIGIT_BITS] counts
    cdef uint64_t[BLOCK] rows
    cdef uint64_t previous = 0
    cdef bint ascending = True
    cdef int shift = max(0, _bits(indices.n_rows) - DIGIT_BITS), share
    cdef Py_ssize_t start = 0, k, n, total = 0
    memset(counts, 0, sizeof(counts))
    while start < indices.n:
        n = _read(indices, start, rows)
        if n < 0:
            return OUT_OF_RANGE
        for k in range(n):
            ascending &= rows[k] >= previous
            previous = rows[k]
            counts[rows[k] >> shift] += 1
        start += n
    k = 0
    for share in range(n_shares):
        shares[share].row = <uint64_t> k << shift
        shares[share].begin = total
        while k < 1 << DIGIT_BITS and total < indices.n * (share + 1) // n_shares:
            total += counts[k]
            k += 1
        shares[share].row_end = <uint64_t> k << shift
        shares[share].end = total
    return ASCENDING if ascending else MIXED


cdef bint _collect(
    const Indices *indices, const Share *share, Occurrence *out,
) noexcept nogil:
    """Copy a share's occurrences; False: not as many as were counted."""
    cdef uint64_t[BLOCK] rows
    cdef Occurrence[BLOCK] found
    cdef uint64_t n_rows = share.row_end - share.row
    cdef Py_ssize_t start = 0, k, n, n_found, room = share.end - share.begin
    while start < indices.n:
        n = _read(indices, start, rows)
        n_found = 0
        for k in range(n):
            _set(&found[n_found], rows[k], start + k)
            n_found += rows[k] - share.row < n_rows  # no branch: it is unpredictable
        if n < 0 or n_found > room:
            return False
        memcpy(out, found, n_found * sizeof(Occurrence))
        out += n_found
        room -= n_found
        start += n
    return room == 0


cdef void _sort_share(
    const Indices *indices, Share *share, Occurrence *a, bint ascending,
) noexcept nogil:
    a += share.begin
    share.is_full = _collect(indices, share, a)
    share.occurrences = a
    if share.is_full and not ascending:
        share.occurrences = _radix_sort(
            a, a + indices.n, share.end - share.begin, indices.n_rows)


cdef const void *_sort_together(
    const Indices *indices, Occurrence *a, int n_threads,
) noexcept nogil:
    cdef Share *shares = <Share *> (a + 2 * indices.n)
    cdef Order order = _divide(indices, shares, n_threads)
    cdef int share
    if order == OUT_OF_RANGE:
        return NULL
    with parallel(num_threads=n_threads):
        share = threadid()
        while share < n_threads:  # a team may be smaller than was asked for
            _sort_share(indices, &shares[share], a, order == ASCENDING)
            share = share + rmsprop_team()
    for share in range(n_threads):
        if not shares[share].is_full:  # somebody is changing the indices
            return _sort_alone(indices, a)
    return shares[0].occurrences  # which begin where the whole begins


# --- Either ---------------------------------------------------------------------------


cdef const void *_sort(
    const Indices *indices, Occurrence *a, int n_threads,
) noexcept nogil:
    if n_threads == 1 or indices.n < SERIAL_BELOW:
        return _sort_alone(indices, a)
    return _sort_together(indices, a, n_threads)


cdef const void *sort_rows(
    const Indices *indices, void *memory, int n_threads,
) noexcept nogil:
    if is_wide(indices.n, indices.n_rows):
        return _sort(indices, <Occurrence64 *> memory, n_threads)
    return _sort(indices, <Occurrence32 *> memory, n_threads)
