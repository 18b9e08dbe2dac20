from Cython.Build import cythonize
from setuptools import Extension, setup

import rmsprop_fast

factorise = Extension(
    "factorise",
    ["factorise.pyx"],
    include_dirs=[rmsprop_fast.get_include()],
    # The second flag is for equal bits; the others let GCC vectorise.
    extra_compile_args=[
        "-O3",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
    ],
)
setup(ext_modules=cythonize(factorise, quiet=True))
