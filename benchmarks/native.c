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

#define NATIVE(SUFFIX)                                                              \
    static inline __attribute__((always_inline)) void update_##SUFFIX(              \
        rmsprop_out_##SUFFIX param, rmsprop_in_##SUFFIX grad,                       \
        rmsprop_out_##SUFFIX rms, rmsprop_out_##SUFFIX mg,                          \
        rmsprop_out_##SUFFIX mom, ptrdiff_t n, const coefs *coef,                   \
        const int centered, const int momentum)                                     \
    {                                                                               \
        const rmsprop_coef_##SUFFIX c = coef->SUFFIX;                               \
        for (ptrdiff_t i = 0; i < n; i++)                                           \
            rmsprop_update_##SUFFIX(&param[i], rmsprop_grad_##SUFFIX(grad[i], c),   \
                                    &rms[i], centered ? &mg[i] : NULL,              \
                                    momentum ? &mom[i] : NULL, c, centered,         \
                                    momentum, 1);                                   \
    }                                                                               \
                                                                                    \
    void native_##SUFFIX(void *param, const void *grad, void *rms, void *mg,        \
                         void *mom, ptrdiff_t n, const coefs *coef, int variant)    \
    {                                                                               \
        if (variant == EPS_IN_SQRT)                                                 \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 0, 0);              \
        else if (variant == EPS_IN_SQRT + CENTERED)                                 \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 1, 0);              \
        else if (variant == EPS_IN_SQRT + MOMENTUM)                                 \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 0, 1);              \
        else if (variant == EPS_IN_SQRT + CENTERED + MOMENTUM)                      \
            update_##SUFFIX(param, grad, rms, mg, mom, n, coef, 1, 1);              \
    }

NATIVE(f32)
NATIVE(f64)

/* Call a span, the package's or one of the above, so many times. */
void repeat(span *update, int times, void *param, const void *grad, void *rms,
            void *mg, void *mom, ptrdiff_t n, int variant, double lr, double rho,
            double momentum, double epsilon)
{
    const double no_clip = HUGE_VAL;
    coefs c;
    c.f32 = rmsprop_coef_make_f32(lr, rho, momentum, epsilon, 1, 1, no_clip);
    c.f64 = rmsprop_coef_make_f64(lr, rho, momentum, epsilon, 1, 1, no_clip);
    while (times-- > 0)
        update(param, grad, rms, mg, mom, n, &c, variant);
}
