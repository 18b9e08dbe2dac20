# The shared memory of a training loop, and the table of loops that each instruction
# set's copy of _loops.pxi hands over.

from libc.stdint cimport int32_t, int64_t

from rmsprop_fast.estimators._losses cimport Loss
from rmsprop_fast.header cimport rmsprop_coef_f32, rmsprop_coef_f64

cdef enum:
    PASSES_VERSION = 1

cdef enum:  # index into each pair of functions
    F32 = 0
    F64 = 1

ctypedef struct Coef:
    rmsprop_coef_f32 f32
    rmsprop_coef_f64 f64

ctypedef struct Model:
    void *params              # (n_features + 1, width), C order, as the slots
    void *rms
    void *mg                  # NULL unless centered
    void *mom                 # NULL without momentum
    void *average             # NULL without averaging
    double *penalty_clock     # (n_features,), NULL without a penalty
    int64_t *average_clock    # (n_features + 1,), NULL without averaging
    Py_ssize_t n_features, n_outputs, n_factors, width
    bint fit_intercept
    Loss loss
    double delta              # of huber and epsilon_insensitive
    double l1, l2, l2_factors
    Coef coef                 # of this step
    Coef unit                 # see step_size
    double clock              # sum of all learning rates so far
    int64_t n_averaged        # steps that the average is to hold

# One mini-batch: its non-zeros by sample, and again by feature.
ctypedef struct Batch:
    Py_ssize_t n, nnz, n_rows
    int32_t *slot             # (n_features + 1,): 1 + position in `feature`, 0: absent
    Py_ssize_t *feature       # distinct features, in order of first occurrence
    void **row                # where the parameters of each of them are
    Py_ssize_t *sample_start  # (n + 1,)
    int32_t *local            # by sample: position in `feature`
    void *value
    Py_ssize_t *row_start     # (n_rows + 1,)
    int32_t *sample           # by feature: the sample
    void *by_row              # and the value
    void *z                   # (n, n_outputs): predictions, then slopes
    void *factor_sum          # (n, n_outputs * n_factors): sum of v * x
    void *scratch             # (n_threads, width)
    double *loss              # (n,)
    int n_threads
    Py_ssize_t serial_below   # multiply-adds below which one thread does it all

ctypedef struct Source:
    const void *data
    const void *indices       # NULL: dense
    const void *indptr
    bint wide                 # indices and indptr are int64
    Py_ssize_t n_columns

ctypedef struct Passes:
    int version
    # One step per mini-batch of the n samples in `order`; the sum of their losses.
    double (*epoch[2])(
        Model *m, Batch *b, const Source *s, const double *y, const double *weight,
        const int64_t *order, Py_ssize_t n, Py_ssize_t batch_size,
        const double *learning_rate, double rho, double momentum, double epsilon,
        Py_ssize_t n_before_average) noexcept nogil
    # The n samples in `order` predicted as a fit that ends here would; `rows` has room
    # for the parameters of all features of a mini-batch.
    void (*predict[2])(
        void *out, const Model *m, Batch *b, const Source *s, const int64_t *order,
        Py_ssize_t n, Py_ssize_t batch_size, void *rows) noexcept nogil
    # The whole table as a fit that ends here returns it.
    void (*result[2])(void *out, const Model *m, int team) noexcept nogil
    # Apply all pending penalties and averages; `row` is scratch for one row.
    void (*settle[2])(void *row, const Model *m) noexcept nogil
