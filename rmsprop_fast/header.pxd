# The C header for Cython: `from rmsprop_fast.header cimport rmsprop_update_f32`.
# Meaning, units and sources of every name are in rmsprop.h and its body files.
# Compile with include_dirs=[rmsprop_fast.get_include()] and -ffp-contract=off.

cdef extern from "rmsprop_fast/rmsprop.h" nogil:
    # Pointers that promise: nothing else reaches these elements during the call.
    ctypedef float *rmsprop_out_f32
    ctypedef const float *rmsprop_in_f32
    ctypedef double *rmsprop_out_f64
    ctypedef const double *rmsprop_in_f64

    # The options of the update are bits of `variant`; the slots have an order.
    enum:
        RMSPROP_CENTERED
        RMSPROP_MOMENTUM
        RMSPROP_EPS_IN_SQRT
        RMSPROP_N_VARIANTS
        RMSPROP_SLOT_RMS
        RMSPROP_SLOT_MG
        RMSPROP_SLOT_MOM
        RMSPROP_N_SLOTS

    # Call f(..., variant) with `variant` as a literal.
    void RMSPROP_FOR_VARIANT(int variant, ...)
    # Call f(..., slot) with a literal for each slot that a variant needs.
    void RMSPROP_FOR_SLOTS(int variant, ...)

    int RMSPROP_VARIANT(bint centered, bint momentum, bint eps_in_sqrt)
    bint rmsprop_needs_slot(int variant, int slot) noexcept
    double rmsprop_norm_scale(double squares, double norm, double factor) noexcept
    long long rmsprop_missed_steps(
        long long made, long long by_all, long long by_row) noexcept

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

    # Duplicate rows are summed in runs of so many.
    enum: RMSPROP_SUM_RUN

    # Loops over elements that lie side by side, and over rows of a table. The flags are
    # literals here too. rows_span: rows are ascending; -1, or the first bad position.
    void rmsprop_span_f32(
        rmsprop_out_f32 param, rmsprop_in_f32 grad, rmsprop_out_f32 rms,
        rmsprop_out_f32 mg, rmsprop_out_f32 mom, Py_ssize_t n,
        rmsprop_coef_f32 c, int variant) noexcept
    void rmsprop_variant_span_f32(
        float *param, const float *grad, float **slots, Py_ssize_t n,
        rmsprop_coef_f32 c, int variant) noexcept
    void rmsprop_dense_span_f32(
        rmsprop_out_f32 param, rmsprop_in_f32 grad, rmsprop_out_f32 rms,
        rmsprop_out_f32 mg, rmsprop_out_f32 mom, Py_ssize_t n,
        rmsprop_coef_f32 c, bint centered, bint momentum, bint eps_in_sqrt) noexcept
    void rmsprop_grad_span_f32(
        rmsprop_out_f32 out, rmsprop_in_f32 grad, Py_ssize_t n,
        rmsprop_coef_f32 c, bint add) noexcept
    Py_ssize_t rmsprop_rows_span_f32(
        rmsprop_out_f32 param, rmsprop_in_f32 values, rmsprop_out_f32 rms,
        rmsprop_out_f32 mg, rmsprop_out_f32 mom, const Py_ssize_t *rows,
        const Py_ssize_t *positions, Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t width,
        rmsprop_coef_f32 c, bint centered, bint momentum, bint eps_in_sqrt) noexcept
    void rmsprop_span_f64(
        rmsprop_out_f64 param, rmsprop_in_f64 grad, rmsprop_out_f64 rms,
        rmsprop_out_f64 mg, rmsprop_out_f64 mom, Py_ssize_t n,
        rmsprop_coef_f64 c, int variant) noexcept
    void rmsprop_variant_span_f64(
        double *param, const double *grad, double **slots, Py_ssize_t n,
        rmsprop_coef_f64 c, int variant) noexcept
    void rmsprop_dense_span_f64(
        rmsprop_out_f64 param, rmsprop_in_f64 grad, rmsprop_out_f64 rms,
        rmsprop_out_f64 mg, rmsprop_out_f64 mom, Py_ssize_t n,
        rmsprop_coef_f64 c, bint centered, bint momentum, bint eps_in_sqrt) noexcept
    void rmsprop_grad_span_f64(
        rmsprop_out_f64 out, rmsprop_in_f64 grad, Py_ssize_t n,
        rmsprop_coef_f64 c, bint add) noexcept
    Py_ssize_t rmsprop_rows_span_f64(
        rmsprop_out_f64 param, rmsprop_in_f64 values, rmsprop_out_f64 rms,
        rmsprop_out_f64 mg, rmsprop_out_f64 mom, const Py_ssize_t *rows,
        const Py_ssize_t *positions, Py_ssize_t n, Py_ssize_t n_rows, Py_ssize_t width,
        rmsprop_coef_f64 c, bint centered, bint momentum, bint eps_in_sqrt) noexcept

    # The factors of k updates by a zero gradient.
    ctypedef struct rmsprop_idle_f32:
        double rho, momentum, reach

    ctypedef struct rmsprop_idle_f64:
        double rho, momentum, reach

    void rmsprop_idle_powers_f32(
        rmsprop_idle_f32 *powers, rmsprop_coef_f32 c,
        unsigned long long most_steps) noexcept
    void rmsprop_idle_powers_f64(
        rmsprop_idle_f64 *powers, rmsprop_coef_f64 c,
        unsigned long long most_steps) noexcept
    rmsprop_idle_f32 rmsprop_idle_steps_f32(
        const rmsprop_idle_f32 *powers, unsigned long long steps) noexcept
    rmsprop_idle_f64 rmsprop_idle_steps_f64(
        const rmsprop_idle_f64 *powers, unsigned long long steps) noexcept

    # centered, momentum: literals; mg, mom: NULL when their flag is 0.
    void rmsprop_catch_up_f32(
        float *param, float *rms, float *mg, float *mom, rmsprop_idle_f32 idle,
        bint centered, bint momentum) noexcept
    void rmsprop_catch_up_f64(
        double *param, double *rms, double *mg, double *mom, rmsprop_idle_f64 idle,
        bint centered, bint momentum) noexcept
    void rmsprop_catch_up_variant_span_f32(
        float *param, float **slots, Py_ssize_t n, rmsprop_idle_f32 idle,
        int variant) noexcept
    void rmsprop_catch_up_variant_span_f64(
        double *param, double **slots, Py_ssize_t n, rmsprop_idle_f64 idle,
        int variant) noexcept
