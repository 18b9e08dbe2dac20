"""Any layout, shape, dtype and index pattern: updated in place, and right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from reference import Reference
from support import assert_same_bits

from rmsprop_fast import IndexedSlices, RMSprop
from rmsprop_fast.cpu import _step

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)
DTYPES = st.sampled_from([np.float32, np.float64])
INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


@st.composite
def placed(draw: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Draw where an array of a shape lies: order, steps, direction and alignment."""
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.sampled_from([1, 1, 1, 2, -1, -2])) for _ in shape]
    # One element more than the last one reached, along each axis of the base.
    sides = [
        max(abs(s) * (n - 1) + 1, 0) + draw(st.integers(0, 1))
        for s, n in zip(steps, shape, strict=True)
    ]
    base_sides = [sides[axis] for axis in order]
    item = np.dtype(dtype).itemsize
    shift = draw(st.sampled_from([0, 0, item, 1]))  # 1: not aligned
    memory = np.zeros(math.prod(base_sides) * item + shift + item, np.uint8)
    base = memory[shift : shift + math.prod(base_sides) * item].view(dtype)
    base = base.reshape(base_sides).transpose(np.argsort(order))
    view = base[(..., *[slice(None, None, step) for step in steps])]
    return view[(..., *[slice(0, n) for n in shape])]


def fill(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    array[...] = rng.standard_normal(array.shape)
    return array


def memory_around(view: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bytes of a view's base, and which of them are the view's."""
    base = view
    while isinstance(base.base, np.ndarray):
        base = base.base
    first = view.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    steps = np.array(view.strides, np.intp).reshape(-1, *[1] * view.ndim)
    starts = first + (np.indices(view.shape) * steps).sum(axis=0)
    inside = np.zeros(base.size, bool)
    inside[(starts[..., None] + np.arange(view.itemsize)).ravel()] = True
    return base, inside


OPTIONS = st.fixed_dictionaries(
    {
        "learning_rate": st.floats(0, 1),
        "rho": st.floats(0, 1),
        "momentum": st.one_of(st.just(0.0), st.floats(0, 1)),
        "epsilon": st.floats(1e-8, 1),
        "centered": st.booleans(),
        "eps_in_sqrt": st.booleans(),
        "clipvalue": st.one_of(st.just(math.inf), st.floats(0, 10)),
        "clipnorm": st.one_of(st.just(math.inf), st.floats(0, 10)),
    }
)


def optimizer(options: dict[str, Any], **more: Any) -> RMSprop:
    clips = {k: None for k in ("clipvalue", "clipnorm") if options[k] == math.inf}
    return RMSprop(**(options | clips), **more)


@given(data=st.data(), shape=SHAPES, dtype=DTYPES, options=OPTIONS)
def test_dense_steps_equal_the_reference_in_any_layout(data, shape, dtype, options):
    rng = np.random.default_rng(0)
    var = fill(data.draw(placed(shape, dtype)), rng)
    opt = optimizer(options, num_threads=data.draw(st.integers(1, 3)))
    ref = Reference(dtype, **options)
    before = _step.set_serial_below(0)
    try:
        for _ in range(2):
            grad = fill(data.draw(placed(shape, dtype)), rng)
            grad.flags.writeable = False
            expected = ref.update(var, grad)
            opt.apply_gradients([(grad, var)])
            assert_same_bits(var, expected)
    finally:
        _step.set_serial_below(before)
    for name, slot in ref.slots.items():
        assert_same_bits(opt.get_slot(var, name), slot.astype(dtype))


@given(data=st.data(), dtype=DTYPES, options=OPTIONS)
def test_row_steps_equal_the_reference_in_any_layout(data, dtype, options):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=7))
    n = data.draw(st.integers(0, 40))
    rng = np.random.default_rng(0)
    var = fill(data.draw(placed(shape, dtype)), rng)
    opt = optimizer(options, num_threads=data.draw(st.integers(1, 3)))
    ref = Reference(dtype, **options)
    before = _step.set_serial_below(0)
    try:
        for _ in range(2):
            values = fill(data.draw(placed((n, *shape[1:]), dtype)), rng)
            kind = data.draw(st.sampled_from(INTEGERS))
            rows = st.lists(st.integers(0, shape[0] - 1), min_size=n, max_size=n)
            indices = np.repeat(np.array(data.draw(rows), kind), 2)[::2]
            dense_shape = data.draw(st.sampled_from([None, shape, list(shape)]))
            grad = IndexedSlices(values, indices, dense_shape)
            expected = ref.update(var, grad)
            opt.apply_gradients([(grad, var)])
            assert_same_bits(var, expected)
    finally:
        _step.set_serial_below(before)
    for name, slot in ref.slots.items():
        assert_same_bits(opt.get_slot(var, name), slot.astype(dtype))


@given(data=st.data(), shape=SHAPES, dtype=DTYPES)
def test_bytes_around_a_view_are_not_written(data, shape, dtype) -> None:
    var = data.draw(placed(shape, dtype))
    memory, inside = memory_around(var)
    memory[:] = 0xA5
    var[...] = 1
    before = memory.copy()
    RMSprop(0.5).apply_gradients([(np.ones(shape, dtype), var)])
    assert not (memory != before)[~inside].any()
    assert (var != 1).all()


def test_rows_not_in_indices_keep_every_bit(dtype, centered, momentum, rng) -> None:
    table = rng.standard_normal((50, 8)).astype(dtype)
    opt = RMSprop(centered=centered, momentum=momentum)
    opt.apply_gradients([(np.ones_like(table), table)])  # slots that could decay
    names = opt.get_slot_names()
    before = {name: opt.get_slot(table, name).copy() for name in names}
    start = table.copy()
    indices = np.array([3, 40, 3, 7])
    opt.apply_gradients([(IndexedSlices(np.ones((4, 8), dtype), indices), table)])
    others = np.setdiff1d(np.arange(50), indices)
    assert_same_bits(table[others], start[others])
    assert (table[indices] != start[indices]).all()
    for name in names:
        assert_same_bits(opt.get_slot(table, name)[others], before[name][others])


def test_empty_slices_change_nothing_but_the_count(dtype) -> None:
    table = np.ones((5, 2), dtype)
    empty = IndexedSlices(np.empty((0, 2), dtype), np.empty(0, np.int64))
    opt = RMSprop(momentum=0.9)
    assert opt.apply_gradients([(empty, table)]) == 1
    assert (table == 1).all()
    assert (opt.get_slot(table, "momentum") == 0).all()


def test_a_memory_mapped_table_is_updated_in_its_file(tmp_path: Path, dtype) -> None:
    path = tmp_path / "table"
    table = np.memmap(path, dtype, "w+", shape=(100, 4))
    rows = IndexedSlices(np.ones((2, 4), dtype), np.array([0, 99]))
    RMSprop(0.5).apply_gradients([(rows, table)])
    table.flush()
    read = np.fromfile(path, dtype).reshape(100, 4)
    assert np.flatnonzero(read.any(axis=1)).tolist() == [0, 99]


def test_a_slot_can_live_in_a_file(tmp_path: Path, dtype) -> None:
    var = np.ones((10, 3), dtype)
    opt = RMSprop()
    slot = opt.add_slot(
        var, "rms", np.memmap(tmp_path / "rms", dtype, "w+", shape=(10, 3))
    )
    opt.apply_gradients([(np.ones_like(var), var)])
    slot.flush()
    on_disk = np.fromfile(tmp_path / "rms", dtype).reshape(10, 3)
    # rms = 0.9*0 + (1 - 0.9)*1*1, rounded as T(1) - T(0.9)
    np.testing.assert_array_equal(on_disk, dtype(1) - dtype(0.9))
    assert opt.get_slot(var, "rms") is slot


def test_a_table_with_more_rows_than_32_bits_count(tmp_path: Path) -> None:
    # 2^32 + 10 rows of one float64 in a sparse file: row numbers need 64 bits.
    n = 2**32 + 10
    try:
        table = np.memmap(tmp_path / "table", np.float64, "w+", shape=(n,))
        rms = np.memmap(tmp_path / "rms", np.float64, "w+", shape=(n,))
    except OSError as error:
        pytest.skip(f"this file system holds no sparse file of 34 GB: {error}")
    opt = RMSprop(0.5)
    opt.add_slot(table, "rms", rms)
    indices = np.array([n - 1, 0, 2**31, n - 1, 2**32 + 1, 5] * 10)
    opt.apply_gradients([(IndexedSlices(np.ones(60), indices), table)])
    small = np.zeros(6)
    RMSprop(0.5).apply_gradients(
        [(IndexedSlices(np.ones(60), np.array([5, 0, 2, 5, 4, 1] * 10)), small)]
    )
    rows = [0, 5, 2**31, 2**32 + 1, n - 1]
    np.testing.assert_array_equal(table[rows], small[[0, 1, 2, 4, 5]])
    assert table[2**32 - 1] == 0


@pytest.mark.parametrize("n", [1, 31, 32, 33, 64, 65, 2000])
def test_a_hot_row_of_any_count_is_summed_in_runs_of_32(dtype, n, rng) -> None:
    values = rng.standard_normal((n, 3)).astype(dtype)
    grad = IndexedSlices(values, np.full(n, 2))
    table = np.zeros((4, 3), dtype)
    expected = Reference(dtype).update(table, grad)
    RMSprop().apply_gradients([(grad, table)])
    assert_same_bits(table, expected)


# One, two and three passes of 11 bits, and the row counts next to where they begin.
@pytest.mark.parametrize("n_rows", [1, 2, 2**11, 2**11 + 1, 2**22, 2**22 + 1, 2**24])
@pytest.mark.parametrize("n", [2, 32, 33, 5000])
def test_every_occurrence_meets_its_row_in_order(n, n_rows, rng) -> None:
    table = np.zeros(n_rows)  # pages that are not touched cost nothing
    indices = rng.integers(0, n_rows, n)
    indices[rng.random(n) < 0.3] = n_rows - 1
    values = rng.standard_normal(n)
    # With rho 0 a first step leaves rms = g^2, which shows the summed gradient.
    opt = RMSprop(1.0, rho=0.0, epsilon=1.0)
    opt.apply_gradients([(IndexedSlices(values, indices), table)])
    rows, sums = Reference(np.float64).sum_duplicates(indices, values)
    np.testing.assert_array_equal(opt.get_slot(table, "rms")[rows], sums * sums)
    assert np.count_nonzero(table) <= len(rows)
