# The loops of the header over contiguous spans, and the loops of the norm. Each
# _loops_<isa>.pyx compiles this text with the compiler flags of its instruction set.
# dispatch imports one of them and takes its `spans` table. The loop over rows of the
# header is not used: the loop here prefetches and follows strides. _tasks sums
# duplicates, because it knows layouts and divides frequent rows among threads.

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t

from rmsprop_fast.cpu._spans cimport (
    CACHE_LINE, F32, F64, NORM_LANES, RMSPROP_PREFETCH, SPANS_VERSION, Coef, Rows, Spans,
    missed_steps, prefetch_line, slots_at,
)
from rmsprop_fast.header cimport (
    RMSPROP_CENTERED, RMSPROP_FOR_VARIANT, RMSPROP_MOMENTUM, RMSPROP_N_SLOTS,
    RMSPROP_SLOT_MG, RMSPROP_SLOT_MOM, RMSPROP_SLOT_RMS,
    rmsprop_catch_up_variant_span_f32, rmsprop_catch_up_variant_span_f64,
    rmsprop_coef_f32, rmsprop_coef_f64, rmsprop_grad_span_f32, rmsprop_grad_span_f64,
    rmsprop_idle_steps_f32, rmsprop_idle_steps_f64, rmsprop_span_f32, rmsprop_span_f64,
    rmsprop_variant_span_f32, rmsprop_variant_span_f64,
)

# Every loop has one text for all dtypes.
ctypedef fused real:
    float
    double


# --- Elements that are side by side ---------------------------------------------------


cdef void update(
    real *param, const real *grad, real **slots, Py_ssize_t n, const Coef *coef,
    int variant,
) noexcept nogil:
    if real is float:
        rmsprop_variant_span_f32(param, grad, slots, n, coef.f32, variant)
    else:
        rmsprop_variant_span_f64(param, grad, slots, n, coef.f64, variant)


cdef void catch_up(
    real *param, real **slots, Py_ssize_t n, const Coef *coef, int64_t steps, int variant,
) noexcept nogil:
    if real is float:
        rmsprop_catch_up_variant_span_f32(
            param, slots, n, rmsprop_idle_steps_f32(coef.idle_f32, steps), variant)
    else:
        rmsprop_catch_up_variant_span_f64(
            param, slots, n, rmsprop_idle_steps_f64(coef.idle_f64, steps), variant)


cdef void clip(
    real *out, const real *grad, Py_ssize_t n, const Coef *coef,
) noexcept nogil:
    if real is float:
        rmsprop_grad_span_f32(out, grad, n, coef.f32, False)
    else:
        rmsprop_grad_span_f64(out, grad, n, coef.f64, False)


cdef void add_clipped(
    real *out, const real *grad, Py_ssize_t n, const Coef *coef,
) noexcept nogil:
    if real is float:
        rmsprop_grad_span_f32(out, grad, n, coef.f32, True)
    else:
        rmsprop_grad_span_f64(out, grad, n, coef.f64, True)


# --- Rows of a table ------------------------------------------------------------------


cdef inline void _update_line(
    real *param, const real *values, real *rms, real *mg, real *mom, Py_ssize_t n,
    rmsprop_coef_f32 f32, rmsprop_coef_f64 f64, const int variant,
) noexcept nogil:
    if real is float:
        rmsprop_span_f32(param, values, rms, mg, mom, n, f32, variant)
    else:
        rmsprop_span_f64(param, values, rms, mg, mom, n, f64, variant)


cdef inline void _update_row(
    const Rows *r, Py_ssize_t k, Py_ssize_t next, real *param, rmsprop_coef_f32 f32,
    rmsprop_coef_f64 f64, const int variant,
) noexcept nogil:
    """Update occurrence k's row, line by line, asking for a line of `next` at each.

    All prefetches at once would fill the core's queue of misses and then leave it
    empty while it computes: 6 to 9 % slower.
    """
    cdef Py_ssize_t line = CACHE_LINE // <Py_ssize_t> sizeof(real), i = 0
    cdef Py_ssize_t slot = r.occurrences[k].row * r.slot_stride
    cdef const real *values = (
        <const real *> (r.values + r.occurrences[k].position * r.values_stride))
    cdef real *rms = <real *> (r.slots[RMSPROP_SLOT_RMS] + slot)
    cdef real *mg = NULL
    cdef real *mom = NULL
    if variant & RMSPROP_CENTERED:
        mg = <real *> (r.slots[RMSPROP_SLOT_MG] + slot)
    if variant & RMSPROP_MOMENTUM:
        mom = <real *> (r.slots[RMSPROP_SLOT_MOM] + slot)
    while i + line <= r.width:
        prefetch_line(r, next, i * sizeof(real), variant)
        _update_line(
            param + i, values + i, rms + i, mg + i if variant & RMSPROP_CENTERED else NULL,
            mom + i if variant & RMSPROP_MOMENTUM else NULL, line, f32, f64, variant)
        i += line
    if i < r.width:
        prefetch_line(r, next, i * sizeof(real), variant)
        _update_line(
            param + i, values + i, rms + i, mg + i if variant & RMSPROP_CENTERED else NULL,
            mom + i if variant & RMSPROP_MOMENTUM else NULL, r.width - i, f32, f64,
            variant)
    # A row need not begin at a line's start.
    prefetch_line(r, next, r.slot_stride - 1, variant)


cdef inline void _make_up(
    const Rows *r, Py_ssize_t k, Py_ssize_t next, real *param, const Coef *coef,
    const int variant,
) noexcept nogil:
    """Apply the missed steps of the row of occurrence k, and count the next step."""
    cdef Py_ssize_t row = r.occurrences[k].row
    cdef int64_t steps = missed_steps(&r.counts, row, coef)
    cdef char *slots[RMSPROP_N_SLOTS]
    RMSPROP_PREFETCH(&r.counts.row[r.occurrences[next].row])
    if steps > 0:
        slots_at(r.slots, row * r.slot_stride, slots)
        catch_up(param, <real **> slots, r.width, coef, steps, variant)
    r.counts.row[row] = r.counts.steps[0] + 1


cdef inline void _update_rows(
    const Rows *rows, const Coef *coef, real *param, const int variant,
) noexcept nogil:
    """Called with a literal variant: one text, a vectorised loop for each."""
    cdef rmsprop_coef_f32 f32 = coef.f32
    cdef rmsprop_coef_f64 f64 = coef.f64
    cdef Rows r = rows[0]
    cdef real *row
    cdef Py_ssize_t k, next
    for k in range(r.n):
        next = min(k + r.ahead, r.n_known - 1)
        row = <real *> (<char *> param + r.occurrences[k].row * r.param_stride)
        if r.counts.row != NULL:
            _make_up(&r, k, next, row, coef, variant)
        _update_row(&r, k, next, row, f32, f64, variant)


cdef void update_rows_f32(
    const Rows *rows, const Coef *coef, int variant,
) noexcept nogil:
    RMSPROP_FOR_VARIANT(
        variant, _update_rows[float], rows, coef, <float *> rows.param)


cdef void update_rows_f64(
    const Rows *rows, const Coef *coef, int variant,
) noexcept nogil:
    RMSPROP_FOR_VARIANT(
        variant, _update_rows[double], rows, coef, <double *> rows.param)


# --- Reductions -----------------------------------------------------------------------


cdef inline double _fold(double *lanes) noexcept nogil:
    """Add lane j + width to lane j for width 16, 8, 4, 2, 1: the specified order."""
    cdef Py_ssize_t lane, width = NORM_LANES // 2
    while width > 0:
        for lane in range(width):
            lanes[lane] += lanes[lane + width]
        width //= 2
    return lanes[0]


cdef double sum_of_squares(const real *grad, Py_ssize_t n) noexcept nogil:
    cdef double[NORM_LANES] lanes
    cdef double x
    cdef Py_ssize_t i, lane, whole = n - n % NORM_LANES
    for lane in range(NORM_LANES):
        lanes[lane] = 0
    for i in range(n // NORM_LANES):
        for lane in range(NORM_LANES):
            x = grad[i * NORM_LANES + lane]
            lanes[lane] += x * x
    for i in range(whole, n):
        x = grad[i]
        lanes[i - whole] += x * x
    return _fold(lanes)


cdef double count_nonfinite(const real *grad, Py_ssize_t n) noexcept nogil:
    # As wide as an element: vectorised.
    cdef int narrow = 0
    cdef int64_t wide = 0
    cdef Py_ssize_t i
    for i in range(n):
        if real is float:
            narrow += grad[i] - grad[i] != 0  # infinity minus itself is not a number
        else:
            wide += grad[i] - grad[i] != 0
    return narrow + wide


# --- The table ------------------------------------------------------------------------

ctypedef void (*UpdateSpan)(
    char *, const char *, char *const *, Py_ssize_t, const Coef *, int) noexcept nogil
ctypedef void (*CatchUpSpan)(
    char *, char *const *, Py_ssize_t, const Coef *, int64_t, int) noexcept nogil
ctypedef void (*ClipSpan)(
    char *, const char *, Py_ssize_t, const Coef *) noexcept nogil
ctypedef double (*ReduceSpan)(const char *, Py_ssize_t) noexcept nogil

cdef Spans table
table.version = SPANS_VERSION
table.update = [<UpdateSpan> update[float], <UpdateSpan> update[double]]
table.update_rows = [update_rows_f32, update_rows_f64]
table.catch_up = [<CatchUpSpan> catch_up[float], <CatchUpSpan> catch_up[double]]
table.clip = [<ClipSpan> clip[float], <ClipSpan> clip[double]]
table.add_clipped = [<ClipSpan> add_clipped[float], <ClipSpan> add_clipped[double]]
table.sum_of_squares = [
    <ReduceSpan> sum_of_squares[float], <ReduceSpan> sum_of_squares[double]]
table.count_nonfinite = [
    <ReduceSpan> count_nonfinite[float], <ReduceSpan> count_nonfinite[double]]

spans = PyCapsule_New(<void *> &table, "rmsprop_fast.cpu.spans", NULL)
