# The argument of a step, for the part of it that is on devices.

from rmsprop_fast.cpu._spans cimport Coef

# What a step needs of its argument without the GIL.
ctypedef struct StepBounds:
    int variant
    double factor
    double clipnorm
    double global_clipnorm
    bint has_norm
    bint check_finite


cdef class StepArguments:
    cdef readonly int variant
    cdef readonly double learning_rate, rho, momentum, epsilon, weight_decay
    cdef readonly double clipvalue, clipnorm, global_clipnorm, factor
    cdef readonly bint check_finite, skips
    cdef readonly object num_threads, rate
    cdef public bint overlaps_checked
    cdef double undecayed, decay
    cdef Coef coef(self) noexcept
    cdef StepBounds bounds(self) noexcept
