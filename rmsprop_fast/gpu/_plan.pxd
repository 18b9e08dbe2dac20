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

    ctypedef struct rmsprop_dense:
        rmsprop_scalars s
        uint64_t *param
        uint64_t *grad
        uint64_t *rms
        uint64_t *mg
        uint64_t *mom
        long long *size
        unsigned *first
        unsigned *scale
        unsigned char *decays
        int n

    ctypedef struct rmsprop_rows:
        rmsprop_scalars s
        uint64_t *param
        uint64_t *values
        uint64_t *rms
        uint64_t *mg
        uint64_t *mom
        uint64_t *indices
        uint64_t *partial
        long long *n_rows
        long long *width
        uint64_t *base
        long long *start
        unsigned *first
        unsigned *first_run
        unsigned *scale
        int *pair
        unsigned char *kind
        unsigned char *decays
        unsigned char *lanes
        uint64_t occurrences, fault
        long long step
        int n

    ctypedef struct rmsprop_idle_rows:
        rmsprop_scalars s
        rmsprop_idle_f32 *idle_f32
        rmsprop_idle_f64 *idle_f64
        uint64_t *param
        uint64_t *rms
        uint64_t *mg
        uint64_t *mom
        uint64_t *steps
        uint64_t *row_steps
        long long *width
        long long *pieces
        uint64_t *base
        long long *start
        unsigned *first
        unsigned char *lanes
        uint64_t occurrences
        int made, is_all, n

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

    ctypedef struct rmsprop_gradients:
        uint64_t *grad
        long long *size
        unsigned *first
        unsigned *scale
        int *pair
        int *variable
        # `any` is a function of Python's
        uint64_t sums, squares, is_any "any", nonfinite
        int n

    ctypedef struct rmsprop_norm_scales:
        uint64_t squares, scales
        long long n
        double factor, norm
        int is_global

    ctypedef struct rmsprop_verdict:
        uint64_t stop, is_any "any", nonfinite, fault
        long long n, step
        int skips
