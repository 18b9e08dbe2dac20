"""`catch_up` and `check_finite` on devices: the host's bits, told of later."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import numpy as np
import pytest
from places import OnDevice
from support import assert_same_bits
from test_gpu import (
    FULL,
    OPTIONS,
    TABLES,
    Twins,
    assert_device_equals_host,
    make_step,
    rows_of,
    wide_range,
)

from rmsprop_fast import IndexedSlices, RMSprop
from rmsprop_fast.gpu import launches

# --- Rows that catch up ---------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=str)
@pytest.mark.parametrize("offset", [0, 1])
def test_rows_catch_up_to_the_bits_of_the_host(
    xp, rng, dtype, centered, momentum, table, offset
) -> None:
    n_rows, width, n = table
    options = OPTIONS | {"centered": centered, "momentum": momentum}
    var = wide_range(rng, (n_rows, *width), dtype)
    twins = Twins(xp, [var], offset, **options, catch_up=True)
    for t in range(6):
        # Few rows miss nothing; one step in three is dense.
        grad = rows_of(rng, min(n, 1 + 40 * (t == 4)), n_rows, width, dtype)
        if t % 3 == 2:
            grad = wide_range(rng, var.shape, dtype)
        twins.step([grad])
    twins.assert_same()
    twins.catch_up(0, rng.integers(0, n_rows, 7).astype(np.int16))
    twins.assert_same()
    twins.catch_up()
    twins.assert_same()


def test_tables_and_dense_variables_catch_up_in_one_step(
    xp, rng, dtype, clip, order
) -> None:
    variables, grads = make_step(rng, dtype)
    twins = Twins(xp, variables, **FULL, **clip, catch_up=True)
    empty = [
        IndexedSlices(g.values[:0], g.indices[:0])
        if isinstance(g, IndexedSlices)
        else g
        for g in grads
    ]
    for step in (grads, empty, empty, grads, empty):
        twins.step(step)
    twins.assert_same()
    twins.catch_up()
    twins.assert_same()


@pytest.mark.parametrize("n", [255, 257, 600])
def test_any_number_of_variables_catches_up(xp, rng, n) -> None:
    variables = [wide_range(rng, (4, 1 + k % 5), np.float32) for k in range(n)]
    twins = Twins(xp, variables, **FULL, catch_up=True)
    for t in range(3):
        twins.step(
            [
                rows_of(rng, (k + t) % 9, 4, 1 + k % 5, np.float32)
                if (k + t) % 4
                else wide_range(rng, (4, 1 + k % 5), np.float32)
                for k in range(n)
            ]
        )
    twins.assert_same()
    twins.catch_up()
    twins.assert_same()


@pytest.mark.parametrize("shape", [(2, 20_000), (3, 8192), (30_000,), (1, 8193)])
def test_rows_of_any_length_catch_up_in_pieces(xp, rng, shape, dtype) -> None:
    twins = Twins(xp, [wide_range(rng, shape, dtype)], **FULL, catch_up=True)
    twins.step([wide_range(rng, shape, dtype)])
    for _ in range(3):
        twins.step([rows_of(rng, 1, shape[0], shape[1:], dtype)])
    twins.catch_up()
    twins.assert_same()


def test_long_lists_catch_up_with_occurrences_of_either_kind(
    xp, rng, monkeypatch
) -> None:
    for wide_from in 2**32, 0:
        monkeypatch.setattr(launches, "WIDE_FROM", wide_from)
        twins = Twins(
            xp, [wide_range(rng, (900, 3), np.float32)], **FULL, catch_up=True
        )
        for n in 10, 9000, 3:
            twins.step([rows_of(rng, n, 900, 3, np.float32)])
        twins.catch_up(0, rng.integers(0, 900, 5000).astype(np.uint16))
        twins.assert_same()


@pytest.mark.parametrize("missed", [1, 1000, 2**20 + 5, 2**40 - 1])
@pytest.mark.parametrize("momentum", [0.9, 1.0])
def test_any_number_of_missed_steps_has_the_bits_of_the_host(
    xp, rng, dtype, missed, momentum
) -> None:
    options = OPTIONS | {"rho": 0.9999, "momentum": momentum, "centered": True}
    twins = Twins(xp, [wide_range(rng, (3, 37), dtype)], **options, catch_up=True)
    twins.step([wide_range(rng, (3, 37), dtype)])
    # What a variable misses is state: pretend that it made many row-sparse steps.
    twins.twin._slots[0].counters["steps"][0] += missed
    counter = twins.opt._slots[0].counters["steps"]
    counter.set(counter.get() + np.array([missed, 0]))
    twins.catch_up(0)
    twins.assert_same()


def test_the_same_variable_in_a_list_twice_makes_two_steps(xp, rng) -> None:
    twins = Twins(xp, [wide_range(rng, (9, 4), np.float32)], **FULL, catch_up=True)
    for _ in range(3):
        rows = [rows_of(rng, 3, 9, 4, np.float32) for _ in range(2)]
        twins.step([rows[0], wide_range(rng, (9, 4), np.float32), rows[1]], [0, 0, 0])
        twins.step(rows, [0, 0])
    twins.assert_same()


def test_host_and_device_rows_catch_up_in_one_call(fake, rng) -> None:
    variables = [wide_range(rng, (9, 4), np.float32) for _ in range(3)]
    host = [var.copy() for var in variables]
    ours = [variables[0].copy(), fake(variables[1]), fake(variables[2], 0, 1)]
    opt, twin = (RMSprop(**FULL, catch_up=True) for _ in range(2))
    for _ in range(4):
        grads = [rows_of(rng, 3, 9, 4, np.float32) for _ in range(3)]
        moved = [grads[0], fake.grad(grads[1]), fake.grad(grads[2], 0, 1)]
        twin.apply_gradients(zip(grads, host, strict=True))
        opt.apply_gradients(zip(moved, ours, strict=True))
    twin.catch_up(host[0], np.arange(4))
    opt.catch_up(ours[0], np.arange(4))
    twin.rho = opt.rho = 0.5  # all the others catch up first
    assert_same_bits(ours[0], host[0])
    assert_same_bits(ours[1].get(), host[1])
    assert_same_bits(ours[2].get(), host[2])
    for a, b in zip(opt.get_weights(), twin.get_weights(), strict=True):
        assert_same_bits(a, b)


def test_catching_up_waits_for_nothing(fake, rng) -> None:
    variables, grads = make_step(rng, np.float32)
    ours = [fake(var) for var in variables]
    moved = [fake.grad(grad) for grad in grads]
    rows = fake(np.arange(3))
    opt = RMSprop(**FULL, catch_up=True)
    opt.apply_gradients(zip(moved, ours, strict=True))
    fake.cupy.machine.waits = 0
    for _ in range(3):
        opt.catch_up(ours[4], rows)
        opt.apply_gradients(zip(moved, ours, strict=True))
    opt.catch_up()
    assert fake.cupy.machine.waits == 0


def test_steps_that_count_rows_are_captured_and_count_when_replayed(xp, rng) -> None:
    twins = Twins(xp, [wide_range(rng, (9, 4), np.float32)], **FULL, catch_up=True)
    first = wide_range(rng, (9, 4), np.float32)
    grad = rows_of(rng, 4, 9, 4, np.float32)
    moved, (var,) = xp.grad(grad), twins.device
    twins.opt.apply_gradients([(xp(first), var)])
    with xp.captured(twins.opt, [(moved, var)]) as (stream, graph):
        for _ in range(3):
            graph.launch()
        twins.opt.catch_up()
    stream.synchronize()
    twins.twin.apply_gradients([(first, twins.host[0])])
    for _ in range(4):
        twins.twin.apply_gradients([(grad, twins.host[0])])
    twins.twin.catch_up()
    assert_same_bits(var.get(), twins.host[0])
    for a, b in zip(twins.opt.weights[1:], twins.twin.weights[1:], strict=True):
        assert_same_bits(a.get(), b)


def test_a_row_out_of_range_of_catch_up_is_told_of_later(xp, rng) -> None:
    twins = Twins(xp, [wide_range(rng, (9, 4), np.float32)], **FULL, catch_up=True)
    for n in 9, 1, 1:
        twins.step([rows_of(rng, n, 9, 4, np.float32)])
    rows, grad = xp(np.array([3, 9, 1])), xp(np.ones((9, 4), np.float32))
    twins.opt.catch_up(twins.device[0], rows)
    twins.opt.apply_gradients([(grad, twins.device[0])])  # does nothing
    message = r"rows: row 9 at position 1 is not in \[0, 9\); found by an earlier catch"
    with pytest.raises(IndexError, match=message):
        twins.opt.check()
    twins.assert_same()


@pytest.mark.parametrize(
    ("name", "value"), [("rho", 0.5), ("momentum", 0.9), ("centered", True)]
)
def test_what_missed_steps_depend_on_is_not_set_after_an_unseen_error(
    xp, rng, name, value
) -> None:
    twins = Twins(xp, [wide_range(rng, (9, 4), np.float32)], catch_up=True)
    for n in 9, 1, 1:
        twins.step([rows_of(rng, n, 9, 4, np.float32)])
    bad = xp.grad(IndexedSlices(np.ones((1, 4), np.float32), np.array([9])))
    twins.opt.apply_gradients([(bad, twins.device[0])])
    before = getattr(twins.opt, name)
    with pytest.raises(IndexError):
        setattr(twins.opt, name, value)  # the rows would not have caught up
    assert getattr(twins.opt, name) == before
    for opt in twins.opt, twins.twin:
        setattr(opt, name, value)
    twins.catch_up()
    twins.step([rows_of(rng, 2, 9, 4, np.float32)])
    twins.catch_up()
    twins.assert_same()


def test_rows_of_a_variable_without_elements_are_checked_too(xp) -> None:
    opt, var = RMSprop(catch_up=True), xp(np.ones((3, 0)))
    opt.build([var])
    opt.catch_up(var, xp(np.array([2])))
    opt.catch_up(var, xp(np.array([], np.int64)))
    opt.check()
    opt.catch_up(var, xp(np.array([3])))
    with pytest.raises(IndexError, match=r"rows: row 3 at position 0 is not in"):
        opt.check()


def test_a_row_sparse_step_left_out_is_missed_by_no_row(xp, rng) -> None:
    var = wide_range(rng, (9, 4), np.float32)
    twins = Twins(xp, [var], **FULL, catch_up=True, check_finite="skip")
    for n in 9, 2, 2:
        twins.step([rows_of(rng, n, 9, 4, np.float32)])
        bad = rows_of(rng, 3, 9, 4, np.float32)
        bad.values[1, 2] = np.inf
        twins.step([bad])
        twins.opt.check()
    assert twins.opt.skipped_steps == 3
    twins.assert_same()
    twins.catch_up()
    twins.assert_same()


@pytest.mark.parametrize("is_restored", [False, True], ids=["new", "restored"])
def test_without_memory_for_counters_nothing_is_bound(
    fake, monkeypatch, is_restored
) -> None:
    first, second = fake(np.ones((3, 2))), fake(np.ones((4, 2)))
    opt = RMSprop(catch_up=True)
    opt.build([first, second])
    opt = pickle.loads(pickle.dumps(opt)) if is_restored else RMSprop(catch_up=True)

    def refuse(name: str) -> Any:
        whole = getattr(fake.cupy, name)

        def allocate(first: Any, *args: Any) -> Any:
            array = whole(first, *args)
            if array.dtype == np.int64 and array.shape == (4,):
                raise MemoryError("no memory for counters")
            return array

        return allocate

    with monkeypatch.context() as patch:
        for name in "zeros", "asarray":
            patch.setattr(fake.cupy, name, refuse(name))
        with pytest.raises(MemoryError):
            opt.build([first, second])
    opt.build([first, second])
    grads = fake(np.ones((3, 2))), fake(np.ones((4, 2)))
    assert opt.apply_gradients(zip(grads, (first, second), strict=True)) == 1
    assert len(opt.get_weights()) == 3


# --- Gradients that are not finite ----------------------------------------------------


@pytest.mark.parametrize("check", [True, "skip"])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_check_of_finite_gradients_leaves_the_bits_alone(
    xp, rng, dtype, clip, check, order, offset
) -> None:
    variables, grads = make_step(rng, dtype)
    assert_device_equals_host(
        xp, variables, [grads, grads], offset, **FULL, **clip, check_finite=check
    )


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("size", [1, 33, 4096, 4097, 9001])
def test_a_bad_element_is_found_wherever_it_is(xp, rng, dtype, clip, bad, size) -> None:
    first, second = xp(np.ones((3, 2), dtype)), xp(np.ones(size, dtype))
    opt = RMSprop(**FULL, **clip, check_finite=True)
    opt.build([first, second])
    message = (
        rf"^grads_and_vars\[1\]: 1 of {size} gradient elements is not finite, its "
        rf"variable has shape \({size},\); found by an earlier step on cuda:0"
    )
    for where in {0, size // 2, size - 1}:
        grad = np.ones(size, dtype)
        grad[where] = bad
        good = xp(np.ones((3, 2), dtype))
        opt.apply_gradients([(good, first), (xp(grad), second)])
        opt.apply_gradients([(good, first)])  # does nothing
        with pytest.raises(FloatingPointError, match=message):
            opt.check()
        assert opt.iterations == 0
        assert (first.get() == 1).all()
        assert (second.get() == 1).all()
    assert opt.apply_gradients([(good, first)]) == 1
    opt.check()


def test_more_bad_gradients_than_are_told_apart_are_counted(xp) -> None:
    n = 600  # of more than one table
    variables = [xp(np.ones(2, np.float32)) for _ in range(n)]
    bad = xp(np.array([np.nan, 1], np.float32))
    opt = RMSprop(check_finite=True)
    opt.apply_gradients([(bad, var) for var in variables])
    with pytest.raises(FloatingPointError) as error:
        opt.check()
    message = str(error.value)
    assert message.count(": 1 of 2 gradient elements is not finite") == 64
    assert "and some in 536 more gradients; found by an" in message


def test_steps_left_out_are_seen_when_the_device_is_done(fake) -> None:
    var, good = fake(np.ones(3)), fake(np.ones(3))
    bad = fake(np.array([1, np.nan, 1]))
    opt = RMSprop(check_finite="skip")
    assert opt.apply_gradients([(bad, var)]) == 1  # nobody knows yet
    fake.cupy.machine.waits = 0
    assert opt.apply_gradients([(good, var)]) == 2
    assert opt.apply_gradients([(bad, var)]) == 3
    fake.cupy.machine.run(0)
    assert opt.iterations == 1
    assert opt.skipped_steps == 2
    assert fake.cupy.machine.waits == 0
    assert opt.apply_gradients([(good, var)]) == 2
    host = np.ones(3)
    twin = RMSprop()
    for _ in range(2):
        twin.apply_gradients([(np.ones(3), host)])
    assert_same_bits(var.get(), host)


def test_a_bad_row_after_steps_left_out_takes_back_the_right_count(fake) -> None:
    table = fake(np.ones((5, 3)))
    good, bad = fake(np.ones((5, 3))), fake(np.full((5, 3), np.nan))
    out_of_range = fake.grad(IndexedSlices(np.ones((1, 3)), np.array([5])))
    opt = RMSprop(check_finite="skip")
    opt.apply_gradients([(good, table)])
    for grad in bad, good, bad, out_of_range, bad, good:  # the last two do nothing
        opt.apply_gradients([(grad, table)])
    with pytest.raises(IndexError):
        opt.check()
    assert (opt.iterations, opt.skipped_steps) == (2, 2)


def test_a_step_without_a_check_after_one_left_out_is_made(xp) -> None:
    var = xp(np.ones(3))
    opt = RMSprop(0.25, rho=0.0, epsilon=0.0, check_finite="skip")
    opt.apply_gradients([(xp(np.full(3, np.nan)), var)])
    opt.check_finite = False
    opt.apply_gradients([(xp(np.ones(3)), var)])
    assert (var.get() == 0.75).all()


def test_a_check_needs_all_gradients_in_one_place(fake) -> None:
    a, b, c = fake(np.ones(3)), fake(np.ones(3), 0, 1), np.ones(3)
    opt = RMSprop(check_finite=True)
    opt.build([a, b, c])
    message = "check_finite must be False, or all gradients of a call in one place, "
    with pytest.raises(ValueError, match=message + "got some on cuda:0, some on cuda"):
        opt.apply_gradients([(fake(np.ones(3)), a), (fake(np.ones(3), 0, 1), b)])
    with pytest.raises(ValueError, match=message + "got some on the host, some on"):
        opt.apply_gradients([(np.ones(3), c), (fake(np.ones(3)), a)])
    assert opt.iterations == 0
    assert opt.apply_gradients([(fake(np.ones(3), 0, 1), b)]) == 1
    assert opt.apply_gradients([(np.ones(3), c)]) == 2
    assert len(opt.get_gradients(lambda: (0, [a, c]), [a, c])) == 2


@pytest.mark.parametrize("check", [True, "skip"])
def test_a_checked_step_waits_for_nothing(fake, rng, clip, check) -> None:
    variables, grads = make_step(rng, np.float32)
    ours = [fake(var) for var in variables]
    moved = [fake.grad(grad) for grad in grads]
    opt = RMSprop(**FULL, **clip, check_finite=check)
    opt.apply_gradients(zip(moved, ours, strict=True))
    fake.cupy.machine.waits = 0
    for _ in range(3):
        opt.apply_gradients(zip(moved, ours, strict=True))
        assert opt.skipped_steps == 0
    assert fake.cupy.machine.waits == 0


def test_replays_of_a_graph_leave_steps_out_and_are_counted(xp) -> None:
    var, grad = xp(np.ones(3)), xp(np.ones(3))
    opt = RMSprop(0.25, rho=0.0, epsilon=0.0, check_finite="skip")
    with xp.captured(opt, [(grad, var)]) as (stream, graph):
        for value in 1.0, np.nan, np.inf, 1.0:
            grad.set(np.full(3, value))
            graph.launch()
            stream.synchronize()
    assert (var.get() == 1 - 3 * 0.25).all()
    assert opt.iterations == 2  # replays are not counted, nor taken back
    assert opt.skipped_steps == 2


def test_a_refused_replay_is_told_of_and_counts_nothing(xp) -> None:
    var, grad = xp(np.ones(3)), xp(np.ones(3))
    opt = RMSprop(0.25, rho=0.0, epsilon=0.0, check_finite=True)
    with xp.captured(opt, [(grad, var)]) as (_, graph):
        grad.set(np.array([1, np.nan, 1]))
        graph.launch()
        with pytest.raises(FloatingPointError, match="1 of 3 gradient elements"):
            opt.check()
    assert (var.get() == 0.75).all()
    assert opt.iterations == 2


def test_setting_iterations_waits_for_steps_left_out(fake) -> None:
    var = fake(np.ones(3))
    opt = RMSprop(check_finite="skip")
    opt.apply_gradients([(fake(np.full(3, np.nan)), var)])
    opt.iterations = 10
    fake.cupy.machine.run(0)
    assert (opt.iterations, opt.skipped_steps) == (10, 1)


# --- Several devices, and what outlives an optimizer ----------------------------------


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["device 0 first", "device 1 first"])
def run_all(request, fake) -> Any:
    """Let one device run after the other."""

    def run(opt: RMSprop) -> None:
        for device in request.param:
            fake.cupy.machine.run(device)
            if device == request.param[0]:
                _ = opt.iterations  # looks at what is known by now

    return run


def on_both(fake: OnDevice, **options: Any) -> tuple[RMSprop, list[Any], Any]:
    """Return an optimizer, a table on each device, and gradients for them by name."""
    tables = [fake(np.ones((5, 3)), 0, device) for device in (0, 1)]
    opt = RMSprop(**options)
    opt.build(tables)
    kinds = {
        "good": np.ones((5, 3)),
        "nan": np.full((5, 3), np.nan),
        "bad row": IndexedSlices(np.ones((1, 3)), np.array([5])),
    }
    grads = [
        {name: fake.grad(grad, 0, device) for name, grad in kinds.items()}
        for device in (0, 1)
    ]
    return opt, tables, grads


def test_errors_and_steps_left_out_on_two_devices_are_counted_once(
    fake, run_all
) -> None:
    opt, tables, grads = on_both(fake, check_finite="skip")
    for device, kind in [
        *[(0, "good"), (1, "good"), (1, "nan"), (0, "nan"), (0, "bad row")],
        *[(1, "good"), (0, "good"), (1, "nan"), (0, "nan")],
    ]:
        opt.apply_gradients([(grads[device][kind], tables[device])])
    run_all(opt)
    with pytest.raises(IndexError):
        opt.check()
    opt.check()
    # Device 1 made two of four steps; device 0 made one, left one out, stopped.
    assert opt.iterations == 3
    assert opt.skipped_steps == 3
    assert opt.apply_gradients([(grads[0]["good"], tables[0])]) == 4


def test_a_step_that_fails_on_two_devices_is_taken_back_once(fake, run_all) -> None:
    opt, tables, grads = on_both(fake)

    def step(first: str, second: str) -> None:
        kinds = first, second
        opt.apply_gradients(
            [(grads[k][kinds[k]], tables[k]) for k in (0, 1) if kinds[k]]
        )

    for kinds in [("good", "good"), ("bad row", "bad row"), ("good", ""), ("", "good")]:
        step(*kinds)
    run_all(opt)
    for _ in range(2):
        with pytest.raises(IndexError):
            opt.check()
    opt.check()
    assert opt.iterations == 1


def test_an_error_of_catch_up_takes_back_what_followed_on_its_device_alone(
    fake, run_all
) -> None:
    opt, tables, grads = on_both(fake, catch_up=True)
    host = np.ones(3)
    rows = fake(np.array([5]))
    opt = RMSprop(catch_up=True)
    opt.build([*tables, host])
    opt.apply_gradients([(grads[0]["good"], tables[0])])
    opt.catch_up(tables[0], rows)
    for _ in range(3):
        opt.apply_gradients([(np.ones(3), host)])
        opt.apply_gradients([(grads[1]["good"], tables[1])])
    opt.apply_gradients([(grads[0]["good"], tables[0])])
    run_all(opt)
    with pytest.raises(IndexError, match="found by an earlier catch_up on cuda:0"):
        opt.check()
    assert opt.iterations == 7


@pytest.mark.parametrize("check", [True, "skip"])
def test_steps_of_an_optimizer_that_is_gone_tell_nobody(fake, check) -> None:
    var, bad = fake(np.ones(3)), fake(np.full(3, np.nan))
    other, grad = fake(np.ones(3)), fake(np.ones(3))
    old, new = RMSprop(check_finite=check), RMSprop(check_finite=check)
    old.build([var])
    with fake.cupy.cuda.Stream(non_blocking=True):
        old.apply_gradients([(bad, var)])  # and nobody waits for that stream
    del old
    gc.collect()
    assert new.apply_gradients([(grad, other)]) == 1
    new.check()
    assert (new.iterations, new.skipped_steps) == (1, 0)


def test_a_graph_outlives_a_forgotten_variable(xp) -> None:
    var, other = xp(np.ones(3)), xp(np.ones(3))
    grad = xp(np.ones(3))
    opt = RMSprop(0.25, rho=0.0, epsilon=0.0, check_finite="skip", clipnorm=100.0)
    opt.build([var, other])
    with xp.captured(opt, [(grad, var)]) as (stream, graph):
        opt.forget(other)
        gc.collect()
        for value in np.nan, 1.0:
            grad.set(np.full(3, value))
            graph.launch()
            stream.synchronize()
    assert (var.get() == 0.5).all()
    assert opt.skipped_steps == 1
