# The table of serial loops that each ISA's copy of _loops.pxi hands over.

from rmsprop_fast.header cimport rmsprop_coef_f32, rmsprop_coef_f64

cdef enum:
    SPANS_VERSION = 1
    # The reduction's shape is part of the specified result: a norm adds its blocks'
    # sums in order, and a block adds its elements in 32 interleaved lanes.
    NORM_BLOCK = 4096
    NORM_LANES = 32

cdef enum:  # bits of a variant
    CENTERED = 1
    MOMENTUM = 2
    EPS_IN_SQRT = 4

cdef enum:  # index into each pair of functions, and of a task's dtype
    F32 = 0
    F64 = 1

# A step's scalars in either dtype; a span reads the one it was compiled for.
ctypedef struct Coef:
    rmsprop_coef_f32 f32
    rmsprop_coef_f64 f64

# All arrays are contiguous, aligned runs of n elements that do not overlap.
ctypedef struct Spans:
    int version
    # The formula, in place on param and the variant's slots; grad is raw.
    void (*update[2])(
        void *param, const void *grad, void *rms, void *mg, void *mom,
        Py_ssize_t n, const Coef *coef, int variant) noexcept nogil
    # out = the scaled and clipped gradient.
    void (*take[2])(
        void *out, const void *grad, Py_ssize_t n, const Coef *coef) noexcept nogil
    # out += the scaled and clipped gradient.
    void (*add[2])(
        void *out, const void *grad, Py_ssize_t n, const Coef *coef) noexcept nogil
    # The sum of squares of one block, n <= NORM_BLOCK, in double.
    double (*sum_of_squares[2])(const void *grad, Py_ssize_t n) noexcept nogil

# The table in use.
cdef const Spans *spans
