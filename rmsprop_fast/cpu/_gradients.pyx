"""Before the update, a step computes norms of gradients, scales and clips them."""

from cython.parallel cimport prange

from rmsprop_fast.cpu._layout cimport run_of
from rmsprop_fast.cpu._spans cimport NORM_BLOCK, Coef, param_size, spans

cdef enum:
    BLOCK = 256  # elements of a stack buffer: 2 KiB of float64


# A function that adds up one block of a gradient.
ctypedef double (*Reduction)(const char *grad, Py_ssize_t n) noexcept nogil


# --- Sums of squares, counts of what is not finite ------------------------------------


cdef double _sum_block(
    const Gradient *g, Py_ssize_t block, Reduction reduction,
) noexcept nogil:
    cdef double[NORM_BLOCK] buffer
    cdef Py_ssize_t start = block * NORM_BLOCK
    cdef Py_ssize_t n = min(g.size - start, <Py_ssize_t> NORM_BLOCK)
    return reduction(
        run_of(g.data, g.layout, param_size(g.dtype), start, n,
               <char *> buffer), n)


cdef void _sum_blocks(
    const Gradient *grads, Py_ssize_t n, Py_ssize_t first, Py_ssize_t begin,
    Py_ssize_t end, double *sums, const Reduction *reduction,
) noexcept nogil:
    """Fill sums[begin:end] with the blocks first + begin to first + end."""
    cdef Py_ssize_t low = 0, high = n - 1, middle, k
    while low < high:  # the last gradient whose blocks begin at or before
        middle = (low + high + 1) // 2
        if grads[middle].first_block <= first + begin:
            low = middle
        else:
            high = middle - 1
    for k in range(begin, end):
        while low + 1 < n and grads[low + 1].first_block <= first + k:
            low += 1
        sums[k] = _sum_block(
            &grads[low], first + k - grads[low].first_block,
            reduction[grads[low].dtype])


cdef void _reduce(
    Gradient *grads, Py_ssize_t n, double *blocks, Py_ssize_t n_blocks, int n_threads,
    const Reduction *reduction,
) noexcept nogil:
    """Fill `sum` of every gradient by the reduction of its dtype."""
    cdef Py_ssize_t total = 0, first = 0, count, k, share, at = 0
    for k in range(n):
        grads[k].first_block = total
        grads[k].sum = 0
        total += (grads[k].size + NORM_BLOCK - 1) // NORM_BLOCK
    while first < total:
        count = min(total - first, n_blocks)
        if n_threads == 1:
            _sum_blocks(grads, n, first, 0, count, blocks, reduction)
        else:
            for share in prange(
                n_threads, schedule="static", chunksize=1, num_threads=n_threads
            ):
                _sum_blocks(grads, n, first, count * share // n_threads,
                            count * (share + 1) // n_threads, blocks, reduction)
        for k in range(count):  # in order: the bits must not depend on the team
            while at + 1 < n and grads[at + 1].first_block <= first + k:
                at += 1
            grads[at].sum += blocks[k]
        first += count


cdef void sum_squares(
    Gradient *grads, Py_ssize_t n, double *blocks, Py_ssize_t n_blocks, int n_threads,
) noexcept nogil:
    _reduce(grads, n, blocks, n_blocks, n_threads, spans.sum_of_squares)


cdef void count_nonfinite(
    Gradient *grads, Py_ssize_t n, double *blocks, Py_ssize_t n_blocks, int n_threads,
) noexcept nogil:
    _reduce(grads, n, blocks, n_blocks, n_threads, spans.count_nonfinite)


# --- Scaling and clipping -------------------------------------------------------------


cdef void clip_to(char *out, const Gradient *grad, const Coef *coef) noexcept nogil:
    cdef double[BLOCK] buffer
    cdef Coef c = scaled(coef, grad.scale)
    cdef Py_ssize_t start = 0, n, item = param_size(grad.dtype)
    if grad.layout == NULL:
        spans.clip[grad.dtype](out, grad.data, grad.size, &c)
        return
    while start < grad.size:
        n = min(grad.size - start, BLOCK)
        spans.clip[grad.dtype](
            out + start * item,
            run_of(grad.data, grad.layout, item, start, n, <char *> buffer), n, &c)
        start += n
