"""Compiling, keeping and loading the kernels; CuPy's own arrays at our door."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import nvrtc
import pytest
from gpu_host import build, fake_cupy

from rmsprop_fast import IndexedSlices, RMSprop
from rmsprop_fast.cpu._step import REFUSED, Step, StepArguments
from rmsprop_fast.gpu import compiler
from rmsprop_fast.gpu._plan import Plan
from rmsprop_fast.slots import Slots


@pytest.fixture
def cupy(monkeypatch, tmp_path) -> Any:
    monkeypatch.setenv("RMSPROP_FAST_CACHE", str(tmp_path / "kernels"))
    with fake_cupy.installed(fake_cupy.make(build.kernels()), monkeypatch) as module:
        yield module


def options(cupy: Any) -> list[tuple[str, ...]]:
    """What NVRTC was asked for, program by program."""
    return cupy.cuda.nvrtc.compiled


def test_kernels_are_compiled_with_ieee_arithmetic(cupy) -> None:
    compiler.kernel("dense_f32_5")
    (given,) = options(cupy)
    assert {
        "--fmad=false",
        "--ftz=false",
        "--prec-div=true",
        "--prec-sqrt=true",
    } <= set(given)
    assert "-arch=sm_90" in given
    assert "-DRMSPROP_KERNELS=DENSE_KERNELS(f32,float,5)" in given


def test_a_kernel_is_compiled_once_and_then_found_in_a_file(
    cupy, monkeypatch, tmp_path
) -> None:
    first = compiler.kernel("clip_f64")
    assert compiler.kernel("clip_f64") is first
    (file,) = (tmp_path / "kernels").iterdir()
    assert file.suffix == ".cubin"
    assert file.read_bytes().endswith(b"\0"), "the byte that CuPy cuts off"
    monkeypatch.setattr(compiler, "_kernels", {})  # as in another process
    compiler.kernel("clip_f64")
    compiler.kernel("norm_blocks_f64")  # of the same line, so of the same file
    assert len(options(cupy)) == 1


def test_each_device_gets_kernels_for_its_architecture(cupy, tmp_path) -> None:
    for number in 0, 1:
        with cupy.cuda.Device(number):
            compiler.kernel("keys")
    assert [given[-2] for given in options(cupy)] == ["-arch=sm_90", "-arch=sm_80"]
    assert len(list((tmp_path / "kernels").iterdir())) == 2


def test_whatever_the_compiler_sees_is_in_the_name(cupy, monkeypatch) -> None:
    def name(kernels: str = "UNTYPED_KERNELS()", architecture: str = "90") -> str:
        return compiler._name(kernels, architecture)

    names = {name(), name("LIST_KERNELS(,u32)"), name(architecture="80")}
    cupy.cuda.nvrtc.version = 13, 1
    assert name() in names  # without NVRTC its version is not known
    monkeypatch.setattr(compiler, "OPTIONS", (*compiler.OPTIONS, "-G"))
    names.add(name())
    texts = {**compiler._texts(), "tables.h": b"other"}
    monkeypatch.setattr(compiler, "_texts", lambda: texts)
    names.add(name())
    assert len(names) == 5


def test_a_file_that_is_no_kernel_is_compiled_again(
    cupy, monkeypatch, tmp_path
) -> None:
    compiler.kernel("keys")
    (file,) = (tmp_path / "kernels").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    monkeypatch.setattr(compiler, "_kernels", {})
    compiler.kernel("keys")
    assert file.read_bytes() == whole


@pytest.mark.parametrize("hindrance", ["a-file-in-its-place", "read-only"])
def test_a_cache_that_cannot_be_written_is_no_error(
    cupy, monkeypatch, tmp_path, hindrance
) -> None:
    cache = tmp_path / "kernels"
    if hindrance == "read-only":
        cache.mkdir()
        cache.chmod(stat.S_IRUSR | stat.S_IXUSR)
        # Root may write anywhere: let the system refuse all the same.
        monkeypatch.setattr(
            compiler.tempfile,
            "NamedTemporaryFile",
            _raise(PermissionError("read-only")),
        )
    else:
        cache.write_text("not a folder")
    var = cupy.asarray(np.ones(3))
    RMSprop().apply_gradients([(cupy.asarray(np.ones(3)), var)])
    assert (var.get() != 1).all()


@pytest.mark.parametrize("hindrance", ["locked-parent", "no-home"])
def test_a_cache_that_cannot_be_found_is_no_error(cupy, monkeypatch, hindrance) -> None:
    if hindrance == "locked-parent":
        error = PermissionError("locked")
        monkeypatch.setattr(compiler.Path, "is_file", _raise(error))
        monkeypatch.setattr(compiler.Path, "mkdir", _raise(error))
    else:
        monkeypatch.delenv("RMSPROP_FAST_CACHE")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        error = RuntimeError("Could not determine home directory.")
        monkeypatch.setattr(compiler.Path, "expanduser", _raise(error))
    compiler.kernel("keys")
    assert len(options(cupy)) == 1


def test_kept_kernels_need_no_compiler(cupy, monkeypatch) -> None:
    compiler.kernel("keys")
    monkeypatch.setattr(compiler, "_kernels", {})
    missing = _raise(ImportError("libnvrtc.so.13"))
    monkeypatch.setattr(cupy.cuda.nvrtc, "getVersion", missing)
    compiler.kernel("keys")
    with pytest.raises(ImportError, match="libnvrtc"):
        compiler.kernel("clip_f32")


def test_a_compiler_newer_than_the_driver_says_what_to_install(cupy) -> None:
    cupy.cuda.runtime.driverGetVersion = lambda: 12090
    with pytest.raises(
        RuntimeError,
        match=r"CUDA 12 or older, got 13.0: install cupy-cuda12x and nvidia-cuda-nvrtc",
    ):
        compiler.kernel("keys")


def test_the_compiler_finds_its_builtins_when_another_library_loaded_it() -> None:
    pytest.importorskip("cupy", reason="needs CuPy: the extra gpu-test")
    path = nvrtc.path()
    if path is None:
        pytest.skip("needs NVRTC: the extra gpu-test")
    code = (
        f"import ctypes; ctypes.CDLL({str(path)!r})\n"
        "from rmsprop_fast.gpu import compiler\n"
        "cubin = compiler.compile_kernels('UNTYPED_KERNELS()', '90')\n"
        "assert cubin.startswith(b'\\x7fELF')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _raise(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_a_file_appears_whole_or_not_at_all(cupy, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(compiler.os, "replace", _raise(OSError("no space left")))
    compiler.kernel("keys")
    assert not list((tmp_path / "kernels").glob("*.cubin"))


def test_the_cache_is_where_the_environment_says(monkeypatch) -> None:
    monkeypatch.setenv("RMSPROP_FAST_CACHE", "/a/b")
    assert compiler.folder() == Path("/a/b")
    monkeypatch.delenv("RMSPROP_FAST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert compiler.folder() == Path("/c/rmsprop_fast")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/d")
    assert compiler.folder() == Path("/d/.cache/rmsprop_fast")


def test_build_compiles_what_a_dense_step_needs(cupy) -> None:
    opt = RMSprop(momentum=0.5)
    a, b = cupy.asarray(np.ones(3)), cupy.asarray(np.ones(3, np.float32))
    opt.build([a, b, np.ones(3)])
    asked = {given[-1] for given in options(cupy)}
    assert asked == {
        "-DRMSPROP_KERNELS=DENSE_KERNELS(f64,double,6)",
        "-DRMSPROP_KERNELS=DENSE_KERNELS(f32,float,6)",
    }
    opt.apply_gradients([(cupy.asarray(np.ones(3)), a)])
    assert len(options(cupy)) == 2


def test_an_old_cuda_is_a_runtime_error(cupy, monkeypatch) -> None:
    cupy.cuda.nvrtc.version = 12, 0
    with pytest.raises(
        RuntimeError, match=r"NVRTC must be of CUDA 12.1 or newer, got 12.0"
    ):
        compiler.kernel("keys")
    cupy.cuda.nvrtc.version = 13, 0
    cupy.cuda.runtime.driverGetVersion = lambda: 11080
    with pytest.raises(
        RuntimeError, match=r"the driver must be of CUDA 12.1 .* got 11.8"
    ):
        compiler.kernel("keys")
    cupy.cuda.runtime.driverGetVersion = lambda: 12010
    with pytest.raises(RuntimeError, match=r"CUDA 12 or older, got 13.0: install cupy"):
        compiler.kernel("keys")
    cupy.cuda.nvrtc.version = 12, 9
    compiler.kernel("keys")
    monkeypatch.setattr(fake_cupy, "CAPABILITIES", ("61", "61"))
    with pytest.raises(
        RuntimeError, match=r"compute capability 7.0 or higher, got 6.1"
    ):
        compiler.kernel("clip_f32")


def test_a_refusal_of_the_compiler_comes_with_its_log(cupy, monkeypatch) -> None:
    error = cupy.cuda.nvrtc.NVRTCError("NVRTC_ERROR_INVALID_OPTION")
    monkeypatch.setattr(cupy.cuda.nvrtc, "compileProgram", _raise(error))
    with pytest.raises(RuntimeError, match="INVALID_OPTION\nno such architecture"):
        compiler.kernel("keys")


def test_an_error_before_the_launches_changes_nothing(cupy, monkeypatch) -> None:
    var, host = cupy.asarray(np.ones(3)), np.ones(3)
    opt = RMSprop()
    opt.build([var, host])
    monkeypatch.setattr(cupy.cuda, "alloc", _raise(MemoryError("out of memory")))
    opt.clipnorm = 1.0
    with pytest.raises(MemoryError):
        opt.apply_gradients([(cupy.asarray(np.ones(3)), var), (np.ones(3), host)])
    assert opt.iterations == 0
    assert (host == 1).all()
    assert (var.get() == 1).all()


# --- CuPy's own arrays ----------------------------------------------------------------


def own_array(cupy: Any, host: np.ndarray) -> Any:
    """Return CuPy's own array over host memory: that needs no device."""
    held = host.copy()
    memory = cupy.cuda.UnownedMemory(held.ctypes.data, held.nbytes, held, 0)
    return cupy.ndarray(held.shape, held.dtype, cupy.cuda.MemoryPointer(memory, 0))


def test_the_plan_takes_cupys_own_arrays() -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy: the extra gpu-test")
    var, rms, grad = (own_array(cupy, np.ones((4, 3), np.float32)) for _ in range(3))
    rows = own_array(cupy, np.array([1, 2]))
    values = own_array(cupy, np.ones((2, 3), np.float32))
    slots, step = Slots(), Step()
    slots.bind([var], [], given=("rms", rms))
    plan = Plan(step.records, cupy.ndarray)

    class Devices:
        def update(self, *_: Any) -> Any:
            plan.use_collected()
            return plan.groups

    step.devices = Devices()

    def groups(gradient: Any, variable: Any = var, variant: int = 4) -> Any:
        return step.update(slots, [(gradient, variable)], StepArguments(variant))

    for given in grad, IndexedSlices(values, rows):
        assert groups(given) == [(0, 0, given is not grad, 0)]
        assert groups(given, var.view()) == groups(given)
    for broken in (
        grad.T,
        grad[:, :2],
        own_array(cupy, np.ones((4, 3))),
        np.ones((4, 3), np.float32),
        IndexedSlices(values, own_array(cupy, np.array([1, 2])), (5, 3)),
        None,
    ):
        assert groups(broken) == REFUSED
    assert groups(grad, variant=5) == REFUSED  # centered: there is no mg
    assert groups(grad, var.reshape(3, 4)) == REFUSED


def test_what_cannot_be_launched_here_says_so() -> None:
    cupy = pytest.importorskip("cupy", reason="needs CuPy: the extra gpu-test")
    try:
        cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        pass
    else:
        pytest.skip("there is a device")
    var, grad = (own_array(cupy, np.ones(3)) for _ in range(2))
    with pytest.raises(
        cupy.cuda.runtime.CUDARuntimeError, match=r"InsufficientDriver|NoDev"
    ):
        RMSprop().apply_gradients([(grad, var)])


def test_the_benchmark_times_what_has_the_right_result(cupy, monkeypatch) -> None:
    gpu = pytest.importorskip("benchmarks.gpu", reason="the checkout's are not here")
    from benchmarks import problems

    monkeypatch.setattr(gpu, "timed", lambda contestant, *_: contestant)
    monkeypatch.setattr(gpu, "OCCURRENCES", 100)
    monkeypatch.setattr(gpu, "TABLE", (50, 4))
    monkeypatch.setattr(gpu, "MANY", [(20,)] * 30)
    built = [gpu.dense([(1000,)], "float64", variant) for variant in problems.VARIANTS]
    for entries in *built, gpu.host(), gpu.sparse():
        name, build_ours = next(entries)
        assert name == "rmsprop_fast"
        assert build_ours().check() is None


def test_the_benchmark_without_a_device_gives_a_message_and_no_figures(
    tmp_path,
) -> None:
    pytest.importorskip("benchmarks", reason="the checkout's benchmarks are not here")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gpu"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "gpu: needs " in done.stderr
    assert done.stdout == ""
