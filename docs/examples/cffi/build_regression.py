"""Compile a training loop in C that is handed one of rmsprop_fast's functions."""

from cffi import FFI

from rmsprop_fast import kernels

# The function's C type, "int (double *, double const *, ...)", as a pointer's.
SIGNATURE = kernels.signature("rmsprop_dense_f64")
UPDATE = f"typedef {SIGNATURE.replace('(', '(*update)(', 1)};\n"

GRADIENT = """
    void gradient(const double *x, const double *y, Py_ssize_t n, Py_ssize_t width,
                  const double *weights, double *grad)
"""
TRAIN = """
    int train(update update, const double *x, const double *y, Py_ssize_t n,
              Py_ssize_t width, double *weights, double *rms, double *mom, double *grad,
              int n_steps)
"""

# The gradient of the mean squared error over two, and steps along it.
LOOPS = f"""
    #include <math.h>

    {UPDATE}
    static {GRADIENT}
    {{
        for (Py_ssize_t j = 0; j < width; j++)
            grad[j] = 0;
        for (Py_ssize_t k = 0; k < n; k++) {{
            double error = -y[k];
            for (Py_ssize_t j = 0; j < width; j++)
                error += x[k * width + j] * weights[j];
            for (Py_ssize_t j = 0; j < width; j++)
                grad[j] += error * x[k * width + j] / n;
        }}
    }}

    static {TRAIN}
    {{
        int status = 0;
        for (int step = 0; step < n_steps && status == 0; step++) {{
            gradient(x, y, n, width, weights, grad);
            /* NULL: not centered. lr, rho, momentum, epsilon, keep, grad_scale, clip,
             * eps_in_sqrt, num_threads. */
            status = update(weights, grad, rms, NULL, mom, width, 0.001, 0.9, 0.9, 1e-7,
                            1.0, 1.0, INFINITY, 1, 0);
        }}
        return status;
    }}
"""

ffi = FFI()
ffi.cdef(f"typedef ssize_t Py_ssize_t; {UPDATE} {GRADIENT}; {TRAIN};")
ffi.set_source("_regression", LOOPS, extra_compile_args=["-O3", "-ffp-contract=off"])

if __name__ == "__main__":
    ffi.compile()
