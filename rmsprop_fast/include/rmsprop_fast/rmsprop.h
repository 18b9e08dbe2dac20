/* RMSprop for C99, C++11 and CUDA. You link nothing, and no function allocates memory.
 *
 * For T in f32 (float) and f64 (double) this file gives
 *
 *   rmsprop_coef_T             the scalars of one step, rounded once to T
 *   rmsprop_coef_make_T(...)   their preparation from doubles
 *   rmsprop_grad_T(g, c)       a raw gradient value, scaled and clipped
 *   rmsprop_update_T(...)      the update of one element
 *   rmsprop_dense_span_T(...)  the update of contiguous elements
 *   rmsprop_rows_span_T(...)   the update of some rows of a table
 *   rmsprop_grad_span_T(...)   gradients as the update sees them
 *   rmsprop_in_T, _out_T       pointers to arrays that must not overlap
 *
 * The closed form of many updates by a zero gradient:
 *
 *   rmsprop_idle_T             the factors of k such updates
 *   rmsprop_idle_powers_T(...) their preparation, rmsprop_idle_steps_T(...) for any k
 *   rmsprop_catch_up_T(...)    all of them, on one element
 *
 * A loop that computes the gradient and updates at once, without an array of gradients:
 *
 *   const rmsprop_coef_f32 c =
 *       rmsprop_coef_make_f32(0.001, 0.9, 0.0, 1e-7, 1.0, 1.0, HUGE_VAL);
 *   for (ptrdiff_t i = 0; i < n; i++) {
 *       const float grad = ...;
 *       rmsprop_update_f32(&param[i], rmsprop_grad_f32(grad, c), &rms[i],
 *                          NULL, NULL, c, 0, 0, 1);
 *   }
 *
 * Slots (rms, mg, mom) start as zeros. The bits are those of rmsprop_fast itself, on
 * every processor, if the compiler keeps to IEEE arithmetic without contraction:
 * -ffp-contract=off for gcc and clang, /fp:precise for MSVC,
 * --fmad=false --ftz=false --prec-div=true --prec-sqrt=true for NVRTC.
 * gcc vectorises the loops with -O3 -fno-math-errno -fno-trapping-math.
 */
#ifndef RMSPROP_FAST_RMSPROP_H
#define RMSPROP_FAST_RMSPROP_H

#if defined(__FAST_MATH__) && !defined(RMSPROP_ALLOW_FAST_MATH)
#error "-ffast-math breaks NaN handling and equal bits; define RMSPROP_ALLOW_FAST_MATH to accept that"
#endif

/* NVRTC has no files to include: sqrt, fabs and ptrdiff_t are built in. */
#ifndef __CUDACC_RTC__
#include <math.h>
#include <stddef.h>
#define RMSPROP_INFINITY HUGE_VAL
#else
#define RMSPROP_INFINITY __longlong_as_double(0x7ff0000000000000LL)
#endif

/* Everything that languages and compilers spell differently is here. */
#if defined(__CUDACC__)
#define RMSPROP_INLINE static __host__ __device__ __forceinline__
#define RMSPROP_RESTRICT __restrict__
#elif defined(_MSC_VER)
#define RMSPROP_INLINE static __forceinline
#define RMSPROP_RESTRICT __restrict
#elif defined(__GNUC__)
/* Forced: a call left in a loop would keep it scalar. */
#define RMSPROP_INLINE static inline __attribute__((always_inline, unused))
#define RMSPROP_RESTRICT __restrict__
#else
#define RMSPROP_INLINE static inline
#if defined(__cplusplus)
#define RMSPROP_RESTRICT
#else
#define RMSPROP_RESTRICT restrict
#endif
#endif

/* The options of the update: a name and a bit of `variant`, which is their sum. */
#define RMSPROP_FLAGS(X) X(CENTERED, 1) X(MOMENTUM, 2) X(EPS_IN_SQRT, 4)

/* Every variant, for X(variant, ...). */
#define RMSPROP_VARIANTS(X, ...)                                                       \
    X(0, __VA_ARGS__) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__)            \
    X(4, __VA_ARGS__) X(5, __VA_ARGS__) X(6, __VA_ARGS__) X(7, __VA_ARGS__)

/* The slots in their order, for X(name, option that needs the slot or 0, ...). */
#define RMSPROP_SLOTS(X, ...)                                                          \
    X(RMS, 0, __VA_ARGS__)                                                             \
    X(MG, RMSPROP_CENTERED, __VA_ARGS__)                                               \
    X(MOM, RMSPROP_MOMENTUM, __VA_ARGS__)

#define RMSPROP_FLAG_(name, bit) RMSPROP_##name = bit,
#define RMSPROP_SLOT_(name, flag, ...) RMSPROP_SLOT_##name,
#define RMSPROP_COUNT_(variant, ...) +1
enum {
    RMSPROP_FLAGS(RMSPROP_FLAG_)
    RMSPROP_N_VARIANTS = RMSPROP_VARIANTS(RMSPROP_COUNT_, 0)
};
enum { RMSPROP_SLOTS(RMSPROP_SLOT_, 0) RMSPROP_N_SLOTS };

/* Call f(..., variant) with `variant` as a literal: f, inlined, becomes one loop without
 * branches for each variant. */
#define RMSPROP_CASE_(v, f, ...)                                                       \
    case v: f(__VA_ARGS__, v); break;
#define RMSPROP_FOR_VARIANT(variant, f, ...)                                           \
    switch (variant) { RMSPROP_VARIANTS(RMSPROP_CASE_, f, __VA_ARGS__) }

/* The variant of three flags. If the flags are literals, it is a literal. */
#define RMSPROP_VARIANT(centered, momentum, eps_in_sqrt)                               \
    (((centered) ? RMSPROP_CENTERED : 0) | ((momentum) ? RMSPROP_MOMENTUM : 0) |       \
     ((eps_in_sqrt) ? RMSPROP_EPS_IN_SQRT : 0))

/* Whether a variant reads and writes a slot. */
#define RMSPROP_NEEDS_(name, flag, ...)                                                \
    case RMSPROP_SLOT_##name: return (variant & (flag)) == (flag);
RMSPROP_INLINE int rmsprop_needs_slot(int variant, int slot)
{
    switch (slot) {
        RMSPROP_SLOTS(RMSPROP_NEEDS_, 0)
    }
    return 0;
}

/* Call f(..., slot) with a literal for each slot that a variant needs. A loop over slots
 * reads their addresses from memory each time: updates of rows took 4 to 17 % longer. */
#define RMSPROP_IF_SLOT_(name, flag, variant, f, ...)                                  \
    if (((variant) & (flag)) == (flag))                                                \
        f(__VA_ARGS__, RMSPROP_SLOT_##name);
#define RMSPROP_FOR_SLOTS(variant, f, ...)                                             \
    {                                                                                  \
        RMSPROP_SLOTS(RMSPROP_IF_SLOT_, variant, f, __VA_ARGS__)                       \
    }

/* The number that multiplies gradients so that their norm is at most `norm`. `squares` is
 * the sum of the squares of the raw values; `factor` multiplies these before clipping. */
RMSPROP_INLINE double rmsprop_norm_scale(double squares, double norm, double factor)
{
    const double length = fabs(factor) * sqrt(squares);
    return length <= norm ? factor : factor * (norm / length);
}

/* How many of the `made` steps of a variable a row has missed. Every row has made
 * `by_all` steps, this row `by_row`; the larger number counts. Never negative. */
RMSPROP_INLINE long long rmsprop_missed_steps(long long made, long long by_all,
                                              long long by_row)
{
    long long done = by_row > by_all ? by_row : by_all;
    done = done < 0 ? 0 : done;
    return made > done ? made - done : 0;
}

/* The most steps that may be missed, whatever number comes in. */
#define RMSPROP_AT_MOST_63_BITS(steps) ((steps) >> 63 ? ~0ULL >> 1 : (steps))

/* Duplicate rows are summed in runs of 32, then run by run. The bits depend on this. */
#define RMSPROP_SUM_RUN 32
/* Columns summed at a time, in two buffers on the stack. The bits do not depend on it. */
#define RMSPROP_SUM_BLOCK 128

/* float: the smallest normal number is 2^-126 = FLT_MIN. */
#define RMSPROP_REAL float
#define RMSPROP_NAME(name) rmsprop_##name##_f32
#define RMSPROP_SQRT sqrtf
#define RMSPROP_FABS fabsf
#define RMSPROP_SMALLEST_NORMAL 1.17549435082228750797e-38f
#include "rmsprop_element_body.h"
#include "rmsprop_span_body.h"
#include "rmsprop_catch_up_body.h"
#undef RMSPROP_REAL
#undef RMSPROP_NAME
#undef RMSPROP_SQRT
#undef RMSPROP_FABS
#undef RMSPROP_SMALLEST_NORMAL

/* double: the smallest normal number is 2^-1022 = DBL_MIN. */
#define RMSPROP_REAL double
#define RMSPROP_NAME(name) rmsprop_##name##_f64
#define RMSPROP_SQRT sqrt
#define RMSPROP_FABS fabs
#define RMSPROP_SMALLEST_NORMAL 2.22507385850720138309e-308
#include "rmsprop_element_body.h"
#include "rmsprop_span_body.h"
#include "rmsprop_catch_up_body.h"
#undef RMSPROP_REAL
#undef RMSPROP_NAME
#undef RMSPROP_SQRT
#undef RMSPROP_FABS
#undef RMSPROP_SMALLEST_NORMAL

#endif /* RMSPROP_FAST_RMSPROP_H */
