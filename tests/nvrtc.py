"""NVIDIA's run-time compiler through ctypes: it needs no GPU and no driver."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_char_p, c_size_t, c_void_p
from importlib import metadata
from pathlib import Path

DISTRIBUTIONS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")


def path() -> Path | None:
    """Return the compiler's shared library, None when no distribution brings it."""
    for name in DISTRIBUTIONS:
        try:
            files = metadata.files(name) or []
        except metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libnvrtc.so"):
                return Path(str(file.locate()))
    return None


def compile_ptx(source: str, *options: str) -> tuple[str, str]:
    """Return the PTX of a CUDA program and the compiler's log; fail with the log."""
    found = path()
    assert found is not None
    for part in found.parent.glob("libnvrtc-builtins.so*"):
        ctypes.CDLL(str(part))  # which it looks for on the system's path alone
    nvrtc = ctypes.CDLL(str(found))
    program = c_void_p()
    call(
        nvrtc.nvrtcCreateProgram(
            byref(program), source.encode(), b"test.cu", 0, None, None
        )
    )
    flags = (c_char_p * len(options))(*(option.encode() for option in options))
    status = nvrtc.nvrtcCompileProgram(program, len(options), flags)
    log = text(nvrtc, "ProgramLog", program)
    assert status == 0, log
    return text(nvrtc, "PTX", program), log


def text(nvrtc: ctypes.CDLL, what: str, program: c_void_p) -> str:
    """Return one of the texts that a program has."""
    size = c_size_t()
    call(getattr(nvrtc, f"nvrtcGet{what}Size")(program, byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    call(getattr(nvrtc, f"nvrtcGet{what}")(program, buffer))
    return buffer.value.decode()


def call(status: int) -> None:
    assert status == 0, f"NVRTC's error {status}"
