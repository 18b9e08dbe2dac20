"""Every loop over a span is vectorised, for every ISA: the compiler's own report."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy
import pytest

ROOT = Path(__file__).parents[1]
LOOPS = ROOT / "rmsprop_fast" / "cpu"
HEADERS = ROOT / "rmsprop_fast" / "include" / "rmsprop_fast"

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the ISA table has rows for x86-64 only"
)


def load_setup() -> ModuleType:
    """Import setup.py for its flags; it builds nothing unless it is run."""
    spec = importlib.util.spec_from_file_location("rmsprop_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SETUP = load_setup()
VECTOR_BYTES = {"baseline": 16, "avx2": 32, "avx512": 64}
REPORT_FLAG = {"gcc": "-fopt-info-vec-optimized", "clang": "-Rpass=loop-vectorize"}

# Eight variants of the update, dense and by rows. Eight of the steps that rows missed,
# dense and by rows, of which the two that differ in eps_in_sqrt may share a loop. Both
# uses of the clipped gradient; the lanes of the norm. In float32 and float64, which
# have one text each.
EXPECTED = {
    "span": 2 * 16,
    "catch_up_span": 2 * 4,
    "grad_span": 2 * 2,
    "sum_of_squares": 2 * 1,
}
IN_HEADER = r"RMSPROP_INLINE \w+ RMSPROP_NAME\((\w+)\)"
SOURCES = {
    "rmsprop_span_body.h": IN_HEADER,
    "rmsprop_catch_up_body.h": IN_HEADER,
    "_loops.pxi": r"cdef .*?(\w+)\(",
}


def function_of_line(source: str, line: int) -> str | None:
    """Return the function that a line of the header or of the loops belongs to."""
    folder = HEADERS if source.endswith(".h") else LOOPS
    for text in reversed((folder / source).read_text().splitlines()[:line]):
        if match := re.match(SOURCES[source], text):
            return match[1]
    return None


@pytest.fixture(scope="module")
def c_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the loops as C whose lines point back into _loops.pxi."""
    path = tmp_path_factory.mktemp("loops") / "loops.c"
    directives = [f"-X{name}={value}" for name, value in SETUP.DIRECTIVES.items()]
    source = "rmsprop_fast/cpu/_loops_baseline.pyx"
    command = [sys.executable, "-m", "cython", *directives, "--line-directives"]
    subprocess.run([*command, "-o", str(path), source], cwd=ROOT, check=True)
    return path


def vectorised(compiler: str, isa: str, c_file: Path) -> dict[str, int]:
    """Count the loops of each span that became full-width vector loops."""
    flags = [*SETUP.COMPILE_FLAGS["unix"], *SETUP.LOOP_FLAGS["unix"]]
    flags += [*SETUP.ISA_FLAGS[isa], "-fPIC", "-w"]
    flags += [f"-I{ROOT}", f"-I{ROOT / SETUP.INCLUDE}"]
    flags += [f"-I{sysconfig.get_path('include')}", f"-I{numpy.get_include()}"]
    command = [compiler, *flags, REPORT_FLAG[compiler], "-c", str(c_file)]
    result = subprocess.run(
        [*command, "-o", str(c_file.with_suffix(".o"))],
        capture_output=True,
        text=True,
        check=True,
    )
    pattern = r"(\w+\.(?:h|pxi)):(\d+):\d+: .*(?:vectorized using (\d+) byte vectors"
    pattern += r"|vectorization width: (\d+))"
    found: Counter[tuple[str | None, int]] = Counter()
    for source, line, n_bytes, width in re.findall(pattern, result.stderr):
        if source in SOURCES:
            found[function_of_line(source, int(line)), int(n_bytes or width)] += 1
    n_bytes = VECTOR_BYTES[isa]
    if compiler == "gcc":
        return {name: found[name, n_bytes] for name in EXPECTED}
    # clang counts elements: half of the loops must have twice as many as the others.
    halves = {name: expected // 2 for name, expected in EXPECTED.items()}
    counts = {
        name: sum(min(half, found[name, n_bytes // item]) for item in (4, 8))
        for name, half in halves.items()
    }
    # The lanes of a norm are doubles, whatever it reads.
    return {**counts, "sum_of_squares": found["sum_of_squares", n_bytes // 8]}


@pytest.mark.parametrize("isa", list(SETUP.ISA_FLAGS))
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_every_variant_of_every_span_is_a_vector_loop(
    compiler: str, isa: str, c_file: Path
) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler} (Debian: {compiler})")
    counts = vectorised(compiler, isa, c_file)
    short = {name: n for name, n in counts.items() if n < EXPECTED[name]}
    assert not short, f"{compiler} left loops scalar: {short}, expected {EXPECTED}"


def test_the_check_sees_a_scalar_loop(c_file: Path, monkeypatch) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc (Debian: gcc)")
    # With errno to set, GCC keeps the square root scalar.
    flags = [f for f in SETUP.COMPILE_FLAGS["unix"] if f != "-fno-math-errno"]
    monkeypatch.setitem(SETUP.COMPILE_FLAGS, "unix", flags)
    counts = vectorised("gcc", "baseline", c_file)
    assert counts["span"] < EXPECTED["span"]
    assert counts["grad_span"] == EXPECTED["grad_span"]
