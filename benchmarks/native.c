/* The package's header in one C file: what a compiler makes of the formula when it may
 * use all of this machine. Spans have the signature of those in cpu/_spans.pxd.
 */
#include <stddef.h>

#include <rmsprop_fast/rmsprop.h>

/* As Coef in cpu/_spans.pxd. */
typedef struct {
    rmsprop_coef_f32 f32;
    rmsprop_coef_f64 f64;
} coefs;

typedef void span(void *param, const void *grad, void *rms, void *mg, void *mom,
                  ptrdiff_t n, const coefs *coef, int variant);

enum { CENTERED = 1, MOMENTUM = 2, EPS_IN_SQRT = 4 };

#define NATIVE(SUFFIX)                                                                   \
    static inline __attribute__((always_inline)) void update_##SUFFIX(                   \
        rmsprop_out_##SUFFIX param, rmsprop_in_##SUFFIX grad, rmsprop_out_##SUFFIX rms,  \
        rmsprop_out_##SUFFIX mg, rmsprop_out_##SUFFIX mom, ptrdiff_t n,                  \
        const coefs *coef, const int centered, const int momentum)                       \
    {                                                                                    \
        const rmsprop_coef_##SUFFIX c = coef->SUFFIX;                                    \
        for (ptrdiff_t i = 0; i < n; i++)                                                \
            rmsprop_update_##SUFFIX(&param[i], rmsprop_grad_##SUFFIX(grad[i], c),        \
                                    &rms[i], centered ? &mg[i] : NULL,                   \
                                    momentum ? &mom[i] : NULL, c, centered, momentum,    \
                                    1);                                                  \
    }                                                                                    \
                                                                                         \
    void native_##SUFFIX(void *param, const void *grad, void *rms, void *mg, void *mom,  \
                         ptrdiff_t n, const coefs *coef, int variant)                    \
    {                                                                                    \
        if (variant == EPS_IN_SQRT)                                                      \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 0, 0);                   \
        else if (variant == EPS_IN_SQRT + CENTERED)                                      \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 1, 0);                   \
        else if (variant == EPS_IN_SQRT + MOMENTUM)                                      \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 0, 1);                   \
        else if (variant == EPS_IN_SQRT + CENTERED + MOMENTUM)                           \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 1, 1);                   \
    }

NATIVE(f32)
NATIVE(f64)

/* Call a span, the package's or one of the above, so many times. Each thread does so on
 * its share of the elements and never waits for the others. */
void repeat(span *update, int times, char *param, const char *grad, char *rms, char *mg,
            char *mom, ptrdiff_t n, ptrdiff_t item, int variant, double lr, double rho,
            double momentum, double epsilon, int n_threads)
{
    const ptrdiff_t share = n / n_threads, bytes = share * item;
    coefs c;
    c.f32 = rmsprop_coef_make_f32(lr, rho, momentum, epsilon, 1, 1, HUGE_VAL);
    c.f64 = rmsprop_coef_make_f64(lr, rho, momentum, epsilon, 1, 1, HUGE_VAL);
#pragma omp parallel for schedule(static, 1) num_threads(n_threads)
    for (int t = 0; t < n_threads; t++)
        for (int k = 0; k < times; k++)
            update(param + t * bytes, grad + t * bytes, rms + t * bytes, mg + t * bytes,
                   mom + t * bytes, share, &c, variant);
}
