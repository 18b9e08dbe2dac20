# The C header for Cython: `from rmsprop_fast.header cimport rmsprop_update_f32`.
# Meaning, units and sources of every name are in rmsprop.h and its body file.

cdef extern from "rmsprop_fast/rmsprop.h" nogil:
    # Pointers that promise: nothing else reaches these elements during the call.
    ctypedef float *rmsprop_out_f32
    ctypedef const float *rmsprop_in_f32
    ctypedef double *rmsprop_out_f64
    ctypedef const double *rmsprop_in_f64

    ctypedef struct rmsprop_coef_f32:
        float lr, rho, one_minus_rho, momentum, epsilon, keep, grad_scale, clip

    ctypedef struct rmsprop_coef_f64:
        double lr, rho, one_minus_rho, momentum, epsilon, keep, grad_scale, clip

    rmsprop_coef_f32 rmsprop_coef_make_f32(
        double lr, double rho, double momentum, double epsilon,
        double keep, double grad_scale, double clip) noexcept
    rmsprop_coef_f64 rmsprop_coef_make_f64(
        double lr, double rho, double momentum, double epsilon,
        double keep, double grad_scale, double clip) noexcept

    float rmsprop_grad_f32(float raw, rmsprop_coef_f32 c) noexcept
    double rmsprop_grad_f64(double raw, rmsprop_coef_f64 c) noexcept

    # centered, momentum, eps_in_sqrt: literals; mg, mom: NULL when their flag is 0.
    void rmsprop_update_f32(
        float *param, float grad, float *rms, float *mg, float *mom,
        rmsprop_coef_f32 c, bint centered, bint momentum, bint eps_in_sqrt) noexcept
    void rmsprop_update_f64(
        double *param, double grad, double *rms, double *mg, double *mom,
        rmsprop_coef_f64 c, bint centered, bint momentum, bint eps_in_sqrt) noexcept
