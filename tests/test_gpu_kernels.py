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
REGISTERS = {"dense": 120, "rows": 128, "partial": 72, "sort": 104, "clip": 48}
REGISTERS |= {"keys": 40, "norm": 48, "catch": 80, "count": 40}
REGISTERS |= {"nonfinite": 40, "finite": 40}


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
    names = ["norm_squares", "norm_scales", "finite_check", "count_steps"]
    for real in "f32", "f64":
        names += [f"{name}_{real}" for name in ("clip", "norm_blocks", "nonfinite")]
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
    # A fault is written to the host's memory: its address is generic.
    reporting = {"rmsprop_keys", "rmsprop_keys_wide", "rmsprop_finite_check"}
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
    "GRADIENT_KERNELS(f32,float)",
    "DENSE_KERNELS(f32,float,7)",
    "CATCH_UP_ALL_KERNELS(f32,float,3)",
    "LIST_KERNELS(,u32)",
    "PARTIAL_KERNELS(,u32,f32,float)",
    "ROWS_KERNELS(,u32,f32,float,7)",
    "CATCH_UP_ROWS_KERNELS(,u32,f32,float,3)",
]

# Each bug by the function that gets it, and one of these changes: a condition that
# mentions something is what it should not be; the n-th barrier is gone; a pattern,
# which the function has once, is replaced.
CONDITION, BARRIER, PATTERN = "condition", "barrier", "pattern"
MUTANTS: dict[str, tuple[Any, ...]] = {
    "alignment-of-dense": ("run_dense", CONDITION, "is_aligned", "true"),
    "alignment-of-rows": ("is_aligned", PATTERN, r"return [^;]*;", "return true;"),
    "off-by-one-in-a-chunk": (
        "run_dense",
        PATTERN,
        r"smaller\(var\.size - begin",
        "smaller(var.size - begin - 1",
    ),
    "off-by-one-in-the-owner": ("owner", PATTERN, r"<= item", "< item"),
    "missing-barrier-in-the-scan": ("sum_before", BARRIER, 0),
    "missing-barrier-in-the-scatter": ("scatter_tile", BARRIER, 2),
    "missing-vote-barrier": ("count_digit", BARRIER, 0),
    "duplicate-rows-race": ("run_rows", CONDITION, "is_first", "false"),
    "a-run-too-long": (
        "end_of_run",
        PATTERN,
        r"\? first \+ RMSPROP_SUM_RUN",
        "? first + RMSPROP_SUM_RUN + 1",
    ),
    "lanes-not-all-folded": (
        "run_norm_blocks",
        PATTERN,
        r"distance > 0",
        "distance > 1",
    ),
    "the-flag-is-not-read": ("is_stopped", PATTERN, r"\*at<[^>]*>\(s\.stop\)", "0"),
    "a-step-left-out-is-made": ("is_stopped", PATTERN, r"\*at<[^>]*>\(s\.skip\)", "0"),
    "a-row-catches-up-twice": ("run_catch_up_rows", CONDITION, "is_first", "true"),
    "all-rows-are-not-counted": ("run_count_steps", CONDITION, "is_all", "false"),
    "rows-are-not-counted": ("run_count_rows", CONDITION, "row_steps", "false"),
    "the-last-piece-is-left-out": (
        "run_catch_up_all",
        PATTERN,
        r"if \(i >=",
        "if (i + 1 >=",
    ),
    "infinity-is-finite": ("is_finite", PATTERN, r"x - x == 0", "x == x"),
    "the-last-element-is-not-looked-at": (
        "run_nonfinite",
        PATTERN,
        r"i < b\.n",
        "i < b.n - 1",
    ),
}


def mutate(text: str, kind: str, *how: Any) -> str:
    """Return the text of one function with a bug of a kind put in."""
    if kind == BARRIER:
        barriers = list(re.finditer(r"__sync(threads|warp)\(\);", text))
        start, end = barriers[how[0]].span()
        return text[:start] + text[end:]
    pattern, replacement = how
    if kind == CONDITION:
        pattern = rf"\bif \(.*\b{pattern}\b.*\)"
        replacement = f"if ({replacement})"
    changed, count = re.subn(pattern, lambda _: replacement, text)
    assert count == 1, f"{pattern} stands {count} times in the function"
    return changed


def put_bug_in(folder: Path, function: str, kind: str, *how: Any) -> Path:
    """Copy the kernels' text to a folder, with a bug in a function; return the copy."""
    found = 0
    definition = re.compile(
        rf"^\S[^\n;]*\b{function}\([^;{{}}]*\)\s*\{{.*?^\}}", re.M | re.S
    )
    for path in [*build.TEXT.parent.glob("*.cuh"), build.TEXT]:
        text = path.read_text()
        if (match := definition.search(text)) is not None:
            found += 1
            body = mutate(match[0], kind, *how)
            text = text[: match.start()] + body + text[match.end() :]
        (folder / path.name).write_text(text)
    assert found == 1, f"{function} is defined in {found} files"
    return folder / build.TEXT.name


def test_the_unchanged_kernels_pass_the_probe(tmp_path) -> None:
    library = build.compile_text(build.TEXT, MUTATED, tmp_path / "kernels.so")
    done = probe(library)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", MUTANTS)
def test_the_probe_finds_a_bug(tmp_path, name) -> None:
    mutant = put_bug_in(tmp_path, *MUTANTS[name])
    library = build.compile_text(mutant, MUTATED, tmp_path / "mutant.so")
    assert probe(library).returncode != 0
