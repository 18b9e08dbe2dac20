"""Build rmsprop_fast: the Extension rows, the ISA flags and the OpenMP probe.

Everything else is in pyproject.toml. ``RMSPROP_FAST_OPENMP`` is ``auto`` (the
default: use OpenMP when a program compiles and links with it), ``1`` (fail
without it) or ``0`` (build serial loops).
"""

import os
import sysconfig
import tempfile
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError, PlatformError

PACKAGE = "rmsprop_fast"
INCLUDE = f"{PACKAGE}/include"

# The same bits on every machine: no contraction into FMA, no -ffast-math, no
# -march=native. Without -fno-math-errno GCC keeps the square root scalar;
# -fno-trapping-math lets it turn the comparisons into selects.
COMPILE_FLAGS = {
    "unix": ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],
    "msvc": ["/O2", "/fp:precise"],
}

# In the loops everything is inlined: clang keeps a called span scalar.
LOOP_FLAGS = {
    "unix": ["-DCYTHON_INLINE=inline __attribute__((always_inline))"],
    "msvc": [],
}

# What the compiler may use in each copy of the loops. Off x86-64, and with
# compilers nobody has measured, there is the baseline alone.
ISA_FLAGS = {
    "baseline": [],
    "avx2": ["-mavx2"],
    "avx512": [
        *("-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq"),
        "-mprefer-vector-width=512",
    ],
}

# The compiled modules beside the loops.
MODULES = [
    *("cpu._platform", "cpu._spans", "cpu._layout", "cpu._gradients", "cpu._sort"),
    *("cpu._catch_up", "cpu._tasks", "cpu._extents", "cpu._records", "cpu._step"),
    *("_exclusive", "kernels", "estimators._train", "gpu._plan"),
]

# Where there are loops, which are compiled once for each instruction set.
LOOPS = ["cpu", "estimators"]

OPENMP_FLAGS = {"unix": ["-fopenmp"], "msvc": ["/openmp"]}
OPENMP_PROBE = """\
#include <omp.h>
int main(void) { return omp_get_max_threads() > 0 ? 0 : 1; }
"""

DIRECTIVES = {
    "language_level": "3",
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "embedsignature": True,
    "freethreading_compatible": True,
}


def isas():
    """Return the instruction sets to build loops for on the target platform."""
    target = sysconfig.get_platform()
    if target.startswith("linux") and target.endswith("x86_64"):
        return list(ISA_FLAGS)
    return ["baseline"]


def headers():
    """Return the files that compiled modules include."""
    rooms = [Path(PACKAGE, room) for room in ("", "cpu", "estimators", "gpu")]
    folders = Path(INCLUDE, PACKAGE), *rooms
    files = [path for folder in folders for path in folder.iterdir()]
    return [str(path) for path in files if path.suffix in (".h", ".pxd", ".pxi")]


def extensions():
    """Return one row per compiled module."""
    common = {
        "include_dirs": [".", INCLUDE, numpy.get_include()],
        "define_macros": [("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        "depends": ["setup.py", *headers()],
    }
    flags = {name: [] for name in MODULES}
    for isa in isas():
        flags |= {f"{room}._loops_{isa}": ISA_FLAGS[isa] for room in LOOPS}
    return [
        Extension(
            f"{PACKAGE}.{name}",
            [f"{PACKAGE}/{name.replace('.', '/')}.pyx"],
            extra_compile_args=list(own),
            **common,
        )
        for name, own in flags.items()
    ]


class BuildExt(build_ext):
    """Add the flags that only the real compiler can answer for."""

    def build_extensions(self):
        kind = "msvc" if self.compiler.compiler_type == "msvc" else "unix"
        openmp = OPENMP_FLAGS[kind] if self.wants_openmp(OPENMP_FLAGS[kind]) else []
        for extension in self.extensions:
            is_loops = "._loops_" in extension.name
            extension.extra_compile_args = [
                *COMPILE_FLAGS[kind],
                *(LOOP_FLAGS[kind] if is_loops else []),
                *extension.extra_compile_args,
                *openmp,
            ]
            extension.extra_link_args = [] if kind == "msvc" else list(openmp)
        super().build_extensions()

    def wants_openmp(self, flags):
        """Decide by RMSPROP_FAST_OPENMP and by a program built with `flags`."""
        choice = os.environ.get("RMSPROP_FAST_OPENMP", "auto")
        if choice not in ("auto", "1", "0"):
            raise PlatformError(
                f"RMSPROP_FAST_OPENMP must be auto, 1 or 0, got {choice!r}"
            )
        if choice == "0":
            return False
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(OPENMP_PROBE)
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=list(flags)
                )
                self.compiler.link_executable(
                    objects,
                    str(Path(folder, "probe")),
                    extra_postargs=list(flags),
                )
            except (CompileError, LinkError) as error:
                if choice == "1":
                    raise PlatformError(
                        "RMSPROP_FAST_OPENMP=1, but this compiler builds no OpenMP "
                        f"program: {error}"
                    ) from error
                return False
        return True


if __name__ == "__main__":
    setup(
        ext_modules=cythonize(
            extensions(),
            build_dir="build/cython",
            compiler_directives=DIRECTIVES,
            include_path=["."],
        ),
        cmdclass={"build_ext": BuildExt},
    )
