"""Numba and rmsprop_fast find a function at the same address."""

from numba.extending import get_cython_function_address

from rmsprop_fast import kernels

NAME = "rmsprop_rows_f32"

print(
    get_cython_function_address("rmsprop_fast.kernels", NAME) == kernels.address(NAME)
)
