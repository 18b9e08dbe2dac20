# Before the update, a step computes norms of gradients, scales and clips them.

from rmsprop_fast.cpu._layout cimport Layout
from rmsprop_fast.cpu._spans cimport Coef, param_size

# One gradient: of the variable's shape, or the values of a row-sparse one.
ctypedef struct Gradient:
    int dtype
    const char *data
    const Layout *layout       # NULL: one run
    Py_ssize_t size
    Py_ssize_t row_stride      # row-sparse only, as in Variable
    bint rows_are_runs
    Py_ssize_t first_block     # the number of norm blocks before this gradient
    double sum                 # of squares or ones, filled by the reductions
    double scale               # multiplies the raw values


cdef inline Gradient gradient_make(
    int dtype, const char *data, Py_ssize_t n_rows, Py_ssize_t width, double scale,
) noexcept nogil:
    """Return a gradient that is one run of rows."""
    return Gradient(
        dtype=dtype, data=data, layout=NULL, size=n_rows * width,
        row_stride=width * param_size(dtype), rows_are_runs=True, first_block=0, sum=0,
        scale=scale)


# Fill `sum` of every gradient: of squares, in the specified order of additions.
cdef void sum_squares(
    Gradient *grads, Py_ssize_t n, double *blocks, Py_ssize_t n_blocks,
    int n_threads) noexcept nogil

# Fill `sum` of every gradient: how many elements are infinite or no number.
cdef void count_nonfinite(
    Gradient *grads, Py_ssize_t n, double *blocks, Py_ssize_t n_blocks,
    int n_threads) noexcept nogil

# The same scalars with another factor of the gradient.
cdef inline Coef scaled(const Coef *coef, double scale) noexcept nogil:
    cdef Coef c = coef[0]
    c.f32.grad_scale = <float> scale
    c.f64.grad_scale = scale
    return c

# out[0:size] = the gradient as the update would see it.
cdef void clip_to(char *out, const Gradient *grad, const Coef *coef) noexcept nogil
