# Apply the steps that rows have missed because no gradient contained them.

from rmsprop_fast.cpu._spans cimport Coef
from rmsprop_fast.cpu._variable cimport Variable

# Apply the missed steps of elements begin to end: rows, or parts of rows. The counts of
# these rows are only read, because another thread may update the rest of a row.
cdef void catch_up_elements(
    const Variable *var, Py_ssize_t begin, Py_ssize_t end, const Coef *coef,
    int variant) noexcept nogil

# Note that a row has `ahead` steps more than its variable: 1 before the step is counted.
cdef inline void note_row(
    const Variable *var, Py_ssize_t row, int ahead,
) noexcept nogil:
    var.counts.row[row] = var.counts.steps[0] + ahead
