"""A whole step as one list of tasks, and its run in one parallel region.

Everything below runs without the GIL, allocates nothing and cannot fail. The loops
over elements are the spans of the chosen instruction set, in `_spans`.
"""

from cython.parallel cimport parallel, threadid
from libc.math cimport INFINITY

from rmsprop_fast.cpu._catch_up cimport catch_up_elements, note_row
from rmsprop_fast.cpu._gradients cimport scaled
from rmsprop_fast.cpu._layout cimport Layout, copy_block, run_of
from rmsprop_fast.cpu._sort cimport Occurrence32, Occurrence64, is_wide
from rmsprop_fast.cpu._spans cimport (
    Coef, Rows, param_size, prefetch, prefetch_row, slots_at, spans, state_size,
)
from rmsprop_fast.header cimport (
    RMSPROP_MOMENTUM, RMSPROP_N_SLOTS, RMSPROP_SUM_RUN, rmsprop_needs_slot,
)

cdef extern from "rmsprop_fast/cpu/_platform.h" nogil:
    int rmsprop_team()

cdef enum:
    BLOCK = 256         # elements of a stack buffer: 2 KiB of float64
    AHEAD = 12          # occurrences to prefetch ahead; 4 to 32 take equal time
    AHEAD_BYTES = 16384  # but no more than half of a first-level cache
    DENSE_GRAIN = 64    # elements: shares meet at the same line of every dtype
    COLUMN_GRAIN = 16   # columns of a hot row, likewise
    TASK_WORK = 32      # a task costs about as much as 32 more elements
    ROW_WORK = 16       # an occurrence, likewise

serial_below = 32768


cdef inline bint _is_behind(const Variable *v) noexcept nogil:
    """Whether some row of the variable may have missed a step."""
    return v.counts.row != NULL and v.counts.all_rows[0] < v.counts.steps[0]


cdef inline Coef _for_task(const Coef *coef, const Task *t) noexcept nogil:
    """Return the scalars for one task: its scale, and whether weight decay applies."""
    cdef Coef c = scaled(coef, t.grad.scale)
    if not t.var.decays:
        c.f32.keep = 1
        c.f64.keep = 1
    return c


cdef inline Coef _identity(const Coef *coef) noexcept nogil:
    """Return coefficients that take a summed gradient as it is."""
    cdef Coef c = scaled(coef, 1.0)
    c.f32.clip = <float> INFINITY
    c.f64.clip = INFINITY
    return c


# --- Dense ----------------------------------------------------------------------------


cdef void _update_run(
    const Variable *v, char *param, const char *grad, Py_ssize_t at, Py_ssize_t n,
    const Coef *c, int variant,
) noexcept nogil:
    """Update n elements whose slots begin at element `at`."""
    cdef char *slots[RMSPROP_N_SLOTS]
    slots_at(v.slots, at * state_size(v.dtype), slots)
    spans.update[v.dtype](param, grad, slots, n, c, variant)


cdef void _update_block(
    const Variable *v, const Layout *layout, char *base, const char *grad,
    Py_ssize_t start, Py_ssize_t at, Py_ssize_t n, const Coef *c, int variant,
) noexcept nogil:
    """Update n <= BLOCK elements of `base` from `start`, whatever its layout."""
    cdef char[BLOCK * 8] buffer
    cdef Py_ssize_t item = param_size(v.dtype)
    cdef char *param = <char *> run_of(base, layout, item, start, n, buffer)
    _update_run(v, param, grad, at, n, c, variant)
    if layout != NULL:
        copy_block(base, layout, item, start, n, param, False)


cdef void _run_dense(
    const Task *t, Py_ssize_t begin, Py_ssize_t end, const Coef *c, int variant,
) noexcept nogil:
    cdef double[BLOCK] buffer
    cdef const Variable *v = t.var
    cdef Py_ssize_t n, item = param_size(v.dtype)
    cdef const char *grad
    if _is_behind(v):
        catch_up_elements(v, begin, end, c, variant)
    if v.layout == NULL and t.grad.layout == NULL:
        _update_run(v, v.param + begin * item, t.grad.data + begin * item, begin,
                    end - begin, c, variant)
        return
    while begin < end:
        n = min(end - begin, BLOCK)
        grad = run_of(t.grad.data, t.grad.layout, item, begin, n, <char *> buffer)
        _update_block(v, v.layout, v.param, grad, begin, begin, n, c, variant)
        begin += n


# --- Row-sparse -----------------------------------------------------------------------


cdef inline Py_ssize_t _row(const Task *t, Py_ssize_t k) noexcept nogil:
    if t.wide:
        return <Py_ssize_t> (<const Occurrence64 *> t.occurrences)[k].row
    return <Py_ssize_t> (<const Occurrence32 *> t.occurrences)[k].row


cdef inline Py_ssize_t _position(const Task *t, Py_ssize_t k) noexcept nogil:
    if t.wide:
        return <Py_ssize_t> (<const Occurrence64 *> t.occurrences)[k].position
    return <Py_ssize_t> (<const Occurrence32 *> t.occurrences)[k].position


cdef inline void _accumulate(
    const Task *t, Py_ssize_t k, const Layout *inner, Py_ssize_t column, Py_ssize_t n,
    char *total, const bint start, const Coef *c,
) noexcept nogil:
    """total = occurrence k's values from `column`, scaled and clipped; or total +=."""
    cdef double[BLOCK] buffer
    cdef int dtype = t.var.dtype
    cdef const char *values = t.grad.data + _position(t, k) * t.grad.row_stride
    values = run_of(values, inner, param_size(dtype), column, n, <char *> buffer)
    if start:
        spans.clip[dtype](total, values, n, c)
    else:
        spans.add_clipped[dtype](total, values, n, c)


cdef void _sum_occurrences(
    const Task *t, Py_ssize_t first, Py_ssize_t last, const Layout *inner,
    Py_ssize_t column, Py_ssize_t n, char *total, const Coef *c, const Coef *identity,
) noexcept nogil:
    """Sum n columns of one row's occurrences in the specified order."""
    cdef double[BLOCK] partial
    cdef char *out = total
    cdef Py_ssize_t k, end
    while first < last:
        end = min(first + RMSPROP_SUM_RUN, last)
        _accumulate(t, first, inner, column, n, out, True, c)
        for k in range(first + 1, end):
            _accumulate(t, k, inner, column, n, out, False, c)
        if out != total:
            spans.add_clipped[t.var.dtype](total, out, n, identity)
        out = <char *> partial
        first = end


cdef Layout _inner(const Layout *layout) noexcept nogil:
    """Return the layout of one row."""
    cdef Layout inner
    inner.ndim = layout.ndim - 1
    inner.dims = layout.dims + 1
    inner.strides = layout.strides + 1
    return inner


cdef void _update_row(
    const Task *t, Py_ssize_t first, Py_ssize_t last, Py_ssize_t column,
    Py_ssize_t column_end, const Coef *c, const Coef *identity, int variant,
) noexcept nogil:
    """Update some columns of one row once, from all its occurrences."""
    cdef double[BLOCK] total
    cdef const Variable *v = t.var
    cdef Py_ssize_t row = _row(t, first), n
    cdef char *param = v.param + row * v.row_stride
    cdef Layout layout
    cdef Layout *inner = NULL
    cdef Layout values_layout
    cdef Layout *values_inner = NULL
    if _is_behind(v):
        catch_up_elements(
            v, row * v.width + column, row * v.width + column_end, c, variant)
    if not v.rows_are_runs:
        layout = _inner(v.layout)
        inner = &layout
    if not t.grad.rows_are_runs:
        values_layout = _inner(t.grad.layout)
        values_inner = &values_layout
    while column < column_end:
        n = min(column_end - column, BLOCK)
        _sum_occurrences(
            t, first, last, values_inner, column, n, <char *> total, c, identity)
        _update_block(v, inner, param, <const char *> total, column,
                      row * v.width + column, n, identity, variant)
        column += n


cdef inline Py_ssize_t _ahead(Py_ssize_t n_bytes) noexcept nogil:
    """Return how many occurrences to prefetch ahead when each needs n_bytes."""
    return max(<Py_ssize_t> 1, min(<Py_ssize_t> AHEAD, AHEAD_BYTES // n_bytes))


cdef Rows _describe_rows(const Task *t, int variant) noexcept nogil:
    """Return what the spans need to update rows; the occurrences are set later."""
    cdef const Variable *v = t.var
    cdef Rows rows
    cdef Py_ssize_t n_streams = 2  # param and values
    cdef int slot
    rows.param = v.param
    rows.values = t.grad.data
    for slot in range(RMSPROP_N_SLOTS):
        rows.slots[slot] = v.slots[slot]
        n_streams += rmsprop_needs_slot(variant, slot)
    rows.width = v.width
    rows.param_stride = v.row_stride
    rows.values_stride = t.grad.row_stride
    rows.slot_stride = v.width * state_size(v.dtype)
    rows.occurrences = NULL
    rows.n = 0
    rows.n_known = 0
    rows.ahead = _ahead(rows.slot_stride * n_streams)
    rows.counts = v.counts
    return rows


cdef Py_ssize_t _end_of_singles(
    const Occurrence32 *all, Py_ssize_t begin, Py_ssize_t end,
) noexcept nogil:
    """Return where the rows that occur once end; `begin` is the first of its row."""
    while begin < end and (begin + 1 == end or all[begin + 1].row != all[begin].row):
        begin += 1
    return begin


cdef void _run_rows(
    const Task *t, Py_ssize_t begin, Py_ssize_t end, const Coef *c,
    const Coef *identity, int variant,
) noexcept nogil:
    cdef const Variable *v = t.var
    cdef const Occurrence32 *all = <const Occurrence32 *> t.occurrences
    cdef Rows rows = _describe_rows(t, variant)
    cdef Py_ssize_t k, next, row
    cdef bint are_runs = not t.wide and v.rows_are_runs and t.grad.rows_are_runs
    if are_runs:
        rows.occurrences = all
        for k in range(begin, min(begin + rows.ahead, end)):
            prefetch_row(&rows, k, variant)
    while begin < end:
        if are_runs:
            next = _end_of_singles(all, begin, end)
            rows.occurrences = all + begin
            rows.n = next - begin
            rows.n_known = end - begin
            if rows.n > 0:
                spans.update_rows[v.dtype](&rows, c, variant)
                begin = next
                continue
        row = _row(t, begin)
        next = begin + 1
        while next < end and _row(t, next) == row:
            next += 1
        if are_runs:
            for k in range(rows.ahead, min(next - begin + rows.ahead, rows.n_known)):
                prefetch_row(&rows, k, variant)
        _update_row(t, begin, next, 0, v.width, c, identity, variant)
        if v.counts.row != NULL:
            note_row(v, row, 1)
        begin = next


cdef void _prefetch_to_catch_up(
    const Variable *v, Py_ssize_t row, int variant,
) noexcept nogil:
    cdef Py_ssize_t n_bytes = v.width * state_size(v.dtype)
    cdef int slot
    prefetch(<const char *> &v.counts.row[row], sizeof(v.counts.row[row]))
    for slot in range(RMSPROP_N_SLOTS):
        if rmsprop_needs_slot(variant, slot):
            prefetch(v.slots[slot] + row * n_bytes, n_bytes)
    if variant & RMSPROP_MOMENTUM and v.rows_are_runs:
        prefetch(v.param + row * v.row_stride, v.width * param_size(v.dtype))


cdef void _catch_up_rows(
    const Task *t, Py_ssize_t begin, Py_ssize_t end, const Coef *c, int variant,
) noexcept nogil:
    cdef const Variable *v = t.var
    cdef Py_ssize_t k, row, ahead = _ahead(v.width * state_size(v.dtype) * 4)
    for k in range(begin, end):
        if k + ahead < end:
            _prefetch_to_catch_up(v, _row(t, k + ahead), variant)
        row = _row(t, k)
        catch_up_elements(v, row * v.width, (row + 1) * v.width, c, variant)
        note_row(v, row, 0)


# --- Tasks ----------------------------------------------------------------------------


cdef Py_ssize_t work_after(const Task *task) noexcept nogil:
    return task.work + (task.end - task.begin) * task.unit + TASK_WORK


cdef Py_ssize_t max_tasks(Py_ssize_t n, int n_threads) noexcept nogil:
    # Between and around at most n // _hot(n) hot rows.
    return 1 if n == 0 else 2 * (n // _hot(n, n_threads)) + 1


cdef inline Py_ssize_t _hot(Py_ssize_t n, int n_threads) noexcept nogil:
    """Return from how many occurrences on several threads share a row."""
    return max(<Py_ssize_t> 64, n // (4 * n_threads))


cdef Py_ssize_t add_dense(
    Task *tasks, Py_ssize_t work, const Variable *var, const Gradient *grad,
) noexcept nogil:
    tasks.kind = DENSE
    tasks.wide = False
    tasks.var = var
    tasks.grad = grad
    tasks.occurrences = NULL
    tasks.begin = 0
    tasks.end = var.size
    tasks.first = 0
    tasks.last = 0
    tasks.unit = 1
    tasks.work = work
    return 1


cdef Py_ssize_t add_catch_up(
    Task *tasks, Py_ssize_t work, const Variable *var, const void *occurrences,
    Py_ssize_t n,
) noexcept nogil:
    add_dense(tasks, work, var, NULL)
    tasks.kind = ALL_ROWS
    if occurrences != NULL:
        tasks.kind = SOME_ROWS
        tasks.wide = is_wide(n, var.n_rows)
        tasks.occurrences = occurrences
        tasks.end = n
        tasks.unit = var.width + ROW_WORK
    return 1


cdef inline void _add_occurrences(
    Task *t, Py_ssize_t work, const Task *like, Py_ssize_t first, Py_ssize_t last,
    const bint hot,
) noexcept nogil:
    t[0] = like[0]
    t.work = work
    t.first = first
    t.last = last
    if hot:
        t.kind = HOT_ROW
        t.begin = 0
        t.end = t.var.width
        t.unit = last - first
    else:
        t.kind = ROWS
        t.begin = first
        t.end = last
        t.unit = t.var.width + ROW_WORK


cdef Py_ssize_t add_rows(
    Task *tasks, Py_ssize_t work, const Variable *var, const Gradient *grad,
    const void *occurrences, Py_ssize_t n, int n_threads,
) noexcept nogil:
    cdef Task like
    cdef Py_ssize_t count = 0, first = 0, low, high, k, hot
    add_dense(&like, work, var, grad)
    like.wide = is_wide(n, var.n_rows)
    like.occurrences = occurrences
    if n_threads > 1:
        hot = _hot(n, n_threads)
        # A run of `hot` equal rows has one of these places in it.
        k = hot - 1
        while k < n:
            low = k
            while low > first and _row(&like, low - 1) == _row(&like, k):
                low -= 1
            high = k + 1
            while high < n and _row(&like, high) == _row(&like, k):
                high += 1
            k += hot
            if high - low < hot:
                continue
            if first < low:
                _add_occurrences(&tasks[count], work, &like, first, low, False)
                work = work_after(&tasks[count])
                count += 1
            _add_occurrences(&tasks[count], work, &like, low, high, True)
            work = work_after(&tasks[count])
            count += 1
            first = high
            while k < first:
                k += hot
    if first < n:
        _add_occurrences(&tasks[count], work, &like, first, n, False)
        count += 1
    return count


cdef Py_ssize_t _cut(const Task *t, Py_ssize_t work) noexcept nogil:
    """Return the item of this task at which a share that ends at `work` ends."""
    cdef Py_ssize_t item
    if work <= t.work:
        return t.begin
    item = (work - t.work) // t.unit
    if item >= t.end - t.begin:
        return t.end
    if t.kind == DENSE or t.kind == ALL_ROWS:
        return item - item % DENSE_GRAIN
    if t.kind == HOT_ROW:
        return item - item % COLUMN_GRAIN
    item += t.begin
    while t.begin < item < t.end and _row(t, item) == _row(t, item - 1):
        item += 1  # a row is updated once: its occurrences stay together
    return item


cdef void _run_share(
    const Task *tasks, Py_ssize_t n, Py_ssize_t work, Py_ssize_t work_end,
    const Coef *coef, int variant,
) noexcept nogil:
    """Run the part of the tasks between two amounts of work."""
    cdef Py_ssize_t low = 0, high = n - 1, middle, begin, end
    cdef const Task *t
    cdef Coef c, identity
    while low < high:  # the last task that begins at or before `work`
        middle = (low + high + 1) // 2
        if tasks[middle].work <= work:
            low = middle
        else:
            high = middle - 1
    while low < n and tasks[low].work < work_end:
        t = &tasks[low]
        low += 1
        begin = _cut(t, work)
        end = _cut(t, work_end)
        if begin >= end:
            continue
        if t.kind == ALL_ROWS:
            catch_up_elements(t.var, begin, end, coef, variant)
            continue
        if t.kind == SOME_ROWS:
            _catch_up_rows(t, begin, end, coef, variant)
            continue
        c = _for_task(coef, t)
        identity = _identity(&c)
        if t.kind == DENSE:
            _run_dense(t, begin, end, &c, variant)
        elif t.kind == ROWS:
            _run_rows(t, begin, end, &c, &identity, variant)
        else:
            _update_row(t, t.first, t.last, begin, end, &c, &identity, variant)


cdef int run_tasks(
    const Task *tasks, Py_ssize_t n, const Coef *coef, int variant, int n_threads,
) noexcept nogil:
    cdef Py_ssize_t total
    cdef int share, team = 1
    cdef int *ran = &team  # through a pointer: `team` itself would be private
    if n == 0:
        return team
    total = work_after(&tasks[n - 1])
    if n_threads == 1:
        _run_share(tasks, n, 0, total, coef, variant)
        return team
    # Not prange: its loop would wait for all threads once more than needed.
    with parallel(num_threads=n_threads):
        share = threadid()
        if share == 0:
            ran[0] = rmsprop_team()
        while share < n_threads:  # a team may be smaller than was asked for
            _run_share(
                tasks, n, total // n_threads * share,
                total if share == n_threads - 1 else total // n_threads * (share + 1),
                coef, variant)
            share = share + rmsprop_team()
    return team


cdef void note_hot_rows(const Task *tasks, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t k
    for k in range(n):
        if tasks[k].kind == HOT_ROW:
            note_row(tasks[k].var, _row(&tasks[k], tasks[k].first), 1)
