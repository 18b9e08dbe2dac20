"""Steps on devices: the bits of the host's, without waiting for anything.

Every test runs on the kernels' text compiled for the CPU, behind a fake CuPy, and, with
``-m gpu``, on CuPy and a real device.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from places import OnDevice
from support import assert_same_bits

from rmsprop_fast import IndexedSlices, RMSprop, gradients, schedules
from rmsprop_fast.gpu import launches

OPTIONS = {"learning_rate": 0.01, "rho": 0.95, "epsilon": 1e-6}
FULL = OPTIONS | {"centered": True, "momentum": 0.9}


def wide_range(rng: np.random.Generator, shape: Any, dtype: Any) -> np.ndarray:
    """Numbers of all magnitudes, subnormal ones and zeros of both signs among them."""
    lowest = -44 if dtype == np.float32 else -320
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 4, shape)
    tiny = rng.standard_normal(shape) * 10.0 ** rng.integers(lowest // 2, -5, shape)
    x = np.where(rng.random(shape) < 0.2, tiny, x)
    return np.where(rng.random(shape) < 0.1, x * 0.0, x).astype(dtype)


def rows_of(rng, n: int, n_rows: int, width: Any, dtype: Any, kind: Any = np.int64):
    """Return row-sparse values for a table; few rows are hot, as in language."""
    width = width if isinstance(width, tuple) else (width,)
    indices = np.minimum(rng.zipf(1.3, n) - 1, n_rows - 1).astype(kind)
    return IndexedSlices(wide_range(rng, (n, *width), dtype), indices)


class Twins:
    """The same variables and steps on a device and on the host."""

    def __init__(
        self, xp: OnDevice, variables: list[Any], offsets: Any = 0, **options: Any
    ) -> None:
        if isinstance(offsets, int):
            offsets = [offsets] * len(variables)
        self.xp, self.offsets = xp, offsets
        self.host = [var.copy() for var in variables]
        self.device = [xp(var, k) for var, k in zip(variables, offsets, strict=True)]
        self.opt, self.twin = RMSprop(**options), RMSprop(**options)

    def step(self, grads: list[Any], chosen: Any = None) -> tuple[int, int]:
        """Update all variables, or those chosen; return what both calls do."""
        chosen = range(len(self.host)) if chosen is None else chosen
        pairs = list(zip(grads, chosen, strict=True))
        theirs = self.twin.apply_gradients([(g, self.host[k]) for g, k in pairs])
        moved = [(self.xp.grad(g, self.offsets[k]), self.device[k]) for g, k in pairs]
        return self.opt.apply_gradients(moved), theirs

    def catch_up(self, k: int | None = None, rows: Any = None) -> None:
        if k is None:
            self.twin.catch_up()
            self.opt.catch_up()
        else:
            self.twin.catch_up(self.host[k], rows)
            moved = None if rows is None else self.xp(rows)
            self.opt.catch_up(self.device[k], moved)

    def assert_same(self) -> None:
        """Compare variables, slots and counters."""
        for ours, expected in zip(self.device, self.host, strict=True):
            assert_same_bits(ours.get(), expected)
        ours, theirs = self.opt._slots.to_save(), self.twin._slots.to_save()
        assert ours["arrays"].keys() == theirs["arrays"].keys()
        for name, array in ours["arrays"].items():
            assert_same_bits(array, theirs["arrays"][name])
        assert self.opt.iterations == self.twin.iterations


def assert_device_equals_host(
    xp: OnDevice,
    variables: list[np.ndarray],
    steps: list[list[Any]],
    offsets: Any = 0,
    **options: Any,
) -> None:
    """Make the same steps on both, and compare variables and slots."""
    twins = Twins(xp, variables, offsets, **options)
    for grads in steps:
        ours, theirs = twins.step(grads)
        assert ours == theirs
    twins.assert_same()
    weights = twins.opt.get_weights(), twins.twin.get_weights()
    for ours, expected in zip(*weights, strict=True):
        assert_same_bits(ours, expected)


# --- The bits -------------------------------------------------------------------------

# Around a pack of 16 bytes, a warp, a block, a chunk and a norm's block.
SIZES = 0, 1, 3, 4, 5, 31, 33, 255, 1025, 2049, 4097, 8191, 8193, 16500


@pytest.mark.parametrize("offset", [0, 1, 2])
def test_dense_steps_have_the_bits_of_the_host(
    xp, rng, dtype, centered, momentum, eps_in_sqrt, clip, offset
) -> None:
    options = OPTIONS | {"centered": centered, "momentum": momentum}
    options |= {"eps_in_sqrt": eps_in_sqrt}
    sizes = SIZES if offset == 0 else SIZES[:-3]
    variables = [wide_range(rng, n, dtype) for n in sizes]
    steps = [[wide_range(rng, n, dtype) for n in sizes] for _ in range(2)]
    assert_device_equals_host(xp, variables, steps, offset, **options, **clip)


def test_arrays_of_one_variable_may_be_misaligned_each_by_itself(xp, rng, dtype):
    sizes = [70] * 4
    variables = [wide_range(rng, n, dtype) for n in sizes]
    steps = [[wide_range(rng, n, dtype) for n in sizes]]
    assert_device_equals_host(xp, variables, steps, [0, 1, 2, 3], **FULL)


# Rows, width and occurrences: one, a run of 32 and one more, hot rows, none.
TABLES = [
    (5, (1,), 1),
    (3, (3,), 32),
    (3, (4,), 33),
    (1, (2,), 70),
    (40, (8,), 300),
    (9, (2, 5), 500),
    (700, (130,), 40),
    (4, (0,), 3),
    (6, (7,), 0),
]


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_rows_have_the_bits_of_the_host(
    xp, rng, dtype, centered, momentum, clip, table
) -> None:
    n_rows, width, n = table
    options = OPTIONS | {"centered": centered, "momentum": momentum}
    var = wide_range(rng, (n_rows, *width), dtype)
    steps = [[rows_of(rng, n, n_rows, width, dtype)] for _ in range(2)]
    assert_device_equals_host(xp, [var], steps, **options, **clip)


# Three passes by one block, then by one block for each of several tiles.
@pytest.mark.parametrize("table", [(70_000, 2, 4090), (70_000, 4, 9000)], ids=str)
def test_long_lists_of_rows_have_the_bits_of_the_host(xp, rng, dtype, table) -> None:
    n_rows, width, n = table
    var = wide_range(rng, (n_rows, width), dtype)
    grad = rows_of(rng, n, n_rows, width, dtype)
    grad.indices[::3] = rng.integers(0, n_rows, len(grad.indices[::3]))
    assert_device_equals_host(xp, [var], [[grad]], **FULL)


@pytest.mark.parametrize("offset", [0, 1, 2, 3])
def test_many_tables_are_one_list_of_rows(xp, rng, dtype, offset, eps_in_sqrt) -> None:
    variables = [wide_range(rng, (9, w), dtype) for w in range(1, 14)]
    steps = [
        [rows_of(rng, 5 * w, 9, w, dtype, np.int32) for w in range(1, 14)]
        for _ in range(2)
    ]
    options = FULL | {"eps_in_sqrt": eps_in_sqrt}
    assert_device_equals_host(xp, variables, steps, offset, **options)


@pytest.mark.parametrize("kind", "bBhHiIqQ")
def test_indices_may_have_any_integer_dtype(xp, rng, kind) -> None:
    var = wide_range(rng, (90, 3), np.float32)
    grad = rows_of(rng, 200, 90, 3, np.float32, np.dtype(kind))
    assert_device_equals_host(xp, [var], [[grad]], **OPTIONS)


def test_a_table_of_one_dimension_has_rows_of_one_element(xp, rng, dtype) -> None:
    var = wide_range(rng, 50, dtype)
    grad = rows_of(rng, 80, 50, (), dtype)
    assert_device_equals_host(xp, [var], [[grad]], **FULL)


def make_step(rng: np.random.Generator, dtype: Any) -> tuple[list[Any], list[Any]]:
    """Return a step of every kind of work."""
    variables = [
        wide_range(rng, shape, dtype) for shape in [(1,), (9000,), (64, 3), ()]
    ]
    grads: list[Any] = [wide_range(rng, var.shape, dtype) for var in variables]
    for shape, n in [((50, 33), 400), ((9,), 500), ((300, 2, 3), 900), ((2, 129), 99)]:
        variables.append(wide_range(rng, shape, dtype))
        grads.append(rows_of(rng, n, shape[0], shape[1:], dtype))
    return variables, grads


def test_the_order_of_blocks_and_threads_does_not_matter(xp, rng, dtype, clip, order):
    variables, grads = make_step(rng, dtype)
    assert_device_equals_host(xp, variables, [grads, grads], **FULL, **clip)


def test_both_dtypes_go_into_one_step(xp, rng, clip) -> None:
    variables, grads = make_step(rng, np.float32)
    others, more = make_step(rng, np.float64)
    mixed = [x for pair in zip(variables, others, strict=True) for x in pair]
    both = [x for pair in zip(grads, more, strict=True) for x in pair]
    assert_device_equals_host(xp, mixed, [both, both], **FULL, **clip)


@pytest.mark.parametrize("n", [511, 512, 513, 1500])
def test_any_number_of_variables_is_one_step(xp, rng, n, clip) -> None:
    variables = [wide_range(rng, 1 + k % 7, np.float32) for k in range(n)]
    steps = [[wide_range(rng, var.shape, np.float32) for var in variables]]
    assert_device_equals_host(xp, variables, steps, **FULL, **clip)


@pytest.mark.parametrize("n", [255, 256, 257, 600])
def test_any_number_of_tables_is_one_step(xp, rng, n) -> None:
    variables = [wide_range(rng, (4, 1 + k % 5), np.float64) for k in range(n)]
    grads = [rows_of(rng, k % 9, 4, 1 + k % 5, np.float64) for k in range(n)]
    assert_device_equals_host(xp, variables, [grads], **FULL, clipnorm=0.5)


def test_occurrences_of_64_bits_have_the_same_bits(xp, rng, monkeypatch, clip) -> None:
    monkeypatch.setattr(launches, "WIDE_FROM", 0)
    variables, grads = make_step(rng, np.float32)
    assert_device_equals_host(xp, variables, [grads], **FULL, **clip)


def test_500_variables_are_one_launch(fake, rng) -> None:
    variables = [fake(wide_range(rng, 5, np.float32)) for _ in range(500)]
    opt = RMSprop()
    opt.build(variables)
    fake.cupy.machine.launched.clear()
    opt.apply_gradients([(fake(np.ones(5, np.float32)), var) for var in variables])
    assert [name for name, *_ in fake.cupy.machine.launched] == ["rmsprop_dense_f32_4"]


def test_the_same_variable_twice_is_updated_twice_in_order(xp, rng, dtype) -> None:
    var = wide_range(rng, (30, 3), dtype)
    rows = [rows_of(rng, 50, 30, 3, dtype) for _ in range(2)]
    dense = [wide_range(rng, (30, 3), dtype) for _ in range(2)]
    grads = [rows[0], dense[0], dense[1], rows[1], rows[0]]
    host, device = var.copy(), xp(var)
    opt, twin = RMSprop(**FULL, clipnorm=1.0), RMSprop(**FULL, clipnorm=1.0)
    twin.apply_gradients([(grad, host) for grad in grads])
    opt.apply_gradients([(xp.grad(grad), device) for grad in grads])
    assert_same_bits(device.get(), host)
    assert opt.iterations == 1


def test_weight_decay_reaches_the_device_but_for_what_is_excluded(xp, rng) -> None:
    variables, grads = make_step(rng, np.float32)
    host, ours = [var.copy() for var in variables], [xp(var) for var in variables]
    moved = [xp.grad(grad) for grad in grads]
    opt, twin = (RMSprop(0.1, momentum=0.5, weight_decay=0.3) for _ in range(2))
    opt.exclude_from_weight_decay([ours[1], ours[4]])
    twin.exclude_from_weight_decay([host[1], host[4]])
    for _ in range(2):
        opt.apply_gradients(zip(moved, ours, strict=True))
        twin.apply_gradients(zip(grads, host, strict=True))
    for a, b in zip(ours, host, strict=True):
        assert_same_bits(a.get(), b)


def test_a_saved_optimizer_goes_to_either_place(xp, rng, tmp_path) -> None:
    from rmsprop_fast import load

    start, grad = wide_range(rng, (4, 2), np.float32), np.ones((4, 2), np.float32)
    ours = xp(start)
    opt = RMSprop(**FULL)
    opt.apply_gradients([(xp(grad), ours)])
    opt.save(tmp_path / "state")
    host = ours.get()
    again = load(tmp_path / "state")
    again.apply_gradients([(grad, host)])
    opt.apply_gradients([(xp(grad), ours)])
    assert_same_bits(host, ours.get())


def test_gradients_may_take_turns_in_any_pattern(xp, rng) -> None:
    host = wide_range(rng, 6, np.float32)
    var = xp(host)
    grads = [wide_range(rng, 6, np.float32) for _ in range(3)]
    moved = [xp(grad) for grad in grads]
    opt, twin = RMSprop(), RMSprop()
    for k in (0, 0, 0, 1, 0, 1, 1, 2, 1, 0, 0, 2):
        opt.apply_gradients([(moved[k], var)])
        twin.apply_gradients([(grads[k], host)])
        assert_same_bits(var.get(), host)


def test_nan_and_infinity_stay_in_their_element(xp, dtype, centered, momentum) -> None:
    grad = np.ones(9, dtype)
    grad[[1, 4, 6]] = np.nan, np.inf, -np.inf
    options = OPTIONS | {"centered": centered, "momentum": momentum}
    assert_device_equals_host(xp, [np.ones(9, dtype)], [[grad]] * 3, **options)


def test_schedules_and_decay_reach_the_device(xp, rng) -> None:
    var = wide_range(rng, 40, np.float32)
    steps = [[wide_range(rng, 40, np.float32)] for _ in range(5)]
    rate = schedules.CosineDecay(0.1, decay_steps=4)
    assert_device_equals_host(xp, [var], steps, learning_rate=rate, decay=0.5)


def test_minimize_and_grad_loss_multiply_before_clipping(xp, rng) -> None:
    var, grad = wide_range(rng, 40, np.float32), wide_range(rng, 40, np.float32)
    host, device = var.copy(), xp(var)
    opt, twin = RMSprop(clipnorm=0.5), RMSprop(clipnorm=0.5)
    twin.minimize(lambda: (1.0, [grad]), [host], grad_loss=-3.0)
    opt.minimize(lambda: (1.0, xp(grad)), device, grad_loss=-3.0)
    assert_same_bits(device.get(), host)


def test_get_gradients_returns_clipped_copies_on_the_device(xp, rng, dtype, clip):
    variables, grads = make_step(rng, dtype)
    extra = wide_range(rng, 12_345, dtype)
    variables, grads = [*variables, extra], [*grads, extra * 2]
    moved = [xp.grad(grad, 1) for grad in grads]
    before = [g.values.get() if hasattr(g, "values") else g.get() for g in moved]
    opt, twin = RMSprop(**clip), RMSprop(**clip)
    ours = opt.get_gradients(lambda: (0.0, moved), [xp(var) for var in variables])
    expected = twin.get_gradients(lambda: (0.0, grads), variables)
    for k, (a, b) in enumerate(zip(ours, expected, strict=True)):
        if isinstance(b, IndexedSlices):
            np.testing.assert_array_equal(a.indices.get(), b.indices)
            a, b = a.values, b.values
            assert_same_bits(moved[k].values.get(), before[k])
        assert_same_bits(a.get(), b)


# --- Mixed lists ----------------------------------------------------------------------


def test_variables_may_lie_on_the_host_and_on_devices(fake, rng, dtype) -> None:
    variables, grads = make_step(rng, dtype)
    places = [None, 0, 1] * 3
    host = [var.copy() for var in variables]
    ours = [
        var.copy() if place is None else fake(var, 0, place)
        for var, place in zip(variables, places, strict=False)
    ]
    moved = [
        grad if place is None else fake.grad(grad, 0, place)
        for grad, place in zip(grads, places, strict=False)
    ]
    opt, twin = RMSprop(**FULL, clipnorm=1.0), RMSprop(**FULL, clipnorm=1.0)
    for _ in range(2):
        twin.apply_gradients(zip(grads, host, strict=True))
        opt.apply_gradients(zip(moved, ours, strict=True))
    assert {number for _, number, _ in fake.cupy.machine.launched} == {0, 1}
    for a, b in zip(ours, host, strict=True):
        assert_same_bits(a if isinstance(a, np.ndarray) else a.get(), b)
    for a, b in zip(opt.get_weights(), twin.get_weights(), strict=True):
        assert_same_bits(a, b)
    for var in ours:
        slot = opt.get_slot(var, "rms")
        assert type(slot) is type(var)
        if not isinstance(var, np.ndarray):
            assert slot.data.device_id == var.data.device_id


def test_host_and_device_variables_may_come_in_any_order_and_be_forgotten(xp, rng):
    opt, twin = RMSprop(**FULL), RMSprop(**FULL)
    hosts = [wide_range(rng, 5 + k, np.float32) for k in range(4)]
    twins = [var.copy() for var in hosts]
    ours = [hosts[0], xp(hosts[1]), hosts[2], xp(hosts[3])]
    grads = [wide_range(rng, var.shape, np.float32) for var in hosts]
    moved = [grads[0], xp(grads[1]), grads[2], xp(grads[3])]
    for chosen in [0], [1], [3, 2], [0, 1, 2, 3]:
        twin.apply_gradients([(grads[k], twins[k]) for k in chosen])
        opt.apply_gradients([(moved[k], ours[k]) for k in chosen])
    twin.forget(twins[1])
    opt.forget(ours[1])
    for chosen in [3, 0], [2], [0, 2, 3]:
        twin.apply_gradients([(grads[k], twins[k]) for k in chosen])
        opt.apply_gradients([(moved[k], ours[k]) for k in chosen])
    assert_same_bits(ours[2], twins[2])
    assert_same_bits(ours[3].get(), twins[3])
    for a, b in zip(opt.get_weights(), twin.get_weights(), strict=True):
        assert_same_bits(a, b)


def test_a_broken_rule_on_the_host_keeps_the_device_from_changing(xp) -> None:
    device, host = xp(np.ones(3)), np.ones(3)
    opt = RMSprop()
    opt.build([device, host])
    with pytest.raises(ValueError, match=r"grads_and_vars\[1\]: gradient has shape"):
        opt.apply_gradients([(xp(np.ones(3)), device), (np.ones(4), host)])
    assert (device.get() == 1).all()
    assert opt.iterations == 0


# --- Rows out of range ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "row"), [("q", -1), ("i", 5), ("Q", 2**64 - 1), ("b", -7)]
)
def test_a_row_out_of_range_changes_nothing_and_is_raised_by_the_next_call(
    xp, rng, kind, row
) -> None:
    start = wide_range(rng, (5, 3), np.float32)
    table, bias = xp(start), xp(np.ones(4, np.float32))
    opt = RMSprop(**FULL)
    opt.build([table, bias])
    good = rows_of(rng, 8, 5, 3, np.float32, np.dtype(kind))
    opt.apply_gradients([(xp.grad(good), table)])
    before = table.get()
    weights = opt.get_weights()
    indices = good.indices.copy()
    indices[6] = row
    bad = IndexedSlices(good.values, indices)
    pairs = [(xp(np.ones(4, np.float32)), bias), (xp.grad(bad), table)]
    opt.apply_gradients(pairs)
    opt._devices.devices[0].wait()
    message = rf"grads_and_vars\[1\]: row {row} at position 6 is not in \[0, 5\)"
    with pytest.raises(IndexError, match=message):
        opt.apply_gradients([(xp.grad(good), table)])
    assert opt.iterations == 1
    assert_same_bits(table.get(), before)
    assert (bias.get() == 1).all()
    for a, b in zip(opt.get_weights(), weights, strict=True):
        assert_same_bits(a, b)
    assert opt.apply_gradients([(xp.grad(good), table)]) == 2
    opt.check()
    assert (table.get() != before).any()


def test_check_waits_and_raises_once(xp, rng) -> None:
    table = xp(np.ones((5, 3)))
    opt = RMSprop()
    opt.apply_gradients([(xp.grad(rows_of(rng, 9, 5, 3, np.float64)), table)])
    bad = IndexedSlices(np.ones((1, 3)), np.array([5]))
    opt.apply_gradients([(xp.grad(bad), table)])
    with pytest.raises(IndexError, match="row 5 at position"):
        opt.check()
    opt.check()
    RMSprop().check()


def test_what_follows_a_bad_row_does_nothing_until_it_is_raised(fake, rng) -> None:
    table, dense = fake(np.ones((5, 3))), fake(np.ones(5))
    opt = RMSprop()
    opt.build([table, dense])
    bad = fake.grad(IndexedSlices(np.ones((40, 3)), np.full(40, 9)))
    grad = fake(np.ones(5))
    opt.apply_gradients([(bad, table)])
    opt.apply_gradients([(grad, dense)])
    opt.apply_gradients([(bad, table), (grad, dense)])
    assert opt.iterations == 3  # nobody has waited
    with pytest.raises(IndexError):
        opt.get_weights()
    assert opt.iterations == 0
    assert (dense.get() == 1).all()
    assert (table.get() == 1).all()


# --- Streams, graphs, waiting ---------------------------------------------------------


def assert_step_sees_everything(fake: OnDevice, change: Callable[..., Any]) -> None:
    """Change a state, step at once on another stream, and wait for that alone."""
    var, grad = fake(np.ones(5, np.float32)), fake(np.ones(5, np.float32))
    host = np.ones(5, np.float32)
    opt, twin = RMSprop(), RMSprop()
    for optimizer, array in (opt, var), (twin, host):
        optimizer.build([array])
    fake.cupy.cuda.Device(0).synchronize()
    change(opt, var)
    change(twin, host)
    twin.apply_gradients([(np.ones(5, np.float32), host)])
    stream = fake.cupy.cuda.Stream(non_blocking=True)
    with stream:
        opt.apply_gradients([(grad, var)])
        stream.synchronize()
        assert_same_bits(var._host, host)


def test_weights_are_set_before_a_step_on_any_stream(fake) -> None:
    def change(opt: RMSprop, _: Any) -> None:
        opt.set_weights([np.int64(3), np.full(5, 4, np.float32)])

    assert_step_sees_everything(fake, change)


def test_a_slot_is_there_before_a_step_on_any_stream(fake) -> None:
    def change(opt: RMSprop, var: Any) -> None:
        opt.add_slot(var, "momentum")
        opt.momentum = 0.5

    assert_step_sees_everything(fake, change)


def test_weights_of_a_variable_without_dimensions_are_set(xp) -> None:
    var = xp(np.float32(2))
    opt = RMSprop()
    opt.build([var])
    opt.set_weights([np.int64(7), np.float32(0.25)])
    assert opt.iterations == 7
    assert opt.get_weights()[1] == np.float32(0.25)


def test_a_graph_allocates_nothing_so_that_it_can_be_launched_again(fake, rng) -> None:
    table = fake(np.ones((5, 3), np.float32))
    opt = RMSprop(clipnorm=1.0)
    grad = fake.grad(rows_of(rng, 40, 5, 3, np.float32))
    with fake.captured(opt, [(grad, table)]) as (stream, graph):
        for _ in range(3):
            graph.launch()
        stream.synchronize()


def test_an_error_found_while_a_graph_is_recorded_is_raised_later(fake) -> None:
    table = fake(np.ones((5, 3)))
    opt = RMSprop()
    good, bad = (
        fake.grad(IndexedSlices(np.ones((2, 3)), np.array([1, row]))) for row in (2, 5)
    )
    opt.apply_gradients([(good, table)])
    opt.apply_gradients([(bad, table)])
    fake.cupy.cuda.Device(0).synchronize()
    stream = fake.cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        opt.apply_gradients([(good, table)])  # waiting would be an error of CUDA
        stream.end_capture()
    with pytest.raises(IndexError, match="row 5 at position 1"):
        opt.check()


def test_a_wrapped_loss_may_have_its_value_on_the_device(fake) -> None:
    var = fake(np.ones(3))
    opt = RMSprop()
    loss = gradients.wrap(lambda w: (fake(np.float64(2.5)), fake(np.ones(3))))
    opt.minimize(loss, [var])
    fake.cupy.machine.waits = 0
    opt.minimize(loss, [var])
    assert fake.cupy.machine.waits == 0
    assert float(opt.last_loss) == 2.5
    array = gradients.wrap(lambda w: (fake(np.ones(1)), fake(np.ones(3))))
    with pytest.raises(ValueError, match="loss must be a scalar"):
        opt.minimize(array, [var])


def test_a_step_waits_for_nothing(fake, rng, clip) -> None:
    variables, grads = make_step(rng, np.float32)
    ours = [fake(var) for var in variables]
    moved = [fake.grad(grad) for grad in grads]
    opt = RMSprop(**FULL, **clip)
    opt.apply_gradients(zip(moved, ours, strict=True))
    fake.cupy.machine.waits = 0
    for _ in range(3):
        opt.apply_gradients(zip(moved, ours, strict=True))
    assert fake.cupy.machine.waits == 0


def test_launches_go_to_the_current_stream(xp, rng) -> None:
    variables, grads = make_step(rng, np.float32)
    host, ours = [var.copy() for var in variables], [xp(var) for var in variables]
    moved = [xp.grad(grad) for grad in grads]
    opt, twin = RMSprop(**FULL), RMSprop(**FULL)
    opt.build(ours)
    stream = xp.cupy.cuda.Stream(non_blocking=True)
    xp.cupy.cuda.Device(0).synchronize()
    if xp.is_fake:
        xp.cupy.machine.launched.clear()
    with stream:
        for _ in range(2):
            opt.apply_gradients(zip(moved, ours, strict=True))
    stream.synchronize()
    if xp.is_fake:
        assert {s for *_, s in xp.cupy.machine.launched} == {stream}
    for _ in range(2):
        twin.apply_gradients(zip(grads, host, strict=True))
    for a, b in zip(ours, host, strict=True):
        assert_same_bits(a.get(), b)


@pytest.mark.parametrize("norm", ["clipnorm", "global_clipnorm"])
def test_a_step_can_be_captured_and_replayed(xp, rng, norm) -> None:
    variables, grads = make_step(rng, np.float32)
    host, ours = [var.copy() for var in variables], [xp(var) for var in variables]
    moved = [xp.grad(grad) for grad in grads]
    rate = xp(np.float32(0.5))
    opt = RMSprop(rate, momentum=0.9, centered=True, **{norm: 1.0})
    twin = RMSprop(0.5, momentum=0.9, centered=True, **{norm: 1.0})
    with xp.captured(opt, zip(moved, ours, strict=True)) as (stream, graph):
        for k in range(4):
            if k == 2:
                rate.set(np.array(0.25, np.float32))
            graph.launch()
            stream.synchronize()
    assert opt.iterations == 2  # replays are not counted
    for k in range(5):
        twin.learning_rate = 0.5 if k < 3 else 0.25
        twin.apply_gradients(zip(grads, host, strict=True))
    for a, b in zip(ours, host, strict=True):
        assert_same_bits(a.get(), b)


def test_a_bad_row_in_a_replay_is_found(xp, rng) -> None:
    table = xp(np.ones((5, 3)))
    indices = xp(np.array([1, 2]))
    grad = IndexedSlices(xp(np.ones((2, 3))), indices)
    opt = RMSprop()
    with xp.captured(opt, [(grad, table)]) as (_, graph):
        indices.set(np.array([1, 7]))
        before = table.get()
        graph.launch()
        with pytest.raises(IndexError, match="row 7 at position 1"):
            opt.check()
    assert_same_bits(table.get(), before)
    assert opt.iterations == 2


# --- The learning rate on the device --------------------------------------------------


@pytest.mark.parametrize("rate_dtype", [np.float32, np.float64])
def test_the_learning_rate_may_be_a_scalar_on_the_device(xp, rng, rate_dtype) -> None:
    variables, grads = make_step(rng, np.float64)
    host, ours = [var.copy() for var in variables], [xp(var) for var in variables]
    moved = [xp.grad(grad) for grad in grads]
    rate = xp(rate_dtype(0.3))
    opt = RMSprop(rate, momentum=0.5, decay=0.25)
    twin = RMSprop(float(rate_dtype(0.3)), momentum=0.5, decay=0.25)
    for _ in range(3):
        opt.apply_gradients(zip(moved, ours, strict=True))
        twin.apply_gradients(zip(grads, host, strict=True))
    for a, b in zip(ours, host, strict=True):
        assert_same_bits(a.get(), b)
    assert opt.learning_rate is rate
    assert "learning_rate=<float" in repr(opt)
    assert json.loads(json.dumps(opt.get_config()))["learning_rate"] == rate.get()
    assert pickle.loads(pickle.dumps(opt)).learning_rate == rate.get()


def test_a_learning_rate_on_a_device_is_for_variables_there(fake) -> None:
    opt = RMSprop(fake(np.float32(0.1)))
    message = "learning_rate on cuda:0 must be for variables there, got one on "
    with pytest.raises(ValueError, match=message + "the host"):
        opt.apply_gradients([(np.ones(3), np.ones(3))])
    on_1 = fake(np.ones(3), 0, 1)
    with pytest.raises(ValueError, match=message + "cuda:1"):
        opt.apply_gradients([(fake(np.ones(3), 0, 1), on_1)])
    with pytest.raises(ValueError, match="learning_rate must have 0 dimensions"):
        opt.learning_rate = fake(np.ones(1, np.float32))
    with pytest.raises(TypeError, match="learning_rate must have dtype float32 or"):
        opt.learning_rate = fake(np.int32(1))
    with pytest.raises(TypeError, match="rho must be a real number"):
        opt.rho = fake(np.float32(1))


# --- State ----------------------------------------------------------------------------


def test_weights_are_numpy_arrays_and_go_to_either_place(xp, rng) -> None:
    var = wide_range(rng, (6, 2), np.float32)
    steps = [wide_range(rng, (6, 2), np.float32) for _ in range(3)]
    ours, host = xp(var), var.copy()
    opt, twin = RMSprop(**FULL), RMSprop(**FULL)
    opt.apply_gradients([(xp(steps[0]), ours)])
    weights = opt.get_weights()
    assert all(type(array) is np.ndarray for array in weights)
    twin.build([host])
    twin.set_weights(weights)
    host[...] = ours.get()
    again = RMSprop(**FULL)
    moved = xp(host)
    again.build([moved])
    again.set_weights([weights[0], *map(xp, weights[1:])])
    for optimizer, target, put in (
        (opt, ours, xp),
        (twin, host, np.asarray),
        (
            again,
            moved,
            xp,
        ),
    ):
        for grad in steps[1:]:
            optimizer.apply_gradients([(put(grad), target)])
    assert_same_bits(ours.get(), host)
    assert_same_bits(moved.get(), host)
    with pytest.raises(ValueError, match=r"weights\[1\] must have the shape"):
        opt.set_weights([weights[0], weights[1][:2], *weights[2:]])


@pytest.mark.parametrize("copied", [copy.copy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_binds_on_either_place(xp, rng, copied) -> None:
    start = wide_range(rng, (6, 2), np.float32)
    grads = [wide_range(rng, (6, 2), np.float32) for _ in range(2)]
    ours = xp(start)
    opt = RMSprop(**FULL)
    opt.apply_gradients([(xp(grads[0]), ours)])
    on_host, elsewhere = ours.get(), xp(ours.get())
    twin, other = copied(opt), copied(opt)
    opt.apply_gradients([(xp(grads[1]), ours)])
    twin.apply_gradients([(grads[1], on_host)])
    other.apply_gradients([(xp(grads[1]), elsewhere)])
    assert_same_bits(on_host, ours.get())
    assert_same_bits(elsewhere.get(), ours.get())
    assert isinstance(twin.get_slot(on_host, "rms"), np.ndarray)
    assert isinstance(other.get_slot(elsewhere, "rms"), xp.cupy.ndarray)


def test_slots_may_be_added_and_begin_as_given(xp) -> None:
    var = xp(np.ones(4, np.float32))
    opt = RMSprop(momentum=0.5)
    slot = opt.add_slot(var, "rms", np.full(4, 0.25, np.float32))
    assert isinstance(slot, xp.cupy.ndarray)
    assert (slot.get() == 0.25).all()
    other = opt.add_slot(var, "momentum", xp(np.full(4, 0.5, np.float32)))
    assert (other.get() == 0.5).all()
    assert opt.get_slot(var, "momentum") is other
    host = np.ones(4, np.float32)
    twin = RMSprop(momentum=0.5)
    twin.add_slot(host, "rms", np.full(4, 0.25, np.float32))
    twin.add_slot(host, "momentum", np.full(4, 0.5, np.float32))
    opt.apply_gradients([(xp(host), var)])
    twin.apply_gradients([(host.copy(), host)])
    assert_same_bits(var.get(), host)


def test_a_fresh_view_of_a_variable_finds_its_slots(xp) -> None:
    var = xp(np.ones((3, 2)))
    opt = RMSprop()
    opt.apply_gradients([(xp(np.ones((3, 2))), var[:])])
    opt.apply_gradients([(xp(np.ones((3, 2))), var)])
    assert len(opt.weights) == 2
    assert opt.get_slot(var.view(), "rms") is opt.get_slot(var, "rms")


def test_a_momentum_set_later_creates_its_slot_on_the_device(xp, rng) -> None:
    var = wide_range(rng, 40, np.float32)
    host, ours = var.copy(), xp(var)
    opt, twin = RMSprop(), RMSprop()
    for momentum in 0.0, 0.5, 0.0, 0.5:
        opt.momentum = twin.momentum = momentum
        grad = wide_range(rng, 40, np.float32)
        opt.apply_gradients([(xp(grad), ours)])
        twin.apply_gradients([(grad, host)])
    assert_same_bits(ours.get(), host)


# --- What is refused ------------------------------------------------------------------


def refusals(xp: OnDevice) -> dict[str, tuple[Any, type[Exception], str]]:
    var = xp(np.ones((4, 6), np.float32))
    grad = xp(np.ones((4, 6), np.float32))
    rows = xp(np.ones((2, 6), np.float32))
    return {
        "grad-on-the-host": (
            [(np.ones((4, 6), np.float32), var)],
            TypeError,
            "gradient must be where its variable is, on cuda:0, got",
        ),
        "var-on-the-host": (
            [(grad, np.ones((4, 6), np.float32))],
            TypeError,
            "gradient must be where its variable is, on the host, got",
        ),
        "strided-grad": (
            [(xp(np.ones((6, 4), np.float32)).T, var)],
            ValueError,
            "gradient must be C-contiguous on a device, got shape",
        ),
        "strided-var": (
            [(xp(np.ones((4, 3), np.float32)), var[:, ::2])],
            ValueError,
            "var must be C-contiguous on a device, got shape",
        ),
        "dtype": (
            [(xp(np.ones((4, 6))), var)],
            TypeError,
            "gradient has dtype float64, its variable float32",
        ),
        "integers": (
            [(grad, xp(np.ones((4, 6), np.int32)))],
            TypeError,
            "var must have dtype float32 or float64",
        ),
        "shape": (
            [(xp(np.ones((6, 4), np.float32)), var)],
            ValueError,
            r"gradient has shape \(6, 4\), its variable \(4, 6\)",
        ),
        "overlap": (
            [(var, var)],
            ValueError,
            "gradient shares memory with",
        ),
        "rows-of-another-width": (
            [(IndexedSlices(rows[:, :3].copy(), xp(np.array([1, 2]))), var)],
            ValueError,
            r"values has rows of shape \(3,\), its variable \(6,\)",
        ),
        "dense-shape": (
            [(IndexedSlices(rows, xp(np.array([1, 2])), (5, 6)), var)],
            ValueError,
            "dense_shape is",
        ),
        "list": ([([1.0], var)], TypeError, "gradient must be a numpy.ndarray"),
    }


REFUSALS = "grad-on-the-host var-on-the-host strided-grad strided-var dtype integers "
REFUSALS += "shape overlap rows-of-another-width dense-shape list"


@pytest.mark.parametrize("name", REFUSALS.split())
@pytest.mark.parametrize("is_built", [False, True], ids=["new", "bound"])
def test_a_refused_step_changes_nothing(xp, name, is_built) -> None:
    pairs, error, message = refusals(xp)[name]
    opt = RMSprop(momentum=0.5)
    other = xp(np.ones(3, np.float32))
    if is_built and name not in ("strided-var", "integers"):
        opt.apply_gradients([(xp(np.ones(3, np.float32)), other)])
        opt.build([pairs[0][1], other])
    before = other.get()
    n = opt.iterations
    with pytest.raises(error, match=message):
        opt.apply_gradients([(xp(np.ones(3, np.float32)), other), *pairs])
    assert opt.iterations == n
    assert_same_bits(other.get(), before)


def test_indices_and_values_must_lie_together(fake) -> None:
    with pytest.raises(TypeError, match="indices must be where values is, on cuda:0"):
        IndexedSlices(fake(np.ones((2, 3))), np.array([1, 2]))
    with pytest.raises(TypeError, match="on cuda:0, got an array on cuda:1"):
        IndexedSlices(fake(np.ones((2, 3))), fake(np.array([1, 2]), 0, 1))
    with pytest.raises(ValueError, match="indices must be C-contiguous on a device"):
        IndexedSlices(fake(np.ones((2, 3))), fake(np.arange(4))[::2])


def test_a_global_norm_needs_all_gradients_in_one_place(fake) -> None:
    a, b, c = fake(np.ones(3)), fake(np.ones(3), 0, 1), np.ones(3)
    opt = RMSprop(global_clipnorm=1.0)
    opt.build([a, b, c])
    message = "global_clipnorm must be None, or all gradients of a call in one place, "
    with pytest.raises(
        ValueError, match=message + "got some on cuda:0, some on cuda:1"
    ):
        opt.apply_gradients([(fake(np.ones(3)), a), (fake(np.ones(3), 0, 1), b)])
    with pytest.raises(ValueError, match=message + "got some on the host, some on"):
        opt.apply_gradients([(np.ones(3), c), (fake(np.ones(3)), a)])
    with pytest.raises(ValueError, match=message):
        opt.get_gradients(lambda: (0, [fake(np.ones(3)), np.ones(3)]), [a, c])
    assert opt.iterations == 0
    assert opt.apply_gradients([(fake(np.ones(3), 0, 1), b)]) == 1
    assert opt.apply_gradients([(np.ones(3), c)]) == 2


def test_a_missing_gradient_warns_once_and_leaves_its_variable_alone(xp) -> None:
    a, b, c = xp(np.ones(3)), xp(np.ones(3)), np.ones(3)
    opt = RMSprop()
    with pytest.warns(UserWarning, match="do not exist for 2 variables"):
        opt.apply_gradients([(xp(np.ones(3)), a), (None, b), (None, c)])
    opt.apply_gradients([(xp(np.ones(3)), a), (None, b), (None, c)])
    assert (b.get() == 1).all()
    assert len(opt.weights) == 2
    with pytest.raises(ValueError, match="No gradients provided"):
        opt.apply_gradients([(None, a)])


def test_after_build_an_unknown_variable_is_refused(xp) -> None:
    var, other = xp(np.ones(3)), xp(np.ones(4))
    opt = RMSprop()
    opt.build([var])
    with pytest.raises(ValueError, match="must be one of the 1 arrays given to build"):
        opt.apply_gradients([(xp(np.ones(4)), other)])
    with pytest.raises(ValueError, match="must keep the shape"):
        opt.apply_gradients([(xp(np.ones((3, 1))), var.reshape(3, 1))])
    with pytest.raises(KeyError, match="got one it has not seen"):
        opt.get_slot(other, "rms")


def test_numpy_users_import_neither_cupy_nor_what_needs_it() -> None:
    import subprocess

    code = """
import sys
import numpy as np
from rmsprop_fast import RMSprop
opt = RMSprop(clipnorm=1.0)
opt.build([x := np.ones(3)])
opt.apply_gradients([(np.ones(3), x)])
opt.get_gradients(lambda: (0.0, [np.ones(3)]), [x])
opt.set_weights(opt.get_weights())
opt.check()
print([m for m in sys.modules if "cupy" in m or m.startswith("rmsprop_fast.gpu.")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "['rmsprop_fast.gpu.scalar']", done.stderr
