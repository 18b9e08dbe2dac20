"""The build's own decisions: OpenMP by a program that compiles, or as it is told."""

from __future__ import annotations

import pytest
from setuptools.dist import Distribution
from setuptools.errors import CompileError, PlatformError
from test_vectorised import SETUP


class Compiler:
    """Builds programs, or fails to."""

    def __init__(self, works: bool) -> None:
        self.works = works
        self.flags: list[str] = []

    def compile(self, sources, output_dir, extra_postargs):
        self.flags += extra_postargs
        if not self.works:
            raise CompileError("no omp.h")
        return sources

    def link_executable(self, objects, name, extra_postargs):
        self.flags += extra_postargs


def wants_openmp(
    monkeypatch, choice: str | None, works: bool
) -> tuple[bool, list[str]]:
    if choice is None:
        monkeypatch.delenv("RMSPROP_FAST_OPENMP", raising=False)
    else:
        monkeypatch.setenv("RMSPROP_FAST_OPENMP", choice)
    build = SETUP.BuildExt(Distribution())
    build.compiler = Compiler(works)
    return build.wants_openmp(["-fopenmp"]), build.compiler.flags


@pytest.mark.parametrize("choice", [None, "auto"])
@pytest.mark.parametrize("works", [True, False])
def test_openmp_is_used_when_a_program_builds_with_it(monkeypatch, choice, works):
    used, flags = wants_openmp(monkeypatch, choice, works)
    assert used is works
    assert set(flags) == {"-fopenmp"}


def test_openmp_can_be_left_out(monkeypatch) -> None:
    assert wants_openmp(monkeypatch, "0", works=True) == (False, [])


def test_insisting_on_openmp_fails_without_it(monkeypatch) -> None:
    assert wants_openmp(monkeypatch, "1", works=True)[0]
    with pytest.raises(PlatformError, match=r"RMSPROP_FAST_OPENMP=1.*no omp\.h"):
        wants_openmp(monkeypatch, "1", works=False)


def test_another_choice_is_refused(monkeypatch) -> None:
    with pytest.raises(PlatformError, match="must be auto, 1 or 0, got 'yes'"):
        wants_openmp(monkeypatch, "yes", works=True)


@pytest.mark.parametrize(
    ("target", "isas"),
    [
        ("linux-x86_64", ["baseline", "avx2", "avx512"]),
        ("linux-aarch64", ["baseline"]),
        ("macosx-14.0-arm64", ["baseline"]),
        ("win-amd64", ["baseline"]),
    ],
)
def test_each_platform_gets_the_loops_that_were_measured(monkeypatch, target, isas):
    monkeypatch.setattr(SETUP.sysconfig, "get_platform", lambda: target)
    assert SETUP.isas() == isas


@pytest.mark.parametrize("kind", ["unix", "msvc"])
def test_no_flag_breaks_the_bits(kind) -> None:
    flags = [*SETUP.COMPILE_FLAGS[kind], *SETUP.LOOP_FLAGS[kind]]
    flags += [flag for row in SETUP.ISA_FLAGS.values() for flag in row]
    assert not {"-ffast-math", "-Ofast", "-march=native", "/fp:fast"} & set(flags)
    assert {"-ffp-contract=off", "/fp:precise"} & set(flags)
