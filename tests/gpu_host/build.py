"""rmsprop.cu compiled by the C++ compiler, to be run on the CPU."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "rmsprop_fast"
TEXT = PACKAGE / "gpu" / "rmsprop.cu"

# The bits need no contraction; -w because CUDA's pragmas are unknown here; a fortified
# longjmp refuses to change stacks.
FLAGS = ["-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
FLAGS += ["-U_FORTIFY_SOURCE"]
SANITIZE = ["-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]

REALS = "f32,float", "f64,double"
INTEGERS = ",u32", "_wide,u64"


def all_kernels() -> list[str]:
    """Return every line of kernels that the host may ask for."""
    lines = ["UNTYPED_KERNELS()"]
    for real in REALS:
        lines.append(f"GRADIENT_KERNELS({real})")
        lines += [f"DENSE_KERNELS({real},{v})" for v in range(8)]
        lines += [f"CATCH_UP_ALL_KERNELS({real},{v})" for v in range(4)]
    for integers in INTEGERS:
        lines.append(f"LIST_KERNELS({integers})")
        for real in REALS:
            lines.append(f"PARTIAL_KERNELS({integers},{real})")
            lines += [f"ROWS_KERNELS({integers},{real},{v})" for v in range(8)]
            lines += [f"CATCH_UP_ROWS_KERNELS({integers},{real},{v})" for v in range(4)]
    return lines


def compiler() -> str:
    """Return the C++ compiler's command, or skip."""
    command = os.environ.get("CXX", "g++")
    if shutil.which(command) is None:
        pytest.skip(f"needs a C++ compiler, {command} (Debian: g++)")
    return command


def compile_text(text: Path, kernels: list[str], out: Path, *flags: str) -> Path:
    """Compile kernels of a text like rmsprop.cu into a shared library."""
    command = [compiler(), *FLAGS, *flags]
    command += ["-I", str(PACKAGE / "include"), "-I", str(PACKAGE / "gpu")]
    command += [f'-DRMSPROP_TEXT="{text}"', f"-DRMSPROP_KERNELS={' '.join(kernels)}"]
    subprocess.run([*command, str(HERE / "host.cpp"), "-o", str(out)], check=True)
    return out


@functools.cache
def folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="gpu_host-")


class Library:
    """Compiled kernels, launched as the driver launches them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.host_parameter_size.restype = ctypes.c_size_t

    def parameter_size(self, name: str) -> int:
        """Return the bytes of a kernel's parameter, 0 if there is no such kernel."""
        return int(self._library.host_parameter_size(name.encode()))

    def set_order(self, order: str, seed: int = 0) -> None:
        """Run blocks and threads ``forward``, in ``reverse`` or at ``random``."""
        number = ("forward", "reverse", "random").index(order)
        self._library.host_set_order(number, ctypes.c_ulonglong(seed))

    def launch(self, name: str, grid: int, block: int, parameter: bytes) -> None:
        """Run one kernel to its end."""
        # malloc aligns to 16 bytes, which is what the parameter's members need.
        held = ctypes.create_string_buffer(parameter, len(parameter))
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(held))
        self._library.host_launch(name.encode(), grid, block, arguments)


@functools.cache
def kernels() -> Library:
    """Return all kernels; RMSPROP_FAST_GPU_HOST names a library built before."""
    if path := os.environ.get("RMSPROP_FAST_GPU_HOST"):
        return Library(Path(path))
    out = Path(folder().name, "kernels.so")
    return Library(compile_text(TEXT, all_kernels(), out))
