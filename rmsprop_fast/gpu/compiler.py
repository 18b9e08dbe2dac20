"""The kernels compiled for a device, and the files that keep what came of it.

CuPy's own compilation is not used: it adds ``-ftz=true`` after all other options, and
without subnormals a device's bits are not the host's.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["OPTIONS", "compile_kernels", "folder", "kernel", "kernels_of"]

# IEEE arithmetic, each operation rounded by itself: see the header.
OPTIONS = (
    "-std=c++17",
    "--fmad=false",
    "--ftz=false",
    "--prec-div=true",
    "--prec-sqrt=true",
)

# What a kernel may have of parameters grew to what the tables need.
LEAST_CUDA = 12, 1
LEAST_COMPUTE_CAPABILITY = 70

PACKAGE = Path(__file__).parents[1]
SOURCE = PACKAGE / "gpu" / "rmsprop.cu"
INCLUDE = PACKAGE / "include" / "rmsprop_fast"
HEADERS = {  # as the source and the headers themselves name them
    "rmsprop_fast/rmsprop.h": INCLUDE / "rmsprop.h",
    **{path.name: path for path in sorted(INCLUDE.glob("*_body.h"))},
    "tables.h": PACKAGE / "gpu" / "tables.h",
}

_REALS = {"f32": "f32,float,4", "f64": "f64,double,2"}

# By (device, name): kernels that CuPy loaded.
_kernels: dict[tuple[int, str], Any] = {}


def kernels_of(name: str) -> str:
    """Return the line of rmsprop.cu, with arguments, that defines a kernel.

    Parameters
    ----------
    name : str
        Without ``rmsprop_``, such as ``dense_f32_5`` or ``rows_wide_f64_0``.
    """
    integers = "_wide,u64" if "_wide" in name else ",u32"
    kind = name.replace("_wide", "")
    if kind in ("norm_squares", "norm_factors", "judge", "count_steps"):
        return "UNTYPED_KERNELS()"
    if kind in ("keys", "count_rows") or kind.startswith("sort_"):
        return f"LIST_KERNELS({integers})"
    words = kind.split("_")
    if words[-1] in _REALS:  # for all variants
        real = _REALS[words[-1]]
        if words[0] == "partial":
            return f"PARTIAL_KERNELS({integers},{real})"
        return f"GRADIENT_KERNELS({real})"
    kind, real, variant = "_".join(words[:-2]), _REALS[words[-2]], words[-1]
    if kind in ("rows", "catch_up_rows"):
        return f"{kind.upper()}_KERNELS({integers},{real},{variant})"
    return f"{kind.upper()}_KERNELS({real},{variant})"


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


# --- The cache ------------------------------------------------------------------------


def folder() -> Path:
    """Return where kernels are kept: RMSPROP_FAST_CACHE, or in the user's cache."""
    if chosen := os.environ.get("RMSPROP_FAST_CACHE"):
        return Path(chosen)
    caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(caches) / "rmsprop_fast"


@functools.cache
def _folder_of_this_process() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for those whose cache cannot be written; it goes at exit."""
    return tempfile.TemporaryDirectory(prefix="rmsprop_fast-")


def _name(kernels: str, architecture: str) -> str:
    """Return a file's name that changes with whatever the compiler sees."""
    from cupy.cuda import nvrtc

    digest = hashlib.sha256()
    for part in (kernels, architecture, *OPTIONS, repr(nvrtc.getVersion())):
        digest.update(part.encode() + b"\0")
    for name, text in _texts().items():
        digest.update(f"{name} {len(text)} ".encode() + text)
    return f"{digest.hexdigest()}.cubin"


def _write(cubin: bytes, path: Path) -> Path:
    """Write a file that appears whole or not at all; return where it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(cubin)
        os.replace(file.name, path)
    except OSError:  # read-only, full, or no folder
        path = Path(_folder_of_this_process().name, path.name)
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
    path = folder() / _name(kernels, architecture)
    # What somebody else wrote there is compiled again.
    with contextlib.suppress(cupy.cuda.driver.CUDADriverError):
        found = _load(path, name) if path.is_file() else None
    if found is None:
        path = _write(compile_kernels(kernels, architecture), path)
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


def device_is_old(capability: str, least: int) -> NoReturn:
    """Raise for a device that cannot run the kernels."""
    raise RuntimeError(
        f"a device must have compute capability {least / 10} or higher, "
        f"got {int(capability) / 10}"
    )
