"""The kernels compiled for a device, and the files that keep what came of it.

CuPy's own compilation is not used: it adds ``-ftz=true`` after all other options, and
without subnormals a device's bits are not the host's.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

__all__ = [
    "OPTIONS",
    "SUFFIXES",
    "compile_kernels",
    "folder",
    "kernel",
    "kernels_of",
    "suffix_of",
]

# IEEE arithmetic, each operation rounded by itself: see the header.
OPTIONS = (
    "-std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
)

# From here on a kernel may have as many parameters as the tables need.
LEAST_CUDA = 12, 1
LEAST_COMPUTE_CAPABILITY = 70

PACKAGE = Path(__file__).parents[1]
SOURCE = PACKAGE / "gpu" / "rmsprop.cu"
INCLUDE = PACKAGE / "include" / "rmsprop_fast"
HEADERS = {  # as the source and the headers themselves name them
    "rmsprop_fast/rmsprop.h": INCLUDE / "rmsprop.h",
    **{path.name: path for path in sorted(INCLUDE.glob("*_body.h"))},
    "tables.h": PACKAGE / "gpu" / "tables.h",
    **{path.name: path for path in sorted((PACKAGE / "gpu").glob("*.cuh"))},
}

# By NumPy's name of a dtype, in the order of the compiled modules' numbers: what ends
# the names of its kernels, and its C type.
DTYPES = {"float32": ("f32", "float"), "float64": ("f64", "double")}
SUFFIXES = [suffix for suffix, _ in DTYPES.values()]

# By (device, name): kernels that CuPy loaded.
_kernels: dict[tuple[int, str], Any] = {}


def suffix_of(dtype: str) -> str:
    """Return what ends the names of a dtype's kernels."""
    return DTYPES[dtype][0]


def kernels_of(name: str) -> str:
    """Return the line of rmsprop.cu, with arguments, that defines a kernel.

    Parameters
    ----------
    name : str
        Without ``rmsprop_``, such as ``dense_f32_5`` or ``rows_wide_f64_0``.
    """
    integers = "_wide,u64" if "_wide" in name else ",u32"
    kind = name.replace("_wide", "")
    if kind in ("norm_squares", "norm_scales", "finite_check", "count_steps"):
        return "UNTYPED_KERNELS()"
    if kind in ("keys", "count_rows") or kind.startswith("sort_"):
        return f"LIST_KERNELS({integers})"
    dtypes = {suffix: f"{suffix},{c_type}" for suffix, c_type in DTYPES.values()}
    words = kind.split("_")
    if words[-1] in dtypes:  # for all variants
        dtype = dtypes[words[-1]]
        if words[0] == "partial":
            return f"PARTIAL_KERNELS({integers},{dtype})"
        return f"GRADIENT_KERNELS({dtype})"
    kind, dtype, variant = "_".join(words[:-2]), dtypes[words[-2]], words[-1]
    if kind in ("rows", "catch_up_rows"):
        return f"{kind.upper()}_KERNELS({integers},{dtype},{variant})"
    return f"{kind.upper()}_KERNELS({dtype},{variant})"


@functools.cache
def _texts() -> dict[str, bytes]:
    files = {SOURCE.name: SOURCE, **HEADERS}
    return {name: path.read_bytes() for name, path in files.items()}


def compile_kernels(kernels: str, architecture: str) -> bytes:
    """Return kernels compiled by NVRTC; no device is needed.

    Parameters
    ----------
    kernels : str
        As `kernels_of` returns it.
    architecture : str
        A compute capability without its point, such as ``"90"``.

    Returns
    -------
    bytes
        A cubin.

    Raises
    ------
    RuntimeError
        NVRTC is too old, or refuses; with its log.
    """
    from cupy.cuda import nvrtc

    if nvrtc.getVersion() < LEAST_CUDA:
        cuda_is_old("NVRTC", nvrtc.getVersion(), LEAST_CUDA)
    _load_builtins()
    texts = _texts()
    program = nvrtc.createProgram(
        texts[SOURCE.name].decode(),
        SOURCE.name,
        tuple(texts[name] for name in HEADERS),
        tuple(name.encode() for name in HEADERS),
    )
    options = *OPTIONS, f"-arch=sm_{architecture}", f"-DRMSPROP_KERNELS={kernels}"
    try:
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError as error:
            log = nvrtc.getProgramLog(program)
            raise RuntimeError(
                f"NVRTC {nvrtc.getVersion()} refused {kernels} for compute capability "
                f"{architecture}: {error}\n{log}"
            ) from error
        # CuPy takes the last byte for a terminator. It belongs to the file.
        return bytes(nvrtc.getCUBIN(program)) + b"\0"
    finally:
        nvrtc.destroyProgram(program)


def _load_builtins() -> None:
    """Load the library that NVRTC opens by its bare name, from the folder of NVRTC.

    The system may not look there when NVRTC was not the first to be loaded by path.
    """
    with contextlib.suppress(OSError):  # not Linux: then NVRTC finds it, or says so
        maps = Path("/proc/self/maps").read_text().split()
        paths = {Path(word) for word in maps if "/libnvrtc.so" in word}
        for path in paths:
            for part in path.parent.glob("libnvrtc-builtins.so*"):
                ctypes.CDLL(str(part))


# --- The cache ------------------------------------------------------------------------


def folder() -> Path:
    """Return the folder of kept kernels: RMSPROP_FAST_CACHE, or in the user's cache.

    Raises RuntimeError where the user has no home.
    """
    if chosen := os.environ.get("RMSPROP_FAST_CACHE"):
        return Path(chosen)
    caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(caches) / "rmsprop_fast"


@functools.cache
def _folder_of_this_process() -> tempfile.TemporaryDirectory[str]:
    """Return a folder in place of a cache that cannot be used; it goes at exit."""
    return tempfile.TemporaryDirectory(prefix="rmsprop_fast-")


def _name(kernels: str, architecture: str) -> str:
    """Return a file's name that changes with the kernels' text, and how it is compiled.

    Not with the version of NVRTC: where the kernels are kept NVRTC need not be there.
    """
    digest = hashlib.sha256()
    for part in (kernels, architecture, *OPTIONS):
        digest.update(part.encode() + b"\0")
    for name, text in _texts().items():
        digest.update(f"{name} {len(text)} ".encode() + text)
    return f"{digest.hexdigest()}.cubin"


def _find(name: str) -> Path | None:
    """Return a file of the cache, None when there is none, or no readable cache."""
    try:
        path = folder() / name
        return path if path.is_file() and os.access(path, os.R_OK) else None
    except (OSError, RuntimeError):  # locked; without a home
        return None


def _write(cubin: bytes, name: str) -> Path:
    """Write a file that appears whole or not at all; return where it is."""
    try:
        path = folder() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        os.replace(file.name, path)
    except (OSError, RuntimeError):  # read-only, full, or no folder
        path = Path(_folder_of_this_process().name, name)
        path.write_bytes(cubin)
    return path


def _load(path: Path, name: str) -> Any:
    """Return one kernel of a cubin, loaded on the current device."""
    import cupy

    loaded = cupy.RawModule(path=str(path)).get_function(f"rmsprop_{name}")
    loaded.compile()
    return loaded


def kernel(name: str) -> Any:
    """Return a kernel for the current device, from memory, a file or the compiler.

    Parameters
    ----------
    name : str
        As for `kernels_of`.

    Returns
    -------
    cupy.RawKernel

    Raises
    ------
    RuntimeError
        The device, its driver or NVRTC is too old.
    """
    import cupy

    device = cupy.cuda.Device()
    found = _kernels.get((device.id, name))
    if found is not None:
        return found
    architecture = device.compute_capability
    driver = divmod(cupy.cuda.runtime.driverGetVersion() // 10, 100)
    if driver < LEAST_CUDA:
        cuda_is_old("the driver", driver, LEAST_CUDA)
    if int(architecture) < LEAST_COMPUTE_CAPABILITY:
        device_is_old(architecture, LEAST_COMPUTE_CAPABILITY)
    kernels = kernels_of(name)
    file = _name(kernels, architecture)
    path = _find(file)
    # A file that is not ours, or that this driver cannot read, is compiled again.
    with contextlib.suppress(cupy.cuda.driver.CUDADriverError):
        found = None if path is None else _load(path, name)
    if found is None:
        from cupy.cuda import nvrtc

        if nvrtc.getVersion()[0] > driver[0]:
            nvrtc_is_new(nvrtc.getVersion(), driver)
        path = _write(compile_kernels(kernels, architecture), file)
        found = _load(path, name)
    _kernels[device.id, name] = found
    return found


def cuda_is_old(
    what: str, version: tuple[int, int], least: tuple[int, int]
) -> NoReturn:
    """Raise for a CUDA that cannot run the kernels."""
    raise RuntimeError(
        f"{what} must be of CUDA {least[0]}.{least[1]} or newer, "
        f"got {version[0]}.{version[1]}"
    )


def nvrtc_is_new(version: tuple[int, int], driver: tuple[int, int]) -> NoReturn:
    """Raise for a compiler whose kernels the driver cannot load."""
    raise RuntimeError(
        f"NVRTC must be of the driver's CUDA {driver[0]} or older, got "
        f"{version[0]}.{version[1]}: install cupy-cuda{driver[0]}x and "
        f"nvidia-cuda-nvrtc-cu{driver[0]}"
    )


def device_is_old(capability: str, least: int) -> NoReturn:
    """Raise for a device that cannot run the kernels."""
    raise RuntimeError(
        f"a device must have compute capability {least / 10} or higher, "
        f"got {int(capability) / 10}"
    )
