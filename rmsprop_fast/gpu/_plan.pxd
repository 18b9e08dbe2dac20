# The kernels' parameters, from the header that the kernels read too.

from libc.stdint cimport uint64_t

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

    ctypedef struct rmsprop_scalars:
        double lr, rho, momentum, epsilon, weight_decay, factor, clip
        uint64_t lr_address, scales, stop
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
        long long iterations
        int n

    ctypedef struct rmsprop_fault:
        uint64_t row
        long long position, n_rows, iterations
        int pair, is_unsigned
        int found

    ctypedef struct rmsprop_sort:
        # `in` is a word of Python's
        uint64_t source "in"
        uint64_t out, counts, totals
        long long n, tile
        int n_tiles, shift, n_passes

    ctypedef struct rmsprop_norms:
        uint64_t *grad
        long long *size
        unsigned *first
        unsigned *scale
        uint64_t sums, squares
        int n

    ctypedef struct rmsprop_norm_scales:
        uint64_t squares, scales
        long long n
        double factor, norm
        int is_global
