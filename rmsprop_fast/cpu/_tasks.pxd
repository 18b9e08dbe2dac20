# A whole step as one list of tasks, and its run in one parallel region.

from rmsprop_fast.cpu._spans cimport Coef

# How to walk an array that is not one aligned, C-contiguous run: in C order.
ctypedef struct Layout:
    int ndim
    const Py_ssize_t *dims
    const Py_ssize_t *strides  # bytes

# One variable and its slots. A slot is one aligned C-contiguous run, or NULL.
ctypedef struct Variable:
    int dtype                  # F32 or F64
    char *param
    const Layout *layout       # NULL: param is one run
    Py_ssize_t size            # elements
    Py_ssize_t n_rows          # length of the first axis
    Py_ssize_t width           # elements per row
    Py_ssize_t row_stride      # bytes from row to row of param
    bint rows_are_runs         # each row of param is one run
    char *rms
    char *mg
    char *mom

# One gradient: of the variable's shape, or the values of a row-sparse one.
ctypedef struct Gradient:
    int dtype
    const char *data
    const Layout *layout       # NULL: one run
    Py_ssize_t size
    Py_ssize_t row_stride      # row-sparse only, as in Variable
    bint rows_are_runs
    Py_ssize_t first_block     # the norm's blocks before this gradient's
    double squares             # the sum of squares, filled by sum_squares
    double scale               # multiplies the raw values

cdef enum Kind:
    DENSE      # items are elements
    ROWS       # items are sorted occurrences
    HOT_ROW    # items are the columns of one row that occurs very often

# Part of one variable's share of a step: items begin to end.
ctypedef struct Task:
    Kind kind
    bint wide                  # occurrences are Occurrence64
    const Variable *var
    const Gradient *grad
    const void *occurrences    # sorted; NULL when dense
    Py_ssize_t begin
    Py_ssize_t end
    Py_ssize_t first           # HOT_ROW: its occurrences are first to last
    Py_ssize_t last
    Py_ssize_t unit            # work per item
    Py_ssize_t work            # work of the tasks before this one

# Append the task or tasks of one gradient; returns how many, at most
# max_tasks(occurrences, n_threads).
cdef Py_ssize_t add_dense(
    Task *tasks, Py_ssize_t work, const Variable *var, const Gradient *grad) noexcept nogil
cdef Py_ssize_t add_rows(
    Task *tasks, Py_ssize_t work, const Variable *var, const Gradient *grad,
    const void *occurrences, Py_ssize_t n, int n_threads) noexcept nogil
cdef Py_ssize_t max_tasks(Py_ssize_t n, int n_threads) noexcept nogil
cdef Py_ssize_t work_after(const Task *task) noexcept nogil

# Fill `squares` of every gradient, in the specified order of additions.
cdef void sum_squares(
    Gradient *grads, Py_ssize_t n, double *blocks, Py_ssize_t n_blocks,
    int n_threads) noexcept nogil

# Update everything once; returns the number of threads that ran.
cdef int run(
    const Task *tasks, Py_ssize_t n, const Coef *coef, int variant,
    int n_threads) noexcept nogil

# out[0:size] = the gradient as the update would see it.
cdef void take(void *out, const Gradient *grad, const Coef *coef) noexcept nogil
