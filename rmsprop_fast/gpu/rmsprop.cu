/* RMSprop on the device: loops over elements and rows around the header's formula.
 *
 * The same operations in the same order as the loops in cpu/, so the same bits: compile
 * with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true. Nothing is summed by
 * atomics, nothing waits for the host, no scratch is as large as a table or a gradient.
 *
 * The tests compile this very text with a C++ compiler and run it on the CPU, so it
 * uses few intrinsics and includes no header of CUDA's.
 */
#include "rmsprop_fast/rmsprop.h"
#include "tables.h"

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

enum { CENTERED = 1, MOMENTUM = 2, EPS_IN_SQRT = 4 };  /* bits of a variant */

#define FULL_WARP 0xffffffffu
#define WARPS (RMSPROP_THREADS / 32)

/* Addresses from a table are generic to the compiler until it is told better. */
template <typename T> __device__ __forceinline__ T *at(rmsprop_address address)
{
    T *p = (T *)address;
#ifdef __CUDA_ARCH__
    __builtin_assume(__isGlobal(p));
#endif
    return p;
}

/* The header's functions by type. */
template <typename T> struct Formula;

#define FORMULA(T, suffix)                                                               \
    template <> struct Formula<T> {                                                      \
        typedef rmsprop_coef_##suffix Coef;                                              \
        static __device__ __forceinline__ Coef coef(const rmsprop_scalars &s, double lr) \
        {                                                                                \
            return rmsprop_coef_make_##suffix(lr, s.rho, s.momentum, s.epsilon,          \
                                              1.0 - lr * s.weight_decay, s.factor,       \
                                              s.clip);                                   \
        }                                                                                \
        static __device__ __forceinline__ T grad(T raw, const Coef &c)                   \
        {                                                                                \
            return rmsprop_grad_##suffix(raw, c);                                        \
        }                                                                                \
        template <int V>                                                                 \
        static __device__ __forceinline__ void update(T &param, T grad, T &rms, T &mg,   \
                                                      T &mom, const Coef &c)             \
        {                                                                                \
            rmsprop_update_##suffix(&param, grad, &rms, &mg, &mom, c,                    \
                                    (V & CENTERED) != 0, (V & MOMENTUM) != 0,            \
                                    (V & EPS_IN_SQRT) != 0);                             \
        }                                                                                \
        typedef rmsprop_idle_##suffix Idle;                                              \
        static __device__ __forceinline__ Idle idle(const rmsprop_idle_rows &t,          \
                                                    i64 steps)                           \
        {                                                                                \
            return rmsprop_idle_steps_##suffix(t.idle_##suffix, (u64)steps);             \
        }                                                                                \
        template <int V>                                                                 \
        static __device__ __forceinline__ void catch_up(T &param, T &rms, T &mg, T &mom, \
                                                        const Idle &idle)                \
        {                                                                                \
            rmsprop_catch_up_##suffix(&param, &rms, &mg, &mom, idle,                     \
                                      (V & CENTERED) != 0, (V & MOMENTUM) != 0);         \
        }                                                                                \
    };
FORMULA(float, f32)
FORMULA(double, f64)

__device__ __forceinline__ bool is_stopped(const rmsprop_scalars &s)
{
    return *at<const int>(s.stop) != 0 || (s.skip && *at<const int>(s.skip) != 0);
}

template <typename T>
__device__ __forceinline__ typename Formula<T>::Coef coefficients(const rmsprop_scalars &s)
{
    double lr = s.lr;
    if (s.lr_address) {
        lr = s.lr_is_f32 ? (double)*at<const float>(s.lr_address)
                         : *at<const double>(s.lr_address);
        lr /= s.lr;
    }
    return Formula<T>::coef(s, lr);
}

/* The same coefficients for one variable: the norm may scale its gradient, and weight
 * decay may leave it alone. */
template <typename T, typename Table>
__device__ __forceinline__ typename Formula<T>::Coef
own(typename Formula<T>::Coef c, const Table &t, int k)
{
    if (t.s.scales)
        c.grad_scale = (T)at<const double>(t.s.scales)[t.scale[k]];
    if (!t.decays[k])
        c.keep = 1;
    return c;
}

/* The last k < n with before[k] <= item: which table entry an item belongs to. */
template <typename I> __device__ __forceinline__ int owner(const I *before, int n, I item)
{
    int low = 0, high = n - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (before[middle] <= item)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* W elements that move as one access. */
template <typename T, int W> struct alignas(sizeof(T) * W) Pack {
    T v[W];
};

template <typename T, int W>
__device__ __forceinline__ Pack<T, W> load(const T *p)
{
    return *(const Pack<T, W> *)p;
}

template <typename T, int W>
__device__ __forceinline__ void store(T *p, const Pack<T, W> &pack)
{
    *(Pack<T, W> *)p = pack;
}

__device__ __forceinline__ bool is_aligned(rmsprop_address addresses)
{
    return addresses % 16 == 0;
}

/* --- Dense ------------------------------------------------------------------------- */

/* One variable's arrays from some element on. */
template <typename T> struct Run {
    T *param;
    const T *grad;
    T *rms, *mg, *mom;
};

/* The arrays of entry k from `offset` on, without its gradient. */
template <typename T, typename Table>
__device__ __forceinline__ Run<T> state_of(const Table &t, int k, i64 offset)
{
    const Run<T> r = {at<T>(t.param[k]) + offset, 0, at<T>(t.rms[k]) + offset,
                      at<T>(t.mg[k]) + offset, at<T>(t.mom[k]) + offset};
    return r;
}

/* W elements on their way through the formula. */
template <typename T, int V, int W> struct Elements {
    Pack<T, W> param, grad, rms, mg, mom;

    __device__ __forceinline__ void read_param(const Run<T> &r, i64 i)
    {
        param = load<T, W>(r.param + i);
    }

    __device__ __forceinline__ void read_slots(const Run<T> &r, i64 i)
    {
        rms = load<T, W>(r.rms + i);
        if (V & CENTERED)
            mg = load<T, W>(r.mg + i);
        if (V & MOMENTUM)
            mom = load<T, W>(r.mom + i);
    }

    __device__ __forceinline__ void read(const Run<T> &r, i64 i,
                                         const typename Formula<T>::Coef &)
    {
        grad = load<T, W>(r.grad + i);
        read_param(r, i);
        read_slots(r, i);
    }

    /* `grad` is scaled and clipped. */
    __device__ __forceinline__ void update(const typename Formula<T>::Coef &c)
    {
#pragma unroll
        for (int j = 0; j < W; ++j)
            Formula<T>::template update<V>(param.v[j], grad.v[j], rms.v[j], mg.v[j],
                                           mom.v[j], c);
    }

    __device__ __forceinline__ void compute(const typename Formula<T>::Coef &c)
    {
#pragma unroll
        for (int j = 0; j < W; ++j)
            grad.v[j] = Formula<T>::grad(grad.v[j], c);
        update(c);
    }

    __device__ __forceinline__ void catch_up(const typename Formula<T>::Idle &idle)
    {
#pragma unroll
        for (int j = 0; j < W; ++j)
            Formula<T>::template catch_up<V>(param.v[j], rms.v[j], mg.v[j], mom.v[j],
                                             idle);
    }

    __device__ __forceinline__ void write_param(const Run<T> &r, i64 i) const
    {
        store<T, W>(r.param + i, param);
    }

    __device__ __forceinline__ void write_slots(const Run<T> &r, i64 i) const
    {
        store<T, W>(r.rms + i, rms);
        if (V & CENTERED)
            store<T, W>(r.mg + i, mg);
        if (V & MOMENTUM)
            store<T, W>(r.mom + i, mom);
    }

    __device__ __forceinline__ void write(const Run<T> &r, i64 i) const
    {
        write_param(r, i);
        write_slots(r, i);
    }
};

/* W gradient values on their way to an array of clipped ones. */
template <typename T, int W> struct Clipped {
    Pack<T, W> grad;

    __device__ __forceinline__ void read(const Run<T> &r, i64 i,
                                         const typename Formula<T>::Coef &)
    {
        grad = load<T, W>(r.grad + i);
    }

    __device__ __forceinline__ void compute(const typename Formula<T>::Coef &c)
    {
#pragma unroll
        for (int j = 0; j < W; ++j)
            grad.v[j] = Formula<T>::grad(grad.v[j], c);
    }

    __device__ __forceinline__ void write(const Run<T> &r, i64 i) const
    {
        store<T, W>(r.param + i, grad);
    }
};

/* Elements begin to end of a run by the whole block, two packs in flight per thread. */
template <typename T, int W, typename E>
__device__ __forceinline__ void run_packs(const Run<T> &r, i64 begin, i64 end,
                                          const typename Formula<T>::Coef &c)
{
    const i64 stride = (i64)RMSPROP_THREADS * W;
    i64 i = begin + (i64)threadIdx.x * W;
    for (; i + stride < end; i += 2 * stride) {
        E a, b;
        a.read(r, i, c);
        b.read(r, i + stride, c);
        a.compute(c);
        b.compute(c);
        a.write(r, i);
        b.write(r, i + stride);
    }
    if (i < end) {
        E a;
        a.read(r, i, c);
        a.compute(c);
        a.write(r, i);
    }
}

/* E1 and EW handle one element and W of them. */
template <typename T, int W, typename E1, typename EW>
__device__ __forceinline__ void run_dense(const rmsprop_dense &t)
{
    const typename Formula<T>::Coef base = coefficients<T>(t.s);
    for (u32 chunk = blockIdx.x; chunk < t.first[t.n]; chunk += gridDim.x) {
        const int k = owner(t.first, t.n, chunk);
        const typename Formula<T>::Coef c = own<T>(base, t, k);
        const Run<T> r = {at<T>(t.param[k]), at<const T>(t.grad[k]), at<T>(t.rms[k]),
                          at<T>(t.mg[k]), at<T>(t.mom[k])};
        const i64 begin = (i64)(chunk - t.first[k]) * RMSPROP_CHUNK;
        const i64 rest = t.size[k] - begin;
        const i64 end = begin + (rest < RMSPROP_CHUNK ? rest : RMSPROP_CHUNK);
        i64 whole = begin;
        if (is_aligned(t.param[k] | t.grad[k] | t.rms[k] | t.mg[k] | t.mom[k])) {
            whole = end - end % W;
            run_packs<T, W, EW>(r, begin, whole, c);
        }
        run_packs<T, 1, E1>(r, whole, end, c);
    }
}

/* --- Row-sparse: which rows -------------------------------------------------------- */

/* A row that occurs, and where in the list of all occurrences. */
template <typename U> struct alignas(2 * sizeof(U)) Occurrence {
    U row, position;
};

/* Kind 2*log2(bytes), plus 1 when unsigned. Returns the index's 64 bits. */
__device__ __forceinline__ u64 rmsprop_load_index(rmsprop_address indices, int kind, i64 k)
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

/* Whoever is first tells the host; everything that follows does nothing. */
__device__ __forceinline__ void refuse_row(const rmsprop_rows &t, int k, u64 row,
                                           i64 position)
{
    if (atomicCAS(at<int>(t.s.stop), 0, 1) != 0)
        return;
    volatile rmsprop_fault *fault = (volatile rmsprop_fault *)t.fault;
    fault->row = row;
    fault->position = position;
    fault->n_rows = t.n_rows[k];
    fault->step = t.step;
    fault->pair = t.pair[k];
    fault->is_unsigned = t.kind[k] % 2;
    __threadfence_system();
    fault->found = RMSPROP_ROW_FOUND;
}

template <typename U> __device__ __forceinline__ void run_keys(const rmsprop_rows &t)
{
    Occurrence<U> *out = at<Occurrence<U> >(t.occurrences);
    const i64 n = t.start[t.n];
    const i64 stride = (i64)gridDim.x * RMSPROP_THREADS;
    for (i64 i = (i64)blockIdx.x * RMSPROP_THREADS + threadIdx.x; i < n; i += stride) {
        const int k = owner(t.start, t.n, i);
        u64 row = rmsprop_load_index(t.indices[k], t.kind[k], i - t.start[k]);
        if (row >= (u64)t.n_rows[k]) {  /* negative numbers are huge ones */
            refuse_row(t, k, row, i - t.start[k]);
            row = 0;
        }
        out[i].row = (U)(t.base[k] + row);
        out[i].position = (U)i;
    }
}

/* --- Row-sparse: a stable sort by key, eight bits a pass --------------------------- */

/* What a block shares while it orders a tile: counts of digits, then places. */
template <typename U> struct Tile {
    U warps[WARPS][RMSPROP_DIGITS];
    U places[RMSPROP_DIGITS];
    U scan[RMSPROP_THREADS];
};

/* The sum of `value` over the threads before this one; every thread of the block calls. */
template <typename U> __device__ __forceinline__ U sum_before(U *scan, U value)
{
    scan[threadIdx.x] = value;
    __syncthreads();
    for (int reach = 1; reach < RMSPROP_THREADS; reach *= 2) {
        const U more = (int)threadIdx.x >= reach ? scan[threadIdx.x - reach] : 0;
        __syncthreads();
        scan[threadIdx.x] += more;
        __syncthreads();
    }
    const U before = scan[threadIdx.x] - value;
    __syncthreads();
    return before;
}

/* Count a lane's digit in its warp; returns how many equal ones came before it. Lanes
 * without an occurrence take part with a digit of their own. */
template <typename U>
__device__ __forceinline__ U count_digit(U *counts, u32 digit, bool is_there)
{
    const u32 lane = threadIdx.x % 32;
    const u32 equals = __match_any_sync(FULL_WARP, is_there ? digit : RMSPROP_DIGITS);
    const u32 before = equals & ((1u << lane) - 1);
    U rank = 0;
    if (is_there)
        rank = counts[digit] + (U)__popc(before);
    __syncwarp();
    if (is_there && before == 0)
        counts[digit] += (U)__popc(equals);
    __syncwarp();
    return rank;
}

template <typename U>
__device__ __forceinline__ u32 digit_of(const Occurrence<U> &occurrence, int shift)
{
    return (u32)(occurrence.row >> shift) % RMSPROP_DIGITS;
}

/* Count the digits of occurrences begin to end; thread d returns how often d occurs. */
template <typename U>
__device__ __forceinline__ U count_tile(Tile<U> &tile, const Occurrence<U> *in, i64 begin,
                                        i64 end, int shift)
{
    U *counts = tile.warps[threadIdx.x / 32];
    for (int d = threadIdx.x % 32; d < RMSPROP_DIGITS; d += 32)
        counts[d] = 0;
    __syncwarp();
    /* Whole warps go round together: all their lanes vote. */
    for (i64 first = begin; first < end; first += RMSPROP_THREADS) {
        const i64 i = first + threadIdx.x;
        count_digit<U>(counts, i < end ? digit_of(in[i], shift) : 0, i < end);
    }
    __syncthreads();
    U total = 0;
    for (int w = 0; w < WARPS; ++w)
        total += tile.warps[w][threadIdx.x];
    __syncthreads();
    return total;
}

/* Move a tile's occurrences in order to where tile.places says that each digit goes. */
template <typename U>
__device__ __forceinline__ void scatter_tile(Tile<U> &tile, const Occurrence<U> *in,
                                             Occurrence<U> *out, i64 begin, i64 end,
                                             int shift)
{
    enum { EACH = RMSPROP_SUBTILE / RMSPROP_THREADS };
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    U *counts = tile.warps[warp];
    for (i64 first = begin; first < end; first += RMSPROP_SUBTILE) {
        Occurrence<U> mine[EACH];
        U rank[EACH];
        for (int d = lane; d < RMSPROP_DIGITS; d += 32)
            counts[d] = 0;
        __syncwarp();
        /* A warp takes a stretch, so that a rank within it is one within the subtile. */
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const i64 i = first + (warp * EACH + j) * 32 + lane;
            if (i < end)
                mine[j] = in[i];
            rank[j] = count_digit<U>(counts, i < end ? digit_of(mine[j], shift) : 0,
                                     i < end);
        }
        __syncthreads();
        U place = tile.places[threadIdx.x];
        for (int w = 0; w < WARPS; ++w) {
            const U count = tile.warps[w][threadIdx.x];
            tile.warps[w][threadIdx.x] = place;
            place += count;
        }
        tile.places[threadIdx.x] = place;
        __syncthreads();
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const i64 i = first + (warp * EACH + j) * 32 + lane;
            if (i < end)
                out[counts[digit_of(mine[j], shift)] + rank[j]] = mine[j];
        }
        __syncthreads();
    }
}

/* One block makes all passes over a short list; the result is in `out` after an odd
 * number of passes, else in `in`. */
template <typename U> __device__ __forceinline__ void run_sort_all(const rmsprop_sort &t)
{
    __shared__ Tile<U> tile;
    Occurrence<U> *in = at<Occurrence<U> >(t.in), *out = at<Occurrence<U> >(t.out);
    for (int pass = 0; pass < t.n_passes; ++pass) {
        const U count = count_tile<U>(tile, in, 0, t.n, 8 * pass);
        tile.places[threadIdx.x] = sum_before<U>(tile.scan, count);
        __syncthreads();
        scatter_tile<U>(tile, in, out, 0, t.n, 8 * pass);
        Occurrence<U> *const swapped = in;
        in = out;
        out = swapped;
    }
}

/* A long list's pass, first part: a block counts the digits of its tile. */
template <typename U> __device__ __forceinline__ void run_sort_count(const rmsprop_sort &t)
{
    __shared__ Tile<U> tile;
    const i64 begin = blockIdx.x * t.tile;
    const i64 end = begin + t.tile < t.n ? begin + t.tile : t.n;
    const U count =
        count_tile<U>(tile, at<const Occurrence<U> >(t.in), begin, end, t.shift);
    at<U>(t.counts)[(i64)threadIdx.x * t.n_tiles + blockIdx.x] = count;
}

/* Second part: a block sums one digit's counts over the tiles before each. */
template <typename U> __device__ __forceinline__ void run_sort_scan(const rmsprop_sort &t)
{
    __shared__ U scan[RMSPROP_THREADS];
    __shared__ U total;
    U *counts = at<U>(t.counts) + (i64)blockIdx.x * t.n_tiles;
    U carry = 0;
    for (int first = 0; first < t.n_tiles; first += RMSPROP_THREADS) {
        const int i = first + (int)threadIdx.x;
        const U count = i < t.n_tiles ? counts[i] : 0;
        const U before = sum_before<U>(scan, count);
        if (i < t.n_tiles)
            counts[i] = carry + before;
        if (threadIdx.x == RMSPROP_THREADS - 1)
            total = before + count;
        __syncthreads();
        carry += total;
        __syncthreads();
    }
    if (threadIdx.x == 0)
        at<U>(t.totals)[blockIdx.x] = carry;
}

/* Third part: a block moves its tile's occurrences. */
template <typename U>
__device__ __forceinline__ void run_sort_scatter(const rmsprop_sort &t)
{
    __shared__ Tile<U> tile;
    const i64 begin = blockIdx.x * t.tile;
    const i64 end = begin + t.tile < t.n ? begin + t.tile : t.n;
    const U before = sum_before<U>(tile.scan, at<const U>(t.totals)[threadIdx.x]);
    tile.places[threadIdx.x] =
        before + at<const U>(t.counts)[(i64)threadIdx.x * t.n_tiles + blockIdx.x];
    __syncthreads();
    scatter_tile<U>(tile, at<const Occurrence<U> >(t.in), at<Occurrence<U> >(t.out), begin,
                    end, t.shift);
}

/* --- Row-sparse: sums and updates -------------------------------------------------- */

/* A thread's place in its block: lanes share an item of an entry, and a block takes
 * `each` items of every group of lanes at a time, `groups` apart. */
struct Lanes {
    int lane, lanes;
    i64 groups, item;  /* the first item */
};

template <typename Table>
__device__ __forceinline__ Lanes lanes_of(const Table &t, int k, u32 chunk, int each)
{
    const int lanes = t.lanes[k];
    const i64 groups = RMSPROP_THREADS / lanes;
    const Lanes l = {(int)threadIdx.x % lanes, lanes, groups,
                     (i64)chunk * groups * each + threadIdx.x / lanes};
    return l;
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
__device__ __forceinline__ Share<T, U> share_of(const rmsprop_rows &t, int k)
{
    const Share<T, U> s = {at<const Occurrence<U> >(t.occurrences),
                           t.start[k],
                           t.start[k + 1],
                           at<const T>(t.values[k]),
                           at<T>(t.partial[k]),
                           t.width[k]};
    return s;
}

/* The first occurrence in [low, high) whose row is `row` or greater. */
template <typename U>
__device__ __forceinline__ i64 first_not_below(const Occurrence<U> *occurrences, i64 low,
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
 * first of its row: who has it works for the row. */
template <typename U>
__device__ __forceinline__ bool is_first(const Occurrence<U> *occurrences, i64 begin, i64 i)
{
    return i == begin || occurrences[i - 1].row != occurrences[i].row;
}

/* Where one run of a row's occurrences ends that begins at `first`. */
template <typename T, typename U>
__device__ __forceinline__ i64 end_of_run(const Share<T, U> &s, i64 first)
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
__device__ __forceinline__ Pack<T, W> value_of(const Share<T, U> &s, i64 i, i64 column,
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
__device__ __forceinline__ Pack<T, W> sum_run(const Share<T, U> &s, i64 first, i64 last,
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
__device__ __forceinline__ i64 partial_row(i64 begin, i64 first)
{
    return (first - begin) / RMSPROP_SUM_RUN;
}

/* Where such a run begins in the 32 places from `begin + 32*group`, or -1. */
template <typename T, typename U>
__device__ __forceinline__ i64 find_run(const Share<T, U> &s, i64 group)
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
__device__ __forceinline__ void store_run(const Share<T, U> &s, i64 first, int lane,
                                          int lanes, const typename Formula<T>::Coef &c)
{
    const i64 last = end_of_run(s, first);
    T *out = s.partial + partial_row(s.begin, first) * s.width;
    for (i64 column = (i64)lane * W; column < s.width; column += (i64)lanes * W)
        store<T, W>(out + column, sum_run<T, U, W>(s, first, last, column, c));
}

/* Update a row once: its first run, then the sums of the others in order. */
template <typename T, typename U, int V, int W>
__device__ __forceinline__ void update_row(const Share<T, U> &s, const Run<T> &r, i64 head,
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
        e.read_param(r, column);
        e.read_slots(r, column);
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

template <typename T, int W>
__device__ __forceinline__ bool are_packs(const rmsprop_rows &t, int k)
{
    return t.width[k] % W == 0 && is_aligned(t.param[k] | t.values[k] | t.rms[k] | t.mg[k] |
                                             t.mom[k] | t.partial[k]);
}

/* Sum the runs of rows that occur more than 32 times, but for their first. */
template <typename T, typename U, int W>
__device__ __forceinline__ void run_partial(const rmsprop_rows &t)
{
    if (is_stopped(t.s))
        return;
    const typename Formula<T>::Coef base = coefficients<T>(t.s);
    for (u32 chunk = blockIdx.x; chunk < t.first_run[t.n]; chunk += gridDim.x) {
        const int k = owner(t.first_run, t.n, chunk);
        const Lanes l = lanes_of(t, k, chunk - t.first_run[k], 1);
        const Share<T, U> s = share_of<T, U>(t, k);
        const typename Formula<T>::Coef c = own<T>(base, t, k);
        const i64 first = find_run(s, l.item);
        if (first < 0)
            continue;
        if (are_packs<T, W>(t, k))
            store_run<T, U, W>(s, first, l.lane, l.lanes, c);
        else
            store_run<T, U, 1>(s, first, l.lane, l.lanes, c);
    }
}

template <typename T, typename U, int V, int W>
__device__ __forceinline__ void run_rows(const rmsprop_rows &t)
{
    if (is_stopped(t.s))
        return;
    const typename Formula<T>::Coef base = coefficients<T>(t.s);
    for (u32 chunk = blockIdx.x; chunk < t.first[t.n]; chunk += gridDim.x) {
        const int k = owner(t.first, t.n, chunk);
        const Lanes l = lanes_of(t, k, chunk - t.first[k], RMSPROP_ROWS_EACH);
        const Share<T, U> s = share_of<T, U>(t, k);
        const typename Formula<T>::Coef c = own<T>(base, t, k);
        const bool packs = are_packs<T, W>(t, k);
        for (int j = 0; j < RMSPROP_ROWS_EACH; ++j) {
            const i64 head = s.begin + l.item + j * l.groups;
            if (head >= s.end)
                break;
            if (!is_first(s.occurrences, s.begin, head))
                continue;
            const u64 row = s.occurrences[head].row - t.base[k];
            const Run<T> r = state_of<T>(t, k, (i64)row * s.width);
            if (packs)
                update_row<T, U, V, W>(s, r, head, l.lane, l.lanes, c);
            else
                update_row<T, U, V, 1>(s, r, head, l.lane, l.lanes, c);
        }
    }
}

/* --- Rows that missed steps -------------------------------------------------------- */

/* Catch up columns begin to end of a row by the steps that it misses. */
template <typename T, int V, int W>
__device__ __forceinline__ void catch_up_columns(const rmsprop_idle_rows &t, int k,
                                                 i64 row, i64 begin, i64 end,
                                                 const Lanes &l)
{
    const i64 *steps = at<const i64>(t.steps[k]);
    const i64 own = at<const i64>(t.row_steps[k])[row];
    const i64 missed = steps[0] - (own > steps[1] ? own : steps[1]);
    if (missed <= 0)
        return;
    const typename Formula<T>::Idle idle = Formula<T>::idle(t, missed);
    const Run<T> r = state_of<T>(t, k, row * t.width[k]);
    for (i64 i = begin + (i64)l.lane * W; i < end; i += (i64)l.lanes * W) {
        Elements<T, V, W> e;
        if (V & MOMENTUM)  /* which alone moves param */
            e.read_param(r, i);
        e.read_slots(r, i);
        e.catch_up(idle);
        if (V & MOMENTUM)
            e.write_param(r, i);
        e.write_slots(r, i);
    }
}

template <typename T, int V, int W>
__device__ __forceinline__ void catch_up(const rmsprop_idle_rows &t, int k, i64 row,
                                         i64 begin, i64 end, const Lanes &l)
{
    if (t.width[k] % W == 0 && is_aligned(t.param[k] | t.rms[k] | t.mg[k] | t.mom[k]))
        catch_up_columns<T, V, W>(t, k, row, begin, end, l);
    else
        catch_up_columns<T, V, 1>(t, k, row, begin, end, l);
}

/* The rows of a sorted list, each once. */
template <typename T, typename U, int V, int W>
__device__ __forceinline__ void run_catch_up_rows(const rmsprop_idle_rows &t)
{
    if (is_stopped(t.s))
        return;
    const Occurrence<U> *occurrences = at<const Occurrence<U> >(t.occurrences);
    for (u32 chunk = blockIdx.x; chunk < t.first[t.n]; chunk += gridDim.x) {
        const int k = owner(t.first, t.n, chunk);
        const Lanes l = lanes_of(t, k, chunk - t.first[k], RMSPROP_ROWS_EACH);
        if (!t.row_steps[k])
            continue;
        for (int j = 0; j < RMSPROP_ROWS_EACH; ++j) {
            const i64 i = t.start[k] + l.item + j * l.groups;
            if (i >= t.start[k + 1])
                break;
            if (is_first(occurrences, t.start[k], i))
                catch_up<T, V, W>(t, k, (i64)(occurrences[i].row - t.base[k]), 0,
                                  t.width[k], l);
        }
    }
}

/* All rows, in pieces: a row may be as long as a variable, or as short as an element. */
template <typename T, int V, int W>
__device__ __forceinline__ void run_catch_up_all(const rmsprop_idle_rows &t)
{
    if (is_stopped(t.s))
        return;
    for (u32 chunk = blockIdx.x; chunk < t.first[t.n]; chunk += gridDim.x) {
        const int k = owner(t.first, t.n, chunk);
        const Lanes l = lanes_of(t, k, chunk - t.first[k], RMSPROP_ROWS_EACH);
        const i64 *steps = at<const i64>(t.steps[k]);
        if (steps[0] == steps[1])
            continue;
        for (int j = 0; j < RMSPROP_ROWS_EACH; ++j) {
            const i64 i = l.item + j * l.groups;
            if (i >= t.start[k + 1] - t.start[k])
                break;
            const i64 row = i / t.pieces[k];
            const i64 column = (i - row * t.pieces[k]) * RMSPROP_CHUNK;
            const i64 rest = t.width[k] - column;
            const i64 end = column + (rest < RMSPROP_CHUNK ? rest : RMSPROP_CHUNK);
            catch_up<T, V, W>(t, k, row, column, end, l);
        }
    }
}

/* One block. The variables have made a step, or all their rows have caught up. */
__device__ __forceinline__ void run_count_steps(const rmsprop_idle_rows &t)
{
    if (is_stopped(t.s))
        return;
    for (int k = threadIdx.x; k < t.n; k += RMSPROP_THREADS) {
        i64 *steps = at<i64>(t.steps[k]);
        if (!t.row_steps[k])
            continue;
        steps[0] += t.made;
        if (t.is_all)
            steps[1] = steps[0];
    }
}

/* The rows of a list have all their variable's steps. */
template <typename U>
__device__ __forceinline__ void run_count_rows(const rmsprop_idle_rows &t)
{
    if (is_stopped(t.s))
        return;
    const Occurrence<U> *occurrences = at<const Occurrence<U> >(t.occurrences);
    const i64 n = t.start[t.n];
    const i64 stride = (i64)gridDim.x * RMSPROP_THREADS;
    for (i64 i = (i64)blockIdx.x * RMSPROP_THREADS + threadIdx.x; i < n; i += stride) {
        const int k = owner(t.start, t.n, i);
        if (t.row_steps[k])
            at<i64>(t.row_steps[k])[(u64)occurrences[i].row - t.base[k]] =
                *at<const i64>(t.steps[k]);
    }
}

/* --- Norms ------------------------------------------------------------------------- */

/* The elements of one block of 4,096 of a gradient. */
template <typename T> struct Block {
    int k;  /* the gradient's entry */
    const T *grad;
    int n;
};

template <typename T>
__device__ __forceinline__ Block<T> block_of(const rmsprop_gradients &t, u32 block)
{
    const int k = owner(t.first, t.n, block);
    const i64 begin = (i64)(block - t.first[k]) * RMSPROP_NORM_BLOCK;
    const i64 rest = t.size[k] - begin;
    const Block<T> b = {k, at<const T>(t.grad[k]) + begin,
                        (int)(rest < RMSPROP_NORM_BLOCK ? rest : RMSPROP_NORM_BLOCK)};
    return b;
}

/* A warp sums the squares of a block of 4,096: lane j those congruent to j mod 32. */
template <typename T>
__device__ __forceinline__ void run_norm_blocks(const rmsprop_gradients &t)
{
    const int lane = threadIdx.x % 32;
    const u32 stride = gridDim.x * WARPS;
    for (u32 block = blockIdx.x * WARPS + threadIdx.x / 32; block < t.first[t.n];
         block += stride) {
        const Block<T> b = block_of<T>(t, block);
        double sum = 0;
#pragma unroll 8
        for (int i = lane; i < b.n; i += 32) {
            const double x = b.grad[i];
            sum += x * x;
        }
        for (int reach = 16; reach > 0; reach /= 2)
            sum += __shfl_down_sync(FULL_WARP, sum, reach);
        if (lane == 0)
            at<double>(t.sums)[block] = sum;
    }
}

/* A warp adds one gradient's block sums in order, 32 loaded at a time. */
__device__ __forceinline__ void run_norm_squares(const rmsprop_gradients &t)
{
    const int lane = threadIdx.x % 32;
    const double *sums = at<const double>(t.sums);
    for (int k = blockIdx.x * WARPS + threadIdx.x / 32; k < t.n; k += gridDim.x * WARPS) {
        double squares = 0;
        for (u32 first = t.first[k]; first < t.first[k + 1]; first += 32) {
            const u32 rest = t.first[k + 1] - first;
            const double mine = (u32)lane < rest ? sums[first + lane] : 0;
            for (u32 j = 0; j < 32 && j < rest; ++j)
                squares += __shfl_sync(FULL_WARP, mine, j);
        }
        if (lane == 0)
            at<double>(t.squares)[t.scale[k]] = squares;
    }
}

__device__ __forceinline__ double norm_scale(double squares, double norm, double factor)
{
    const double length = fabs(factor) * sqrt(squares);
    return length <= norm ? factor : factor * (norm / length);
}

/* One block. Each gradient's own norm, or that of all together. */
__device__ __forceinline__ void run_norm_scales(const rmsprop_norm_scales &t)
{
    __shared__ double total;
    const double *squares = at<const double>(t.squares);
    if (t.is_global) {
        if (threadIdx.x == 0) {
            double sum = 0;
            for (i64 k = 0; k < t.n; ++k)
                sum += squares[k];
            total = sum;
        }
        __syncthreads();
    }
    for (i64 k = threadIdx.x; k < t.n; k += RMSPROP_THREADS)
        at<double>(t.scales)[k] =
            norm_scale(t.is_global ? total : squares[k], t.norm, t.factor);
}

/* --- Gradients that are not finite ------------------------------------------------- */

/* Infinity less itself is no number, as no number is. */
template <typename T> __device__ __forceinline__ bool is_finite(T x)
{
    return x - x == 0;
}

/* A warp looks at a block of 4,096. Where the sum of its squares is known and finite, so
 * is the gradient. */
template <typename T>
__device__ __forceinline__ void run_nonfinite(const rmsprop_gradients &t)
{
    const int lane = threadIdx.x % 32;
    const u32 stride = gridDim.x * WARPS;
    for (u32 block = blockIdx.x * WARPS + threadIdx.x / 32; block < t.first[t.n];
         block += stride) {
        const Block<T> b = block_of<T>(t, block);
        if (t.squares && is_finite(at<const double>(t.squares)[t.scale[b.k]]))
            continue;
        int count = 0;
#pragma unroll 8
        for (int i = lane; i < b.n; i += 32)
            count += !is_finite(b.grad[i]);
        if (count) {
            rmsprop_nonfinite *bad =
                at<rmsprop_nonfinite>(t.nonfinite) + t.scale[b.k];
            atomicAdd(&bad->count, (u64)count);  /* of integers: any order will do */
            bad->size = t.size[b.k];
            bad->pair = t.pair[b.k];
            bad->variable = t.variable[b.k];
            *at<int>(t.any) = 1;
        }
    }
}

/* One thread. A step that is left out sees `any`; one that is refused stops all. */
__device__ __forceinline__ void run_judge(const rmsprop_verdict &t)
{
    if (threadIdx.x != 0 || *at<const int>(t.any) == 0)
        return;
    volatile rmsprop_fault *fault = (volatile rmsprop_fault *)t.fault;
    if (t.skips) {
        if (*at<const int>(t.stop) == 0)
            fault->skipped[t.step < 0] += 1;
        return;
    }
    if (atomicCAS(at<int>(t.stop), 0, 1) != 0)
        return;
    const rmsprop_nonfinite *all = at<const rmsprop_nonfinite>(t.nonfinite);
    int n_bad = 0;
    for (i64 k = 0; k < t.n; ++k) {
        if (all[k].count == 0)
            continue;
        if (n_bad < RMSPROP_MAX_REPORTED) {
            fault->bad[n_bad].count = all[k].count;
            fault->bad[n_bad].size = all[k].size;
            fault->bad[n_bad].pair = all[k].pair;
            fault->bad[n_bad].variable = all[k].variable;
        }
        ++n_bad;
    }
    fault->n_bad = n_bad;
    fault->step = t.step;
    __threadfence_system();
    fault->found = RMSPROP_NONFINITE_FOUND;
}

/* --- Kernels ----------------------------------------------------------------------- */

/* The tests define KERNEL beforehand, to list the kernels and to call them. */
#ifndef KERNEL
#define KERNEL(name, parameters)                                                         \
    extern "C" __global__ void __launch_bounds__(RMSPROP_THREADS, 2)                      \
        rmsprop_##name(const __grid_constant__ parameters t)
#endif

/* T is float or double, W elements of it are 16 bytes, V is the variant; U holds row
 * numbers and places, `wide` is empty for u32. The host asks for one line at a time. */
#define DENSE_KERNELS(suffix, T, W, V)                                                   \
    KERNEL(dense_##suffix##_##V, rmsprop_dense)                                          \
    {                                                                                    \
        if (!is_stopped(t.s))                                                            \
            run_dense<T, W, Elements<T, V, 1>, Elements<T, V, W> >(t);                   \
    }
#define GRADIENT_KERNELS(suffix, T, W)                                                   \
    KERNEL(take_##suffix, rmsprop_dense)                                                 \
    {                                                                                    \
        run_dense<T, W, Clipped<T, 1>, Clipped<T, W> >(t);                               \
    }                                                                                    \
    KERNEL(norm_blocks_##suffix, rmsprop_gradients) { run_norm_blocks<T>(t); }           \
    KERNEL(nonfinite_##suffix, rmsprop_gradients) { run_nonfinite<T>(t); }
#define UNTYPED_KERNELS()                                                                \
    KERNEL(norm_squares, rmsprop_gradients) { run_norm_squares(t); }                     \
    KERNEL(norm_factors, rmsprop_norm_scales) { run_norm_scales(t); }                    \
    KERNEL(judge, rmsprop_verdict) { run_judge(t); }                                     \
    KERNEL(count_steps, rmsprop_idle_rows) { run_count_steps(t); }
#define ROWS_KERNELS(wide, U, suffix, T, W, V)                                           \
    KERNEL(rows##wide##_##suffix##_##V, rmsprop_rows) { run_rows<T, U, V, W>(t); }
#define PARTIAL_KERNELS(wide, U, suffix, T, W)                                           \
    KERNEL(partial##wide##_##suffix, rmsprop_rows) { run_partial<T, U, W>(t); }
#define CATCH_UP_ROWS_KERNELS(wide, U, suffix, T, W, V)                                  \
    KERNEL(catch_up_rows##wide##_##suffix##_##V, rmsprop_idle_rows)                      \
    {                                                                                    \
        run_catch_up_rows<T, U, V, W>(t);                                                \
    }
#define CATCH_UP_ALL_KERNELS(suffix, T, W, V)                                            \
    KERNEL(catch_up_all_##suffix##_##V, rmsprop_idle_rows)                               \
    {                                                                                    \
        run_catch_up_all<T, V, W>(t);                                                    \
    }
#define LIST_KERNELS(wide, U)                                                            \
    KERNEL(keys##wide, rmsprop_rows) { run_keys<U>(t); }                                 \
    KERNEL(count_rows##wide, rmsprop_idle_rows) { run_count_rows<U>(t); }                \
    KERNEL(sort_all##wide, rmsprop_sort) { run_sort_all<U>(t); }                         \
    KERNEL(sort_count##wide, rmsprop_sort) { run_sort_count<U>(t); }                     \
    KERNEL(sort_scan##wide, rmsprop_sort) { run_sort_scan<U>(t); }                       \
    KERNEL(sort_scatter##wide, rmsprop_sort) { run_sort_scatter<U>(t); }

RMSPROP_KERNELS
