"""The kernels themselves: compiled for devices, sanitized, and with bugs put in."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from gpu_host import build

from rmsprop_fast.gpu import compiler

HERE = Path(__file__).parent
ARCHITECTURES = "75", "80", "90", "120"


# --- Compiled for devices -------------------------------------------------------------


class Logging:
    """NVRTC, keeping what it says about each program."""

    def __init__(self, nvrtc: Any) -> None:
        self._nvrtc = nvrtc
        self.logs: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nvrtc, name)

    def destroyProgram(self, program: Any) -> None:  # noqa: N802, CuPy's name
        self.logs.append(self._nvrtc.getProgramLog(program).strip("\0\n "))
        self._nvrtc.destroyProgram(program)


@pytest.fixture(scope="module")
def nvrtc() -> Any:
    """CuPy's door to NVRTC; neither needs a device."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy: the extra gpu-test")
    try:
        cupy.cuda.nvrtc.getVersion()
    except Exception as error:  # CuPy's own class, where the library is missing
        pytest.skip(f"needs NVRTC, the extra gpu-test: {type(error).__name__}")
    return cupy.cuda.nvrtc


@pytest.fixture(scope="module")
def cubins(nvrtc, tmp_path_factory) -> tuple[dict[str, Path], list[str]]:
    """Every kernel for every architecture, and what the compiler said."""
    folder = tmp_path_factory.mktemp("cubins")
    logging = Logging(nvrtc)

    def compile_all(architecture: str) -> Path:
        path = folder / f"{architecture}.cubin"
        kernels = " ".join(build.all_kernels())
        path.write_bytes(compiler.compile_kernels(kernels, architecture))
        return path

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(sys.modules["cupy"].cuda, "nvrtc", logging)
        paths = list(pool.map(compile_all, ARCHITECTURES))
    return dict(zip(ARCHITECTURES, paths, strict=True)), logging.logs


@pytest.fixture(scope="module")
def dump() -> Any:
    """A call of cuobjdump, of the wheel or of the CUDA toolkit."""
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    found = [str(path) for folder in folders for path in Path(folder).glob("cu*/bin")]
    path = os.pathsep.join([*found, os.environ["PATH"]])
    for name in "cuobjdump", "nvdisasm":  # the first calls the second
        if shutil.which(name, path=path) is None:
            pytest.skip(f"needs {name}: the extra gpu-test")
    command = shutil.which("cuobjdump", path=path)

    def run(option: str, file: Path) -> str:
        done = subprocess.run(
            [command, option, str(file)],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    return run


def test_every_kernel_compiles_without_a_warning(cubins) -> None:
    assert cubins[1] == [""] * len(ARCHITECTURES)


# At most so many of a processor's 65,536 registers: two blocks of 256 threads and more.
REGISTERS = {"dense": 120, "rows": 128, "partial": 72, "sort": 104, "take": 48}
REGISTERS |= {"keys": 40, "norm": 48, "catch": 80, "count": 40}
REGISTERS |= {"nonfinite": 40, "judge": 40}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills_registers_or_takes_too_many(
    cubins, dump, architecture
) -> None:
    usage = dump("-res-usage", cubins[0][architecture])
    rows = re.findall(
        r"Function rmsprop_(\w+):\s+REG:(\d+) STACK:(\d+).* LOCAL:(\d+)", usage
    )
    names = {name for name, *_ in rows}
    wanted = {k for lines in map(names_in, build.all_kernels()) for k in lines}
    assert names == wanted
    for name, registers, stack, local in rows:
        assert (int(stack), int(local)) == (0, 0), name
        assert int(registers) <= REGISTERS[name.partition("_")[0]], name


def names_in(kernels: str) -> list[str]:
    """Return the names of the kernels that the host expects on a line."""
    names = ["norm_squares", "norm_factors", "judge", "count_steps"]
    for real in "f32", "f64":
        names += [f"{name}_{real}" for name in ("take", "norm_blocks", "nonfinite")]
        names += [f"dense_{real}_{v}" for v in range(8)]
        names += [f"catch_up_all_{real}_{v}" for v in range(4)]
        for wide in "", "_wide":
            names += [f"partial{wide}_{real}"]
            names += [f"rows{wide}_{real}_{v}" for v in range(8)]
            names += [f"catch_up_rows{wide}_{real}_{v}" for v in range(4)]
    for wide in "", "_wide":
        names += [f"sort_{part}{wide}" for part in ("all", "count", "scan", "scatter")]
        names += [f"keys{wide}", f"count_rows{wide}"]
    return [name for name in names if compiler.kernels_of(name) == kernels]


def test_dense_kernels_move_16_bytes_at_a_time_and_know_global_memory(
    cubins, dump
) -> None:
    code = dump("-sass", cubins[0]["90"])
    bodies = {part.split()[0]: part for part in code.split("Function : ")[1:]}
    for real in "f32", "f64":
        for variant in range(8):
            body = bodies[f"rmsprop_dense_{real}_{variant}"]
            # Two packs in flight, then one: param, grad, rms and the variant's slots.
            streams = 3 + variant % 2 + variant // 2 % 2
            assert len(re.findall(r"\bLDG\.E\.128", body)) == 3 * streams
            assert len(re.findall(r"\bSTG\.E\.128", body)) == 3 * (streams - 1)
    generic = [
        name for name, body in bodies.items() if re.search(r"\b(LD|ST)\.E\b", body)
    ]
    # The fault lies in the host's memory: only those who report may not know.
    reporting = {"rmsprop_keys", "rmsprop_keys_wide", "rmsprop_judge"}
    assert set(generic) <= reporting


# --- Sanitizers -----------------------------------------------------------------------


def probe(library: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the steps of gpu_host/probe.py on a library, in a process of its own."""
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.run(
        [sys.executable, "-m", "gpu_host.probe", str(library)],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def preload(name: str) -> str:
    """Return a sanitizer's library, which must come before all others, or skip."""
    command = [build.compiler(), f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if not Path(path.strip()).is_absolute():
        pytest.skip(f"needs {name} of the compiler's")
    return path.strip()


CHECKED = [
    "UNTYPED_KERNELS()",
    *(f"GRADIENT_KERNELS({real})" for real in build.REALS),
    *(f"DENSE_KERNELS({real},7)" for real in build.REALS),
    *(f"CATCH_UP_ALL_KERNELS({real},3)" for real in build.REALS),
    *(f"LIST_KERNELS({integers})" for integers in build.INTEGERS),
    *(f"PARTIAL_KERNELS({i},{r})" for i in build.INTEGERS for r in build.REALS),
    *(f"ROWS_KERNELS({i},{r},7)" for i in build.INTEGERS for r in build.REALS),
    *(f"CATCH_UP_ROWS_KERNELS({i},{r},3)" for i in build.INTEGERS for r in build.REALS),
]


def test_sanitizers_find_nothing(tmp_path) -> None:
    library = build.compile_text(
        build.TEXT, CHECKED, tmp_path / "sanitized.so", *build.SANITIZE
    )
    done = probe(
        library,
        LD_PRELOAD=preload("libasan.so"),
        ASAN_OPTIONS="detect_leaks=0:detect_stack_use_after_return=0",
    )
    # It warns about fibers, which host.cpp tells it of.
    errors = [line for line in done.stderr.splitlines() if "swapcontext" not in line]
    assert (done.returncode, done.stdout, errors) == (0, "", [])


# --- Bugs put in ----------------------------------------------------------------------

MUTATED = [
    "UNTYPED_KERNELS()",
    "GRADIENT_KERNELS(f32,float,4)",
    "DENSE_KERNELS(f32,float,4,7)",
    "CATCH_UP_ALL_KERNELS(f32,float,4,3)",
    "LIST_KERNELS(,u32)",
    "PARTIAL_KERNELS(,u32,f32,float,4)",
    "ROWS_KERNELS(,u32,f32,float,4,7)",
    "CATCH_UP_ROWS_KERNELS(,u32,f32,float,4,3)",
]

# What is replaced, by what, and how many times the text has it.
MUTANTS = {
    "alignment-of-dense": (
        "if (is_aligned(t.param[k] | t.grad[k] | t.rms[k] | t.mg[k] | t.mom[k]))",
        "if (true)",
        1,
    ),
    "alignment-of-rows": ("return addresses % 16 == 0;", "return true;", 1),
    "off-by-one-in-a-chunk": (
        "begin + (rest < RMSPROP_CHUNK ? rest : RMSPROP_CHUNK)",
        "begin + (rest < RMSPROP_CHUNK ? rest - 1 : RMSPROP_CHUNK)",
        1,
    ),
    "off-by-one-in-the-owner": (
        "if (before[middle] <= item)",
        "if (before[middle] < item)",
        1,
    ),
    "missing-barrier-in-the-scan": (
        "    scan[threadIdx.x] = value;\n    __syncthreads();\n",
        "    scan[threadIdx.x] = value;\n",
        1,
    ),
    "missing-barrier-in-the-scatter": (
        "        tile.places[threadIdx.x] = place;\n        __syncthreads();\n",
        "        tile.places[threadIdx.x] = place;\n",
        1,
    ),
    "missing-vote-barrier": (
        "        rank = counts[digit] + (U)__popc(before);\n    __syncwarp();\n",
        "        rank = counts[digit] + (U)__popc(before);\n",
        1,
    ),
    "duplicate-rows-race": (
        "if (!is_first(s.occurrences, s.begin, head))",
        "if (false)",
        1,
    ),
    "a-run-too-long": (
        "s.end ? first + RMSPROP_SUM_RUN : s.end;",
        "s.end ? first + RMSPROP_SUM_RUN + 1 : s.end;",
        1,
    ),
    "lanes-not-all-folded": (
        "for (int reach = 16; reach > 0; reach /= 2)",
        "for (int reach = 16; reach > 1; reach /= 2)",
        1,
    ),
    "the-flag-is-not-read": ("*at<const int>(s.stop) != 0 || ", "", 1),
    "a-step-left-out-is-made": (
        " || (s.skip && *at<const int>(s.skip) != 0)",
        "",
        1,
    ),
    "a-row-catches-up-twice": (
        "if (is_first(occurrences, t.start[k], i))",
        "if (true)",
        1,
    ),
    "all-rows-are-not-counted": ("        if (t.is_all)\n", "        if (false)\n", 1),
    "rows-are-not-counted": (
        "        if (t.row_steps[k])\n",
        "        if (false)\n",
        1,
    ),
    "the-last-piece-is-left-out": (
        "if (i >= t.start[k + 1] - t.start[k])",
        "if (i + 1 >= t.start[k + 1] - t.start[k])",
        1,
    ),
    "infinity-is-finite": ("return x - x == 0;", "return x == x;", 1),
    "the-last-element-is-not-looked-at": (
        "        for (int i = lane; i < b.n; i += 32)\n            count",
        "        for (int i = lane; i < b.n - 1; i += 32)\n            count",
        1,
    ),
}


def test_the_unchanged_kernels_pass_the_probe(tmp_path) -> None:
    library = build.compile_text(build.TEXT, MUTATED, tmp_path / "kernels.so")
    done = probe(library)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_probe_finds_a_bug(tmp_path, name) -> None:
    before, after, count = MUTANTS[name]
    text = build.TEXT.read_text()
    assert text.count(before) == count
    mutant = tmp_path / "mutant.cu"
    mutant.write_text(text.replace(before, after))
    library = build.compile_text(mutant, MUTATED, tmp_path / "mutant.so")
    assert probe(library).returncode != 0
