/* Every function of the header behind plain C, for any compiler: see test_header.py. */
#include <rmsprop_fast/rmsprop.h>

#ifdef __cplusplus
#define DOOR extern "C"
#else
#define DOOR
#endif

/* Call with literal flags, as the header asks. */
#define CASE(variant, CALL)                                                             \
    case variant:                                                                       \
        CALL((variant) & RMSPROP_CENTERED, (variant) & RMSPROP_MOMENTUM,                \
             (variant) & RMSPROP_EPS_IN_SQRT);                                          \
        break;
#define EACH_VARIANT(CALL)                                                              \
    switch (variant) {                                                                  \
        RMSPROP_VARIANTS(CASE, CALL)                                                    \
    }                                                                                   \
    return done;

/* scalars: lr, rho, momentum, epsilon, keep, grad_scale, clip. */
#define COEF(T, s) rmsprop_coef_make_##T(s[0], s[1], s[2], s[3], s[4], s[5], s[6])

#define DOORS(T, REAL)                                                                  \
    DOOR ptrdiff_t elements_##T(REAL *param, const REAL *grad, REAL *rms, REAL *mg,     \
                                REAL *mom, ptrdiff_t n, const double *scalars,          \
                                int variant);                                           \
    DOOR ptrdiff_t elements_##T(REAL *param, const REAL *grad, REAL *rms, REAL *mg,     \
                                REAL *mom, ptrdiff_t n, const double *scalars,          \
                                int variant)                                            \
    {                                                                                   \
        const rmsprop_coef_##T c = COEF(T, scalars);                                    \
        ptrdiff_t i;                                                                    \
        for (i = 0; i < n; i++)                                                         \
            rmsprop_update_##T(&param[i], rmsprop_grad_##T(grad[i], c), &rms[i],        \
                               variant & RMSPROP_CENTERED ? &mg[i] : NULL,              \
                               variant & RMSPROP_MOMENTUM ? &mom[i] : NULL, c,          \
                               variant & RMSPROP_CENTERED, variant & RMSPROP_MOMENTUM,  \
                               variant & RMSPROP_EPS_IN_SQRT);                          \
        return -1;                                                                      \
    }                                                                                   \
                                                                                        \
    DOOR ptrdiff_t dense_##T(REAL *param, const REAL *grad, REAL *rms, REAL *mg,        \
                             REAL *mom, ptrdiff_t n, const double *scalars,             \
                             int variant);                                              \
    DOOR ptrdiff_t dense_##T(REAL *param, const REAL *grad, REAL *rms, REAL *mg,        \
                             REAL *mom, ptrdiff_t n, const double *scalars,             \
                             int variant)                                               \
    {                                                                                   \
        const rmsprop_coef_##T c = COEF(T, scalars);                                    \
        ptrdiff_t done = -1;                                                            \
        EACH_VARIANT(DENSE_##T)                                                         \
    }                                                                                   \
                                                                                        \
    DOOR ptrdiff_t rows_##T(REAL *param, const REAL *values, REAL *rms, REAL *mg,       \
                            REAL *mom, const ptrdiff_t *rows,                           \
                            const ptrdiff_t *positions, ptrdiff_t n, ptrdiff_t n_rows,  \
                            ptrdiff_t width, const double *scalars, int variant);       \
    DOOR ptrdiff_t rows_##T(REAL *param, const REAL *values, REAL *rms, REAL *mg,       \
                            REAL *mom, const ptrdiff_t *rows,                           \
                            const ptrdiff_t *positions, ptrdiff_t n, ptrdiff_t n_rows,  \
                            ptrdiff_t width, const double *scalars, int variant)        \
    {                                                                                   \
        const rmsprop_coef_##T c = COEF(T, scalars);                                    \
        ptrdiff_t done = -1;                                                            \
        EACH_VARIANT(ROWS_##T)                                                          \
    }                                                                                   \
                                                                                        \
    DOOR ptrdiff_t catch_up_##T(REAL *param, const REAL *grad, REAL *rms, REAL *mg,     \
                                REAL *mom, ptrdiff_t n, ptrdiff_t steps,                \
                                const double *scalars, int variant);                    \
    DOOR ptrdiff_t catch_up_##T(REAL *param, const REAL *grad, REAL *rms, REAL *mg,     \
                                REAL *mom, ptrdiff_t n, ptrdiff_t steps,                \
                                const double *scalars, int variant)                     \
    {                                                                                   \
        const rmsprop_coef_##T c = COEF(T, scalars);                                    \
        rmsprop_idle_##T powers[63];                                                    \
        ptrdiff_t i;                                                                    \
        rmsprop_idle_powers_##T(powers, c, (unsigned long long)steps);                  \
        (void)grad;                                                                     \
        for (i = 0; i < n; i++)                                                         \
            rmsprop_catch_up_##T(                                                       \
                &param[i], &rms[i], variant & RMSPROP_CENTERED ? &mg[i] : NULL,         \
                variant & RMSPROP_MOMENTUM ? &mom[i] : NULL,                            \
                rmsprop_idle_steps_##T(powers, (unsigned long long)steps),              \
                variant & RMSPROP_CENTERED, variant & RMSPROP_MOMENTUM);                \
        return -1;                                                                      \
    }

#define DENSE(T, centered, momentum, eps_in_sqrt)                                       \
    rmsprop_dense_span_##T(param, grad, rms, mg, mom, n, c, centered, momentum,         \
                           eps_in_sqrt)
#define ROWS(T, centered, momentum, eps_in_sqrt)                                        \
    done = rmsprop_rows_span_##T(param, values, rms, mg, mom, rows, positions, n,       \
                                 n_rows, width, c, centered, momentum, eps_in_sqrt)
#define DENSE_f32(a, b, e) DENSE(f32, a, b, e)
#define DENSE_f64(a, b, e) DENSE(f64, a, b, e)
#define ROWS_f32(a, b, e) ROWS(f32, a, b, e)
#define ROWS_f64(a, b, e) ROWS(f64, a, b, e)

DOORS(f32, float)
DOORS(f64, double)

/* Whether the largest number of steps uses 63 powers, and is 2^63 - 1. */
#define POWERS(T)                                                                       \
    DOOR int most_steps_are_63_bits_##T(void);                                          \
    DOOR int most_steps_are_63_bits_##T(void)                                           \
    {                                                                                   \
        const rmsprop_coef_##T c = rmsprop_coef_make_##T(1, 1, 1, 0, 1, 1, 1);          \
        rmsprop_idle_##T powers[64], most;                                              \
        powers[63].rho = powers[63].momentum = powers[63].reach = -7;                   \
        rmsprop_idle_powers_##T(powers, c, ~0ULL);                                      \
        if (powers[63].rho != -7)                                                       \
            return 0;                                                                   \
        most = rmsprop_idle_steps_##T(powers, ~0ULL);                                   \
        return most.reach == rmsprop_idle_steps_##T(powers, ~0ULL >> 1).reach;          \
    }
POWERS(f32)
POWERS(f64)

DOOR long long missed_steps(long long made, long long by_all, long long by_row);
DOOR long long missed_steps(long long made, long long by_all, long long by_row)
{
    return rmsprop_missed_steps(made, by_all, by_row);
}

/* The sum of what each flag, slot and variant is worth, from the header's own lists. */
#define SUM_FLAG(name, bit) +(bit)
#define SUM_SLOT(name, flag, ...) +1
DOOR int flags_and_slots(int *slots);
DOOR int flags_and_slots(int *slots)
{
    *slots = RMSPROP_SLOTS(SUM_SLOT, 0);
    return RMSPROP_FLAGS(SUM_FLAG);
}
