# Arrays that are not one aligned, C-contiguous run, walked in C order.

ctypedef struct Layout:
    int ndim
    const Py_ssize_t *dims
    const Py_ssize_t *strides  # bytes

# Copy elements start to start + count to `block`, or from it. No dimension is 0.
cdef void copy_block(
    char *array, const Layout *layout, Py_ssize_t item, Py_ssize_t start,
    Py_ssize_t count, char *block, const bint gather) noexcept nogil


cdef inline const char *run_of(
    const char *data, const Layout *layout, Py_ssize_t item, Py_ssize_t start,
    Py_ssize_t count, char *block,
) noexcept nogil:
    """Return elements start to start + count as one run: in place, or copied."""
    if layout == NULL:
        return data + start * item
    copy_block(<char *> data, layout, item, start, count, block, True)
    return block
