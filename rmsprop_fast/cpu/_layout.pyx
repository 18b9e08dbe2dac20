"""Arrays that are not one aligned, C-contiguous run, walked in C order."""

from libc.string cimport memcpy

cdef enum:
    MAX_DIMS = 64  # the limit of NumPy


cdef inline void _move(
    char *array, char *block, Py_ssize_t item, const bint gather,
) noexcept nogil:
    # memcpy of a constant size is one load and store, aligned or not.
    if item == 4:
        if gather:
            memcpy(block, array, 4)
        else:
            memcpy(array, block, 4)
    else:
        if gather:
            memcpy(block, array, 8)
        else:
            memcpy(array, block, 8)


cdef void copy_block(
    char *array, const Layout *layout, Py_ssize_t item, Py_ssize_t start,
    Py_ssize_t count, char *block, const bint gather,
) noexcept nogil:
    """Copy elements start to start + count, in C order, to or from `block`."""
    cdef Py_ssize_t[MAX_DIMS] index
    cdef Py_ssize_t _k, run, stride, rest = start
    cdef int axis, inner = layout.ndim - 1
    if inner < 0:
        _move(array, block, item, gather)
        return
    for axis in range(inner, -1, -1):
        index[axis] = rest % layout.dims[axis]
        rest = rest // layout.dims[axis]
        array += index[axis] * layout.strides[axis]
    stride = layout.strides[inner]
    while True:
        run = min(count, layout.dims[inner] - index[inner])
        for _k in range(run):
            _move(array, block, item, gather)
            array += stride
            block += item
        count -= run
        if count == 0:
            return
        # The inner axis is at its end: go back to its start, advance the outer axes.
        array -= layout.dims[inner] * stride
        index[inner] = 0
        for axis in range(inner - 1, -1, -1):
            index[axis] += 1
            array += layout.strides[axis]
            if index[axis] < layout.dims[axis]:
                break
            array -= layout.dims[axis] * layout.strides[axis]
            index[axis] = 0
