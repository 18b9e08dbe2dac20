# A whole step as one list of tasks, and its run in one parallel region.

from rmsprop_fast.cpu._gradients cimport Gradient
from rmsprop_fast.cpu._spans cimport Coef
from rmsprop_fast.cpu._variable cimport Variable

# Work (elements, about) below which a step stays on one thread: a team costs more.
cdef Py_ssize_t serial_below

cdef enum:
    OCCURRENCE_WORK = 16  # work per occurrence of a row beside its elements: sorting

cdef enum Kind:
    DENSE      # items are elements
    ROWS       # items are sorted occurrences
    HOT_ROW    # items are the columns of one row that occurs very often
    ALL_ROWS   # items are elements to catch up, without a gradient
    SOME_ROWS  # items are sorted occurrences to catch up, without a gradient

# Part of one variable's share of a step: items begin to end.
ctypedef struct Task:
    Kind kind
    bint wide                  # occurrences are Occurrence64
    const Variable *var
    const Gradient *grad       # NULL: catch up
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
cdef Py_ssize_t add_catch_up(
    Task *tasks, Py_ssize_t work, const Variable *var, const void *occurrences,
    Py_ssize_t n) noexcept nogil  # NULL, 0: all rows
cdef Py_ssize_t max_tasks(Py_ssize_t n, int n_threads) noexcept nogil
cdef Py_ssize_t work_after(const Task *task) noexcept nogil

# Update everything once; returns the number of threads that ran.
cdef int run_tasks(
    const Task *tasks, Py_ssize_t n, const Coef *coef, int variant,
    int n_threads) noexcept nogil

# Set the counts of rows that several threads have shared: these threads did not set
# them. To be called before the count of the variable grows.
cdef void note_hot_rows(const Task *tasks, Py_ssize_t n) noexcept nogil
