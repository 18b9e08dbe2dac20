/* The gradient of a matrix that is an outer product, as one sample gives it to a dense
 * layer: fused with the update by the package's header, and apart from it.
 */
#include <stddef.h>

#include <rmsprop_fast/rmsprop.h>

/* Each row of grad = left[row] * right, in the same shares as the update's. */
void outer(float *grad, const float *left, const float *right, ptrdiff_t n_rows,
           ptrdiff_t width, int n_threads)
{
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (ptrdiff_t row = 0; row < n_rows; row++)
        for (ptrdiff_t j = 0; j < width; j++)
            grad[row * width + j] = left[row] * right[j];
}

static void update_row(rmsprop_out_f32 param, rmsprop_out_f32 rms, float left,
                       rmsprop_in_f32 right, ptrdiff_t width, rmsprop_coef_f32 c)
{
    for (ptrdiff_t j = 0; j < width; j++)
        rmsprop_update_f32(&param[j], rmsprop_grad_f32(left * right[j], c), &rms[j], NULL,
                           NULL, c, 0, 0, 1);
}

/* The update with that gradient, which stays in registers. */
void fused(float *param, float *rms, const float *left, const float *right,
           ptrdiff_t n_rows, ptrdiff_t width, double lr, double rho, double epsilon,
           int n_threads)
{
    const rmsprop_coef_f32 c =
        rmsprop_coef_make_f32(lr, rho, 0.0, epsilon, 1.0, 1.0, HUGE_VAL);
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (ptrdiff_t row = 0; row < n_rows; row++)
        update_row(param + row * width, rms + row * width, left[row], right, width, c);
}
