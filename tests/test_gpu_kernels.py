"""The kernels themselves: compiled for devices, sanitized, and with bugs put in."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_host import build, fake_cupy

from rmsprop_fast import RMSprop
from rmsprop_fast.gpu import compiler

HERE = Path(__file__).parent
ARCHITECTURES = "75", "80", "90", "120"


# --- Compiling for devices ------------------------------------------------------------


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """CuPy's door to NVRTC; neither needs a device."""
    pytest.importorskip("cupy", reason="needs CuPy: the extra gpu-test")
    from cupy.cuda import nvrtc

    try:
        nvrtc.getVersion()
    except Exception as error:  # CuPy's own class, where the library is missing
        pytest.skip(f"needs NVRTC, the extra gpu-test: {type(error).__name__}")
    return nvrtc


@pytest.fixture(scope="module")
def cuobjdump() -> str:
    """The tool that reads cubins, from a wheel or the CUDA toolkit; skip without."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [str(path) for folder in folders for path in Path(folder).glob("cu*/bin")]
    path = os.pathsep.join([*found, os.environ["PATH"]])
    for name in "cuobjdump", "nvdisasm":
        if shutil.which(name, path=path) is None:
            pytest.skip(f"needs {name}, the extra gpu-test")
    return path


class Cubin:
    """What cuobjdump says of one compiled kernel."""

    def __init__(self, kernels: str, architecture: str, folder: Path, path: str) -> None:
        file = folder / f"{abs(hash((kernels, architecture)))}.cubin"
        file.write_bytes(compiler.compile_kernels(kernels, architecture))

        def dump(option: str) -> str:
            command = ["cuobjdump", option, str(file)]
            environment = {**os.environ, "PATH": path}
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=True
            )
            return done.stdout

        self.usage = {
            name: {key: int(n) for key, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", line)}
            for name, line in re.findall(r"Function (\w+):\n(.*)", dump("-res-usage"))
        }
        self.code = {
            part.split()[0]: part for part in dump("-sass").split("Function : ")[1:]
        }


# What a kernel may take of a processor's 65,536 registers: 256 threads per block.
REGISTERS = {"dense": 96, "rows": 128, "partial": 64, "sort": 96}
# 16-byte loads and stores of a dense kernel: two packs at a time, then one.
PACKS = {0: (3, 2), 4: (3, 2), 5: (4, 3), 6: (4, 3), 7: (5, 4)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kernels", build.all_kernels())
def test_every_kernel_compiles_without_a_warning(nvrtc, monkeypatch, kernels, architecture):
    if architecture != "90" and not kernels.startswith("DENSE"):
        if kernels not in SAMPLE:
            pytest.skip("a sample is compiled for this architecture")
    logs = []
    destroy = nvrtc.destroyProgram

    class Door:
        def __getattr__(self, name: str) -> Any:
            return getattr(nvrtc, name)

        def destroyProgram(self, program: Any) -> None:  # noqa: N802
            logs.append(nvrtc.getProgramLog(program).strip("\0\n "))
            destroy(program)

    monkeypatch.setattr(sys.modules["cupy.cuda"], "nvrtc", Door())
    cubin = compiler.compile_kernels(kernels, architecture)
    assert logs == [""]
    assert cubin.startswith(b"\x7fELF")
