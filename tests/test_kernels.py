"""The C door: pinned signatures, the facade's bits, a status for whatever is wrong."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_same_bits, bits, wide_range

from rmsprop_fast import IndexedSlices, RMSprop, kernels
from rmsprop_fast.cpu import _platform
from rmsprop_fast.kernels import Status
from rmsprop_fast.rules import MAX_THREADS

Array = np.ndarray[Any, Any]

PXD = (Path(kernels.__file__).parent / "kernels.pxd").read_text()
ABI = json.loads((Path(__file__).parent / "cython_abi.json").read_text())

SCALARS = {
    "lr": 0.01,
    "rho": 0.95,
    "momentum": 0.0,
    "epsilon": 1e-6,
    "keep": 1.0,
    "grad_scale": 1.0,
    "clip": math.inf,
    "eps_in_sqrt": 1,
    "num_threads": 1,
}


def call(name: str, arrays: dict[str, Any], **scalars: Any) -> Status:
    """Call a door with arrays, addresses and sizes in its order, then the scalars."""
    values = (SCALARS | scalars).values()
    assert len(values) == len(SCALARS)
    given = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arrays.values()]
    return Status(kernels.function(name)(*given, *values))


def suffix(dtype: Any) -> str:
    return "f32" if dtype == np.float32 else "f64"


def dense(param: Array, grad: Array, slots: dict[str, Array], **scalars: Any) -> Status:
    """Update through the dense door."""
    arrays = {"param": param, "grad": grad, "rms": slots["rms"]}
    arrays |= {"mg": slots.get("mg", 0), "mom": slots.get("momentum", 0)}
    return call(
        f"rmsprop_dense_{suffix(param.dtype)}", {**arrays, "n": param.size}, **scalars
    )


def rows(
    param: Array, values: Array, slots: dict[str, Array], indices: Array, **scalars: Any
) -> Status:
    """Update through the row-sparse door."""
    arrays = {"param": param, "values": values, "rms": slots["rms"]}
    arrays |= {"mg": slots.get("mg", 0), "mom": slots.get("momentum", 0)}
    sizes = {"n": len(indices), "n_rows": len(param), "width": param.shape[1]}
    return call(
        f"rmsprop_rows_{suffix(param.dtype)}",
        {**arrays, "rows": indices, **sizes},
        **scalars,
    )


def slots_like(param: Array, opt: RMSprop) -> dict[str, Array]:
    """Return zeros for the slots that the optimizer has."""
    return {name: np.zeros_like(param) for name in opt.get_slot_names()}


# --- The interface --------------------------------------------------------------------


def test_released_signatures_stay_as_they_are() -> None:
    # The file grows: a version once released, and all that stands in it, stays.
    names = [name for names in ABI.values() for name in names]
    assert len(names) == len(set(names))
    pinned = {name: text for names in ABI.values() for name, text in names.items()}
    assert pinned == {name: kernels.signature(name) for name in kernels.__pyx_capi__}


def test_the_version_counts_the_releases_of_signatures() -> None:
    assert list(ABI) == [str(k) for k in range(1, kernels.api_version + 1)]
    assert kernels.function("rmsprop_api_version")() == kernels.api_version


def test_the_public_pxd_has_plain_c_types_only() -> None:
    code = re.sub(r"#.*", "", PXD)
    assert not re.search(r"\bcimport\b|\bclass\b|\bstruct\b|\bunion\b|\bfused\b", code)
    words = set(re.findall(r"\w+", code))
    types = {"int", "float", "double", "Py_ssize_t"}
    assert types <= words


def test_the_pxd_documents_every_status() -> None:
    declared = re.findall(r"^    RMSPROP_(\w+) = (\d+)", PXD, re.MULTILINE)
    found = {name: int(value) for name, value in declared if name != "API_VERSION"}
    assert found == {status.name: status.value for status in Status}


def test_check_raises_by_the_status() -> None:
    kernels.check(0)
    kinds = {
        Status.BAD_SIZE: (ValueError, "n, n_rows and width must be"),
        Status.BAD_POINTER: (ValueError, "arrays must be aligned"),
        Status.BAD_OVERLAP: (ValueError, "must not share memory"),
        Status.BAD_SCALAR: (ValueError, "lr and epsilon must be"),
        Status.BAD_THREADS: (
            ValueError,
            rf"num_threads must be in \[0, {MAX_THREADS}\]",
        ),
        Status.BAD_ROW: (IndexError, r"rows must be in \[0, n_rows\)"),
        Status.NO_MEMORY: (MemoryError, "rows need 16 bytes each"),
    }
    assert {Status.DONE, *kinds} == set(Status)
    for status, (kind, rule) in kinds.items():
        with pytest.raises(kind, match=rule):
            kernels.check(status)
    with pytest.raises(ValueError, match="99 is not a valid Status"):
        kernels.check(99)


@pytest.mark.parametrize("door", ["address", "function", "signature"])
def test_an_unknown_function_is_a_value_error(door: str) -> None:
    with pytest.raises(ValueError, match=r"name must be one of rmsprop_.*got 'dense'"):
        getattr(kernels, door)("dense")


# --- The facade's bits ----------------------------------------------------------------


def test_dense_gives_the_bits_of_apply_gradients(
    rng, dtype, centered, momentum, eps_in_sqrt, isa, n_threads
) -> None:
    options = {"centered": centered, "momentum": momentum, "eps_in_sqrt": eps_in_sqrt}
    opt = RMSprop(0.01, 0.95, epsilon=1e-6, clipvalue=0.5, **options)
    var = wide_range(rng, 1003, dtype)
    opt.build([var])
    param, slots = var.copy(), slots_like(var, opt)
    scalars = {"momentum": momentum, "eps_in_sqrt": int(eps_in_sqrt), "clip": 0.5}
    for _ in range(3):
        grad = wide_range(rng, 1003, dtype)
        opt.apply_gradients([(grad, var)])
        done = dense(param, grad, slots, **scalars, num_threads=n_threads)
        assert done == Status.DONE
    assert_same_bits(param, var)
    for name, slot in slots.items():
        assert_same_bits(slot, opt.get_slot(var, name))


def test_rows_give_the_bits_of_apply_gradients(
    rng, dtype, centered, momentum, eps_in_sqrt, isa, n_threads
) -> None:
    options = {"centered": centered, "momentum": momentum, "eps_in_sqrt": eps_in_sqrt}
    opt = RMSprop(0.01, 0.95, epsilon=1e-6, clipvalue=0.5, **options)
    var = wide_range(rng, (23, 19), dtype)
    opt.build([var])
    param, slots = var.copy(), slots_like(var, opt)
    scalars = {"momentum": momentum, "eps_in_sqrt": int(eps_in_sqrt), "clip": 0.5}
    for _ in range(3):
        # Few rows, many occurrences: runs of 32 and a hot row among single ones.
        indices = np.where(rng.random(300) < 0.5, 7, rng.integers(0, 23, 300))
        values = wide_range(rng, (300, 19), dtype)
        opt.apply_gradients([(IndexedSlices(values, indices), var)])
        done = rows(param, values, slots, indices, **scalars, num_threads=n_threads)
        assert done == Status.DONE
    assert_same_bits(param, var)
    for name, slot in slots.items():
        assert_same_bits(slot, opt.get_slot(var, name))


@given(
    n_rows=st.integers(1, 40),
    width=st.integers(1, 5),
    n=st.integers(0, 200),
    num_threads=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_of_any_number_and_order_give_the_bits_of_apply_gradients(
    any_work_is_shared, n_rows, width, n, num_threads, seed
) -> None:
    rng = np.random.default_rng(seed)
    var = wide_range(rng, (n_rows, width), np.float32)
    opt = RMSprop(0.01, 0.95, epsilon=1e-6, centered=True)
    opt.build([var])
    param, slots = var.copy(), slots_like(var, opt)
    values = wide_range(rng, (n, width), np.float32)
    indices = np.minimum(rng.zipf(1.3, n) - 1, n_rows - 1)
    opt.apply_gradients([(IndexedSlices(values, indices), var)])
    done = rows(param, values, slots, indices, num_threads=num_threads)
    assert done == Status.DONE
    assert_same_bits(param, var)
    for name, slot in slots.items():
        assert_same_bits(slot, opt.get_slot(var, name))


def test_grad_scale_is_applied_before_clip(rng, dtype) -> None:
    var = wide_range(rng, 1003, dtype)
    param, slots = var.copy(), {"rms": np.zeros_like(var)}
    grad = wide_range(rng, 1003, dtype)
    opt = RMSprop(0.01, 0.95, epsilon=1e-6, clipvalue=0.5)
    opt.minimize(lambda: (0.0, [grad]), [var], grad_loss=3.0)
    assert dense(param, grad, slots, grad_scale=3.0, clip=0.5) == Status.DONE
    assert_same_bits(param, var)


def test_keep_multiplies_the_parameter_before_the_increment(rng, dtype) -> None:
    start, grad = rng.standard_normal(1003).astype(dtype), wide_range(rng, 1003, dtype)
    origin, param = np.zeros_like(start), start.copy()
    assert dense(origin, grad, {"rms": np.zeros_like(start)}) == Status.DONE
    done = dense(param, grad, {"rms": np.zeros_like(start)}, keep=0.999)
    assert done == Status.DONE
    # From the origin the update is -inc; both operations round in the dtype.
    assert_same_bits(param, dtype(0.999) * start + origin)


def test_the_momentum_slot_is_left_alone_while_momentum_is_zero(rng, dtype) -> None:
    var, grad = wide_range(rng, 40, dtype), wide_range(rng, 40, dtype)
    param, mom = var.copy(), np.full(40, np.inf, dtype)
    RMSprop(0.01, 0.95, epsilon=1e-6).apply_gradients([(grad, var)])
    slots = {"rms": np.zeros_like(var), "momentum": mom}
    assert dense(param, grad, slots, momentum=0.0) == Status.DONE
    assert_same_bits(param, var)
    assert np.isinf(mom).all()


def test_a_nan_stays_in_its_element(dtype) -> None:
    param, grad = np.ones(5, dtype), np.array([1, np.nan, 1, np.inf, 1], dtype)
    assert dense(param, grad, {"rms": np.zeros(5, dtype)}) == Status.DONE
    assert np.isnan(param).tolist() == [False, True, False, True, False]


def test_a_row_that_occurs_nowhere_stays_untouched(rng, dtype) -> None:
    param, slots = np.ones((5, 3), dtype), {"rms": np.ones((5, 3), dtype)}
    indices = np.array([4, 1, 4])
    assert rows(param, np.full((3, 3), 2, dtype), slots, indices) == Status.DONE
    assert np.flatnonzero((param != 1).any(axis=1)).tolist() == [1, 4]
    assert np.flatnonzero((slots["rms"] != 1).any(axis=1)).tolist() == [1, 4]


# --- What is wrong --------------------------------------------------------------------

ADDRESS = 64  # not zero, aligned, and nothing is ever read there

BAD_SCALARS = [
    *({"lr": bad} for bad in (-1e-9, math.inf, math.nan)),
    *({name: bad} for name in ("rho", "momentum") for bad in (-0.1, 1.1, math.nan)),
    *({"epsilon": bad} for bad in (-1e-9, math.inf, math.nan)),
    *({"keep": bad} for bad in (math.inf, -math.inf, math.nan)),
    *({"clip": bad} for bad in (0.0, -1.0, math.nan)),
]
BAD_THREADS = [{"num_threads": bad} for bad in (-1, MAX_THREADS + 1)]
REFUSED = [
    *((changed, Status.BAD_SCALAR) for changed in BAD_SCALARS),
    *((changed, Status.BAD_THREADS) for changed in BAD_THREADS),
    *(({name: 0}, Status.BAD_POINTER) for name in ("param", "grad", "rms")),
    *(({name: ADDRESS + 2}, Status.BAD_POINTER) for name in ("param", "mg", "mom")),
    ({"mom": 0, "momentum": 0.5}, Status.BAD_POINTER),
    ({"n": -1}, Status.BAD_SIZE),
    ({"n": 2**62}, Status.BAD_SIZE),
]
ROWS_REFUSED = [
    ({"n_rows": -1}, Status.BAD_SIZE),
    ({"width": -1}, Status.BAD_SIZE),
    ({"n_rows": 2**40, "width": 2**40}, Status.BAD_SIZE),
    ({"rows": 0}, Status.BAD_POINTER),
    ({"rows": ADDRESS + 4}, Status.BAD_POINTER),
]


def label(case: tuple[dict[str, Any], Status]) -> str:
    return " ".join(f"{name}={value}" for name, value in case[0].items())


def good(layout: str, dtype: Any) -> dict[str, Any]:
    """Return arrays and sizes that a door takes, with all slots."""
    shape = (6, 4) if layout == "rows" else (24,)
    arrays = {"param": np.ones(shape, dtype), "grad": np.ones(shape, dtype)}
    arrays |= {name: np.ones(shape, dtype) for name in ("rms", "mg", "mom")}
    if layout == "dense":
        return {**arrays, "n": 24}
    return {**arrays, "rows": np.arange(6), "n": 6, "n_rows": 6, "width": 4}


def refused(layout: str, dtype: Any, changed: dict[str, Any]) -> Status:
    """Call with something changed; nothing else may change."""
    given = good(layout, dtype)
    arrays = [a for a in given.values() if isinstance(a, np.ndarray)]
    before = bits(arrays)
    scalars = {name: changed[name] for name in changed if name in SCALARS}
    given |= {name: changed[name] for name in changed if name not in SCALARS}
    status = call(f"rmsprop_{layout}_{suffix(dtype)}", given, **scalars)
    assert bits(arrays) == before
    return status


@pytest.mark.parametrize("case", REFUSED, ids=label)
@pytest.mark.parametrize("layout", ["dense", "rows"])
def test_what_is_refused_changes_nothing(layout, dtype, case) -> None:
    changed, expected = case
    assert refused(layout, dtype, changed) == expected


@pytest.mark.parametrize("case", ROWS_REFUSED, ids=label)
def test_a_table_that_is_refused_stays_as_it_was(dtype, case) -> None:
    changed, expected = case
    assert refused("rows", dtype, changed) == expected


@given(
    position=st.integers(0, 5),
    row=st.integers(-(2**63), 2**63 - 1).filter(lambda row: not 0 <= row < 6),
)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_bad_row_anywhere_changes_nothing(
    any_work_is_shared, position, row, num_threads
) -> None:
    indices = np.arange(6)
    indices[position] = row
    changed = {"rows": indices, "num_threads": num_threads}
    assert refused("rows", np.float64, changed) == Status.BAD_ROW


NAMES = ("param", "grad", "rms", "mg", "mom")
PAIRS = [(a, b) for k, a in enumerate(NAMES) for b in NAMES[:k]]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.parametrize("layout", ["dense", "rows"])
def test_arrays_that_share_memory_are_refused(layout, dtype, first, second) -> None:
    memory = np.ones(47, dtype)  # 24 elements and 24 more, one of them shared
    size = 23 * memory.itemsize
    for low, high in ((first, second), (second, first)):
        start = memory.ctypes.data
        changed = {low: start, high: start + size}
        assert refused(layout, dtype, changed) == Status.BAD_OVERLAP
    assert (memory == 1).all()


def test_arrays_side_by_side_are_taken(dtype) -> None:
    param, rms, grad = np.ones((3, 24), dtype)
    assert dense(param, grad, {"rms": rms}) == Status.DONE


@pytest.mark.parametrize("sizes", [(0, 5, 3), (0, 0, 3), (0, 5, 0), (4, 5, 0)])
def test_nothing_to_do_needs_no_arrays(dtype, sizes) -> None:
    n, n_rows, width = sizes
    indices = np.zeros(4, np.intp)
    arrays = dict.fromkeys(("param", "values", "rms", "mg", "mom"), 0)
    if n_rows * width:
        arrays |= {name: ADDRESS * 8 * k for k, name in enumerate(arrays, 1)}
    given = {**arrays, "rows": indices, "n": n, "n_rows": n_rows, "width": width}
    assert call(f"rmsprop_rows_{suffix(dtype)}", given) == Status.DONE
    nothing = {**dict.fromkeys(("param", "grad", "rms", "mg", "mom"), 0), "n": 0}
    assert call(f"rmsprop_dense_{suffix(dtype)}", nothing) == Status.DONE


def test_rows_without_columns_are_checked_all_the_same(dtype) -> None:
    changed = {"width": 0, "rows": np.array([0, 1, 2, 6, 4, 5])}
    assert refused("rows", dtype, changed) == Status.BAD_ROW


# --- Processes of their own -----------------------------------------------------------

BEGIN = """
import math, os, sys, time
import numpy as np
from rmsprop_fast import kernels

SCALARS = 0.01, 0.9, 0.0, 1e-7, 1.0, 1.0, math.inf, 1
update = kernels.function("rmsprop_dense_f32")

def train(num_threads, n=2**17):
    param, grad, rms = np.ones((3, n), np.float32)
    where = [a.ctypes.data for a in (param, grad, rms)]
    kernels.check(update(*where, 0, 0, n, *SCALARS, num_threads))
    return param.tobytes()

def threads():
    return len(os.listdir("/proc/self/task"))
"""

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="counts threads in Linux's /proc"
)
needs_openmp = pytest.mark.skipif(
    not _platform.OPENMP, reason="this build has no OpenMP: its loops are serial"
)


def run(script: str, **environment: str) -> list[str]:
    """Return what a script prints after BEGIN in a Python of its own."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BEGIN + script],
        # Without OpenBLAS's own threads those that are there are ours.
        env={**inherited, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@needs_linux
@needs_openmp
def test_num_threads_is_taken_literally_for_large_work() -> None:
    # libgomp keeps its idle threads, which can be counted. Surplus ones take a while.
    script = "train(5, 100); print(threads()); train(5); print(threads())"
    script += """
train(2)
until = time.monotonic() + 30
while threads() > 2 and time.monotonic() < until:
    time.sleep(0.01)
print(threads())
"""
    assert run(script) == ["1", "5", "2"]


@needs_linux
@needs_openmp
@pytest.mark.parametrize("n", ["1", "3"])
def test_omp_num_threads_decides_when_num_threads_is_zero(n: str) -> None:
    assert run("train(0); print(threads())", OMP_NUM_THREADS=n) == [n]


@needs_linux
@needs_openmp
def test_threadpoolctl_limits_the_team() -> None:
    script = """
from threadpoolctl import threadpool_limits
with threadpool_limits(limits=1, user_api="openmp"):
    train(0)
print(threads())
"""
    assert run(script, OMP_NUM_THREADS="3") == ["1"]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
FORK = """
expected = train(4)
pid = os.fork()
if pid == 0:
    same = train(4) == expected
    print(same, threads(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(train(4) == expected)
"""


@needs_fork
@needs_linux
@needs_openmp
def test_a_forked_child_uses_threads_again() -> None:
    assert run(FORK) == ["True", "4", "True"]


@needs_fork
@needs_linux
@needs_openmp
def test_a_forked_child_is_alone_when_the_threads_could_not_be_ended() -> None:
    cannot = "from rmsprop_fast.cpu import _platform\n"
    cannot += "_platform.end_threads = lambda: False\n"
    assert run(cannot + FORK) == ["True", "1", "True"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space by Linux")
def test_too_little_memory_to_sort_changes_nothing() -> None:
    # 2^23 rows need 128 MiB to be sorted; 64 MiB are left.
    script = """
import resource
n = 2**23
param, values, rms = np.ones((3, n), np.float32)
rows = np.arange(n)[::-1].copy()
rows_f32 = kernels.function("rmsprop_rows_f32")
where = [a.ctypes.data for a in (param, values, rms)]
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, before[1]))
status = rows_f32(*where, 0, 0, rows.ctypes.data, n, n, 1, *SCALARS, 1)
resource.setrlimit(resource.RLIMIT_AS, before)
print(kernels.Status(status).name, (param == 1).all(), (rms == 1).all())
"""
    assert run(script) == ["NO_MEMORY", "True", "True"]
