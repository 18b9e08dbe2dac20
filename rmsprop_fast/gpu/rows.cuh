/* Row-sparse: row numbers to sorted occurrences, sums of duplicates, updates; and rows
 * that catch up. sort.cuh sorts in between. */

/* Kind 2*log2(bytes), plus 1 when unsigned. Returns the index's 64 bits. */
INLINE u64 load_index(rmsprop_address indices, int kind, i64 k)
{
    switch (kind) {
    case 0: return (u64)(i64)at<const signed char>(indices)[k];
    case 1: return at<const unsigned char>(indices)[k];
    case 2: return (u64)(i64)at<const short>(indices)[k];
    case 3: return at<const unsigned short>(indices)[k];
    case 4: return (u64)(i64)at<const int>(indices)[k];
    case 5: return at<const u32>(indices)[k];
    default: return at<const u64>(indices)[k];
    }
}

/* The first thread that gets here tells the host; all that follows does nothing. */
INLINE void refuse_row(const rmsprop_rows_table &t, int k, u64 row,
                                           i64 position)
{
    if (atomicCAS(at<int>(t.s.stop), 0, 1) != 0)
        return;
    volatile rmsprop_fault *fault = (volatile rmsprop_fault *)t.fault;
    fault->row = row;
    fault->position = position;
    fault->n_rows = t.rows[k].n_rows;
    fault->step = t.step;
    fault->pair = t.var[k].pair;
    fault->is_unsigned = t.rows[k].kind % 2;
    __threadfence_system();
    fault->found = RMSPROP_ROW_FOUND;
}

template <typename U> INLINE void run_keys(const rmsprop_rows_table &t)
{
    Occurrence<U> *out = at<Occurrence<U> >(t.occurrences);
    const i64 stride = (i64)gridDim.x * RMSPROP_THREADS;
    for (i64 i = (i64)blockIdx.x * RMSPROP_THREADS + threadIdx.x; i < t.n_items;
         i += stride) {
        const int k = owner<&rmsprop_var_rows::start>(t.rows, t.n, i);
        const rmsprop_var_rows &rows = t.rows[k];
        u64 row = load_index(rows.indices, rows.kind, i - rows.start);
        if (row >= (u64)rows.n_rows) {  /* negative numbers are huge ones */
            refuse_row(t, k, row, i - rows.start);
            row = 0;
        }
        out[i].row = (U)(rows.base + row);
        out[i].position = (U)i;
    }
}

/* A thread's place in its block: lanes share an item of an entry, and a block takes
 * `each` items of every group of lanes at a time, `groups` apart. */
struct Lanes {
    int lane, lanes;
    i64 groups, item;  /* the first item */
};

INLINE Lanes lanes_of(const rmsprop_var_rows &rows, u32 chunk, int each)
{
    const int lanes = rows.lanes;
    const i64 groups = RMSPROP_THREADS / lanes;
    const Lanes l = {(int)threadIdx.x % lanes, lanes, groups,
                     (i64)chunk * groups * each + threadIdx.x / lanes};
    return l;
}

/* Where the items of entry k end. */
INLINE i64 end_of(const rmsprop_rows_table &t, int k)
{
    return k + 1 < t.n ? t.rows[k + 1].start : t.n_items;
}

/* One gradient's share of the sorted list, and its values. */
template <typename T, typename U> struct Share {
    const Occurrence<U> *occurrences;
    i64 begin, end;
    const T *values;
    T *partial;
    i64 width;
};

template <typename T, typename U>
INLINE Share<T, U> share_of(const rmsprop_rows_table &t, int k)
{
    const Share<T, U> s = {at<const Occurrence<U> >(t.occurrences),
                           t.rows[k].start,
                           end_of(t, k),
                           at<const T>(t.var[k].grad),
                           at<T>(t.rows[k].partial),
                           t.rows[k].width};
    return s;
}

/* The first occurrence in [low, high) whose row is `row` or greater. */
template <typename U>
INLINE i64 first_not_below(const Occurrence<U> *occurrences, i64 low,
                                               i64 high, u64 row)
{
    while (low < high) {
        const i64 middle = low + (high - low) / 2;
        if ((u64)occurrences[middle].row < row)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Whether the i-th of sorted occurrences, of which an entry's begin at `begin`, is the
 * first of its row: its lanes work for the row. */
template <typename U>
INLINE bool is_first(const Occurrence<U> *occurrences, i64 begin, i64 i)
{
    return i == begin || occurrences[i - 1].row != occurrences[i].row;
}

/* Where one run of a row's occurrences ends that begins at `first`. */
template <typename T, typename U>
INLINE i64 end_of_run(const Share<T, U> &s, i64 first)
{
    const i64 limit = first + RMSPROP_SUM_RUN < s.end ? first + RMSPROP_SUM_RUN : s.end;
    const U row = s.occurrences[first].row;
    i64 end = first + 1;
    while (end < limit && s.occurrences[end].row == row)
        ++end;
    return end;
}

/* W columns of one occurrence's values, scaled and clipped. */
template <typename T, typename U, int W>
INLINE Pack<T, W> value_of(const Share<T, U> &s, i64 i, i64 column,
                                               const typename Formula<T>::Coef &c)
{
    const i64 row = (i64)s.occurrences[i].position - s.begin;
    Pack<T, W> value = load<T, W>(s.values + row * s.width + column);
#pragma unroll
    for (int j = 0; j < W; ++j)
        value.v[j] = Formula<T>::grad(value.v[j], c);
    return value;
}

/* Sum W columns of occurrences first to last, in order. */
template <typename T, typename U, int W>
INLINE Pack<T, W> sum_run(const Share<T, U> &s, i64 first, i64 last,
                                              i64 column,
                                              const typename Formula<T>::Coef &c)
{
    Pack<T, W> total = value_of<T, U, W>(s, first, column, c);
#pragma unroll 4
    for (i64 i = first + 1; i < last; ++i) {
        const Pack<T, W> more = value_of<T, U, W>(s, i, column, c);
#pragma unroll
        for (int j = 0; j < W; ++j)
            total.v[j] += more.v[j];
    }
    return total;
}

/* A run that is not its row's first keeps its sum in the row of `partial` that belongs to
 * the 32 places it begins in: two such runs never begin in the same 32. */
INLINE i64 partial_row(i64 begin, i64 first)
{
    return (first - begin) / RMSPROP_SUM_RUN;
}

/* Where such a run begins in the 32 places from `begin + 32*group`, or -1. */
template <typename T, typename U>
INLINE i64 find_run(const Share<T, U> &s, i64 group)
{
    const i64 place = s.begin + group * RMSPROP_SUM_RUN;
    if (group == 0 || place >= s.end)
        return -1;
    const U row = s.occurrences[place].row;
    if (s.occurrences[place - 1].row != row)
        return -1;  /* a run that begins here is its row's first */
    const i64 head = first_not_below(s.occurrences, s.begin, place, (u64)row);
    const i64 first = place + (RMSPROP_SUM_RUN - (place - head) % RMSPROP_SUM_RUN) %
                                  RMSPROP_SUM_RUN;
    return first < s.end && s.occurrences[first].row == row ? first : -1;
}

template <typename T, typename U, int W>
INLINE void store_run(const Share<T, U> &s, i64 first, int lane,
                                          int lanes, const typename Formula<T>::Coef &c)
{
    const i64 last = end_of_run(s, first);
    T *out = s.partial + partial_row(s.begin, first) * s.width;
    for (i64 column = (i64)lane * W; column < s.width; column += (i64)lanes * W)
        store<T, W>(out + column, sum_run<T, U, W>(s, first, last, column, c));
}

/* Update a row once: its first run, then the sums of the others in order. */
template <typename T, typename U, int V, int W>
INLINE void update_row(const Share<T, U> &s, const Run<T> &r, i64 head,
                                           int lane, int lanes,
                                           const typename Formula<T>::Coef &c)
{
    const i64 end = end_of_run(s, head);
    const U row = s.occurrences[head].row;
    i64 last = end;
    if (end - head == RMSPROP_SUM_RUN && end < s.end && s.occurrences[end].row == row)
        last = first_not_below(s.occurrences, end, s.end, (u64)row + 1);
    for (i64 column = (i64)lane * W; column < s.width; column += (i64)lanes * W) {
        Elements<T, V, W> e;
        e.read_state(r, column);
        e.grad = sum_run<T, U, W>(s, head, end, column, c);
#pragma unroll 4
        for (i64 first = end; first < last; first += RMSPROP_SUM_RUN) {
            const Pack<T, W> more =
                load<T, W>(s.partial + partial_row(s.begin, first) * s.width + column);
#pragma unroll
            for (int j = 0; j < W; ++j)
                e.grad.v[j] += more.v[j];
        }
        e.update(c);
        e.write(r, column);
    }
}

/* Whether packs of W elements are aligned in every row of the arrays. */
template <typename T, int W>
INLINE bool are_packs(const rmsprop_var &var, const rmsprop_var_rows &rows)
{
    return rows.width % W == 0 &&
           is_aligned(addresses_of(var) | var.grad | rows.partial);
}

/* Sum the runs of rows that occur more than 32 times, but for their first. */
template <typename T, typename U> INLINE void run_partial(const rmsprop_rows_table &t)
{
    enum { W = Widest<T>::W };
    if (is_stopped(t.s))
        return;
    const typename Formula<T>::Coef base = coefficients<T>(t.s);
    for (u32 chunk = blockIdx.x; chunk < t.n_run_chunks; chunk += gridDim.x) {
        const int k = owner<&rmsprop_var_rows::first_run>(t.rows, t.n, chunk);
        const Lanes l = lanes_of(t.rows[k], chunk - t.rows[k].first_run, 1);
        const Share<T, U> s = share_of<T, U>(t, k);
        const typename Formula<T>::Coef c = coefficients_of<T>(base, t.s, t.var[k]);
        const i64 first = find_run(s, l.item);
        if (first < 0)
            continue;
        if (are_packs<T, W>(t.var[k], t.rows[k]))
            store_run<T, U, W>(s, first, l.lane, l.lanes, c);
        else
            store_run<T, U, 1>(s, first, l.lane, l.lanes, c);
    }
}

template <typename T, typename U, int V>
INLINE void run_rows(const rmsprop_rows_table &t)
{
    enum { W = Widest<T>::W };
    if (is_stopped(t.s))
        return;
    const typename Formula<T>::Coef base = coefficients<T>(t.s);
    for (u32 chunk = blockIdx.x; chunk < t.n_chunks; chunk += gridDim.x) {
        const int k = owner<&rmsprop_var::first>(t.var, t.n, chunk);
        const Lanes l = lanes_of(t.rows[k], chunk - t.var[k].first, RMSPROP_ROWS_EACH);
        const Share<T, U> s = share_of<T, U>(t, k);
        const typename Formula<T>::Coef c = coefficients_of<T>(base, t.s, t.var[k]);
        const bool packs = are_packs<T, W>(t.var[k], t.rows[k]);
        for (int j = 0; j < RMSPROP_ROWS_EACH; ++j) {
            const i64 head = s.begin + l.item + j * l.groups;
            if (head >= s.end)
                break;
            if (!is_first(s.occurrences, s.begin, head))
                continue;
            const u64 row = s.occurrences[head].row - t.rows[k].base;
            const Run<T> r = run_of<T>(t.var[k], (i64)row * s.width);
            if (packs)
                update_row<T, U, V, W>(s, r, head, l.lane, l.lanes, c);
            else
                update_row<T, U, V, 1>(s, r, head, l.lane, l.lanes, c);
        }
    }
}

/* Let columns begin to end of a row catch up by the steps that it misses. */
template <typename T, int V, int W>
INLINE void catch_up_columns(const rmsprop_rows_table &t, int k, i64 row, i64 begin,
                             i64 end, const Lanes &l)
{
    const i64 *steps = at<const i64>(t.rows[k].steps);
    const i64 missed = rmsprop_missed_steps(steps[0], steps[1],
                                            at<const i64>(t.rows[k].row_steps)[row]);
    if (missed == 0)
        return;
    const bool moves = (V & RMSPROP_MOMENTUM) != 0;  /* nothing else moves param */
    const typename Formula<T>::Missed factors = Formula<T>::missed(t, missed);
    const Run<T> r = run_of<T>(t.var[k], row * t.rows[k].width);
    for (i64 i = begin + (i64)l.lane * W; i < end; i += (i64)l.lanes * W) {
        Elements<T, V, W> e;
        e.read_state(r, i, moves);
        e.catch_up(factors);
        e.write(r, i, moves);
    }
}

template <typename T, int V>
INLINE void catch_up(const rmsprop_rows_table &t, int k, i64 row, i64 begin, i64 end,
                     const Lanes &l)
{
    enum { W = Widest<T>::W };
    if (t.rows[k].width % W == 0 && is_aligned(addresses_of(t.var[k])))
        catch_up_columns<T, V, W>(t, k, row, begin, end, l);
    else
        catch_up_columns<T, V, 1>(t, k, row, begin, end, l);
}

/* The rows of a sorted list, each once. */
template <typename T, typename U, int V>
INLINE void run_catch_up_rows(const rmsprop_rows_table &t)
{
    if (is_stopped(t.s))
        return;
    const Occurrence<U> *occurrences = at<const Occurrence<U> >(t.occurrences);
    for (u32 chunk = blockIdx.x; chunk < t.n_chunks; chunk += gridDim.x) {
        const int k = owner<&rmsprop_var::first>(t.var, t.n, chunk);
        const Lanes l = lanes_of(t.rows[k], chunk - t.var[k].first, RMSPROP_ROWS_EACH);
        const rmsprop_var_rows &rows = t.rows[k];
        if (!rows.row_steps)
            continue;
        for (int j = 0; j < RMSPROP_ROWS_EACH; ++j) {
            const i64 i = rows.start + l.item + j * l.groups;
            if (i >= end_of(t, k))
                break;
            if (is_first(occurrences, rows.start, i))
                catch_up<T, V>(t, k, (i64)(occurrences[i].row - rows.base), 0, rows.width,
                               l);
        }
    }
}

/* All rows, in pieces: a row may be as long as a variable, or as short as an element. */
template <typename T, int V>
INLINE void run_catch_up_all(const rmsprop_rows_table &t)
{
    if (is_stopped(t.s))
        return;
    for (u32 chunk = blockIdx.x; chunk < t.n_chunks; chunk += gridDim.x) {
        const int k = owner<&rmsprop_var::first>(t.var, t.n, chunk);
        const Lanes l = lanes_of(t.rows[k], chunk - t.var[k].first, RMSPROP_ROWS_EACH);
        const rmsprop_var_rows &rows = t.rows[k];
        const i64 *steps = at<const i64>(rows.steps);
        if (steps[0] == steps[1])
            continue;
        const i64 pieces = (rows.width + RMSPROP_CHUNK - 1) / RMSPROP_CHUNK;
        for (int j = 0; j < RMSPROP_ROWS_EACH; ++j) {
            const i64 i = l.item + j * l.groups;
            if (i >= end_of(t, k) - rows.start)
                break;
            const i64 row = i / pieces;
            const i64 column = (i - row * pieces) * RMSPROP_CHUNK;
            const i64 end = column + smaller(rows.width - column, RMSPROP_CHUNK);
            catch_up<T, V>(t, k, row, column, end, l);
        }
    }
}

/* One block. The variables have made a step, or all their rows have caught up. */
INLINE void run_count_steps(const rmsprop_rows_table &t)
{
    if (is_stopped(t.s))
        return;
    for (int k = threadIdx.x; k < t.n; k += RMSPROP_THREADS) {
        i64 *steps = at<i64>(t.rows[k].steps);
        if (!t.rows[k].row_steps)
            continue;
        steps[0] += t.made;
        if (t.is_all)
            steps[1] = steps[0];
    }
}

/* The rows of a list have all their variable's steps. */
template <typename U>
INLINE void run_count_rows(const rmsprop_rows_table &t)
{
    if (is_stopped(t.s))
        return;
    const Occurrence<U> *occurrences = at<const Occurrence<U> >(t.occurrences);
    const i64 stride = (i64)gridDim.x * RMSPROP_THREADS;
    for (i64 i = (i64)blockIdx.x * RMSPROP_THREADS + threadIdx.x; i < t.n_items;
         i += stride) {
        const rmsprop_var_rows &rows =
            t.rows[owner<&rmsprop_var_rows::start>(t.rows, t.n, i)];
        if (rows.row_steps)
            at<i64>(rows.row_steps)[(u64)occurrences[i].row - rows.base] =
                *at<const i64>(rows.steps);
    }
}
