# The functions for compiled code: `from rmsprop_fast.kernels cimport rmsprop_dense_f32`.
# They need no GIL and no Python object, and you link nothing. Numba, cffi and ctypes get
# the same functions from `rmsprop_fast.kernels.address`. Released signatures never
# change: a new function gets a new name, and RMSPROP_API_VERSION grows by one.

cdef enum:
    RMSPROP_API_VERSION = 1  # of the build that this file came with

# What every function returns. Unless it is RMSPROP_DONE, nothing has been changed.
cdef enum:
    RMSPROP_DONE = 0
    # n, n_rows or width is negative, or too large for any memory.
    RMSPROP_BAD_SIZE = 1
    # A pointer is not aligned, or is NULL. Only mg, mom (at momentum 0) and arrays
    # without elements may be NULL.
    RMSPROP_BAD_POINTER = 2
    # Two of param, grad or values, rms, mg and mom share memory.
    RMSPROP_BAD_OVERLAP = 3
    # A scalar is out of the range given below.
    RMSPROP_BAD_SCALAR = 4
    # num_threads is negative or above 1024.
    RMSPROP_BAD_THREADS = 5
    # A row is not in [0, n_rows).
    RMSPROP_BAD_ROW = 6
    # Too little memory to sort the rows: 16 bytes for each, 32 beyond 2^32 rows.
    RMSPROP_NO_MEMORY = 7

# The version of the build that runs.
cdef int rmsprop_api_version() noexcept nogil

# Update n elements in place, each from its own gradient.
#
#   param        n elements, read and written
#   grad         n raw gradient values, read
#   rms          slot, n elements, read and written; zeros before the first step
#   mg           the same, or NULL: not centered
#   mom          the same, not changed while momentum is 0; or NULL: without momentum
#   lr           learning rate of this step, finite and >= 0
#   rho          in [0, 1]
#   momentum     in [0, 1]; 0 when mom is NULL
#   epsilon      finite and >= 0
#   keep         1 - lr*weight_decay, finite; 1 when off
#   grad_scale   multiplies every gradient value; 1 when off. It is not checked: like a
#                NaN in grad, a NaN here gives NaN
#   clip         largest absolute value of the scaled gradient, > 0; INFINITY when off
#   eps_in_sqrt  1: grad / sqrt(rms + epsilon), the default of RMSprop
#                0: grad / (sqrt(rms) + epsilon)
#   num_threads  the largest number of threads, with the calling thread; little work stays
#                on one thread. 0: as many as OMP_NUM_THREADS says, or as many as the
#                machine and its control group allow
#
# All arrays are contiguous and do not overlap. The bits are the same for any num_threads,
# and those of RMSprop.apply_gradients. Two calls at once on the same arrays are a race.
cdef int rmsprop_dense_f32(
    float *param, const float *grad, float *rms, float *mg, float *mom, Py_ssize_t n,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads) noexcept nogil
cdef int rmsprop_dense_f64(
    double *param, const double *grad, double *rms, double *mg, double *mom, Py_ssize_t n,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads) noexcept nogil

# Update some rows of a table in place; the other rows and their slots do not change.
#
#   param, rms, mg, mom   n_rows x width elements, row after row; otherwise as above
#   values                n x width: the raw gradient of rows[k] is its k-th row, read
#   rows                  n row numbers in [0, n_rows), in any order, read. A row that
#                         occurs several times gets the sum of its gradients, in the order
#                         given, and one update
#
# Cost depends on n x width, not on n_rows. Every row is checked before any is updated.
cdef int rmsprop_rows_f32(
    float *param, const float *values, float *rms, float *mg, float *mom,
    const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t width,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads) noexcept nogil
cdef int rmsprop_rows_f64(
    double *param, const double *values, double *rms, double *mg, double *mom,
    const Py_ssize_t *rows, Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t width,
    double lr, double rho, double momentum, double epsilon, double keep,
    double grad_scale, double clip, int eps_in_sqrt, int num_threads) noexcept nogil
