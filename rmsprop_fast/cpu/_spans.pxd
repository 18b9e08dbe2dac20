# The table of serial loops; there is one table per instruction set, see _loops.pxi.

from libc.stdint cimport int64_t

from rmsprop_fast.cpu._sort cimport Occurrence32
from rmsprop_fast.header cimport (
    RMSPROP_FOR_SLOTS, RMSPROP_N_SLOTS, rmsprop_coef_f32, rmsprop_coef_f64,
    rmsprop_coef_make_f32, rmsprop_coef_make_f64, rmsprop_idle_f32, rmsprop_idle_f64,
    rmsprop_idle_powers_f32, rmsprop_idle_powers_f64, rmsprop_missed_steps,
)

cdef enum:
    SPANS_VERSION = 4
    # The shape of the reduction is part of the specified result: a norm adds the sums of
    # its blocks in order, and a block adds its elements in 32 interleaved lanes.
    NORM_BLOCK = 4096
    NORM_LANES = 32

cdef enum:  # index into each pair of functions, and of a task's dtype
    F32 = 0
    F64 = 1
    N_DTYPES = 2

# Not from the .pxd of NumPy: the loops would then import NumPy.
cdef extern from "numpy/ndarraytypes.h" nogil:
    enum:
        NPY_FLOAT
        NPY_DOUBLE

# A row of the table of dtypes: the NumPy type number and the bytes of an element, for a
# parameter and its gradient, and for a slot.
ctypedef struct Dtype:
    int param_typenum
    Py_ssize_t param_size
    int state_typenum
    Py_ssize_t state_size


cdef inline Dtype dtype_row(int dtype) noexcept nogil:
    """Return the row of the table of dtypes for the dtype of a task."""
    if dtype == F32:
        return Dtype(NPY_FLOAT, sizeof(float), NPY_FLOAT, sizeof(float))
    return Dtype(NPY_DOUBLE, sizeof(double), NPY_DOUBLE, sizeof(double))


cdef inline int dtype_of(int typenum) noexcept nogil:
    """Return the dtype of parameters with this NumPy type number, or -1."""
    cdef int dtype
    for dtype in range(N_DTYPES):
        if dtype_row(dtype).param_typenum == typenum:
            return dtype
    return -1


cdef inline Py_ssize_t param_size(int dtype) noexcept nogil:
    return dtype_row(dtype).param_size


cdef inline Py_ssize_t state_size(int dtype) noexcept nogil:
    return dtype_row(dtype).state_size


# A step's scalars in either dtype; a span reads the one it was compiled for.
ctypedef struct Coef:
    rmsprop_coef_f32 f32
    rmsprop_coef_f64 f64
    # The factors of missed steps, for as many as `most_steps`; NULL: no row is counted.
    const rmsprop_idle_f32 *idle_f32
    const rmsprop_idle_f64 *idle_f64
    int64_t most_steps


cdef inline Coef coef_make(
    double lr, double rho, double momentum, double epsilon, double decay_factor,
    double clip,
) noexcept nogil:
    """Return the scalars in both dtypes; a gradient has its own scale."""
    cdef Coef coef
    coef.f32 = rmsprop_coef_make_f32(lr, rho, momentum, epsilon, decay_factor, 1, clip)
    coef.f64 = rmsprop_coef_make_f64(lr, rho, momentum, epsilon, decay_factor, 1, clip)
    coef.idle_f32 = NULL
    coef.idle_f64 = NULL
    coef.most_steps = 0
    return coef


cdef inline void prepare_powers(
    Coef *coef, rmsprop_idle_f32 *f32, rmsprop_idle_f64 *f64, int64_t most_steps,
) noexcept nogil:
    """Give `coef` the factors of up to that many missed steps: room for 63 of each."""
    coef.most_steps = max(most_steps, <int64_t> 0)
    rmsprop_idle_powers_f32(f32, coef.f32, coef.most_steps)
    rmsprop_idle_powers_f64(f64, coef.f64, coef.most_steps)
    coef.idle_f32 = f32
    coef.idle_f64 = f64


# How many steps a variable has made, how many of them every row has, and how many a
# row has. The larger of the last two counts, so a dense step need not write them all.
ctypedef struct Counts:
    int64_t *steps      # one of a variable, shared with slots.py
    int64_t *all_rows   # likewise
    int64_t *row        # one for each row; NULL: rows are not counted


cdef inline int64_t missed_steps(
    const Counts *counts, Py_ssize_t row, const Coef *coef,
) noexcept nogil:
    """Return how many steps a row has yet to catch up, as far as there are factors."""
    return min(
        rmsprop_missed_steps(counts.steps[0], counts.all_rows[0], counts.row[row]),
        coef.most_steps)


cdef inline void slots_at(
    char *const *slots, Py_ssize_t offset, char **out,
) noexcept nogil:
    """Fill `out` with the addresses `offset` bytes into the slots, NULL if absent."""
    cdef int k
    for k in range(RMSPROP_N_SLOTS):
        out[k] = slots[k] + offset if slots[k] != NULL else NULL


# Rows to update, each from one row of values; each row is one aligned run.
ctypedef struct Rows:
    char *param
    const char *values
    char *slots[RMSPROP_N_SLOTS]
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


cdef inline void prefetch_slot(
    const Rows *r, Py_ssize_t offset, const int slot,
) noexcept nogil:
    RMSPROP_PREFETCH(r.slots[slot] + offset)


cdef inline void prefetch_line(
    const Rows *r, Py_ssize_t k, Py_ssize_t offset, const int variant,
) noexcept nogil:
    """Ask for what occurrence k will need `offset` bytes into its row."""
    cdef Py_ssize_t row = r.occurrences[k].row
    RMSPROP_PREFETCH(r.values + r.occurrences[k].position * r.values_stride + offset)
    RMSPROP_PREFETCH(r.param + row * r.param_stride + offset)
    RMSPROP_FOR_SLOTS(variant, prefetch_slot, r, row * r.slot_stride + offset)


cdef inline void prefetch_row(
    const Rows *r, Py_ssize_t k, const int variant,
) noexcept nogil:
    """Ask for all that occurrence k will need."""
    cdef Py_ssize_t offset = 0
    while offset < r.slot_stride:
        prefetch_line(r, k, offset, variant)
        offset += CACHE_LINE
    # A row need not begin at a line's start.
    prefetch_line(r, k, r.slot_stride - 1, variant)
    if r.counts.row != NULL:
        RMSPROP_PREFETCH(&r.counts.row[r.occurrences[k].row])


# All arrays are contiguous, aligned runs of n elements that do not overlap.
ctypedef struct Spans:
    int version
    # The formula, in place on param and the variant's slots; grad is raw.
    void (*update[N_DTYPES])(
        char *param, const char *grad, char *const *slots, Py_ssize_t n,
        const Coef *coef, int variant) noexcept nogil
    # The same for rows that occur once.
    void (*update_rows[N_DTYPES])(
        const Rows *rows, const Coef *coef, int variant) noexcept nogil
    # out = the scaled and clipped gradient.
    void (*clip[N_DTYPES])(
        char *out, const char *grad, Py_ssize_t n, const Coef *coef) noexcept nogil
    # out += the scaled and clipped gradient.
    void (*add_clipped[N_DTYPES])(
        char *out, const char *grad, Py_ssize_t n, const Coef *coef) noexcept nogil
    # The sum of squares of one block, n <= NORM_BLOCK, in double.
    double (*sum_of_squares[N_DTYPES])(const char *grad, Py_ssize_t n) noexcept nogil
    # How many elements of one block are infinite or not a number.
    double (*count_nonfinite[N_DTYPES])(const char *grad, Py_ssize_t n) noexcept nogil
    # So many steps with a gradient of zero.
    void (*catch_up[N_DTYPES])(
        char *param, char *const *slots, Py_ssize_t n, const Coef *coef, int64_t steps,
        int variant) noexcept nogil

# The table in use.
cdef const Spans *spans
