# The struct of one variable for the loops: addresses and sizes.

from libc.string cimport memset

from rmsprop_fast.cpu._layout cimport Layout
from rmsprop_fast.cpu._spans cimport Counts, param_size
from rmsprop_fast.header cimport RMSPROP_N_SLOTS

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
    char *slots[RMSPROP_N_SLOTS]  # NULL: absent
    Counts counts
    bint decays                # whether weight decay changes it


cdef inline Variable variable_make(
    int dtype, char *param, Py_ssize_t n_rows, Py_ssize_t width,
) noexcept nogil:
    """Return a variable that is one run of rows, with no slot and no counts yet."""
    cdef Variable v
    memset(&v, 0, sizeof(v))
    v.dtype = dtype
    v.param = param
    v.size = n_rows * width
    v.n_rows = n_rows
    v.width = width
    v.row_stride = width * param_size(dtype)
    v.rows_are_runs = True
    v.decays = True
    return v
