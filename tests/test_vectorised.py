"""Every loop over a span is vectorised, for every ISA: the compiler's own report."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
LOOPS = ROOT / "rmsprop_fast" / "cpu" / "_loops.pxi"

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

# Eight variants of the update, dense and by rows; both uses of the clipped gradient;
# the norm's lanes.
EXPECTED = {
    f"{loop}_{suffix}": count
    for suffix in ("f32", "f64")
    for loop, count in (("update", 16), ("take", 2), ("sum_of_squares", 1))
}


def span_of_line(line: int) -> str | None:
    """Return which span function of _loops.pxi a line belongs to."""
    name = None
    for text in LOOPS.read_text().splitlines()[:line]:
        if match := re.match(r"cdef .*?_?(\w+)\(", text):
            name = match[1].lstrip("_")
    return name and name.replace("add_", "take_").replace("update_rows_", "update_")


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
    flags += [f"-I{sysconfig.get_path('include')}"]
    command = [compiler, *flags, REPORT_FLAG[compiler], "-c", str(c_file)]
    result = subprocess.run(
        [*command, "-o", str(c_file.with_suffix(".o"))],
        capture_output=True,
        text=True,
        check=True,
    )
    counts = dict.fromkeys(EXPECTED, 0)
    pattern = r"_loops\.pxi:(\d+):\d+: .*(?:vectorized using (\d+) byte vectors"
    pattern += r"|vectorization width: (\d+))"
    for line, n_bytes, width in re.findall(pattern, result.stderr):
        name = span_of_line(int(line))
        if name not in counts:
            continue
        # clang counts elements; a norm's are doubles whatever it reads.
        is_f32 = name.endswith("f32") and not name.startswith("sum")
        size = int(n_bytes) if n_bytes else int(width) * (4 if is_f32 else 8)
        counts[name] += size == VECTOR_BYTES[isa]
    return counts


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
    assert counts["update_f32"] < EXPECTED["update_f32"]
    assert counts["take_f32"] == EXPECTED["take_f32"]
