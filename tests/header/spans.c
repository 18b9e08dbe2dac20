/* Every function of the header behind plain C, for any compiler: see test_header.py. */
#include <rmsprop_fast/rmsprop.h>

enum { CENTERED = 1, MOMENTUM = 2, EPS_IN_SQRT = 4 };

#ifdef __cplusplus
#define DOOR extern "C"
#else
#define DOOR
#endif

/* Call with literal flags, as the header asks. */
#define EACH_VARIANT(CALL)                                                              \
    switch (variant) {                                                                  \
    case 0: CALL(0, 0, 0);                                                              \
    case CENTERED: CALL(1, 0, 0);                                                       \
    case MOMENTUM: CALL(0, 1, 0);                                                       \
    case CENTERED + MOMENTUM: CALL(1, 1, 0);                                            \
    case EPS_IN_SQRT: CALL(0, 0, 1);                                                    \
    case EPS_IN_SQRT + CENTERED: CALL(1, 0, 1);                                         \
    case EPS_IN_SQRT + MOMENTUM: CALL(0, 1, 1);                                         \
    default: CALL(1, 1, 1);                                                             \
    }

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
                               variant & CENTERED ? &mg[i] : NULL,                      \
                               variant & MOMENTUM ? &mom[i] : NULL, c,                  \
                               variant & CENTERED, variant & MOMENTUM,                  \
                               variant & EPS_IN_SQRT);                                  \
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
                &param[i], &rms[i], variant & CENTERED ? &mg[i] : NULL,                 \
                variant & MOMENTUM ? &mom[i] : NULL,                                    \
                rmsprop_idle_steps_##T(powers, (unsigned long long)steps),              \
                variant & CENTERED, variant & MOMENTUM);                                \
        return -1;                                                                      \
    }

#define DENSE(T, centered, momentum, eps_in_sqrt)                                       \
    rmsprop_dense_span_##T(param, grad, rms, mg, mom, n, c, centered, momentum,         \
                           eps_in_sqrt);                                                \
    return -1
#define ROWS(T, centered, momentum, eps_in_sqrt)                                        \
    return rmsprop_rows_span_##T(param, values, rms, mg, mom, rows, positions, n,       \
                                 n_rows, width, c, centered, momentum, eps_in_sqrt)
#define DENSE_f32(a, b, e) DENSE(f32, a, b, e)
#define DENSE_f64(a, b, e) DENSE(f64, a, b, e)
#define ROWS_f32(a, b, e) ROWS(f32, a, b, e)
#define ROWS_f64(a, b, e) ROWS(f64, a, b, e)

DOORS(f32, float)
DOORS(f64, double)
