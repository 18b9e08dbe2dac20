/* Gradients: the norms, and whether every element is finite. */

/* The elements of one block of 4,096 of a gradient. */
template <typename T> struct Block {
    const rmsprop_var &var;
    const T *grad;
    int n;
};

template <typename T> INLINE Block<T> block_of(const rmsprop_table &t, u32 block)
{
    const rmsprop_var &var = t.var[owner<&rmsprop_var::first>(t.var, t.n, block)];
    const i64 begin = (i64)(block - var.first) * RMSPROP_NORM_BLOCK;
    const int n = (int)smaller(var.size - begin, RMSPROP_NORM_BLOCK);
    const Block<T> b = {var, at<const T>(var.grad) + begin, n};
    return b;
}

/* A warp sums the squares of a block of 4,096: lane j those congruent to j mod 32. */
template <typename T>
INLINE void run_norm_blocks(const rmsprop_table &t)
{
    const int lane = threadIdx.x % 32;
    const u32 stride = gridDim.x * WARPS;
    for (u32 block = blockIdx.x * WARPS + threadIdx.x / 32; block < t.n_chunks;
         block += stride) {
        const Block<T> b = block_of<T>(t, block);
        double sum = 0;
#pragma unroll 8
        for (int i = lane; i < b.n; i += 32) {
            const double x = b.grad[i];
            sum += x * x;
        }
        for (int distance = 16; distance > 0; distance /= 2)
            sum += __shfl_down_sync(FULL_WARP, sum, distance);
        if (lane == 0)
            at<double>(t.sums)[block] = sum;
    }
}

/* A warp adds one gradient's block sums in order, 32 loaded at a time. */
INLINE void run_norm_squares(const rmsprop_table &t)
{
    const int lane = threadIdx.x % 32;
    const double *sums = at<const double>(t.sums);
    for (int k = blockIdx.x * WARPS + threadIdx.x / 32; k < t.n; k += gridDim.x * WARPS) {
        double squares = 0;
        const u32 end = k + 1 < t.n ? t.var[k + 1].first : t.n_chunks;
        for (u32 first = t.var[k].first; first < end; first += 32) {
            const u32 rest = end - first;
            const double mine = (u32)lane < rest ? sums[first + lane] : 0;
            for (u32 j = 0; j < 32 && j < rest; ++j)
                squares += __shfl_sync(FULL_WARP, mine, j);
        }
        if (lane == 0)
            at<double>(t.squares)[t.var[k].scale] = squares;
    }
}

/* One block. Each gradient's own norm, or that of all together. */
INLINE void run_norm_scales(const rmsprop_norms &t)
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
            rmsprop_norm_scale(t.is_global ? total : squares[k], t.norm, t.factor);
}

/* --- Gradients that are not finite ------------------------------------------------- */

/* Infinity minus infinity is a NaN, as is a NaN minus itself. */
template <typename T> INLINE bool is_finite(T x)
{
    return x - x == 0;
}

/* A warp looks at a block of 4,096. Where the sum of its squares is known and finite, so
 * is the gradient. */
template <typename T>
INLINE void run_nonfinite(const rmsprop_table &t)
{
    const int lane = threadIdx.x % 32;
    const u32 stride = gridDim.x * WARPS;
    for (u32 block = blockIdx.x * WARPS + threadIdx.x / 32; block < t.n_chunks;
         block += stride) {
        const Block<T> b = block_of<T>(t, block);
        if (t.squares && is_finite(at<const double>(t.squares)[b.var.scale]))
            continue;
        int count = 0;
#pragma unroll 8
        for (int i = lane; i < b.n; i += 32)
            count += !is_finite(b.grad[i]);
        if (count) {
            rmsprop_nonfinite *bad =
                at<rmsprop_nonfinite>(t.nonfinite) + b.var.scale;
            atomicAdd(&bad->count, (u64)count);  /* of integers: any order will do */
            bad->size = b.var.size;
            bad->pair = b.var.pair;
            bad->variable = b.var.variable;
            *at<int>(t.any) = 1;
        }
    }
}

/* One thread. A step that is left out sees `any`; one that is refused stops all. */
INLINE void run_finite_check(const rmsprop_finiteness &t)
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
