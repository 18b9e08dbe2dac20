"""The C header: no compiler warns, and every compiler gives the package's bits."""

from __future__ import annotations

import ctypes
import itertools
import re
import shutil
import subprocess
from collections.abc import Callable
from ctypes import c_int, c_longlong, c_ssize_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import nvrtc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_bits import assert_same_bits, wide_range

from rmsprop_fast import IndexedSlices, RMSprop, get_include
from rmsprop_fast.cpu._records import FLAGS, SLOTS

Array = np.ndarray[Any, Any]

SOURCE = Path(__file__).parent / "header" / "spans.c"
HEADER = Path(get_include(), "rmsprop_fast")

STRICT = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
EXACT = "-ffp-contract=off"
FAST = ["-O3", EXACT, "-fno-math-errno", "-fno-trapping-math"]

C, CXX = ["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++11"]
COMPILERS = [["gcc", *C], ["clang", *C], ["g++", *CXX], ["clang++", *CXX]]
BUILDS = {
    "gcc -O0": ["gcc", *C, "-O0", EXACT],
    # With FMA, which would be used unless that is forbidden.
    "gcc -O3 -march=native": ["gcc", *C, *FAST, "-march=native"],
    "clang -O3": ["clang", *C, *FAST],
    "g++ -O3": ["g++", *CXX, *FAST],
    "clang++ -O2 -march=native": ["clang++", *CXX, "-O2", EXACT, "-march=native"],
}


def compiler_or_skip(name: str) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"needs {name} (Debian: {name.rstrip('+')})")
    return name


def compile_c(command: list[str], source: Path, output: Path, *last: str) -> str:
    """Run a compiler; return what it said."""
    compiler_or_skip(command[0])
    done = subprocess.run(
        [*command, f"-I{get_include()}", str(source), "-o", str(output), *last],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


# --- Compilers ------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", COMPILERS, ids=" ".join)
@pytest.mark.parametrize("optimise", ["-O0", "-O3"])
def test_no_compiler_warns(tmp_path, compiler, optimise) -> None:
    command = [*compiler, *STRICT, optimise, EXACT, "-c"]
    assert compile_c(command, SOURCE, tmp_path / "spans.o") == ""


def test_the_header_may_be_included_twice_and_by_many_files(tmp_path) -> None:
    source = tmp_path / "twice.c"
    source.write_text("#include <rmsprop_fast/rmsprop.h>\n" * 2 + "int once;\n")
    main = tmp_path / "main.c"
    main.write_text("#include <rmsprop_fast/rmsprop.h>\nint main(void) { return 0; }\n")
    command = ["gcc", "-std=c99", *STRICT, str(source)]
    assert compile_c(command, main, tmp_path / "main") == ""


def test_fast_math_is_refused_unless_it_is_asked_for(tmp_path) -> None:
    command = [compiler_or_skip("gcc"), "-ffast-math", f"-I{get_include()}", "-c"]
    command += [str(SOURCE), "-o", str(tmp_path / "spans.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0
    assert "-ffast-math breaks NaN handling and equal bits" in done.stderr
    subprocess.run([*command, "-DRMSPROP_ALLOW_FAST_MATH"], check=True)


KERNEL = """
#include <rmsprop_fast/rmsprop.h>

extern "C" __global__ void elements(
    TYPE *param, const TYPE *grad, TYPE *rms, TYPE *mg, TYPE *mom, long long n,
    rmsprop_coef_SUFFIX c)
{
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n)
        rmsprop_update_SUFFIX(
            &param[i], rmsprop_grad_SUFFIX(grad[i], c), &rms[i], &mg[i], &mom[i], c,
            1, 1, 1);
}

extern "C" __global__ void rows(
    TYPE *param, const TYPE *values, TYPE *rms, const ptrdiff_t *rows, ptrdiff_t n,
    ptrdiff_t n_rows, ptrdiff_t width, rmsprop_coef_SUFFIX c, ptrdiff_t *status)
{
    *status = rmsprop_rows_span_SUFFIX(
        param, values, rms, 0, 0, rows, 0, n, n_rows, width, c, 0, 0, 0);
}
"""
EXACT_CUDA = ["--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"]

needs_nvrtc = pytest.mark.skipif(
    nvrtc.path() is None, reason="needs NVRTC (PyPI: nvidia-cuda-nvrtc)"
)


@needs_nvrtc
def test_nvrtc_compiles_it_without_warning_or_fma(dtype) -> None:
    real = {"TYPE": "float", "SUFFIX": "f32"}
    if dtype == np.float64:
        real = {"TYPE": "double", "SUFFIX": "f64"}
    source = re.sub("TYPE|SUFFIX", lambda match: real[match[0]], KERNEL)
    ptx, log = nvrtc.compile_ptx(source, f"-I{get_include()}", *EXACT_CUDA)
    assert log.strip() == ""
    assert {"elements", "rows"} == set(re.findall(r"\.entry (\w+)", ptx))
    suffix = real["SUFFIX"]
    assert f"sqrt.rn.{suffix}" in ptx
    assert f"div.rn.{suffix}" in ptx
    assert not re.search(r"\bfma\b|\.ftz|\.approx", ptx)


@needs_nvrtc
def test_the_check_of_ptx_sees_an_fma(dtype) -> None:
    source = KERNEL.replace("TYPE", "float").replace("SUFFIX", "f32")
    ptx, _ = nvrtc.compile_ptx(source, f"-I{get_include()}")
    assert re.search(r"\bfma\b", ptx)


# --- Bits -----------------------------------------------------------------------------

Call = Callable[..., int]


@pytest.fixture(scope="module", params=BUILDS)
def spans(request, tmp_path_factory) -> ctypes.CDLL:
    """Return the header's functions as one compiler makes them."""
    path = tmp_path_factory.mktemp("spans") / "spans.so"
    compile_c([*BUILDS[request.param], "-shared", "-fPIC"], SOURCE, path, "-lm")
    return ctypes.CDLL(str(path))


def where(array: Array | None) -> c_void_p:
    return c_void_p(None if array is None else array.ctypes.data)


class Spans:
    """One array and its slots, as the header's functions update them."""

    def __init__(self, doors: ctypes.CDLL, param: Array, opt: RMSprop) -> None:
        self.doors = doors
        self.param = param
        self.suffix = "f32" if param.dtype == np.float32 else "f64"
        self.slots = {name: np.zeros_like(param) for name in opt.get_slot_names()}
        self.variant = sum(bit for name, bit in FLAGS.items() if getattr(opt, name))
        clip = np.inf if opt.clipvalue is None else opt.clipvalue
        scalars = opt.learning_rate, opt.rho, opt.momentum, opt.epsilon, 1.0, 1.0, clip
        self.scalars = np.array(scalars)

    def call(self, name: str, grad: Array | None, *sizes: Any) -> int:
        function = self.doors[f"{name}_{self.suffix}"]
        function.restype = c_ssize_t
        slots = [where(self.slots.get(name)) for name in ("rms", "mg", "momentum")]
        end = where(self.scalars), c_int(self.variant)
        return function(where(self.param), where(grad), *slots, *sizes, *end)

    def dense(self, name: str, grad: Array) -> None:
        assert self.call(name, grad, c_ssize_t(grad.size)) == -1

    def rows(self, values: Array, rows: Array, positions: Array | None = None) -> int:
        sizes = map(c_ssize_t, (len(rows), len(self.param), self.param.shape[1]))
        return self.call("rows", values, where(rows), where(positions), *sizes)

    def catch_up(self, steps: int) -> None:
        sizes = c_ssize_t(self.param.size), c_ssize_t(steps)
        assert self.call("catch_up", None, *sizes) == -1

    def assert_equals(self, opt: RMSprop, var: Array) -> None:
        assert_same_bits(self.param, var)
        for name, slot in self.slots.items():
            assert_same_bits(slot, opt.get_slot(var, name))


def optimizer(
    var: Array, centered: bool, momentum: float, eps_in_sqrt: bool
) -> RMSprop:
    opt = RMSprop(
        0.01,
        0.95,
        momentum,
        1e-6,
        centered,
        eps_in_sqrt=eps_in_sqrt,
        clipvalue=0.5,
    )
    opt.build([var])
    return opt


@pytest.mark.parametrize("loop", ["elements", "dense"])
def test_dense_has_the_bits_of_apply_gradients(
    spans, rng, dtype, centered, momentum, eps_in_sqrt, loop
) -> None:
    var = wide_range(rng, 1003, dtype)
    opt = optimizer(var, centered, momentum, eps_in_sqrt)
    ours = Spans(spans, var.copy(), opt)
    for _ in range(3):
        grad = wide_range(rng, 1003, dtype)
        opt.apply_gradients([(grad, var)])
        ours.dense(loop, grad)
    ours.assert_equals(opt, var)


@pytest.mark.parametrize("missed", [1, 2, 3, 1000, 2**40 + 5])
def test_missed_steps_have_the_bits_of_catch_up(
    spans, rng, dtype, centered, momentum, missed
) -> None:
    var = wide_range(rng, (1, 1003), dtype)
    opt = RMSprop(0.01, 0.9999, momentum, centered=centered, catch_up=True)
    opt.build([var])
    ours = Spans(spans, var.copy(), opt)
    grad = wide_range(rng, var.shape, dtype)
    opt.apply_gradients([(grad, var)])
    ours.dense("elements", grad)
    # What a variable misses is state: pretend that it made many row-sparse steps.
    opt._slots[0].counters["steps"][0] += missed
    opt.catch_up()
    ours.catch_up(missed)
    ours.assert_equals(opt, var)


def test_powers_end_where_their_table_does(spans, dtype) -> None:
    suffix = "f32" if dtype == np.float32 else "f64"
    assert spans[f"most_steps_are_63_bits_{suffix}"]() == 1


def test_missed_steps_are_never_negative(spans) -> None:
    spans.missed_steps.restype = c_longlong
    counts = [-(2**63), -9, 0, 1, 5, 2**62, 2**63 - 1]
    for made, by_all, by_row in itertools.product(counts, repeat=3):
        missed = spans.missed_steps(*map(c_longlong, (made, by_all, by_row)))
        assert missed == max(made - max(by_all, by_row, 0), 0)


def test_the_lists_of_the_header_are_those_of_the_facade(spans) -> None:
    n_slots = ctypes.c_int()
    flags = spans.flags_and_slots(ctypes.byref(n_slots))
    assert flags == sum(FLAGS.values())
    assert n_slots.value == len(SLOTS)


def batch(rng, n: int, shape: tuple[int, int], dtype: Any) -> tuple[Array, Array]:
    """Return values and rows of which half are the same, so that runs of 32 fill."""
    hot = rng.integers(0, shape[0])
    rows = np.where(rng.random(n) < 0.5, hot, rng.integers(0, shape[0], n))
    return wide_range(rng, (n, shape[1]), dtype), rows


@pytest.mark.parametrize("width", [3, 300])  # below and above RMSPROP_SUM_BLOCK
@pytest.mark.parametrize("give", ["sorted values", "positions"])
def test_rows_have_the_bits_of_apply_gradients(
    spans, rng, dtype, centered, momentum, eps_in_sqrt, width, give
) -> None:
    var = wide_range(rng, (9, width), dtype)
    opt = optimizer(var, centered, momentum, eps_in_sqrt)
    ours = Spans(spans, var.copy(), opt)
    for _ in range(2):
        values, rows = batch(rng, 170, var.shape, dtype)
        opt.apply_gradients([(IndexedSlices(values, rows), var)])
        order = np.argsort(rows, kind="stable")
        if give == "positions":
            assert ours.rows(values, rows[order], order) == -1
        else:
            assert ours.rows(values[order], rows[order]) == -1
    ours.assert_equals(opt, var)


@given(
    shape=st.tuples(st.integers(1, 12), st.integers(0, 260)),
    n=st.integers(0, 120),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_rows_have_the_bits_of_apply_gradients(spans, shape, n, seed) -> None:
    rng = np.random.default_rng(seed)
    var = wide_range(rng, shape, np.float32)
    opt = optimizer(var, True, 0.9, True)
    ours = Spans(spans, var.copy(), opt)
    values, rows = batch(rng, n, shape, np.float32)
    opt.apply_gradients([(IndexedSlices(values, rows), var)])
    order = np.argsort(rows, kind="stable")
    assert ours.rows(values, rows[order], order) == -1
    ours.assert_equals(opt, var)


@pytest.mark.parametrize(
    ("rows", "position"),
    [([0, 1, 5], 2), ([-1, 1, 2], 0), ([0, 3, 2], 2), ([0, 2**62, 4], 1)],
    ids=str,
)
def test_the_first_bad_row_is_returned_and_nothing_changes(
    spans, dtype, rows, position
) -> None:
    var = np.ones((5, 4), dtype)
    ours = Spans(spans, var.copy(), optimizer(var, True, 0.9, True))
    assert ours.rows(np.ones((3, 4), dtype), np.array(rows)) == position
    assert (ours.param == 1).all()
    assert not any(slot.any() for slot in ours.slots.values())


# --- Where the formula is -------------------------------------------------------------


def test_the_formula_is_in_one_file_of_the_package() -> None:
    package = HEADER.parents[1]
    sources = [
        p for p in package.rglob("*") if p.suffix in (".h", ".pyx", ".pxi", ".cu")
    ]
    writing = [p.name for p in sources if "one_minus_rho *" in p.read_text()]
    assert writing == ["rmsprop_element_body.h"]
