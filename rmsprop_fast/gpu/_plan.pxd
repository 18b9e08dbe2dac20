# The kernels' parameters, from the header that the kernels read too.

from libc.stdint cimport uint64_t

from rmsprop_fast.header cimport rmsprop_idle_f32, rmsprop_idle_f64

cdef extern from "rmsprop_fast/gpu/tables.h" nogil:
    enum:
        RMSPROP_TABLE
        RMSPROP_ROWS_TABLE
        RMSPROP_THREADS
        RMSPROP_CHUNK
        RMSPROP_ROWS_EACH
        RMSPROP_SUM_RUN
        RMSPROP_NORM_BLOCK
        RMSPROP_DIGITS
        RMSPROP_SUBTILE
        RMSPROP_MAX_TILES
        RMSPROP_COUNT_BITS
        RMSPROP_MAX_REPORTED
        RMSPROP_NONFINITE_FOUND

    ctypedef struct rmsprop_scalars:
        double lr, rho, momentum, epsilon, weight_decay, factor, clip
        uint64_t lr_address, scales, stop, skip
        int lr_is_f32

    ctypedef struct rmsprop_var:
        uint64_t param
        uint64_t *slots
        uint64_t grad
        long long size
        unsigned first, scale, decays
        int pair, variable

    ctypedef struct rmsprop_table:
        rmsprop_scalars s
        # `any` is a function of Python's
        uint64_t sums, squares, is_any "any", nonfinite
        rmsprop_var *var
        int n
        unsigned n_chunks

    ctypedef struct rmsprop_var_rows:
        long long n_rows, width, start
        uint64_t base, indices, partial, steps, row_steps
        unsigned first_run
        unsigned char kind, lanes

    ctypedef struct rmsprop_rows_table:
        rmsprop_scalars s
        rmsprop_idle_f32 *missed_f32 "missed.f32"
        rmsprop_idle_f64 *missed_f64 "missed.f64"
        rmsprop_var *var
        rmsprop_var_rows *rows
        uint64_t occurrences, fault
        long long n_items, step
        int n
        unsigned n_chunks, n_run_chunks
        int made, is_all

    ctypedef struct rmsprop_nonfinite:
        uint64_t count
        long long size
        int pair, variable

    ctypedef struct rmsprop_fault:
        uint64_t row
        long long position, n_rows
        int pair, is_unsigned
        rmsprop_nonfinite *bad
        int n_bad, found
        long long step
        long long *skipped

    ctypedef struct rmsprop_sort:
        # `in` is a word of Python's
        uint64_t source "in"
        uint64_t out, counts, totals
        long long n, tile
        int n_tiles, shift, n_passes

    ctypedef struct rmsprop_norms:
        uint64_t squares, scales
        long long n
        double factor, norm
        int is_global

    ctypedef struct rmsprop_finiteness:
        uint64_t stop, is_any "any", nonfinite, fault
        long long n, step
        int skips
