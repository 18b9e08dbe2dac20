/* RMSprop, one element at a time: C99, C++11 and CUDA.
 *
 * Include this file. It instantiates rmsprop_element_body.h, where the formula is
 * written, for float (suffix _f32) and double (suffix _f64):
 *
 *   rmsprop_coef_T             the scalars of one step, rounded once to T
 *   rmsprop_coef_make_T(...)   their preparation from doubles
 *   rmsprop_grad_T(g, c)       a raw gradient value, scaled and clipped
 *   rmsprop_update_T(...)      the update of one element
 *
 * Equal bits everywhere need IEEE arithmetic without contraction:
 * -ffp-contract=off for gcc and clang, /fp:precise for MSVC,
 * --fmad=false --ftz=false --prec-div=true --prec-sqrt=true for NVRTC.
 */
#ifndef RMSPROP_FAST_RMSPROP_H
#define RMSPROP_FAST_RMSPROP_H

#if defined(__FAST_MATH__) && !defined(RMSPROP_ALLOW_FAST_MATH)
#error "-ffast-math breaks NaN handling and equal bits; define RMSPROP_ALLOW_FAST_MATH to accept that"
#endif

/* NVRTC has sqrt and fabs built in and no <math.h> to include. */
#ifndef __CUDACC_RTC__
#include <math.h>
#endif

/* The one place for what the languages and compilers spell differently. */
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

/* float: the smallest normal number is 2^-126 = FLT_MIN. */
#define RMSPROP_REAL float
#define RMSPROP_NAME(name) rmsprop_##name##_f32
#define RMSPROP_SQRT sqrtf
#define RMSPROP_FABS fabsf
#define RMSPROP_SMALLEST_NORMAL 1.17549435082228750797e-38f
#include "rmsprop_element_body.h"
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
#undef RMSPROP_REAL
#undef RMSPROP_NAME
#undef RMSPROP_SQRT
#undef RMSPROP_FABS
#undef RMSPROP_SMALLEST_NORMAL

#endif /* RMSPROP_FAST_RMSPROP_H */
