/* What differs between machines and compilers, behind one set of names. */
#ifndef RMSPROP_FAST_PLATFORM_H
#define RMSPROP_FAST_PLATFORM_H

#ifdef _OPENMP
#include <omp.h>
#define RMSPROP_OPENMP _OPENMP
static inline int rmsprop_max_threads(void) { return omp_get_max_threads(); }
static inline int rmsprop_team(void) { return omp_get_num_threads(); }
#else
#define RMSPROP_OPENMP 0
static inline int rmsprop_max_threads(void) { return 1; }
static inline int rmsprop_team(void) { return 1; }
#endif

/* libgomp's threads do not survive a fork, and its child waits for them for ever:
 * end them before. libomp (_OPENMP with clang) renews itself in the child. 0: done. */
static inline int rmsprop_end_threads(void)
{
#if defined(_OPENMP) && !defined(__clang__) && defined(__GNUC__) && __GNUC__ >= 9
    return omp_pause_resource(omp_pause_hard, omp_get_initial_device());
#else
    return 0;
#endif
}

#if defined(__GNUC__)
#define RMSPROP_PREFETCH(address) __builtin_prefetch((address), 1, 3)
#if defined(__clang__)
#define RMSPROP_COMPILER __VERSION__
#else
#define RMSPROP_COMPILER "GCC " __VERSION__
#endif
#else
#define RMSPROP_PREFETCH(address) ((void)(address))
#define RMSPROP_COMPILER "unknown"
#endif

/* Does the processor have it, and does the system save its registers? */
#if defined(__GNUC__) && defined(__x86_64__)
static inline int rmsprop_has_avx2(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") != 0;
}
static inline int rmsprop_has_avx512(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#else
static inline int rmsprop_has_avx2(void) { return 0; }
static inline int rmsprop_has_avx512(void) { return 0; }
#endif

#endif /* RMSPROP_FAST_PLATFORM_H */
