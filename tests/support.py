"""Helpers of several test modules: arrays, steps, and what must stay or be equal."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from reference import Reference

from rmsprop_fast import IndexedSlices, RMSprop, backends

# Any hyperparameters but the defaults.
OPTIONS = {"learning_rate": 0.01, "rho": 0.95, "epsilon": 1e-6}

# Everything that a step can keep.
FULL = {"learning_rate": 0.01, "momentum": 0.5, "centered": True}


def bits(arrays):
    return [backends.as_numpy(array).tobytes() for array in arrays]


@contextmanager
def nothing_changes(opt, *arrays):
    """Check that a block leaves arrays and the optimizer's state as they are."""
    state = opt.iterations, opt.get_slot_names(), bits(opt.weights)
    identities = [id(array) for array in opt.weights[1:]]
    contents = bits(arrays)
    yield
    assert (opt.iterations, opt.get_slot_names(), bits(opt.weights)) == state
    assert [id(array) for array in opt.weights[1:]] == identities
    assert bits(arrays) == contents


def assert_same_bits(ours: np.ndarray, expected: np.ndarray) -> None:
    """Equal values, equal signs of zero, NaN in the same places."""
    np.testing.assert_array_equal(ours, expected)
    number = ~np.isnan(ours)
    np.testing.assert_array_equal(
        np.signbit(ours)[number], np.signbit(expected)[number]
    )


def assert_equals_reference(opt: RMSprop, var: np.ndarray, ref: Reference) -> None:
    for name, slot in ref.slots.items():
        assert_same_bits(opt.get_slot(var, name), slot.astype(var.dtype))


def wide_range(rng: np.random.Generator, shape: object, dtype: type) -> np.ndarray:
    """Normal numbers times powers of ten, with zeros of both signs among them."""
    x = rng.standard_normal(shape) * 10.0 ** rng.integers(-6, 4, shape)
    return np.where(rng.random(shape) < 0.1, x * 0.0, x).astype(dtype)


def ones(*arrays):
    """A gradient of ones for each array, paired with it."""
    return [(np.ones_like(array), array) for array in arrays]


def frozen(array):
    array.flags.writeable = False
    return array


def make_step(rng, dtype):
    """Return a step of every kind of task, from one element to a hot row."""
    variables, grads = [], []
    for shape in [(1,), (5000,), (64, 3), (0,), (), (700,)]:
        variables.append(wide_range(rng, shape, dtype))
        grads.append(wide_range(rng, shape, dtype))
    variables.append(wide_range(rng, (60, 40), dtype)[::2, ::-3])
    grads.append(wide_range(rng, (14, 30), dtype).T)
    for shape, n in [((50, 33), 400), ((9,), 500), ((1000, 2, 3), 90), ((4, 2), 0)]:
        variables.append(wide_range(rng, shape, dtype))
        indices = np.minimum(rng.zipf(1.5, n) - 1, shape[0] - 1)
        grads.append(IndexedSlices(wide_range(rng, (n, *shape[1:]), dtype), indices))
    variables.append(wide_range(rng, (3, 1025), dtype))  # one row, whole
    grads.append(
        IndexedSlices(wide_range(rng, (257, 1025), dtype), np.full(257, 1, np.uint8))
    )
    return variables, grads
