"""Gradients that are not finite: refused, left out, or taken as they are."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import FULL, assert_same_bits, make_step, nothing_changes

from rmsprop_fast import IndexedSlices, RMSprop

BAD = [np.nan, -np.nan, np.inf, -np.inf]
CLIPS = [{}, {"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"clipvalue": 1.0}]
clips = pytest.mark.parametrize("clip", CLIPS, ids=lambda clip: "".join(clip) or "none")


def step(opt, pairs):
    """Make a step and raise what is wrong with it, wherever that is found."""
    opt.apply_gradients(pairs)
    opt.check()


@clips
@pytest.mark.parametrize("check", [True, "skip"])
def test_finite_gradients_give_the_bits_of_no_check(
    rng, dtype, isa, n_threads, clip, check
) -> None:
    variables, grads = make_step(rng, dtype)
    twins = [var.copy() for var in variables]
    opt = RMSprop(**FULL, **clip, check_finite=check, num_threads=n_threads)
    plain = RMSprop(**FULL, **clip, num_threads=n_threads)
    for _ in range(2):
        opt.apply_gradients(zip(grads, variables, strict=True))
        plain.apply_gradients(zip(grads, twins, strict=True))
    for ours, theirs in zip(variables, twins, strict=True):
        assert_same_bits(ours, theirs)
    assert opt.skipped_steps == 0
    assert opt.iterations == 2


@clips
@given(data=st.data())
def test_a_bad_element_refuses_the_whole_step_wherever_it_is(
    anywhere, clip, data
) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    bad = data.draw(st.sampled_from(BAD))
    # Around the ends of vectors, and of the blocks of 4,096 that threads share.
    size = data.draw(st.sampled_from([1, 7, 16, 33, 4096, 4097, 9001]))
    where = data.draw(st.integers(0, size - 1))
    strided = data.draw(st.booleans())  # the host's arrays alone may be
    opt = RMSprop(**FULL, **clip, check_finite=True, num_threads=2)
    first, second = anywhere(np.ones((3, 2), dtype)), anywhere(np.ones(size, dtype))
    opt.build([first, second])
    grad = np.ones(2 * size, dtype)[::2] if strided else np.ones(size, dtype)
    good = [(anywhere.grad(np.ones((3, 2), dtype)), first)]
    good.append((anywhere.grad(grad.copy()), second))
    grad[where] = bad
    message = (
        rf"^grads_and_vars\[1\]: 1 of {size} gradient elements is not finite, its "
        rf"variable has shape \({size},\)"
    )
    pairs = [good[0], (anywhere.grad(grad), second)]
    with (
        nothing_changes(opt, first, second),
        pytest.raises(FloatingPointError, match=message),
    ):
        step(opt, pairs)
    assert opt.apply_gradients(good) == 1
    opt.check()


def test_every_variable_with_bad_elements_is_named_with_their_count(anywhere) -> None:
    opt = RMSprop(check_finite=True)
    grads = [np.ones(5), np.ones((2, 2), np.float32), np.ones(())]
    variables = [anywhere(grad) for grad in grads]
    grads[0][[1, 3]] = np.nan
    grads[2][()] = np.inf
    with pytest.raises(FloatingPointError) as error:
        step(opt, zip(map(anywhere.grad, grads), variables, strict=True))
    assert "grads_and_vars[0]: 2 of 5 gradient elements are" in str(error.value)
    assert "grads_and_vars[2]: 1 of 1 gradient elements" in str(error.value)
    assert "grads_and_vars[1]" not in str(error.value)


def test_row_sparse_values_are_checked_whatever_their_layout(dtype) -> None:
    opt = RMSprop(check_finite=True)
    var = np.ones((10, 4), dtype)
    values = np.ones((4, 6), dtype).T
    values[5, 3] = np.nan
    slices = IndexedSlices(values, np.array([1, 1, 2, 3, 3, 9]))
    with nothing_changes(opt, var), pytest.raises(FloatingPointError, match=r"1 of 24"):
        opt.apply_gradients([(slices, var)])


def test_the_error_comes_before_slots_are_created() -> None:
    opt = RMSprop(check_finite=True)
    with pytest.raises(FloatingPointError):
        opt.apply_gradients([(np.full(3, np.nan), np.ones(3))])
    assert opt.get_slot_names() == []
    assert opt.iterations == 0


def test_other_rules_come_first(anywhere) -> None:
    opt, var = RMSprop(check_finite=True), anywhere(np.ones((3, 2)))
    grad = anywhere.grad(IndexedSlices(np.full((1, 2), np.nan), np.array([3])))
    with pytest.raises(IndexError):
        step(opt, [(grad, var)])
    opt.build([var])
    with pytest.raises(IndexError):
        step(opt, [(grad, var)])


@clips
@pytest.mark.parametrize("bad", BAD)
def test_skip_leaves_the_step_out_and_counts_it(anywhere, dtype, clip, bad) -> None:
    opt = RMSprop(**FULL, **clip, check_finite="skip", weight_decay=0.1)
    w, table = anywhere(np.ones((3, 2), dtype)), anywhere(np.ones((5, 2), dtype))
    good = anywhere.grad(np.ones((3, 2), dtype))
    indices, values = np.array([0, 0]), np.ones((2, 2), dtype)
    rows = anywhere.grad(IndexedSlices(values.copy(), indices))
    assert opt.apply_gradients([(good, w), (rows, table)]) == 1
    values[1, 1] = bad
    poisoned = anywhere.grad(IndexedSlices(values, indices))
    with nothing_changes(opt, w, table):
        opt.apply_gradients([(good, w), (poisoned, table)])
        opt.check()
        assert opt.iterations == 1
        opt.apply_gradients([(anywhere(np.full((3, 2), bad, dtype)), w)])
        opt.check()
    assert opt.skipped_steps == 2
    assert opt.apply_gradients([(good, w), (rows, table)]) == 2
    assert opt.skipped_steps == 2
    assert copy.deepcopy(opt).skipped_steps == 2


def test_on_the_host_a_step_left_out_is_known_at_once() -> None:
    opt, var = RMSprop(check_finite="skip"), np.ones(2)
    assert opt.apply_gradients([(np.ones(2), var)]) == 1
    assert opt.apply_gradients([(np.full(2, np.inf), var)]) == 1
    assert opt.skipped_steps == 1


def test_a_skipped_step_is_no_step_for_schedules_and_rows_that_catch_up(
    anywhere, rng
) -> None:
    options = {"momentum": 0.9, "decay": 0.5, "catch_up": True}
    opt, twin = RMSprop(**options, check_finite="skip"), RMSprop(**options)
    start = rng.standard_normal((6, 2))
    var, twin_var = anywhere(start), anywhere(start)
    for t in range(6):
        grad = IndexedSlices(rng.standard_normal((1, 2)), np.array([t % 3]))
        grad = anywhere.grad(grad)
        opt.apply_gradients([(grad, var)])
        opt.apply_gradients([(anywhere(np.full((6, 2), np.nan)), var)])
        opt.check()  # a schedule counts what is known
        twin.apply_gradients([(grad, twin_var)])
    opt.catch_up()
    twin.catch_up()
    assert_same_bits(anywhere.get(var), anywhere.get(twin_var))
    assert (opt.iterations, opt.skipped_steps) == (6, 6)


def test_minimize_skips_too_and_keeps_the_loss(anywhere) -> None:
    opt, var = RMSprop(check_finite="skip"), anywhere(np.ones(2))
    opt.minimize(lambda: (np.nan, [anywhere(np.full(2, np.nan))]), [var])
    opt.check()
    assert opt.iterations == 0
    assert np.isnan(opt.last_loss)
    assert (anywhere.get(var) == 1).all()


@pytest.mark.parametrize("clip", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}])
def test_finite_gradients_whose_squares_overflow_are_finite(anywhere, clip) -> None:
    opt, var = RMSprop(**clip, check_finite=True), anywhere(np.ones(3))
    assert opt.apply_gradients([(anywhere(np.full(3, 1e200)), var)]) == 1
    opt.check()


def test_without_a_check_a_bad_element_passes(anywhere) -> None:
    opt, var = RMSprop(), anywhere(np.ones(3))
    opt.apply_gradients([(anywhere(np.array([1.0, np.nan, 1.0])), var)])
    np.testing.assert_array_equal(np.isnan(anywhere.get(var)), [False, True, False])


@pytest.mark.parametrize("value", [None, 1, "raise", "Skip"])
def test_what_is_no_check_is_refused(value) -> None:
    message = r"^check_finite must be a bool or 'skip', got"
    with pytest.raises(TypeError, match=message):
        RMSprop(check_finite=value)
    opt = RMSprop(check_finite="skip")
    with pytest.raises(TypeError, match=message):
        opt.check_finite = value
    assert opt.check_finite == "skip"


@pytest.mark.parametrize("check", [True, "skip"])
def test_it_is_part_of_the_configuration(check) -> None:
    config = RMSprop(check_finite=check).get_config()
    assert config["check_finite"] == check
    assert RMSprop.from_config(config).get_config() == config
    assert "check_finite" not in RMSprop().get_config()


def test_setting_it_acts_from_the_next_step_on(anywhere) -> None:
    opt, var = RMSprop(), anywhere(np.ones(1))
    bad = anywhere(np.array([np.inf]))
    opt.check_finite = "skip"
    opt.apply_gradients([(bad, var)])
    opt.check_finite = True
    with pytest.raises(FloatingPointError):
        step(opt, [(bad, var)])
    opt.check_finite = False
    assert opt.apply_gradients([(bad, var)]) == 1
