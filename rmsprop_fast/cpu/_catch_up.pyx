"""Apply the steps that rows have missed because no gradient contained them."""

from libc.stdint cimport int64_t

from rmsprop_fast.cpu._layout cimport copy_block
from rmsprop_fast.cpu._spans cimport (
    Coef, missed_steps, param_size, slots_at, spans, state_size,
)
from rmsprop_fast.header cimport RMSPROP_MOMENTUM, RMSPROP_N_SLOTS

cdef enum:
    BLOCK = 256  # elements of a stack buffer: 2 KiB of float64


cdef void _catch_up(
    const Variable *v, char *param, Py_ssize_t begin, Py_ssize_t end, const Coef *coef,
    int64_t steps, int variant,
) noexcept nogil:
    """Apply so many missed steps to elements begin to end; `param` is the first."""
    cdef char *slots[RMSPROP_N_SLOTS]
    slots_at(v.slots, begin * state_size(v.dtype), slots)
    spans.catch_up[v.dtype](param, slots, end - begin, coef, steps, variant)


cdef void _catch_up_blocks(
    const Variable *v, Py_ssize_t begin, Py_ssize_t end, const Coef *coef,
    int64_t steps, int variant,
) noexcept nogil:
    """The same for a param that is not contiguous."""
    cdef char[BLOCK * 8] buffer
    cdef Py_ssize_t n, item = param_size(v.dtype)
    while begin < end:
        n = min(end - begin, <Py_ssize_t> BLOCK)
        copy_block(v.param, v.layout, item, begin, n, buffer, True)
        _catch_up(v, buffer, begin, begin + n, coef, steps, variant)
        copy_block(v.param, v.layout, item, begin, n, buffer, False)
        begin += n


cdef void catch_up_elements(
    const Variable *var, Py_ssize_t begin, Py_ssize_t end, const Coef *coef, int variant,
) noexcept nogil:
    cdef Py_ssize_t row, stop, item = param_size(var.dtype)
    cdef int64_t steps
    while begin < end:
        row = begin // var.width
        steps = missed_steps(&var.counts, row, coef)
        row += 1
        # Take all rows that miss the same number of steps: rows may be short.
        while row * var.width < end and missed_steps(&var.counts, row, coef) == steps:
            row += 1
        stop = min(end, row * var.width)
        if steps > 0:
            # Without momentum param does not move: its layout does not matter.
            if var.layout == NULL or not variant & RMSPROP_MOMENTUM:
                _catch_up(
                    var, var.param + begin * item, begin, stop, coef, steps, variant)
            else:
                _catch_up_blocks(var, begin, stop, coef, steps, variant)
        begin = stop
