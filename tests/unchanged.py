"""Check that a block leaves an optimizer and arrays as they were, bit for bit."""

from contextlib import contextmanager

from rmsprop_fast import backends

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
