/* Row-sparse: a stable radix sort of occurrences by key, eight bits a pass. */

/* A row that occurs, and where in the list of all occurrences. */
template <typename U> struct alignas(2 * sizeof(U)) Occurrence {
    U row, position;
};

/* What a block shares while it orders a tile: counts of digits, then places. */
template <typename U> struct Tile {
    U warps[WARPS][RMSPROP_DIGITS];
    U places[RMSPROP_DIGITS];
    U scan[RMSPROP_THREADS];
};

/* The sum of `value` over the threads before this one; every thread of the block calls. */
template <typename U> INLINE U sum_before(U *scan, U value)
{
    scan[threadIdx.x] = value;
    __syncthreads();
    for (int distance = 1; distance < RMSPROP_THREADS; distance *= 2) {
        const U more = (int)threadIdx.x >= distance ? scan[threadIdx.x - distance] : 0;
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
INLINE U count_digit(U *counts, u32 digit, bool is_there)
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
INLINE u32 digit_of(const Occurrence<U> &occurrence, int shift)
{
    return (u32)(occurrence.row >> shift) % RMSPROP_DIGITS;
}

/* Count the digits of occurrences begin to end; thread d returns how often d occurs. */
template <typename U>
INLINE U count_tile(Tile<U> &tile, const Occurrence<U> *in, i64 begin,
                                        i64 end, int shift)
{
    U *counts = tile.warps[threadIdx.x / 32];
    for (int d = threadIdx.x % 32; d < RMSPROP_DIGITS; d += 32)
        counts[d] = 0;
    __syncwarp();
    /* Whole warps loop together: all their lanes vote. */
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
INLINE void scatter_tile(Tile<U> &tile, const Occurrence<U> *in,
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
        /* Each warp reads neighbours: a rank among them is a rank within the subtile. */
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
template <typename U> INLINE void run_sort_all(const rmsprop_sort &t)
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
template <typename U> INLINE void run_sort_count(const rmsprop_sort &t)
{
    __shared__ Tile<U> tile;
    const i64 begin = blockIdx.x * t.tile;
    const i64 end = begin + t.tile < t.n ? begin + t.tile : t.n;
    const U count =
        count_tile<U>(tile, at<const Occurrence<U> >(t.in), begin, end, t.shift);
    at<U>(t.counts)[(i64)threadIdx.x * t.n_tiles + blockIdx.x] = count;
}

/* Second part: a block sums one digit's counts over the tiles before each. */
template <typename U> INLINE void run_sort_scan(const rmsprop_sort &t)
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
INLINE void run_sort_scatter(const rmsprop_sort &t)
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
