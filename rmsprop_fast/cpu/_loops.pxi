# The header's loops over contiguous spans, and the norm's. Each _loops_<isa>.pyx is this
# text under that ISA's compiler flags; dispatch imports one of them and takes its `spans`
# table. The header's loop over rows is not used: this one prefetches, follows strides,
# and leaves duplicates to _tasks, which knows layouts and splits hot rows over threads.

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t

from rmsprop_fast.cpu._spans cimport (
    CENTERED, EPS_IN_SQRT, F32, F64, MOMENTUM, NORM_LANES, RMSPROP_PREFETCH,
    SPANS_VERSION, Coef, Rows, Spans, missed_steps, prefetch_line,
)
from rmsprop_fast.header cimport (
    rmsprop_catch_up_f32, rmsprop_catch_up_f64, rmsprop_coef_f32, rmsprop_coef_f64,
    rmsprop_dense_span_f32, rmsprop_dense_span_f64, rmsprop_grad_span_f32,
    rmsprop_grad_span_f64, rmsprop_idle_f32, rmsprop_idle_f64, rmsprop_idle_steps_f32,
    rmsprop_idle_steps_f64, rmsprop_in_f32, rmsprop_in_f64, rmsprop_out_f32,
    rmsprop_out_f64,
)

cdef enum:  # elements in one line of the cache
    LINE_F32 = 16
    LINE_F64 = 8


cdef inline double fold(double *lanes) noexcept nogil:
    """Add lane j + width to lane j for width 16, 8, 4, 2, 1: the specified order."""
    cdef Py_ssize_t lane, width = NORM_LANES // 2
    while width > 0:
        for lane in range(width):
            lanes[lane] += lanes[lane + width]
        width //= 2
    return lanes[0]


cdef void update_f32(
    void *param, const void *grad, void *rms, void *mg, void *mom,
    Py_ssize_t n, const Coef *coef, int variant,
) noexcept nogil:
    cdef rmsprop_coef_f32 c = coef.f32
    cdef float *p = <float *> param
    cdef const float *g = <const float *> grad
    cdef float *r = <float *> rms
    cdef float *a = <float *> mg
    cdef float *m = <float *> mom
    if variant == 0:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, False, False, False)
    elif variant == CENTERED:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, True, False, False)
    elif variant == MOMENTUM:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, False, True, False)
    elif variant == CENTERED + MOMENTUM:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, True, True, False)
    elif variant == EPS_IN_SQRT:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, False, False, True)
    elif variant == EPS_IN_SQRT + CENTERED:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, True, False, True)
    elif variant == EPS_IN_SQRT + MOMENTUM:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, False, True, True)
    else:
        rmsprop_dense_span_f32(p, g, r, a, m, n, c, True, True, True)


cdef inline void _update_row_f32(
    const Rows *r, Py_ssize_t k, Py_ssize_t next, rmsprop_coef_f32 c,
    const bint centered, const bint momentum, const bint eps_in_sqrt,
) noexcept nogil:
    """Update occurrence k's row, line by line, asking for a line of `next` at each.

    All prefetches at once would fill the core's queue of misses and then leave it
    empty while it computes: 6 to 9 % slower.
    """
    cdef Py_ssize_t row = r.occurrences[k].row, slot = row * r.slot_stride, i = 0
    cdef float *param = <float *> (r.param + row * r.param_stride)
    cdef const float *values = (
        <const float *> (r.values + r.occurrences[k].position * r.values_stride))
    cdef float *rms = <float *> (r.rms + slot)
    cdef float *mg = <float *> (r.mg + slot) if centered else NULL
    cdef float *mom = <float *> (r.mom + slot) if momentum else NULL
    while i + LINE_F32 <= r.width:
        prefetch_line(r, next, i * sizeof(float), centered, momentum)
        rmsprop_dense_span_f32(
            param + i, values + i, rms + i, mg + i if centered else NULL,
            mom + i if momentum else NULL, LINE_F32, c, centered, momentum,
            eps_in_sqrt)
        i += LINE_F32
    if i < r.width:
        prefetch_line(r, next, i * sizeof(float), centered, momentum)
        rmsprop_dense_span_f32(
            param + i, values + i, rms + i, mg + i if centered else NULL,
            mom + i if momentum else NULL, r.width - i, c, centered, momentum,
            eps_in_sqrt)
    # A row need not begin at a line's start.
    prefetch_line(r, next, r.slot_stride - 1, centered, momentum)


cdef inline void _catch_up_f32(
    rmsprop_out_f32 param, rmsprop_out_f32 rms, rmsprop_out_f32 mg,
    rmsprop_out_f32 mom, Py_ssize_t n, const Coef *coef, int64_t steps,
    const bint centered, const bint momentum,
) noexcept nogil:
    """Called with literal flags: one text, a vectorised loop for each variant."""
    cdef rmsprop_idle_f32 idle = rmsprop_idle_steps_f32(coef.idle_f32, steps)
    cdef Py_ssize_t i
    for i in range(n):
        rmsprop_catch_up_f32(
            &param[i], &rms[i], &mg[i] if centered else NULL,
            &mom[i] if momentum else NULL, idle, centered, momentum)


cdef void catch_up_f32(
    void *param, void *rms, void *mg, void *mom, Py_ssize_t n, const Coef *coef,
    int64_t steps, int variant,
) noexcept nogil:
    cdef float *p = <float *> param
    cdef float *r = <float *> rms
    cdef float *a = <float *> mg
    cdef float *m = <float *> mom
    variant &= CENTERED + MOMENTUM
    if variant == 0:
        _catch_up_f32(p, r, a, m, n, coef, steps, False, False)
    elif variant == CENTERED:
        _catch_up_f32(p, r, a, m, n, coef, steps, True, False)
    elif variant == MOMENTUM:
        _catch_up_f32(p, r, a, m, n, coef, steps, False, True)
    else:
        _catch_up_f32(p, r, a, m, n, coef, steps, True, True)


cdef inline void _make_up_f32(
    const Rows *r, Py_ssize_t k, Py_ssize_t next, const Coef *coef, int variant,
    const bint centered, const bint momentum,
) noexcept nogil:
    """Catch up occurrence k's row, and count the step that it is about to make."""
    cdef Py_ssize_t row = r.occurrences[k].row, slot = row * r.slot_stride
    cdef int64_t steps = missed_steps(&r.counts, row)
    RMSPROP_PREFETCH(&r.counts.row[r.occurrences[next].row])
    if steps > 0:
        catch_up_f32(
            r.param + row * r.param_stride, r.rms + slot,
            r.mg + slot if centered else NULL, r.mom + slot if momentum else NULL,
            r.width, coef, steps, variant)
    r.counts.row[row] = r.counts.steps[0] + 1


cdef inline void _update_rows_f32(
    const Rows *rows, rmsprop_coef_f32 c, const Coef *coef, int variant,
    const bint centered, const bint momentum, const bint eps_in_sqrt,
) noexcept nogil:
    """Called with literal flags: one text, a vectorised loop for each variant."""
    cdef Rows r = rows[0]
    cdef Py_ssize_t k, next
    for k in range(r.n):
        next = min(k + r.ahead, r.n_known - 1)
        if r.counts.row != NULL:
            _make_up_f32(&r, k, next, coef, variant, centered, momentum)
        _update_row_f32(&r, k, next, c, centered, momentum, eps_in_sqrt)


cdef void update_rows_f32(
    const Rows *rows, const Coef *coef, int variant,
) noexcept nogil:
    cdef rmsprop_coef_f32 c = coef.f32
    if variant == 0:
        _update_rows_f32(rows, c, coef, variant, False, False, False)
    elif variant == CENTERED:
        _update_rows_f32(rows, c, coef, variant, True, False, False)
    elif variant == MOMENTUM:
        _update_rows_f32(rows, c, coef, variant, False, True, False)
    elif variant == CENTERED + MOMENTUM:
        _update_rows_f32(rows, c, coef, variant, True, True, False)
    elif variant == EPS_IN_SQRT:
        _update_rows_f32(rows, c, coef, variant, False, False, True)
    elif variant == EPS_IN_SQRT + CENTERED:
        _update_rows_f32(rows, c, coef, variant, True, False, True)
    elif variant == EPS_IN_SQRT + MOMENTUM:
        _update_rows_f32(rows, c, coef, variant, False, True, True)
    else:
        _update_rows_f32(rows, c, coef, variant, True, True, True)


cdef void take_f32(
    void *out, const void *grad, Py_ssize_t n, const Coef *coef,
) noexcept nogil:
    rmsprop_grad_span_f32(<float *> out, <const float *> grad, n, coef.f32, False)


cdef void add_f32(
    void *out, const void *grad, Py_ssize_t n, const Coef *coef,
) noexcept nogil:
    rmsprop_grad_span_f32(<float *> out, <const float *> grad, n, coef.f32, True)


cdef double sum_of_squares_f32(const void *grad, Py_ssize_t n) noexcept nogil:
    cdef rmsprop_in_f32 g = <const float *> grad
    cdef double[NORM_LANES] lanes
    cdef double x
    cdef Py_ssize_t i, lane, whole = n - n % NORM_LANES
    for lane in range(NORM_LANES):
        lanes[lane] = 0
    for i in range(n // NORM_LANES):
        for lane in range(NORM_LANES):
            x = g[i * NORM_LANES + lane]
            lanes[lane] += x * x
    for i in range(whole, n):
        x = g[i]
        lanes[i - whole] += x * x
    return fold(lanes)


cdef double count_nonfinite_f32(const void *grad, Py_ssize_t n) noexcept nogil:
    cdef rmsprop_in_f32 g = <const float *> grad
    cdef int count = 0  # as wide as an element: vectorised
    cdef Py_ssize_t i
    for i in range(n):
        count += g[i] - g[i] != 0  # infinity minus itself is no number
    return count


cdef void update_f64(
    void *param, const void *grad, void *rms, void *mg, void *mom,
    Py_ssize_t n, const Coef *coef, int variant,
) noexcept nogil:
    cdef rmsprop_coef_f64 c = coef.f64
    cdef double *p = <double *> param
    cdef const double *g = <const double *> grad
    cdef double *r = <double *> rms
    cdef double *a = <double *> mg
    cdef double *m = <double *> mom
    if variant == 0:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, False, False, False)
    elif variant == CENTERED:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, True, False, False)
    elif variant == MOMENTUM:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, False, True, False)
    elif variant == CENTERED + MOMENTUM:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, True, True, False)
    elif variant == EPS_IN_SQRT:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, False, False, True)
    elif variant == EPS_IN_SQRT + CENTERED:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, True, False, True)
    elif variant == EPS_IN_SQRT + MOMENTUM:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, False, True, True)
    else:
        rmsprop_dense_span_f64(p, g, r, a, m, n, c, True, True, True)


cdef inline void _update_row_f64(
    const Rows *r, Py_ssize_t k, Py_ssize_t next, rmsprop_coef_f64 c,
    const bint centered, const bint momentum, const bint eps_in_sqrt,
) noexcept nogil:
    """Update occurrence k's row, line by line, asking for a line of `next` at each.

    All prefetches at once would fill the core's queue of misses and then leave it
    empty while it computes: 6 to 9 % slower.
    """
    cdef Py_ssize_t row = r.occurrences[k].row, slot = row * r.slot_stride, i = 0
    cdef double *param = <double *> (r.param + row * r.param_stride)
    cdef const double *values = (
        <const double *> (r.values + r.occurrences[k].position * r.values_stride))
    cdef double *rms = <double *> (r.rms + slot)
    cdef double *mg = <double *> (r.mg + slot) if centered else NULL
    cdef double *mom = <double *> (r.mom + slot) if momentum else NULL
    while i + LINE_F64 <= r.width:
        prefetch_line(r, next, i * sizeof(double), centered, momentum)
        rmsprop_dense_span_f64(
            param + i, values + i, rms + i, mg + i if centered else NULL,
            mom + i if momentum else NULL, LINE_F64, c, centered, momentum,
            eps_in_sqrt)
        i += LINE_F64
    if i < r.width:
        prefetch_line(r, next, i * sizeof(double), centered, momentum)
        rmsprop_dense_span_f64(
            param + i, values + i, rms + i, mg + i if centered else NULL,
            mom + i if momentum else NULL, r.width - i, c, centered, momentum,
            eps_in_sqrt)
    # A row need not begin at a line's start.
    prefetch_line(r, next, r.slot_stride - 1, centered, momentum)


cdef inline void _catch_up_f64(
    rmsprop_out_f64 param, rmsprop_out_f64 rms, rmsprop_out_f64 mg,
    rmsprop_out_f64 mom, Py_ssize_t n, const Coef *coef, int64_t steps,
    const bint centered, const bint momentum,
) noexcept nogil:
    """Called with literal flags: one text, a vectorised loop for each variant."""
    cdef rmsprop_idle_f64 idle = rmsprop_idle_steps_f64(coef.idle_f64, steps)
    cdef Py_ssize_t i
    for i in range(n):
        rmsprop_catch_up_f64(
            &param[i], &rms[i], &mg[i] if centered else NULL,
            &mom[i] if momentum else NULL, idle, centered, momentum)


cdef void catch_up_f64(
    void *param, void *rms, void *mg, void *mom, Py_ssize_t n, const Coef *coef,
    int64_t steps, int variant,
) noexcept nogil:
    cdef double *p = <double *> param
    cdef double *r = <double *> rms
    cdef double *a = <double *> mg
    cdef double *m = <double *> mom
    variant &= CENTERED + MOMENTUM
    if variant == 0:
        _catch_up_f64(p, r, a, m, n, coef, steps, False, False)
    elif variant == CENTERED:
        _catch_up_f64(p, r, a, m, n, coef, steps, True, False)
    elif variant == MOMENTUM:
        _catch_up_f64(p, r, a, m, n, coef, steps, False, True)
    else:
        _catch_up_f64(p, r, a, m, n, coef, steps, True, True)


cdef inline void _make_up_f64(
    const Rows *r, Py_ssize_t k, Py_ssize_t next, const Coef *coef, int variant,
    const bint centered, const bint momentum,
) noexcept nogil:
    """Catch up occurrence k's row, and count the step that it is about to make."""
    cdef Py_ssize_t row = r.occurrences[k].row, slot = row * r.slot_stride
    cdef int64_t steps = missed_steps(&r.counts, row)
    RMSPROP_PREFETCH(&r.counts.row[r.occurrences[next].row])
    if steps > 0:
        catch_up_f64(
            r.param + row * r.param_stride, r.rms + slot,
            r.mg + slot if centered else NULL, r.mom + slot if momentum else NULL,
            r.width, coef, steps, variant)
    r.counts.row[row] = r.counts.steps[0] + 1


cdef inline void _update_rows_f64(
    const Rows *rows, rmsprop_coef_f64 c, const Coef *coef, int variant,
    const bint centered, const bint momentum, const bint eps_in_sqrt,
) noexcept nogil:
    """Called with literal flags: one text, a vectorised loop for each variant."""
    cdef Rows r = rows[0]
    cdef Py_ssize_t k, next
    for k in range(r.n):
        next = min(k + r.ahead, r.n_known - 1)
        if r.counts.row != NULL:
            _make_up_f64(&r, k, next, coef, variant, centered, momentum)
        _update_row_f64(&r, k, next, c, centered, momentum, eps_in_sqrt)


cdef void update_rows_f64(
    const Rows *rows, const Coef *coef, int variant,
) noexcept nogil:
    cdef rmsprop_coef_f64 c = coef.f64
    if variant == 0:
        _update_rows_f64(rows, c, coef, variant, False, False, False)
    elif variant == CENTERED:
        _update_rows_f64(rows, c, coef, variant, True, False, False)
    elif variant == MOMENTUM:
        _update_rows_f64(rows, c, coef, variant, False, True, False)
    elif variant == CENTERED + MOMENTUM:
        _update_rows_f64(rows, c, coef, variant, True, True, False)
    elif variant == EPS_IN_SQRT:
        _update_rows_f64(rows, c, coef, variant, False, False, True)
    elif variant == EPS_IN_SQRT + CENTERED:
        _update_rows_f64(rows, c, coef, variant, True, False, True)
    elif variant == EPS_IN_SQRT + MOMENTUM:
        _update_rows_f64(rows, c, coef, variant, False, True, True)
    else:
        _update_rows_f64(rows, c, coef, variant, True, True, True)


cdef void take_f64(
    void *out, const void *grad, Py_ssize_t n, const Coef *coef,
) noexcept nogil:
    rmsprop_grad_span_f64(<double *> out, <const double *> grad, n, coef.f64, False)


cdef void add_f64(
    void *out, const void *grad, Py_ssize_t n, const Coef *coef,
) noexcept nogil:
    rmsprop_grad_span_f64(<double *> out, <const double *> grad, n, coef.f64, True)


cdef double sum_of_squares_f64(const void *grad, Py_ssize_t n) noexcept nogil:
    cdef rmsprop_in_f64 g = <const double *> grad
    cdef double[NORM_LANES] lanes
    cdef double x
    cdef Py_ssize_t i, lane, whole = n - n % NORM_LANES
    for lane in range(NORM_LANES):
        lanes[lane] = 0
    for i in range(n // NORM_LANES):
        for lane in range(NORM_LANES):
            x = g[i * NORM_LANES + lane]
            lanes[lane] += x * x
    for i in range(whole, n):
        x = g[i]
        lanes[i - whole] += x * x
    return fold(lanes)


cdef double count_nonfinite_f64(const void *grad, Py_ssize_t n) noexcept nogil:
    cdef rmsprop_in_f64 g = <const double *> grad
    cdef int64_t count = 0  # as wide as an element: vectorised
    cdef Py_ssize_t i
    for i in range(n):
        count += g[i] - g[i] != 0  # infinity minus itself is no number
    return count


cdef Spans table
table.version = SPANS_VERSION
table.update[F32] = update_f32
table.update[F64] = update_f64
table.update_rows[F32] = update_rows_f32
table.update_rows[F64] = update_rows_f64
table.take[F32] = take_f32
table.take[F64] = take_f64
table.add[F32] = add_f32
table.add[F64] = add_f64
table.sum_of_squares[F32] = sum_of_squares_f32
table.sum_of_squares[F64] = sum_of_squares_f64
table.count_nonfinite[F32] = count_nonfinite_f32
table.count_nonfinite[F64] = count_nonfinite_f64
table.catch_up[F32] = catch_up_f32
table.catch_up[F64] = catch_up_f64

spans = PyCapsule_New(<void *> &table, "rmsprop_fast.cpu.spans", NULL)
