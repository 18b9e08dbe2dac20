"""The formula's own bits on every instruction set, thread count and split."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from reference import Reference, norm_scale, sum_of_squares
from support import (
    OPTIONS,
    assert_equals_reference,
    assert_same_bits,
    make_step,
    wide_range,
)

from rmsprop_fast import IndexedSlices, RMSprop
from rmsprop_fast.cpu import _platform, dispatch


@pytest.mark.parametrize("clipvalue", [None, 0.5], ids=["unclipped", "clipped"])
def test_dense_equals_the_reference(
    rng, dtype, centered, momentum, eps_in_sqrt, isa, clipvalue
) -> None:
    options = OPTIONS | {"centered": centered, "momentum": momentum}
    options |= {"eps_in_sqrt": eps_in_sqrt}
    opt = RMSprop(**options, clipvalue=clipvalue)
    ref = Reference(dtype, **options, clipvalue=clipvalue or np.inf)
    var = wide_range(rng, 1003, dtype)  # no multiple of any vector's length
    for _ in range(4):
        grad = wide_range(rng, 1003, dtype)
        expected = ref.update(var, grad)
        opt.apply_gradients([(grad, var)])
        assert_same_bits(var, expected)
    assert_equals_reference(opt, var, ref)


@pytest.mark.parametrize("clipvalue", [None, 0.5], ids=["unclipped", "clipped"])
def test_rows_equal_the_reference(
    rng, dtype, centered, momentum, eps_in_sqrt, isa, n_threads, clipvalue
) -> None:
    options = OPTIONS | {"centered": centered, "momentum": momentum}
    options |= {"eps_in_sqrt": eps_in_sqrt}
    opt = RMSprop(**options, clipvalue=clipvalue, num_threads=n_threads)
    ref = Reference(dtype, **options, clipvalue=clipvalue or np.inf)
    var = wide_range(rng, (23, 19), dtype)
    for _ in range(3):
        # Few rows, many occurrences: runs of 32 and hot rows among single ones.
        indices = np.where(rng.random(300) < 0.5, 7, rng.integers(0, 23, 300)).astype(
            np.int32
        )
        grad = IndexedSlices(wide_range(rng, (300, 19), dtype), indices)
        expected = ref.update(var, grad)
        opt.apply_gradients([(grad, var)])
        assert_same_bits(var, expected)
    assert opt._step.team == (n_threads if _platform.OPENMP else 1)
    assert_equals_reference(opt, var, ref)


@pytest.mark.parametrize("offset", [0, 1, 3])
def test_every_size_and_start_gives_the_bits_of_single_elements(
    rng, dtype, isa, offset
) -> None:
    options = OPTIONS | {"centered": True, "momentum": 0.9}
    start, grad = wide_range(rng, 140, dtype), wide_range(rng, 140, dtype)
    alone = [start[k : k + 1].copy() for k in range(140)]
    grads = [grad[k : k + 1] for k in range(140)]
    RMSprop(**options).apply_gradients(zip(grads, alone, strict=True))
    expected = np.concatenate(alone)
    # Past two vectors of 64 bytes, unrolled twice: every remainder occurs.
    for size in range(140 - offset):
        run, var = slice(offset, offset + size), start.copy()
        RMSprop(**options).apply_gradients([(grad[run], var[run])])
        assert_same_bits(var[run], expected[run])
        np.testing.assert_array_equal(np.delete(var, run), np.delete(start, run))


@pytest.mark.parametrize("clip", ["none", "clipnorm", "global_clipnorm"])
def test_thread_counts_and_instruction_sets_give_the_bits_of_one_baseline_thread(
    rng, dtype, isa, n_threads, clip
) -> None:
    options = OPTIONS | {"centered": True, "momentum": 0.9, "clipvalue": 2.0}
    if clip != "none":
        options[clip] = 1.5
    variables, grads = make_step(rng, dtype)
    expected = [var.copy() for var in variables]
    dispatch.select("baseline")
    one = RMSprop(**options, num_threads=1)
    for _ in range(2):
        one.apply_gradients(zip(grads, expected, strict=True))
    assert one._step.team == 1
    dispatch.select(isa)
    opt = RMSprop(**options, num_threads=n_threads)
    for _ in range(2):
        opt.apply_gradients(zip(grads, variables, strict=True))
    assert opt._step.team == (n_threads if _platform.OPENMP else 1)
    for ours, theirs in zip(variables, expected, strict=True):
        assert_same_bits(ours, theirs)
    for ours, theirs in zip(opt.get_weights(), one.get_weights(), strict=True):
        assert_same_bits(ours, theirs)


INDICES = {
    "uniform": lambda rng, n, n_rows: rng.integers(0, n_rows, n),
    "skewed": lambda rng, n, n_rows: np.minimum(rng.zipf(1.3, n) - 1, n_rows - 1),
    "one row": lambda rng, n, n_rows: np.full(n, n_rows - 1),
    "ascending": lambda rng, n, n_rows: np.sort(rng.integers(0, n_rows, n)),
    "descending": lambda rng, n, n_rows: np.sort(rng.integers(0, n_rows, n))[::-1],
}


@pytest.mark.parametrize("n", [2047, 2048, 5000])  # all threads sort from 2,048 on
@pytest.mark.parametrize("n_rows", [1, 3, 2048, 2049, 70_000])
@pytest.mark.parametrize("kind", INDICES)
@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
def test_many_rows_are_sorted_alike_by_any_number_of_threads(
    rng, n, n_rows, kind, index_dtype
) -> None:
    indices = INDICES[kind](rng, n, n_rows).astype(index_dtype)
    values = wide_range(rng, (n, 2), np.float32)
    results = []
    for n_threads in (1, 2, 7):
        table = np.zeros((n_rows, 2), np.float32)
        opt = RMSprop(**OPTIONS, num_threads=n_threads)
        opt.apply_gradients([(IndexedSlices(values, indices), table)])
        results.append(table)
    # One thread's order is compared with the reference by the tests above.
    assert_same_bits(results[1], results[0])
    assert_same_bits(results[2], results[0])


def test_a_row_out_of_range_among_many_changes_nothing(n_threads) -> None:
    for bad in (-1, 3000):
        indices = np.arange(5000) % 3000
        indices[4321] = bad
        table = np.ones((3000, 2), np.float32)
        opt = RMSprop(num_threads=n_threads)
        with pytest.raises(IndexError, match=r"\[4321\]|4321|in \[0, 3000\)"):
            opt.apply_gradients(
                [(IndexedSlices(np.ones((5000, 2), np.float32), indices), table)]
            )
        assert (table == 1).all()
        assert opt.iterations == 0


@pytest.mark.parametrize("size", [1, 31, 33, 4095, 4096, 4097, 20000])
def test_a_norm_is_reduced_in_the_specified_order(
    rng, dtype, isa, n_threads, size
) -> None:
    grad = wide_range(rng, size, dtype)
    squares = sum_of_squares(grad)
    opt = RMSprop(clipnorm=0.125, num_threads=n_threads)
    clipped = opt.get_gradients(lambda: (0.0, [grad]), [np.zeros(size, dtype)])[0]
    expected = Reference(dtype).clip(grad.astype(float), norm_scale(squares, 0.125))
    assert_same_bits(clipped, expected.astype(dtype))


def test_a_global_norm_adds_the_gradients_in_order(rng, dtype, n_threads) -> None:
    grads = [wide_range(rng, n, dtype) for n in (5000, 0, 1, 300)]
    total = 0.0
    for grad in grads:
        total += sum_of_squares(grad)
    opt = RMSprop(global_clipnorm=0.5, num_threads=n_threads)
    clipped = opt.get_gradients(
        lambda: (0.0, grads), [np.zeros_like(grad) for grad in grads]
    )
    for ours, grad in zip(clipped, grads, strict=True):
        expected = Reference(dtype).clip(grad.astype(float), norm_scale(total, 0.5))
        assert_same_bits(ours, expected.astype(dtype))


def test_a_norm_of_more_blocks_than_are_held_at_once_is_the_same(n_threads) -> None:
    # 8,192 block sums of 4,096 elements are held at once: 40 elements more make
    # a second round. A value of 2^-12 squares to 2^-24: the sums are exact.
    size = 8192 * 4096 + 40
    grad = np.full(size, 2.0**-12, np.float32)
    opt = RMSprop(clipnorm=1.0, num_threads=n_threads)
    clipped = opt.get_gradients(lambda: (0.0, [grad]), [np.empty_like(grad)])
    scale = np.float32(norm_scale(size * 2.0**-24, 1.0))
    assert (clipped[0] == scale * np.float32(2.0**-12)).all()


def test_nan_and_infinity_stay_in_their_element(dtype, centered, momentum, isa) -> None:
    options = {"centered": centered, "momentum": momentum, "clipvalue": 10.0}
    grad = np.ones(100, dtype)
    var, clean = np.ones(100, dtype), np.ones(100, dtype)
    RMSprop(**options).apply_gradients([(grad, clean)])
    grad[[3, 50]] = np.nan, np.inf
    RMSprop(**options).apply_gradients([(grad, var)])
    assert np.isnan(var[3])  # comparisons leave a NaN alone
    grad[50] = 10.0  # clipped infinity is the bound
    limit = np.ones(100, dtype)
    RMSprop(**options).apply_gradients([(grad, limit)])
    assert var[50] == limit[50]
    others = np.delete(np.arange(100), [3, 50])
    assert_same_bits(var[others], clean[others])


@pytest.mark.parametrize("gradient", [0.1, 1.0, 7.7, 123.4])
def test_centered_is_finite_for_a_constant_gradient(
    dtype, momentum, eps_in_sqrt, gradient, isa
) -> None:
    # rms - mg^2 rounds below zero; TensorFlow, Keras 3 and torch give NaN within
    # 150 steps at their defaults.
    opt = RMSprop(centered=True, momentum=momentum, eps_in_sqrt=eps_in_sqrt)
    var = np.zeros(64, dtype)
    grad = np.full(64, gradient, dtype) * np.linspace(0.9, 1.1, 64).astype(dtype)
    went_below = False
    for _ in range(1000):
        opt.apply_gradients([(grad, var)])
        mg = opt.get_slot(var, "mg")
        went_below |= bool((opt.get_slot(var, "rms") - mg * mg < 0).any())
    assert np.isfinite(var).all()
    assert went_below  # else this test would prove nothing


def test_slots_never_hold_subnormal_numbers(dtype, isa) -> None:
    opt = RMSprop(centered=True, momentum=0.5)
    var = np.ones(50, dtype)
    opt.apply_gradients([(np.full(50, 1e-3, dtype), var)])
    smallest = np.finfo(dtype).smallest_normal
    # rms falls by .9 a step: from 1e-7 below 1e-308 in 301*ln(10)/-ln(.9) = 6,600.
    steps = 900 if dtype is np.float32 else 7000
    for _ in range(steps):
        opt.apply_gradients([(np.zeros(50, dtype), var)])
        for name in ("rms", "mg", "momentum"):
            slot = np.abs(opt.get_slot(var, name))
            assert ((slot == 0) | (slot >= smallest)).all()
    assert (opt.get_slot(var, "rms") == 0).all()


def test_subnormal_gradients_and_parameters_are_not_flushed(dtype, isa) -> None:
    tiny = np.finfo(dtype).smallest_subnormal
    var = np.array([tiny, -tiny], dtype)
    grad = np.array([0, tiny], dtype)
    opt = RMSprop(learning_rate=0.0)
    opt.apply_gradients([(grad, var)])
    np.testing.assert_array_equal(var, np.array([tiny, -tiny], dtype))
    clipped = opt.get_gradients(lambda: (0.0, [grad]), [var])[0]
    np.testing.assert_array_equal(clipped, grad)


NEHALEM = """
import numpy as np, rmsprop_fast as rf
from rmsprop_fast.cpu import _platform, dispatch
assert dispatch.ISA == "baseline" and dispatch.available() == ["baseline"]
var, grad = np.ones(1000, np.float32), np.linspace(-1, 1, 1000, dtype=np.float32)
opt = rf.RMSprop(centered=True, momentum=0.9)
for _ in range(3):
    opt.apply_gradients([(grad, var)])
print(var.tobytes().hex())
"""


@pytest.mark.skipif(
    shutil.which("qemu-x86_64") is None or "avx2" not in dispatch.available(),
    reason="needs qemu-x86_64 (Debian: qemu-user) on a machine with AVX2",
)
class TestOldProcessor:
    """On a processor without AVX, emulated."""

    @staticmethod
    def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["qemu-x86_64", "-cpu", "Nehalem", sys.executable, "-W", "ignore"]
            + ["-c", code],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | env,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def test_the_baseline_is_chosen_and_gives_the_same_bits(self) -> None:
        result = self.run(NEHALEM)
        assert result.returncode == 0, result.stderr
        var = np.ones(1000, np.float32)
        grad = np.linspace(-1, 1, 1000, dtype=np.float32)
        opt = RMSprop(centered=True, momentum=0.9)
        for _ in range(3):
            opt.apply_gradients([(grad, var)])
        assert result.stdout.strip() == var.tobytes().hex()

    def test_forcing_avx2_fails_loudly(self) -> None:
        result = self.run("import rmsprop_fast", RMSPROP_FAST_ISA="avx2")
        assert result.returncode == 1
        assert "RMSPROP_FAST_ISA must be one of baseline here, got 'avx2'" in (
            result.stderr
        )

    def test_the_avx2_loops_are_illegal_there(self) -> None:
        """The two tests above have teeth: without dispatch the process would die."""
        code = (
            "from rmsprop_fast.cpu import _platform, dispatch\n"
            "_platform.ISAS['avx2'] = True\n"
            "dispatch.select('avx2')\n"
            + NEHALEM.split("assert")[0]
            + "var = np.ones(1000, np.float32)\n"
            "rf.RMSprop().apply_gradients([(var.copy(), var)])\n"
        )
        result = self.run(code)
        assert result.returncode in (-4, 132), result.stderr  # SIGILL is 4
