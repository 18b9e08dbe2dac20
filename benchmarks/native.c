/* The package's header in one C file: what a compiler makes of the formula when it may
 * use all of this machine. Spans have the signature of those in cpu/_spans.pxd.
 */
#include <stddef.h>

#include <rmsprop_fast/rmsprop.h>

/* The beginning of Coef in cpu/_spans.pxd. */
typedef struct {
    rmsprop_coef_f32 f32;
    rmsprop_coef_f64 f64;
} coefs;

typedef void span(char *param, const char *grad, char *const *slots, ptrdiff_t n,
                  const coefs *coef, int variant);

void native_f32(char *param, const char *grad, char *const *slots, ptrdiff_t n,
                const coefs *coef, int variant)
{
    rmsprop_variant_span_f32((float *)param, (const float *)grad, (float *const *)slots,
                             n, coef->f32, variant);
}

void native_f64(char *param, const char *grad, char *const *slots, ptrdiff_t n,
                const coefs *coef, int variant)
{
    rmsprop_variant_span_f64((double *)param, (const double *)grad,
                             (double *const *)slots, n, coef->f64, variant);
}

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
    for (int t = 0; t < n_threads; t++) {
        char *slots[RMSPROP_N_SLOTS];
        slots[RMSPROP_SLOT_RMS] = rms + t * bytes;
        slots[RMSPROP_SLOT_MG] = mg + t * bytes;
        slots[RMSPROP_SLOT_MOM] = mom + t * bytes;
        for (int k = 0; k < times; k++)
            update(param + t * bytes, grad + t * bytes, slots, share, &c, variant);
    }
}
