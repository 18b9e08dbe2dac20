# The table of serial loops that each ISA's copy of _loops.pxi hands over.

from libc.stdint cimport int64_t

from rmsprop_fast.cpu._sort cimport Occurrence32
from rmsprop_fast.header cimport (
    rmsprop_coef_f32, rmsprop_coef_f64, rmsprop_idle_f32, rmsprop_idle_f64,
)

cdef enum:
    SPANS_VERSION = 3
    # The reduction's shape is part of the specified result: a norm adds its blocks'
    # sums in order, and a block adds its elements in 32 interleaved lanes.
    NORM_BLOCK = 4096
    NORM_LANES = 32

cdef enum:  # bits of a variant
    CENTERED = 1
    MOMENTUM = 2
    EPS_IN_SQRT = 4

cdef enum:  # index into each pair of functions, and of a task's dtype
    F32 = 0
    F64 = 1

# A step's scalars in either dtype; a span reads the one it was compiled for.
ctypedef struct Coef:
    rmsprop_coef_f32 f32
    rmsprop_coef_f64 f64
    const rmsprop_idle_f32 *idle_f32  # what rows catch up by; NULL: no row is counted
    const rmsprop_idle_f64 *idle_f64

# How many steps a variable has made, how many of them every row has, and how many a
# row has. The larger of the last two counts, so a dense step need not write them all.
ctypedef struct Counts:
    int64_t *steps      # one of a variable, shared with slots.py
    int64_t *all_rows   # likewise
    int64_t *row        # one for each row; NULL: rows are not counted


cdef inline char *slot_at(char *slot, Py_ssize_t offset) noexcept nogil:
    """Return the address `offset` bytes into a slot, which may be absent."""
    return slot + offset if slot != NULL else NULL


cdef inline int64_t missed_steps(const Counts *counts, Py_ssize_t row) noexcept nogil:
    """Return how many steps a row has yet to catch up."""
    return counts.steps[0] - max(counts.row[row], counts.all_rows[0])


# Rows to update, each from one row of values; each row is one aligned run.
ctypedef struct Rows:
    char *param
    const char *values
    char *rms
    char *mg
    char *mom
    Py_ssize_t width              # elements per row
    Py_ssize_t param_stride       # bytes from row to row of param
    Py_ssize_t values_stride
    Py_ssize_t slot_stride        # the bytes of a row
    const Occurrence32 *occurrences
    Py_ssize_t n                  # rows to update
    Py_ssize_t n_known            # occurrences that may be prefetched, >= n
    Py_ssize_t ahead              # how many ahead to prefetch
    Counts counts

cdef extern from "rmsprop_fast/cpu/_platform.h" nogil:
    void RMSPROP_PREFETCH(const void *address)

cdef enum:
    CACHE_LINE = 64  # bytes


cdef inline void prefetch(const char *start, Py_ssize_t n_bytes) noexcept nogil:
    """Ask for every line of a row; it need not begin at a line's start."""
    cdef Py_ssize_t offset = 0
    while offset < n_bytes:
        RMSPROP_PREFETCH(start + offset)
        offset += CACHE_LINE
    RMSPROP_PREFETCH(start + n_bytes - 1)


cdef inline void prefetch_line(
    const Rows *r, Py_ssize_t k, Py_ssize_t offset, const bint centered,
    const bint momentum,
) noexcept nogil:
    """Ask for what occurrence k will need `offset` bytes into its row."""
    cdef Py_ssize_t row = r.occurrences[k].row
    cdef Py_ssize_t slot = row * r.slot_stride + offset
    RMSPROP_PREFETCH(r.values + r.occurrences[k].position * r.values_stride + offset)
    RMSPROP_PREFETCH(r.param + row * r.param_stride + offset)
    RMSPROP_PREFETCH(r.rms + slot)
    if centered:
        RMSPROP_PREFETCH(r.mg + slot)
    if momentum:
        RMSPROP_PREFETCH(r.mom + slot)


cdef inline void prefetch_row(
    const Rows *r, Py_ssize_t k, const bint centered, const bint momentum,
) noexcept nogil:
    """Ask for all that occurrence k will need."""
    cdef Py_ssize_t offset = 0
    while offset < r.slot_stride:
        prefetch_line(r, k, offset, centered, momentum)
        offset += CACHE_LINE
    # A row need not begin at a line's start.
    prefetch_line(r, k, r.slot_stride - 1, centered, momentum)
    if r.counts.row != NULL:
        RMSPROP_PREFETCH(&r.counts.row[r.occurrences[k].row])


# All arrays are contiguous, aligned runs of n elements that do not overlap.
ctypedef struct Spans:
    int version
    # The formula, in place on param and the variant's slots; grad is raw.
    void (*update[2])(
        void *param, const void *grad, void *rms, void *mg, void *mom,
        Py_ssize_t n, const Coef *coef, int variant) noexcept nogil
    # The same for rows that occur once.
    void (*update_rows[2])(
        const Rows *rows, const Coef *coef, int variant) noexcept nogil
    # out = the scaled and clipped gradient.
    void (*take[2])(
        void *out, const void *grad, Py_ssize_t n, const Coef *coef) noexcept nogil
    # out += the scaled and clipped gradient.
    void (*add[2])(
        void *out, const void *grad, Py_ssize_t n, const Coef *coef) noexcept nogil
    # The sum of squares of one block, n <= NORM_BLOCK, in double.
    double (*sum_of_squares[2])(const void *grad, Py_ssize_t n) noexcept nogil
    # How many elements of one block are infinite or no number.
    double (*count_nonfinite[2])(const void *grad, Py_ssize_t n) noexcept nogil
    # So many steps with a zero gradient; mg and mom as the variant says.
    void (*catch_up[2])(
        void *param, void *rms, void *mg, void *mom, Py_ssize_t n, const Coef *coef,
        int64_t steps, int variant) noexcept nogil

# The table in use.
cdef const Spans *spans
