/* What memory allows: the update's streams with one multiply-add for each array that is
 * written, split over threads as the package splits them. No non-temporal stores. With
 * c = 0, which the compiler cannot know, every array keeps its values.
 */
#include <stddef.h>
#include <stdint.h>

/* The package's, see cpu/_tasks.pyx and cpu/_spans.pxd. */
enum { AHEAD = 12, AHEAD_BYTES = 16384, CACHE_LINE = 64 };

/* Thread t of n_threads has the items SHARE(t) to SHARE(t + 1). */
#define SHARE(t) ((t) == n_threads ? n : n / n_threads * (t))
#define FOR_EACH_THREAD                                                             \
    _Pragma("omp parallel for schedule(static, 1) num_threads(n_threads)")          \
    for (int t = 0; t < n_threads; t++)

#define LIMIT(T, SUFFIX)                                                            \
    static inline void span_##SUFFIX(                                               \
        T *restrict param, const T *restrict grad, T *restrict rms, T *restrict mg, \
        T *restrict mom, ptrdiff_t n, T c, const int n_slots)                       \
    {                                                                               \
        for (ptrdiff_t i = 0; i < n; i++) {                                         \
            param[i] += c * grad[i];                                                \
            rms[i] += c * grad[i];                                                  \
            if (n_slots > 1) mg[i] += c * grad[i];                                  \
            if (n_slots > 2) mom[i] += c * grad[i];                                 \
        }                                                                           \
    }                                                                               \
                                                                                    \
    /* param and n_slots slots += c * grad, so many times; the rest is ignored. */  \
    void limit_dense_##SUFFIX(T *param, const T *grad, T *rms, T *mg, T *mom,       \
                              ptrdiff_t n, T c, int n_slots, int times,             \
                              int n_threads)                                        \
    {                                                                               \
        while (times-- > 0)                                                         \
            FOR_EACH_THREAD {                                                       \
                const ptrdiff_t k = SHARE(t), count = SHARE(t + 1) - k;             \
                if (n_slots == 1)                                                   \
                    span_##SUFFIX(param + k, grad + k, rms + k, mg + k, mom + k,    \
                                  count, c, 1);                                     \
                else if (n_slots == 2)                                              \
                    span_##SUFFIX(param + k, grad + k, rms + k, mg + k, mom + k,    \
                                  count, c, 2);                                     \
                else                                                                \
                    span_##SUFFIX(param + k, grad + k, rms + k, mg + k, mom + k,    \
                                  count, c, 3);                                     \
            }                                                                       \
    }

LIMIT(float, f32)
LIMIT(double, f64)

/* to = from, n 8-byte words, so many times: what a limit is held against. */
void plain_copy(int64_t *restrict to, const int64_t *restrict from, ptrdiff_t n,
                int times, int n_threads)
{
    while (times-- > 0)
        FOR_EACH_THREAD
            for (ptrdiff_t i = SHARE(t); i < SHARE(t + 1); i++)
                to[i] = from[i];
}

/* For reading: so it becomes prefetcht0 as in the package, which has no prefetchw. */
static inline void prefetch(const float *start, ptrdiff_t width)
{
    for (ptrdiff_t i = 0; i < width; i += CACHE_LINE / (ptrdiff_t)sizeof(float))
        __builtin_prefetch(start + i);
    __builtin_prefetch(start + width - 1);
}

/* As Occurrence32 in cpu/_sort.pxd. */
typedef struct {
    uint32_t row, position;
} occurrence;

/* Rows of table and rms += c * rows of values; each row occurs once. */
void limit_rows_f32(float *table, const float *values, float *rms,
                    const occurrence *all, ptrdiff_t n, ptrdiff_t width, float c,
                    int n_threads)
{
    const ptrdiff_t fitting = AHEAD_BYTES / (width * (ptrdiff_t)sizeof(float));
    const ptrdiff_t reach = fitting < 1 ? 1 : fitting < AHEAD ? fitting : AHEAD;
    FOR_EACH_THREAD {
        const ptrdiff_t end = SHARE(t + 1);
        ptrdiff_t ahead = SHARE(t);
        for (ptrdiff_t k = ahead; k < end; k++) {
            for (; ahead < end && ahead < k + reach; ahead++) {
                prefetch(values + all[ahead].position * width, width);
                prefetch(table + all[ahead].row * width, width);
                prefetch(rms + all[ahead].row * width, width);
            }
            span_f32(table + all[k].row * width, values + all[k].position * width,
                     rms + all[k].row * width, NULL, NULL, width, c, 1);
        }
    }
}
