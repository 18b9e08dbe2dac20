# Make up for the steps that rows have missed because no gradient had them.

from rmsprop_fast.cpu._spans cimport Coef
from rmsprop_fast.cpu._variable cimport Variable

# Catch up the rows, or parts of rows, that elements begin to end are. The counts of
# these rows are read only: another thread may be at the rest of a row.
cdef void catch_up_elements(
    const Variable *var, Py_ssize_t begin, Py_ssize_t end, const Coef *coef,
    int variant) noexcept nogil

# Note that a row has `ahead` steps more than its variable: 1 before the step is counted.
cdef inline void note_row(
    const Variable *var, Py_ssize_t row, int ahead,
) noexcept nogil:
    var.counts.row[row] = var.counts.steps[0] + ahead
