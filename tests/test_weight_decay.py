"""Decoupled weight decay: the reference's bits, who is excluded, what refuses."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from reference import Reference
from support import OPTIONS, assert_same_bits, wide_range

from rmsprop_fast import IndexedSlices, RMSprop, schedules

DECAY = {"weight_decay": 0.3}


@pytest.mark.parametrize("kind", ["dense", "rows"])
def test_weight_decay_equals_the_reference(
    rng, dtype, centered, momentum, eps_in_sqrt, isa, n_threads, kind
) -> None:
    options = OPTIONS | DECAY | {"centered": centered, "momentum": momentum}
    options |= {"eps_in_sqrt": eps_in_sqrt}
    opt = RMSprop(**options, num_threads=n_threads)
    ref = Reference(dtype, **options)
    var = wide_range(rng, (23, 19), dtype)
    for _ in range(3):
        grad = wide_range(rng, var.shape, dtype)
        if kind == "rows":
            # A hot row, duplicates, rows that occur once and rows that do not.
            indices = np.concatenate([np.full(130, 7), rng.integers(0, 23, 20)])
            grad = IndexedSlices(wide_range(rng, (150, 19), dtype), indices)
        expected = ref.update(var, grad)
        opt.apply_gradients([(grad, var)])
        assert_same_bits(var, expected)


def test_it_takes_the_learning_rate_of_the_step_times_itself_off(
    anywhere, dtype
) -> None:
    # A gradient of zero leaves the decay alone.
    schedule = schedules.PiecewiseConstantDecay([0], [0.5, 0.25])
    opt = RMSprop(schedule, weight_decay=0.5)
    var, nothing = anywhere(np.full(5, 16.0, dtype)), anywhere(np.zeros(5, dtype))
    for expected in (12.0, 10.5):  # 16 * (1 - .5*.5), 12 * (1 - .25*.5)
        opt.apply_gradients([(nothing, var)])
        np.testing.assert_array_equal(anywhere.get(var), expected)


def test_none_and_zero_are_off_to_the_last_bit(anywhere, rng, dtype) -> None:
    grad, start = (rng.standard_normal(100).astype(dtype) for _ in range(2))
    results = []
    for options in ({}, {"weight_decay": None}, {"weight_decay": 0}):
        var = anywhere(start)
        RMSprop(momentum=0.5, **options).apply_gradients([(anywhere(grad), var)])
        results.append(anywhere.get(var).tobytes())
    assert len(set(results)) == 1


def test_only_the_rows_in_indices_decay(anywhere, dtype) -> None:
    opt = RMSprop(1.0, weight_decay=0.5)
    var = anywhere(np.ones((4, 3), dtype))
    grad = IndexedSlices(np.zeros((2, 3), dtype), np.array([1, 3]))
    opt.apply_gradients([(anywhere.grad(grad), var)])
    np.testing.assert_array_equal(anywhere.get(var)[:, 0], [1, 0.5, 1, 0.5])


def test_setting_it_acts_from_the_next_step_on(anywhere) -> None:
    opt, var, nothing = RMSprop(1.0), anywhere(np.ones(3)), anywhere(np.zeros(3))
    opt.apply_gradients([(nothing, var)])
    opt.weight_decay = 0.5
    opt.apply_gradients([(nothing, var)])
    opt.weight_decay = None
    opt.apply_gradients([(nothing, var)])
    np.testing.assert_array_equal(anywhere.get(var), 0.5)


@pytest.mark.parametrize(
    ("value", "error"),
    [(-0.1, ValueError), (np.nan, ValueError), (np.inf, ValueError)]
    + [("0.1", TypeError), (True, TypeError), (lambda: 0.1, TypeError)],
)
def test_what_is_no_weight_decay_is_refused(value, error) -> None:
    with pytest.raises(error, match=r"^weight_decay must be"):
        RMSprop(weight_decay=value)
    opt = RMSprop(**DECAY)
    with pytest.raises(error, match=r"^weight_decay must be"):
        opt.weight_decay = value
    assert opt.weight_decay == DECAY["weight_decay"]


def test_it_is_part_of_the_configuration() -> None:
    config = RMSprop(**DECAY).get_config()
    assert config["weight_decay"] == DECAY["weight_decay"]
    assert RMSprop.from_config(config).get_config() == config
    assert "weight_decay" not in RMSprop().get_config()


# --- Exclusion ------------------------------------------------------------------------


def zero_step(opt, put, *variables):
    zeros = [put(np.zeros(var.shape, var.dtype)) for var in variables]
    opt.apply_gradients(zip(zeros, variables, strict=True))


@pytest.mark.parametrize("when", ["before build", "after build", "after a step"])
def test_excluded_variables_do_not_decay(anywhere, when, n_threads) -> None:
    opt = RMSprop(1.0, weight_decay=0.5, num_threads=n_threads)
    w, b = anywhere(np.ones((4, 3))), anywhere(np.ones(3, np.float32))
    if when == "after build":
        opt.build([w, b])
    if when == "after a step":
        zero_step(opt, anywhere, w, b)
    start = anywhere.get(w).copy(), anywhere.get(b).copy()
    opt.exclude_from_weight_decay([b])
    zero_step(opt, anywhere, w, b)
    np.testing.assert_array_equal(anywhere.get(w), start[0] / 2)
    np.testing.assert_array_equal(anywhere.get(b), start[1])


def test_excluded_rows_that_occur_twice_do_not_decay(anywhere, n_threads) -> None:
    opt = RMSprop(1.0, weight_decay=0.5, num_threads=n_threads)
    w = anywhere(np.ones((4, 3)))
    opt.exclude_from_weight_decay([w])
    grad = IndexedSlices(np.zeros((200, 3)), np.arange(200) % 3)
    opt.apply_gradients([(anywhere.grad(grad), w)])
    np.testing.assert_array_equal(anywhere.get(w), 1)


def test_a_list_of_none_excludes_nothing(anywhere) -> None:
    opt, var = RMSprop(1.0, weight_decay=0.5), anywhere(np.ones(3))
    opt.exclude_from_weight_decay()
    opt.exclude_from_weight_decay([])
    zero_step(opt, anywhere, var)
    np.testing.assert_array_equal(anywhere.get(var), 0.5)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))]
)
def test_exclusions_are_copied_by_position(anywhere, copied) -> None:
    opt = RMSprop(1.0, weight_decay=0.5)
    a, b, c = (anywhere(np.ones(3)) for _ in range(3))
    opt.exclude_from_weight_decay([b, c])
    opt.build([a, b, c])
    opt.forget(b)
    twin = copied(copied(opt))
    zero_step(twin, anywhere, a, c)
    np.testing.assert_array_equal(anywhere.get(a), 0.5)
    np.testing.assert_array_equal(anywhere.get(c), 1)


def test_a_restored_optimizer_excludes_before_it_is_bound(anywhere) -> None:
    opt, var = RMSprop(1.0, weight_decay=0.5), anywhere(np.ones(3))
    opt.build([var])
    twin = copy.deepcopy(opt)
    twin.exclude_from_weight_decay([var])
    zero_step(twin, anywhere, var)
    np.testing.assert_array_equal(anywhere.get(var), 1)


def test_unbound_exclusions_cannot_be_copied() -> None:
    opt = RMSprop(**DECAY)
    opt.exclude_from_weight_decay([np.ones((2, 3))])
    with pytest.raises(ValueError, match=r"got unbound ones of shape \(2, 3\)"):
        pickle.dumps(opt)


def test_what_cannot_be_excluded_is_refused() -> None:
    opt, var = RMSprop(**DECAY), np.ones((2, 3))
    with pytest.raises(TypeError, match=r"^var_list must be a list of arrays"):
        opt.exclude_from_weight_decay(var)
    with pytest.raises(TypeError, match=r"^var_list\[1\]: var must be a numpy.ndarray"):
        opt.exclude_from_weight_decay([var, "bias"])
    with pytest.raises(ValueError, match=r"^var_names must be None: arrays have no"):
        opt.exclude_from_weight_decay(var_names=["bias"])
    opt.build([var])
    with pytest.raises(ValueError, match=r"^var_list\[0\]: var must be one of the 1"):
        opt.exclude_from_weight_decay([np.ones(3)])
    with pytest.raises(ValueError, match=r"^var_list\[0\]: var must keep the shape"):
        opt.exclude_from_weight_decay([var.reshape(3, 2)])
