/* RMSprop on the device: loops over elements and rows around the header's formula.
 *
 * The same operations in the same order as the loops in cpu/, so the same bits: compile
 * with --fmad=false --ftz=false --prec-div=true --prec-sqrt=true. Nothing is summed by
 * atomics, nothing waits for the host, no scratch is as large as a table or a gradient.
 *
 * The tests compile this text with a C++ compiler, too, and run it on the CPU, so it
 * uses few intrinsics and includes no CUDA header.
 */
#include "rmsprop_fast/rmsprop.h"
#include "tables.h"
#include "common.cuh"
#include "dense.cuh"
#include "sort.cuh"
#include "rows.cuh"
#include "norms.cuh"

/* The tests define KERNEL beforehand, to list the kernels and to call them. A kernel's
 * name must be no struct's. */
#ifndef KERNEL
#define KERNEL(name, parameters)                                                         \
    extern "C" __global__ void __launch_bounds__(RMSPROP_THREADS, 2)                      \
        rmsprop_##name(const __grid_constant__ parameters t)
#endif

/* The host asks for one line at a time, see compiler.py. T is the C type of the dtype
 * `suffix`, V the variant; U holds row numbers and places, `wide` is empty for u32. */
#define DENSE_KERNELS(suffix, T, V)                                                      \
    KERNEL(dense_##suffix##_##V, rmsprop_table)                                          \
    {                                                                                    \
        if (!is_stopped(t.s))                                                            \
            run_dense<T, Elements<T, V, 1>, Elements<T, V, Widest<T>::W> >(t);           \
    }
#define GRADIENT_KERNELS(suffix, T)                                                      \
    KERNEL(clip_##suffix, rmsprop_table)                                                 \
    {                                                                                    \
        run_dense<T, Clipped<T, 1>, Clipped<T, Widest<T>::W> >(t);                       \
    }                                                                                    \
    KERNEL(norm_blocks_##suffix, rmsprop_table) { run_norm_blocks<T>(t); }               \
    KERNEL(nonfinite_##suffix, rmsprop_table) { run_nonfinite<T>(t); }
#define UNTYPED_KERNELS()                                                                \
    KERNEL(norm_squares, rmsprop_table) { run_norm_squares(t); }                         \
    KERNEL(norm_scales, rmsprop_norms) { run_norm_scales(t); }                           \
    KERNEL(finite_check, rmsprop_finiteness) { run_finite_check(t); }                  \
    KERNEL(count_steps, rmsprop_rows_table) { run_count_steps(t); }
#define ROWS_KERNELS(wide, U, suffix, T, V)                                              \
    KERNEL(rows##wide##_##suffix##_##V, rmsprop_rows_table) { run_rows<T, U, V>(t); }
#define PARTIAL_KERNELS(wide, U, suffix, T)                                              \
    KERNEL(partial##wide##_##suffix, rmsprop_rows_table) { run_partial<T, U>(t); }
#define CATCH_UP_ROWS_KERNELS(wide, U, suffix, T, V)                                     \
    KERNEL(catch_up_rows##wide##_##suffix##_##V, rmsprop_rows_table)                     \
    {                                                                                    \
        run_catch_up_rows<T, U, V>(t);                                                   \
    }
#define CATCH_UP_ALL_KERNELS(suffix, T, V)                                               \
    KERNEL(catch_up_all_##suffix##_##V, rmsprop_rows_table) { run_catch_up_all<T, V>(t); }
#define LIST_KERNELS(wide, U)                                                            \
    KERNEL(keys##wide, rmsprop_rows_table) { run_keys<U>(t); }                           \
    KERNEL(count_rows##wide, rmsprop_rows_table) { run_count_rows<U>(t); }               \
    KERNEL(sort_all##wide, rmsprop_sort) { run_sort_all<U>(t); }                         \
    KERNEL(sort_count##wide, rmsprop_sort) { run_sort_count<U>(t); }                     \
    KERNEL(sort_scan##wide, rmsprop_sort) { run_sort_scan<U>(t); }                       \
    KERNEL(sort_scatter##wide, rmsprop_sort) { run_sort_scatter<U>(t); }

RMSPROP_KERNELS
