"""Fixtures shared by all tests; each has ids that read as words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gpu_host import build as gpu_host_build
from gpu_host import fake_cupy
from hypothesis import HealthCheck, settings
from places import Host, OnDevice, real_cupy
from venvs import ROOT, build, create_venv

from rmsprop_fast.cpu import _step, dispatch

# Hypothesis repeats an example that failed once; these machines are too noisy for
# its deadlines.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("suite")


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    return request.param


@pytest.fixture(params=[False, True], ids=["plain", "centered"])
def centered(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=[0.0, 0.9], ids=["no-momentum", "momentum"])
def momentum(request: pytest.FixtureRequest) -> float:
    return request.param


@pytest.fixture(params=[True, False], ids=["eps-inside", "eps-outside"])
def eps_in_sqrt(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture(params=dispatch.available())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each instruction set that this machine and build have."""
    yield dispatch.select(request.param)
    dispatch.select(dispatch.ISA)


@pytest.fixture(params=[1, 2, 3, 8], ids=lambda n: f"{n}-threads")
def n_threads(request: pytest.FixtureRequest, any_work_is_shared: None) -> int:
    return request.param


@pytest.fixture
def any_work_is_shared() -> Iterator[None]:
    """Let even the smallest step start a team."""
    before = _step.set_serial_below(0)
    yield
    _step.set_serial_below(before)


@pytest.fixture
def any_batch_is_shared() -> Iterator[None]:
    """Let even an estimator's smallest mini-batch start a team."""
    from rmsprop_fast.estimators import _train

    before = _train.set_serial_below(0)
    yield
    _train.set_serial_below(before)


@pytest.fixture
def fake(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OnDevice]:
    """Give arrays of a fake CuPy: the kernels' text compiled for the CPU."""
    folder = tmp_path_factory.mktemp("kernels")
    monkeypatch.setenv("RMSPROP_FAST_CACHE", str(folder))
    cupy = fake_cupy.make(gpu_host_build.kernels())
    with fake_cupy.installed(cupy, monkeypatch):
        yield OnDevice(cupy)
        for device in range(fake_cupy.N_DEVICES):
            cupy.machine.run(device)


@pytest.fixture
def real(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> OnDevice:
    """Give CuPy arrays on a device."""
    cupy = real_cupy()
    folder = tmp_path_factory.getbasetemp() / "kernels"  # compiled once for all tests
    monkeypatch.setenv("RMSPROP_FAST_CACHE", str(folder))
    return OnDevice(cupy)


ON_DEVICES = ["fake", pytest.param("real", marks=pytest.mark.gpu)]


@pytest.fixture(params=ON_DEVICES)
def xp(request: pytest.FixtureRequest) -> OnDevice:
    """Give arrays on a device: the fake one, and with ``-m gpu`` a real one."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["host", *ON_DEVICES])
def anywhere(request: pytest.FixtureRequest) -> Host | OnDevice:
    """Give arrays of every kind, one after the other."""
    return Host() if request.param == "host" else request.getfixturevalue(request.param)


CLIPS: dict[str, dict[str, float]] = {
    "unclipped": {},
    "clipvalue": {"clipvalue": 0.5},
    "clipnorm": {"clipnorm": 1.5, "clipvalue": 2.0},
    "global_clipnorm": {"global_clipnorm": 1.5},
}


@pytest.fixture(params=CLIPS.values(), ids=CLIPS.keys())
def clip(request: pytest.FixtureRequest) -> dict[str, float]:
    return request.param


@pytest.fixture(params=["forward", "reverse", "random"])
def order(request: pytest.FixtureRequest, xp: OnDevice) -> Iterator[str]:
    """Run blocks and threads in this order; a real device has its own."""
    if xp.is_fake:
        xp.cupy.machine.kernels.set_order(request.param, seed=7)
    elif request.param != "forward":
        pytest.skip("a real device has its own order")
    yield request.param
    if xp.is_fake:
        xp.cupy.machine.kernels.set_order("forward")


@pytest.fixture(params=dispatch.available())
def training_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test with each instruction set's training loops."""
    from rmsprop_fast.estimators import _train

    _train.use(request.param)
    yield request.param
    _train.use(dispatch.ISA)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20121106)


@pytest.fixture(scope="session")
def sdist_and_wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Build both of these sources, once for all tests."""
    if not (ROOT / "setup.py").is_file():
        pytest.skip("needs the source tree")
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def sdist(sdist_and_wheel: tuple[Path, Path]) -> Path:
    """Return the sdist of these sources."""
    return sdist_and_wheel[0]


@pytest.fixture(scope="session")
def wheel(sdist_and_wheel: tuple[Path, Path]) -> Path:
    """Return the wheel built from the sdist; on Linux it carries libgomp."""
    return sdist_and_wheel[1]


@pytest.fixture(scope="session")
def clean_venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment that has the wheel, what it requires, and nothing else."""
    return create_venv(tmp_path_factory.mktemp("clean") / "venv", wheel)
