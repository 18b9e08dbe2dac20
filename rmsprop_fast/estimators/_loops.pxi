# Mini-batch training of linear models and factorization machines by RMSprop.
#
# A model is one table. Feature j owns row j: one weight per output, then `n_factors`
# factors per output. A last row holds the intercepts, and every sample has a 1 there. A
# mini-batch reads and updates the rows of the features that occur in it, and no others.
#
# What is due at every step to every row is settled when a row is next wanted:
#
# - The penalty. During the steps in which row j did not occur, its slots stood still, and
#   so did the size of step h that RMSprop would give it. The proximal step of all of them
#   is one, of size h times the sum of their learning rates. `penalty_clock[j]` is the sum
#   of all learning rates up to the last settlement.
# - The average over all steps, of which `average_clock[j]` have been counted.
#
# Nothing here depends on the number of threads: within a phase each sample, or each row,
# belongs to one thread, and its sums have one order.

from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.math cimport INFINITY
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset

from rmsprop_fast.cpu._spans cimport prefetch
from rmsprop_fast.estimators._losses cimport LOG_LOSS, point_loss, real, softmax_loss
from rmsprop_fast.estimators._passes cimport (
    F32, F64, PASSES_VERSION, Batch, Coef, Model, Passes, Source,
)
from rmsprop_fast.header cimport (
    rmsprop_coef_f32, rmsprop_coef_f64, rmsprop_coef_make_f32, rmsprop_coef_make_f64,
    rmsprop_update_f32, rmsprop_update_f64,
)

cdef enum:
    AHEAD = 8  # rows to prefetch ahead

ctypedef fused index_t:
    int32_t
    int64_t


# --- One row -------------------------------------------------------------------------


cdef inline void _update_row(
    real *w, const real *grad, real *rms, real *mg, real *mom, Py_ssize_t n,
    const Coef *coef, const bint centered, const bint momentum,
) noexcept nogil:
    """Called with literal flags."""
    cdef rmsprop_coef_f32 f32 = coef.f32
    cdef rmsprop_coef_f64 f64 = coef.f64
    cdef Py_ssize_t k
    for k in range(n):
        if real is float:
            rmsprop_update_f32(
                &w[k], grad[k], &rms[k], &mg[k] if centered else NULL,
                &mom[k] if momentum else NULL, f32, centered, momentum, True)
        else:
            rmsprop_update_f64(
                &w[k], grad[k], &rms[k], &mg[k] if centered else NULL,
                &mom[k] if momentum else NULL, f64, centered, momentum, True)


cdef inline void update_row(
    real *w, const real *grad, Py_ssize_t offset, Py_ssize_t n, const Model *m,
) noexcept nogil:
    cdef real *rms = <real *> m.rms + offset
    cdef real *mg = <real *> m.mg + offset if m.mg else NULL
    cdef real *mom = <real *> m.mom + offset if m.mom else NULL
    if mg == NULL and mom == NULL:
        _update_row(w, grad, rms, mg, mom, n, &m.coef, False, False)
    elif mom == NULL:
        _update_row(w, grad, rms, mg, mom, n, &m.coef, True, False)
    elif mg == NULL:
        _update_row(w, grad, rms, mg, mom, n, &m.coef, False, True)
    else:
        _update_row(w, grad, rms, mg, mom, n, &m.coef, True, True)


cdef inline void _settle_span(
    real *out, const real *w, const real *rms, const real *mg, Py_ssize_t n,
    const Coef *unit, real l1, real l2, const bint centered,
) noexcept nogil:
    """Write the proximal step of l1*|w| + l2*w*w/2, element by element.

    Its size h is what RMSprop would step for a gradient of 1. `unit` has learning rate
    1 and rho 1, so that the slots, of which copies are given, stay as they are.
    """
    cdef rmsprop_coef_f32 f32 = unit.f32
    cdef rmsprop_coef_f64 f64 = unit.f64
    cdef Py_ssize_t k
    cdef real h, v, a, size
    for k in range(n):
        h = 0
        v = rms[k]
        a = mg[k] if centered else <real> 0
        if real is float:
            rmsprop_update_f32(&h, -1, &v, &a, NULL, f32, centered, False, True)
        else:
            rmsprop_update_f64(&h, -1, &v, &a, NULL, f64, centered, False, True)
        size = (w[k] if w[k] > 0 else -w[k]) - h * l1
        size = (size if size > 0 else <real> 0) / (1 + h * l2)
        out[k] = size if w[k] > 0 else -size


cdef inline void settle_span(
    real *out, const real *w, Py_ssize_t offset, Py_ssize_t n, const Model *m,
    double l1, double l2,
) noexcept nogil:
    cdef const real *rms = <const real *> m.rms + offset
    if m.mg:
        _settle_span(
            out, w, rms, <const real *> m.mg + offset, n, &m.unit, <real> l1,
            <real> l2, True)
    else:
        _settle_span(out, w, rms, rms, n, &m.unit, <real> l1, <real> l2, False)


cdef inline void settle_row(
    real *out, const real *w, Py_ssize_t j, Py_ssize_t n, const Model *m,
) noexcept nogil:
    """Write row j, penalty included; `out` may be `w`."""
    cdef Py_ssize_t k, offset = j * m.width, linear = m.n_outputs
    cdef double gap = 0
    if m.penalty_clock and j < m.n_features:
        gap = m.clock - m.penalty_clock[j]
    if gap > 0:
        settle_span(out, w, offset, linear, m, gap * m.l1, gap * m.l2)
        if n > linear:
            settle_span(
                out + linear, w + linear, offset + linear, n - linear, m, 0,
                gap * m.l2_factors)
    else:
        for k in range(n):
            out[k] = w[k]


cdef inline void count_row(
    real *average, const real *before, const real *now, Py_ssize_t j, Py_ssize_t n,
    const Model *m,
) noexcept nogil:
    """Bring the average of row j up to date; it went from `before` to `now` meanwhile."""
    cdef int64_t missing = m.n_averaged - m.average_clock[j]
    cdef Py_ssize_t k
    cdef real share
    if missing > 0:
        share = <real> (<double> missing / <double> m.n_averaged)
        for k in range(n):
            average[k] += share * ((before[k] + now[k]) / 2 - average[k])


cdef inline Py_ssize_t used_width(const Model *m, Py_ssize_t j) noexcept nogil:
    """Return how many columns of row j there are: intercepts have no factors."""
    return m.width if j < m.n_features else m.n_outputs


cdef inline void settle_in_place(
    real *settled, const Model *m, Py_ssize_t j,
) noexcept nogil:
    """Bring row j of the table, and of the average, up to date."""
    cdef Py_ssize_t n = used_width(m, j)
    cdef real *w = <real *> m.params + j * m.width
    settle_row(settled, w, j, n, m)
    if m.average:
        count_row(<real *> m.average + j * m.width, w, settled, j, n, m)
        m.average_clock[j] = m.n_averaged
    if m.penalty_clock and j < m.n_features:
        memcpy(w, settled, n * sizeof(real))
        m.penalty_clock[j] = m.clock


cdef inline void prefetch_row(real *tag, const Model *m, Py_ssize_t j) noexcept nogil:
    cdef Py_ssize_t at = j * m.width, n_bytes = m.width * sizeof(real)
    prefetch(<const char *> (<real *> m.params + at), n_bytes)
    prefetch(<const char *> (<real *> m.rms + at), n_bytes)


cdef void settle_for_step(
    real *tag, const Model *m, Batch *b, Py_ssize_t begin, Py_ssize_t end, int thread,
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(begin, end):
        if i + AHEAD < end:
            prefetch_row(tag, m, b.feature[i + AHEAD])
        settle_in_place(<real *> b.scratch + thread * m.width, m, b.feature[i])


cdef void result_of_row(real *out, const Model *m, Py_ssize_t j) noexcept nogil:
    """Write row j as a fit that ends here returns it; the table stays as it is."""
    cdef Py_ssize_t k, n = used_width(m, j)
    cdef real share
    cdef const real *w = <const real *> m.params + j * m.width
    cdef const real *average
    settle_row(out, w, j, n, m)
    if m.average and m.n_averaged > 0:
        average = <const real *> m.average + j * m.width
        share = <real> (
            <double> (m.n_averaged - m.average_clock[j]) / <double> m.n_averaged)
        for k in range(n):
            out[k] = average[k] + share * ((w[k] + out[k]) / 2 - average[k])
    for k in range(n, m.width):
        out[k] = 0


# --- The mini-batch ------------------------------------------------------------------


cdef inline void add_value(
    Batch *b, int32_t *count, Py_ssize_t j, real x,
) noexcept nogil:
    cdef int32_t slot = b.slot[j]
    if slot == 0:
        b.feature[b.n_rows] = j
        b.n_rows += 1
        slot = b.slot[j] = <int32_t> b.n_rows
        count[slot - 1] = 0
    count[slot - 1] += 1
    b.local[b.nnz] = slot - 1
    (<real *> b.value)[b.nnz] = x
    b.nnz += 1


cdef void add_csr_sample(
    Batch *b, int32_t *count, const real *data, const index_t *indices,
    const index_t *indptr, Py_ssize_t row,
) noexcept nogil:
    cdef Py_ssize_t p
    for p in range(indptr[row], indptr[row + 1]):
        if data[p] != 0:
            add_value(b, count, indices[p], data[p])


cdef void add_dense_sample(
    Batch *b, int32_t *count, const real *x, Py_ssize_t n,
) noexcept nogil:
    """As if it were sparse: a feature that is 0 does not occur."""
    cdef Py_ssize_t j
    for j in range(n):
        if x[j] != 0:
            add_value(b, count, j, x[j])


cdef void load(
    real *tag, Batch *b, const Source *s, const Model *m, const int64_t *order,
    Py_ssize_t n,
) noexcept nogil:
    """Collect n samples and the distinct features in them."""
    cdef Py_ssize_t i, row
    # The row starts are not needed before `transpose`, which turns counts into them.
    cdef int32_t *count = b.sample
    cdef const real *data = <const real *> s.data
    b.n, b.nnz, b.n_rows = n, 0, 0
    for i in range(n):
        row = order[i]
        b.sample_start[i] = b.nnz
        if s.indices == NULL:
            add_dense_sample(b, count, data + row * s.n_columns, s.n_columns)
        elif s.wide:
            add_csr_sample(
                b, count, data, <const int64_t *> s.indices,
                <const int64_t *> s.indptr, row)
        else:
            add_csr_sample(
                b, count, data, <const int32_t *> s.indices,
                <const int32_t *> s.indptr, row)
        if m.fit_intercept:
            add_value(b, count, m.n_features, <real> 1)
    b.sample_start[n] = b.nnz
    b.row_start[0] = 0
    for i in range(b.n_rows):
        b.row_start[i + 1] = b.row_start[i] + count[i]
        b.slot[b.feature[i]] = 0
        b.row[i] = <real *> m.params + b.feature[i] * m.width


cdef void transpose(real *tag, Batch *b) noexcept nogil:
    """List the batch's values by feature, each feature's in the order of samples."""
    cdef Py_ssize_t i, p, q
    cdef Py_ssize_t *next = b.row_start
    for i in range(b.n):
        for p in range(b.sample_start[i], b.sample_start[i + 1]):
            q = next[b.local[p]]
            next[b.local[p]] = q + 1
            b.sample[q] = <int32_t> i
            (<real *> b.by_row)[q] = (<real *> b.value)[p]
    for i in range(b.n_rows, 0, -1):  # each start has become the next one's
        next[i] = next[i - 1]
    next[0] = 0


# --- Predictions ---------------------------------------------------------------------


cdef inline void add_scaled(real *out, const real *w, real x, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        out[k] += x * w[k]


cdef inline void predict_sample(
    real *z, const Model *m, const Batch *b, Py_ssize_t i, const bint narrow,
) noexcept nogil:
    """Sum the linear part of sample i."""
    cdef Py_ssize_t p, end = b.sample_start[i + 1], n = 1 if narrow else m.n_outputs
    cdef Py_ssize_t n_bytes = n * sizeof(real)
    memset(z, 0, n_bytes)
    for p in range(b.sample_start[i], end):
        if p + AHEAD < end:
            prefetch(<const char *> b.row[b.local[p + AHEAD]], n_bytes)
        add_scaled(z, <const real *> b.row[b.local[p]], (<real *> b.value)[p], n)


cdef inline void add_interactions(
    real *z, real *total, real *squares, const Model *m, const Batch *b, Py_ssize_t i,
) noexcept nogil:
    """Add the sum over pairs of <v_i, v_j> x_i x_j; keep the sums of v * x in `total`.

    Rendle 2010, Factorization machines, lemma 3.1: half of the difference of the square
    of the sum and the sum of the squares.
    """
    cdef Py_ssize_t p, k, f, n = m.n_outputs * m.n_factors
    cdef const real *v
    cdef real x, sum_of_pairs
    memset(total, 0, n * sizeof(real))
    memset(squares, 0, n * sizeof(real))
    for p in range(b.sample_start[i], b.sample_start[i + 1]):
        if b.feature[b.local[p]] == m.n_features:
            continue
        v = <const real *> b.row[b.local[p]] + m.n_outputs
        x = (<real *> b.value)[p]
        for k in range(n):
            total[k] += x * v[k]
            squares[k] += x * v[k] * (x * v[k])
    for k in range(m.n_outputs):
        sum_of_pairs = 0
        for f in range(k * m.n_factors, (k + 1) * m.n_factors):
            sum_of_pairs += total[f] * total[f] - squares[f]
        z[k] += sum_of_pairs / 2


cdef void predict_samples(
    real *tag, const Model *m, Batch *b, Py_ssize_t begin, Py_ssize_t end, int thread,
) noexcept nogil:
    cdef Py_ssize_t i, n = m.n_outputs * m.n_factors
    cdef real *z
    for i in range(begin, end):
        z = <real *> b.z + i * m.n_outputs
        if m.n_outputs == 1:
            predict_sample(z, m, b, i, True)
        else:
            predict_sample(z, m, b, i, False)
        if m.n_factors:
            add_interactions(
                z, <real *> b.factor_sum + i * n,
                <real *> b.scratch + thread * m.width, m, b, i)


# --- The step ------------------------------------------------------------------------


cdef inline double slopes_of_sample(
    real *z, const Model *m, double y, double weight,
) noexcept nogil:
    """Return the loss of a sample, and turn its predictions into `weight` x slopes."""
    cdef Py_ssize_t k
    cdef double slope, total = 0
    if m.loss == LOG_LOSS and m.n_outputs > 1:
        return softmax_loss(z, m.n_outputs, <Py_ssize_t> y, weight)
    if m.n_outputs == 1:
        total = point_loss(m.loss, z[0], y, m.delta, &slope)
        z[0] = <real> (weight * slope)
        return total
    for k in range(m.n_outputs):  # one class against the rest
        total += point_loss(m.loss, z[k], 1 if k == y else -1, m.delta, &slope)
        z[k] = <real> (weight * slope)
    return total


cdef void predict_and_differentiate(
    real *tag, const Model *m, Batch *b, const double *y, const double *weight,
    const int64_t *order, Py_ssize_t begin, Py_ssize_t end, int thread,
) noexcept nogil:
    cdef Py_ssize_t i
    predict_samples(tag, m, b, begin, end, thread)
    for i in range(begin, end):
        b.loss[i] = weight[order[i]] * slopes_of_sample(
            <real *> b.z + i * m.n_outputs, m, y[order[i]], weight[order[i]] / b.n)


cdef inline void gradient_of_row(
    real *grad, const Model *m, const Batch *b, Py_ssize_t i, Py_ssize_t n,
    const bint narrow,
) noexcept nogil:
    """Sum the gradient of the batch's i-th row over the samples that have it."""
    cdef Py_ssize_t p, k, f, n_factors = m.n_factors, sample
    cdef Py_ssize_t linear = 1 if narrow else m.n_outputs
    cdef real x, dx
    cdef const real *d
    cdef const real *v = <const real *> b.row[i] + m.n_outputs
    cdef const real *total
    memset(grad, 0, n * sizeof(real))
    for p in range(b.row_start[i], b.row_start[i + 1]):
        sample = b.sample[p]
        x = (<real *> b.by_row)[p]
        d = <const real *> b.z + sample * linear
        add_scaled(grad, d, x, linear)
        if narrow or n == linear:
            continue
        # Rendle 2010, equation 4: x_j (sum of v x) - v_j x_j^2.
        total = <const real *> b.factor_sum + sample * m.n_outputs * n_factors
        for k in range(m.n_outputs):
            dx = d[k] * x
            for f in range(k * n_factors, (k + 1) * n_factors):
                grad[m.n_outputs + f] += dx * (total[f] - x * v[f])


cdef inline void _update_rows(
    real *tag, const Model *m, Batch *b, Py_ssize_t begin, Py_ssize_t end,
    real *grad, const bint narrow,
) noexcept nogil:
    """Called with literal `narrow`: rows of one element have no loop over it."""
    cdef Py_ssize_t i, j, n
    for i in range(begin, end):
        if i + AHEAD < end:
            prefetch_row(tag, m, b.feature[i + AHEAD])
        j = b.feature[i]
        n = 1 if narrow else used_width(m, j)
        gradient_of_row(grad, m, b, i, n, narrow)
        update_row(<real *> b.row[i], grad, j * m.width, n, m)


cdef void update_rows(
    real *tag, const Model *m, Batch *b, Py_ssize_t begin, Py_ssize_t end, int thread,
) noexcept nogil:
    cdef real *grad = <real *> b.scratch + thread * m.width
    if m.width == 1:
        _update_rows(tag, m, b, begin, end, grad, True)
    else:
        _update_rows(tag, m, b, begin, end, grad, False)


cdef inline Py_ssize_t share(Py_ssize_t n, int part, int parts) noexcept nogil:
    return n * part // parts


cdef double step(
    real *tag, Model *m, Batch *b, const double *y, const double *weight,
    const int64_t *order,
) noexcept nogil:
    """Update the table by one mini-batch, already loaded; return the sum of losses."""
    cdef int t, team = b.n_threads if b.nnz * m.width >= b.serial_below else 1
    cdef Py_ssize_t i
    cdef double total = 0
    transpose(tag, b)
    if team == 1:
        if m.penalty_clock or m.average:
            settle_for_step(tag, m, b, 0, b.n_rows, 0)
        predict_and_differentiate(tag, m, b, y, weight, order, 0, b.n, 0)
        update_rows(tag, m, b, 0, b.n_rows, 0)
    else:
        if m.penalty_clock or m.average:
            for t in prange(team, num_threads=team, schedule="static", chunksize=1):
                settle_for_step(
                    tag, m, b, share(b.n_rows, t, team), share(b.n_rows, t + 1, team), t)
        for t in prange(team, num_threads=team, schedule="static", chunksize=1):
            predict_and_differentiate(
                tag, m, b, y, weight, order, share(b.n, t, team),
                share(b.n, t + 1, team), t)
        for t in prange(team, num_threads=team, schedule="static", chunksize=1):
            update_rows(
                tag, m, b, share(b.n_rows, t, team), share(b.n_rows, t + 1, team), t)
    for i in range(b.n):
        total += b.loss[i]
    return total


cdef double epoch(
    real *tag, Model *m, Batch *b, const Source *s, const double *y,
    const double *weight, const int64_t *order, Py_ssize_t n, Py_ssize_t batch_size,
    const double *learning_rate, double rho, double momentum, double epsilon,
    Py_ssize_t n_before_average,
) noexcept nogil:
    """Make one step per mini-batch of the n samples in `order`; sum their losses."""
    cdef double total = 0
    cdef Py_ssize_t begin = 0, size
    while begin < n:
        size = min(batch_size, n - begin)
        load(tag, b, s, m, order + begin, size)
        if real is float:
            m.coef.f32 = rmsprop_coef_make_f32(
                learning_rate[0], rho, momentum, epsilon, 1, 1, INFINITY)
        else:
            m.coef.f64 = rmsprop_coef_make_f64(
                learning_rate[0], rho, momentum, epsilon, 1, 1, INFINITY)
        total += step(tag, m, b, y, weight, order + begin)
        m.clock += learning_rate[0]
        learning_rate += 1
        begin += size
        if begin > n_before_average:
            m.n_averaged += 1
    return total


cdef void predict(
    real *out, const Model *m, Batch *b, const Source *s,
    const int64_t *order, Py_ssize_t n, Py_ssize_t batch_size, real *rows,
) noexcept nogil:
    cdef Py_ssize_t begin = 0, i, size
    while begin < n:
        size = min(batch_size, n - begin)
        load(out, b, s, m, order + begin, size)
        for i in range(b.n_rows):
            result_of_row(rows + i * m.width, m, b.feature[i])
            b.row[i] = rows + i * m.width
        predict_samples(out, m, b, 0, size, 0)
        for i in range(size * m.n_outputs):
            out[i] = (<real *> b.z)[i]
        out += size * m.n_outputs
        begin += size


# --- The table of passes -------------------------------------------------------------


cdef void result_of_rows(
    real *out, const Model *m, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(begin, end):
        result_of_row(out + j * m.width, m, j)


cdef void result(real *out, const Model *m, int team) noexcept nogil:
    cdef Py_ssize_t n = m.n_features + 1
    cdef int t
    for t in prange(team, num_threads=team, schedule="static", chunksize=1):
        result_of_rows(out, m, share(n, t, team), share(n, t + 1, team))


cdef void settle(real *row, const Model *m) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(m.n_features + 1):
        settle_in_place(row, m, j)


cdef double epoch_f32(
    Model *m, Batch *b, const Source *s, const double *y, const double *weight,
    const int64_t *order, Py_ssize_t n, Py_ssize_t batch_size,
    const double *learning_rate, double rho, double momentum, double epsilon,
    Py_ssize_t n_before_average,
) noexcept nogil:
    return epoch(
        <float *> NULL, m, b, s, y, weight, order, n, batch_size, learning_rate, rho,
        momentum, epsilon, n_before_average)


cdef void predict_f32(
    void *out, const Model *m, Batch *b, const Source *s, const int64_t *order,
    Py_ssize_t n, Py_ssize_t batch_size, void *rows,
) noexcept nogil:
    predict(<float *> out, m, b, s, order, n, batch_size, <float *> rows)


cdef void result_f32(void *out, const Model *m, int team) noexcept nogil:
    result(<float *> out, m, team)


cdef void settle_f32(void *row, const Model *m) noexcept nogil:
    settle(<float *> row, m)


cdef double epoch_f64(
    Model *m, Batch *b, const Source *s, const double *y, const double *weight,
    const int64_t *order, Py_ssize_t n, Py_ssize_t batch_size,
    const double *learning_rate, double rho, double momentum, double epsilon,
    Py_ssize_t n_before_average,
) noexcept nogil:
    return epoch(
        <double *> NULL, m, b, s, y, weight, order, n, batch_size, learning_rate, rho,
        momentum, epsilon, n_before_average)


cdef void predict_f64(
    void *out, const Model *m, Batch *b, const Source *s, const int64_t *order,
    Py_ssize_t n, Py_ssize_t batch_size, void *rows,
) noexcept nogil:
    predict(<double *> out, m, b, s, order, n, batch_size, <double *> rows)


cdef void result_f64(void *out, const Model *m, int team) noexcept nogil:
    result(<double *> out, m, team)


cdef void settle_f64(void *row, const Model *m) noexcept nogil:
    settle(<double *> row, m)


cdef Passes table
table.version = PASSES_VERSION
table.epoch[F32] = epoch_f32
table.predict[F32] = predict_f32
table.result[F32] = result_f32
table.settle[F32] = settle_f32
table.epoch[F64] = epoch_f64
table.predict[F64] = predict_f64
table.result[F64] = result_f64
table.settle[F64] = settle_f64

passes = PyCapsule_New(<void *> &table, "rmsprop_fast.estimators.passes", NULL)
