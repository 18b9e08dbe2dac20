# Losses at one point: the value, and its slope in the prediction `z`.
#
# Definitions and names are scikit-learn's (linear_model, "Stochastic Gradient Descent",
# section "Mathematical formulation"), so that the estimators minimise the same numbers.

from libc.math cimport exp, expf, fabs, log, log1p

# The dtype of X, of every parameter and of its slots.
ctypedef fused real:
    float
    double

cdef enum Loss:
    LOG_LOSS            # y in {-1, 1}, or a class number when there are several outputs
    HINGE               # y in {-1, 1}, as the next
    MODIFIED_HUBER
    SQUARED_ERROR       # y any real, as the following
    HUBER
    EPSILON_INSENSITIVE


cdef inline double _log_loss(double z, double y, double *slope) noexcept nogil:
    """Return log(1 + exp(-y*z)), whatever the size of z."""
    cdef double margin = y * z
    slope[0] = -y / (1 + exp(margin))
    return log1p(exp(-margin)) if margin > 0 else log1p(exp(margin)) - margin


cdef inline double _hinge(double z, double y, double *slope) noexcept nogil:
    cdef double short = 1 - y * z
    slope[0] = -y if short > 0 else 0
    return short if short > 0 else 0


cdef inline double _modified_huber(double z, double y, double *slope) noexcept nogil:
    """Zhang 2004, Solving large scale linear prediction problems using SGD, table 1."""
    cdef double margin = y * z
    if margin >= 1:
        slope[0] = 0
        return 0
    if margin >= -1:
        slope[0] = -2 * (1 - margin) * y
        return (1 - margin) * (1 - margin)
    slope[0] = -4 * y
    return -4 * margin


cdef inline double _huber(double error, double delta, double *slope) noexcept nogil:
    """Huber 1964: a parabola within `delta` of zero, straight lines beyond."""
    if fabs(error) <= delta:
        slope[0] = error
        return 0.5 * error * error
    slope[0] = delta if error > 0 else -delta
    return delta * fabs(error) - 0.5 * delta * delta


cdef inline double _epsilon_insensitive(
    double error, double delta, double *slope,
) noexcept nogil:
    if fabs(error) <= delta:
        slope[0] = 0
        return 0
    slope[0] = 1 if error > 0 else -1
    return fabs(error) - delta


cdef inline double point_loss(
    Loss loss, double z, double y, double delta, double *slope,
) noexcept nogil:
    """Return the loss of predicting z where y was right; write dloss/dz to `slope`."""
    if loss == LOG_LOSS:
        return _log_loss(z, y, slope)
    if loss == HINGE:
        return _hinge(z, y, slope)
    if loss == MODIFIED_HUBER:
        return _modified_huber(z, y, slope)
    if loss == HUBER:
        return _huber(z - y, delta, slope)
    if loss == EPSILON_INSENSITIVE:
        return _epsilon_insensitive(z - y, delta, slope)
    slope[0] = z - y
    return 0.5 * (z - y) * (z - y)


cdef inline double softmax_loss(
    real *z, Py_ssize_t n, Py_ssize_t y, double weight,
) noexcept nogil:
    """Return the cross-entropy of class y, and turn z into `weight` times its slope."""
    cdef Py_ssize_t k
    cdef real largest = z[0], total = 0, at_y, scale
    for k in range(1, n):
        largest = z[k] if z[k] > largest else largest
    at_y = z[y] - largest
    for k in range(n):
        if real is float:
            z[k] = expf(z[k] - largest)
        else:
            z[k] = exp(z[k] - largest)
    for k in range(n):
        total += z[k]
    scale = <real> (weight / total)
    for k in range(n):
        z[k] *= scale
    z[y] -= <real> weight
    return log(total) - at_y
