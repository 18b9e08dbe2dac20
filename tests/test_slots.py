"""State: slots and their order, weights, how variables are recognised and let go."""

import gc
import weakref

import numpy as np
import pytest
from support import FULL, bits, ones

from rmsprop_fast import IndexedSlices, RMSprop

# With rho and epsilon 0, rms is g*g and the increment lr*g/sqrt(g*g): a gradient of 1
# moves its variable by exactly the learning rate, where that is a power of two.
EXACT = {"rho": 0.0, "epsilon": 0.0}
# Everything that a step can keep.


def names_of(opt, variables):
    """Say which slot of which variable each weight is, as "a.rms" and so on."""
    known = {
        id(opt.get_slot(var, slot)): f"{letter}.{slot}"
        for letter, var in variables.items()
        for slot in ("rms", "momentum", "mg")
        if slot in opt.get_slot_names() and has_slot(opt, var, slot)
    }
    return [known[id(array)] for array in opt.weights[1:]]


def has_slot(opt, var, slot_name):
    try:
        opt.get_slot(var, slot_name)
    except KeyError:
        return False
    return True


@pytest.fixture
def abc():
    return {"a": np.ones(2), "b": np.ones((3, 2)), "c": np.ones((), np.float32)}


# --- Weights and their order ----------------------------------------------------------


def test_a_fresh_optimizer_has_iterations_alone():
    opt = RMSprop()
    assert [(w.shape, w.dtype) for w in opt.weights] == [((), np.int64)]
    assert opt.weights[0] == 0
    assert opt.get_slot_names() == []


def test_weights_are_iterations_and_then_slot_by_slot(abc):
    opt = RMSprop(**FULL)
    opt.apply_gradients(ones(*abc.values()))
    assert names_of(opt, abc) == (
        ["a.rms", "b.rms", "c.rms", "a.momentum", "b.momentum", "c.momentum"]
        + ["a.mg", "b.mg", "c.mg"]
    )
    shapes = [(v.shape, v.dtype) for v in abc.values()]
    assert [(w.shape, w.dtype) for w in opt.weights] == [((), np.int64)] + 3 * shapes


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["rms"]),
        ({"momentum": 0.5}, ["rms", "momentum"]),
        ({"centered": True}, ["rms", "mg"]),
        ({"momentum": 0.5, "centered": True}, ["rms", "momentum", "mg"]),
    ],
    ids=["plain", "momentum", "centered", "both"],
)
def test_only_the_slots_that_a_step_needs_exist(options, names):
    var, opt = np.ones(3), RMSprop(**options)
    opt.apply_gradients(ones(var))
    assert opt.get_slot_names() == names
    assert len(opt.weights) == 1 + len(names)


def test_weights_follow_the_order_of_the_pairs(abc):
    opt = RMSprop()
    opt.apply_gradients(ones(abc["c"], abc["a"], abc["c"], abc["b"]))
    assert names_of(opt, abc) == ["c.rms", "a.rms", "b.rms"]
    opt.apply_gradients(ones(abc["b"], abc["a"], abc["c"]))  # known by now
    assert names_of(opt, abc) == ["c.rms", "a.rms", "b.rms"]


def test_variables_seen_later_append_their_slots(abc):
    opt = RMSprop(**FULL)
    opt.apply_gradients(ones(abc["a"]))
    opt.apply_gradients(ones(abc["b"], abc["a"], abc["c"]))
    assert names_of(opt, abc) == (
        ["a.rms", "a.momentum", "a.mg", "b.rms", "c.rms"]
        + ["b.momentum", "c.momentum", "b.mg", "c.mg"]
    )


def test_slots_needed_later_are_appended(abc):
    opt = RMSprop()
    opt.apply_gradients(ones(*abc.values()))
    opt.centered = True
    opt.apply_gradients(ones(*abc.values()))
    opt.momentum = 0.5
    opt.apply_gradients(ones(abc["b"]))
    opt.apply_gradients(ones(abc["c"], abc["a"]))
    assert opt.get_slot_names() == ["rms", "mg", "momentum"]
    order = names_of(opt, abc)
    assert order[:7] == (
        ["a.rms", "b.rms", "c.rms", "a.mg", "b.mg", "c.mg", "b.momentum"]
    )
    assert sorted(order[7:]) == ["a.momentum", "c.momentum"]


def test_slots_of_new_and_of_known_variables_come_slot_by_slot(abc):
    # Keras creates, for one call, every rms that is missing, then every momentum.
    opt = RMSprop()
    opt.apply_gradients(ones(abc["a"]))
    opt.momentum = 0.5
    opt.apply_gradients(ones(abc["a"], abc["b"]))
    assert names_of(opt, abc) == ["a.rms", "b.rms", "a.momentum", "b.momentum"]


def test_slots_needed_later_start_from_zero():
    var, opt = np.ones(3), RMSprop()
    opt.apply_gradients(ones(var))
    opt.momentum, opt.learning_rate = 0.5, 0.0
    opt.apply_gradients(ones(var))
    np.testing.assert_array_equal(opt.get_slot(var, "momentum"), np.zeros(3))


def test_variables_is_another_word_for_weights():
    var, opt = np.ones(3), RMSprop(**FULL)
    opt.apply_gradients(ones(var))
    assert list(map(id, opt.variables())) == list(map(id, opt.weights))


def test_weights_are_the_live_state():
    var, opt = np.full(3, 8.0), RMSprop(0.5, rho=1.0, epsilon=0.0)
    opt.build([var])
    opt.weights[1][...] = 4.0  # with rho 1 it stays: 0.5 * 1 / sqrt(4)
    opt.weights[0][...] = 6
    assert opt.apply_gradients(ones(var)) == 7
    np.testing.assert_array_equal(var, np.full(3, 7.75))


def test_get_weights_returns_copies():
    var, opt = np.ones(3), RMSprop(**FULL)
    opt.apply_gradients(ones(var))
    copies = opt.get_weights()
    assert bits(copies) == bits(opt.weights)
    for copied, live in zip(copies, opt.weights, strict=True):
        assert type(copied) is np.ndarray
        assert not np.shares_memory(copied, live)
        copied[...] = 9
    assert opt.iterations == 1
    assert not (opt.get_slot(var, "rms") == 9).any()


def test_get_weights_before_anything_is_built_is_iterations():
    (iterations,) = RMSprop().get_weights()
    assert (iterations.shape, iterations.dtype, int(iterations)) == ((), np.int64, 0)


# --- set_weights ----------------------------------------------------------------------


def weights_for(opt):
    """Weights that differ from the optimizer's everywhere."""
    return [np.array(w + w.dtype.type(3)) for w in opt.get_weights()]


@pytest.fixture
def built(abc):
    opt = RMSprop(**FULL)
    opt.apply_gradients(ones(*abc.values()))
    return opt


def test_set_weights_copies_into_the_live_arrays(built):
    live, given = built.weights, weights_for(built)
    built.set_weights(given)
    assert list(map(id, built.weights[1:])) == list(map(id, live[1:]))
    assert bits(built.weights) == bits(given)
    assert built.iterations == 4  # 1 + 3
    for array in given:
        array[...] = 9
    assert built.iterations == 4
    assert not (built.weights[1] == 9).any()


def test_set_weights_without_iterations_sets_them_to_zero(built):
    given = weights_for(built)[1:]
    built.set_weights(given)
    assert built.iterations == 0
    assert bits(built.weights[1:]) == bits(given)


def test_set_weights_of_a_fresh_optimizer():
    opt = RMSprop()
    opt.set_weights([np.int64(5)])
    assert opt.iterations == 5
    opt.set_weights([])  # as Keras 1: no iterations, no slots
    assert opt.iterations == 0


@pytest.mark.parametrize("wrap", [list, tuple], ids=["list", "tuple"])
def test_set_weights_takes_a_list_or_a_tuple(built, wrap):
    given = weights_for(built)
    built.set_weights(wrap(given))
    assert bits(built.weights) == bits(given)


def test_set_weights_casts_within_a_kind(built):
    given = weights_for(built)
    other = {"f": {4: np.float64, 8: np.float32}, "i": {8: np.int16}}
    built.set_weights([w.astype(other[w.dtype.kind][w.itemsize]) for w in given])
    assert built.iterations == 4
    for ours, theirs in zip(built.weights, given, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=2.0**-23)  # one float32 rounding


def test_set_weights_may_permute_the_live_arrays():
    a, b, opt = np.ones(2), np.ones(2), RMSprop()
    opt.apply_gradients([(np.array([1.0, 2.0]), a), (np.array([3.0, 4.0]), b)])
    before = bits(opt.weights)
    iterations, first, second = opt.weights
    opt.set_weights([iterations, second, first])
    assert bits(opt.weights) == [before[0], before[2], before[1]]


WRONG_WEIGHTS = {
    "too-many": (
        lambda w: [*w, w[-1]],
        ValueError,
        r"weights must hold the 10 arrays .*'RMSprop', got 11",
    ),
    "too-few": (
        lambda w: w[:-2],
        ValueError,
        r"weights must hold the 10 arrays .*'RMSprop', got 8",
    ),
    "none": (lambda w: [], ValueError, r"weights must hold the 10 arrays .* got 0"),
    "shape-of-the-last": (
        lambda w: [*w[:-1], np.zeros(1, np.float32)],
        ValueError,
        r"weights\[9\] must have the shape \(\), got \(1,\)",
    ),
    "broadcastable": (
        lambda w: [*w[:2], np.zeros((1, 2)), *w[3:]],
        ValueError,
        r"weights\[2\] must have the shape \(3, 2\), got \(1, 2\)",
    ),
    "shape-of-iterations": (
        lambda w: [np.zeros(1, np.int64), *w[1:]],
        ValueError,
        r"weights\[0\] must have the shape \(\), got \(1,\)",
    ),
    "keras-1-shape": (
        lambda w: [*w[2:], w[1]],
        ValueError,
        r"weights\[1\] must have the shape \(2,\), got \(3, 2\)",
    ),
    "complex": (
        lambda w: [*w[:-1], np.zeros((), np.complex64)],
        TypeError,
        r"weights\[9\] must cast to float32 within its kind, got complex64",
    ),
    "text": (
        lambda w: [w[0], np.array(["1", "2"]), *w[2:]],
        TypeError,
        r"weights\[1\] must cast to float64 within its kind, got <U1",
    ),
    "float-iterations": (
        lambda w: [np.float64(3.7), *w[1:]],
        TypeError,
        r"weights\[0\] must cast to int64 within its kind, got float64",
    ),
    "negative-iterations": (
        lambda w: [np.int64(-1), *w[1:]],
        ValueError,
        r"weights\[0\] must be >= 0, got -1",
    ),
    "iterations-beyond-int64": (
        lambda w: [np.uint64(2**63), *w[1:]],
        ValueError,
        r"weights\[0\] must be",
    ),
    "no-list": (
        lambda w: w[1],
        TypeError,
        "weights must be a list of arrays, got ndarray",
    ),
    "None": (
        lambda w: None,
        TypeError,
        "weights must be a list of arrays, got NoneType",
    ),
}


@pytest.mark.parametrize(
    ("spoil", "error", "match"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS
)
def test_wrong_weights_are_refused_and_none_is_copied(built, spoil, error, match):
    before = bits(built.weights)
    with pytest.raises(error, match=match):
        built.set_weights(spoil(weights_for(built)))
    assert bits(built.weights) == before


def test_weights_round_trip_in_the_middle_of_training(rng):
    start = rng.standard_normal((4, 3))
    grads = [rng.standard_normal((4, 3)) for _ in range(6)]
    straight, resumed = start.copy(), start.copy()
    opt = RMSprop(**FULL, decay=0.1)
    for grad in grads:
        opt.apply_gradients([(grad, straight)])
    first, second = RMSprop(**FULL, decay=0.1), RMSprop(**FULL, decay=0.1)
    for grad in grads[:3]:
        first.apply_gradients([(grad, resumed)])
    second.build([resumed])
    second.set_weights(first.get_weights())
    for grad in grads[3:]:
        second.apply_gradients([(grad, resumed)])
    assert resumed.tobytes() == straight.tobytes()
    assert bits(second.weights) == bits(opt.weights)


# --- get_slot -------------------------------------------------------------------------


def test_get_slot_returns_the_live_array():
    var, opt = np.ones((3, 2), np.float32), RMSprop(rho=0.75)
    opt.apply_gradients([(np.full((3, 2), 2.0, np.float32), var)])
    slot = opt.get_slot(var, "rms")
    assert (slot.shape, slot.dtype) == ((3, 2), np.float32)
    np.testing.assert_array_equal(slot, np.ones((3, 2)))  # (1 - 0.75) * 2**2
    slot[0] = 5.0
    assert opt.get_slot(var, "rms")[0, 0] == 5.0
    assert opt.get_slot(var, "rms") is slot


@pytest.mark.parametrize("slot_name", ["momentum", "mg", "velocity", "", None])
def test_a_slot_that_does_not_exist_is_a_key_error(slot_name):
    var, opt = np.ones(3), RMSprop()
    opt.apply_gradients(ones(var))
    with pytest.raises(KeyError, match=r"slot_name must be one of \['rms'\], got "):
        opt.get_slot(var, slot_name)


@pytest.mark.parametrize(
    "make",
    [lambda v: v.copy(), lambda v: v.tolist(), lambda v: None, lambda v: np.float64(1)],
    ids=["copy", "list", "None", "scalar"],
)
@pytest.mark.parametrize("call", ["get_slot", "forget"])
def test_an_unknown_variable_is_a_key_error(call, make):
    var, opt = np.ones(3), RMSprop()
    opt.apply_gradients(ones(var))
    arguments = (make(var), "rms") if call == "get_slot" else (make(var),)
    with pytest.raises(KeyError, match="var must be a variable of this optimizer"):
        getattr(opt, call)(*arguments)
    assert len(opt.weights) == 2


OTHER_VIEWS = {
    "row": lambda v: v[0],
    "first-rows": lambda v: v[:2],
    "flat": lambda v: v.reshape(-1),
    "deeper": lambda v: v[None],
    "column": lambda v: v[:, 0],
    "other-dtype": lambda v: v.view(np.float32),
    "transposed": lambda v: v.T,
}


@pytest.mark.parametrize("view", OTHER_VIEWS.values(), ids=OTHER_VIEWS)
@pytest.mark.parametrize("call", ["get_slot", "forget"])
def test_memory_of_a_variable_in_another_shape_is_not_the_variable(call, view):
    var, opt = np.ones((3, 3)), RMSprop()
    opt.apply_gradients(ones(var))
    arguments = (view(var), "rms") if call == "get_slot" else (view(var),)
    with pytest.raises((KeyError, ValueError)):
        getattr(opt, call)(*arguments)
    assert len(opt.weights) == 2


# --- Which arrays are the same variable -----------------------------------------------


VIEWS = {
    "whole": lambda base: base[:],
    "row": lambda base: base[1],
    "column": lambda base: base[:, 1],
    "reversed": lambda base: base[::-1],
    "fortran": lambda base: base.T,
    "block": lambda base: base[1:3, :2],
    "one-row": lambda base: base[1:2],
    "reshaped": lambda base: base.reshape(2, -1),
    "0-d": lambda base: base[1, 1, ...],
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_fresh_views_of_the_same_memory_find_their_slots(view, rng):
    start = rng.standard_normal((4, 3))
    grads = [rng.standard_normal(view(start).shape) for _ in range(3)]
    one, other = start.copy(), view(start).copy()
    opt, plain = RMSprop(**FULL), RMSprop(**FULL)
    for grad in grads:
        opt.apply_gradients([(np.array(grad), view(one))])
        plain.apply_gradients([(np.array(grad), other)])
    np.testing.assert_array_equal(view(one), other)
    assert len(opt.weights) == 4  # iterations and three slots
    assert opt.get_slot(view(one), "rms").shape == other.shape


def test_a_view_is_the_same_however_it_was_made():
    # The stride of an axis of length 1 leads nowhere, and NumPy gives it any value.
    base, opt = np.full((4, 3), 8.0), RMSprop(0.5, **EXACT)
    for view in (base[1:2], base[1][None], base[1].reshape(1, 3), base[1:3:2]):
        opt.apply_gradients(ones(view))
    assert len(opt.weights) == 2
    np.testing.assert_array_equal(base[1], np.full(3, 6.0))  # 8 - 4 * 0.5


def test_the_rows_of_one_array_may_be_variables_of_their_own():
    base, opt = np.full((3, 2), 8.0), RMSprop(0.5, **EXACT)
    for _ in range(2):
        opt.apply_gradients(ones(*base))
    assert len(opt.weights) == 4  # iterations and a slot for each row
    np.testing.assert_array_equal(base, np.full((3, 2), 7.0))


def test_sparse_and_dense_gradients_share_slots():
    var, opt = np.full(3, 8.0), RMSprop(0.5, rho=0.5)
    opt.apply_gradients(ones(var))
    opt.apply_gradients([(IndexedSlices(np.ones(1), np.array([1])), var)])
    # rms: (1 - 0.5) * 1, then 0.5 * 0.5 + 0.5 * 1 in the one row.
    np.testing.assert_array_equal(opt.get_slot(var, "rms"), [0.5, 0.75, 0.5])


def test_the_optimizer_keeps_its_variables_alive():
    var, opt = np.ones(3), RMSprop()
    alive = weakref.ref(var)
    opt.apply_gradients(ones(var))
    opt.apply_gradients(ones(var))
    del var
    gc.collect()
    assert alive() is not None
    opt.forget(alive())
    gc.collect()
    assert alive() is None


def test_the_optimizer_keeps_the_base_of_a_view_alive():
    base, opt = np.ones((3, 2)), RMSprop()
    alive = weakref.ref(base)
    opt.build([base[1]])
    del base
    gc.collect()
    assert alive() is not None


def test_an_optimizer_lets_its_variables_go_when_it_goes():
    var, opt = np.ones(3), RMSprop()
    alive = weakref.ref(var)
    opt.apply_gradients(ones(var))
    del var, opt
    gc.collect()
    assert alive() is None


def test_gradients_are_not_kept_alive():
    var, opt, grad = np.ones(3), RMSprop(), np.ones(3)
    alive = weakref.ref(grad)
    opt.apply_gradients([(grad, var)])
    opt.apply_gradients([(grad, var)])
    del grad
    gc.collect()
    assert alive() is None


# --- build ----------------------------------------------------------------------------


def test_build_creates_all_slots_and_changes_no_variable(abc):
    opt = RMSprop(**FULL)
    before = bits(abc.values())
    assert opt.build(list(abc.values())) is None
    assert names_of(opt, abc)[::3] == ["a.rms", "a.momentum", "a.mg"]
    assert len(opt.weights) == 10  # iterations and 3 slots of 3 variables
    assert not any(w.any() for w in opt.weights)
    assert bits(abc.values()) == before
    assert opt.iterations == 0


def test_steps_after_build_are_as_without(abc):
    copies = {name: var.copy() for name, var in abc.items()}
    opt, plain = RMSprop(**FULL), RMSprop(**FULL)
    opt.build(abc.values())
    for _ in range(2):
        opt.apply_gradients(ones(*abc.values()))
        plain.apply_gradients(ones(*copies.values()))
    assert bits(abc.values()) == bits(copies.values())
    assert bits(opt.weights) == bits(plain.weights)


def test_build_closes_the_list(abc):
    opt, stranger = RMSprop(), np.ones(7)
    opt.build([abc["a"], abc["b"]])
    before = bits([*abc.values(), stranger, *opt.weights])
    with pytest.raises(
        ValueError, match=r"\[2\]: var must be one of the 2 arrays given"
    ):
        opt.apply_gradients(ones(abc["a"], abc["b"], stranger))
    with pytest.raises(
        ValueError, match="var must be one of the 2 arrays given to build"
    ):
        opt.add_slot(stranger, "rms")
    with pytest.raises(ValueError, match=r"var_list\[1\]: var must be one of the 2"):
        opt.build([abc["a"], stranger])
    assert bits([*abc.values(), stranger, *opt.weights]) == before
    opt.apply_gradients(ones(abc["b"][:]))  # a view is no stranger


def test_build_again_with_the_same_variables_changes_nothing(abc):
    opt = RMSprop(**FULL)
    opt.build(abc.values())
    opt.apply_gradients(ones(*abc.values()))
    before = bits(opt.weights)
    opt.build(abc.values())
    assert bits(opt.weights) == before


def test_build_again_creates_slots_that_are_needed_by_now(abc):
    opt = RMSprop()
    opt.build(abc.values())
    opt.momentum = 0.5
    opt.build(abc.values())
    assert names_of(opt, abc) == (
        ["a.rms", "b.rms", "c.rms", "a.momentum", "b.momentum", "c.momentum"]
    )


def test_build_after_steps_closes_the_list_with_what_is_known(abc):
    opt = RMSprop()
    opt.apply_gradients(ones(abc["a"]))
    opt.build([abc["b"]])
    opt.apply_gradients(ones(abc["a"], abc["b"]))
    with pytest.raises(ValueError, match="one of the 2 arrays given to build"):
        opt.apply_gradients(ones(abc["c"]))


@pytest.mark.parametrize(
    ("var_list", "error", "match"),
    [
        (None, TypeError, "var_list must be a list of arrays, got NoneType"),
        (np.ones(3), TypeError, "var_list must be a list of arrays, got ndarray"),
        ([], ValueError, "var_list must hold at least one array, got none"),
        ([np.ones(3), [1.0]], TypeError, r"var_list\[1\]: var must be a numpy.ndarray"),
        (
            [np.ones(3), np.ones(3, int)],
            TypeError,
            r"var_list\[1\]: var must have dtype",
        ),
        (
            [np.ones(3), np.broadcast_to(1.0, 3)],
            ValueError,
            r"var_list\[1\]: var must be writable",
        ),
        (
            (lambda x: [x[:3], x[2:]])(np.ones(6)),
            ValueError,
            r"var_list\[1\]: variable shares memory with",
        ),
        (
            (lambda x: [x, x.reshape(2, 3)])(np.ones(6)),
            ValueError,
            r"var_list\[1\]: var must keep the shape",
        ),
    ],
    ids="None array empty list integers read-only overlap reshaped".split(),  # noqa: SIM905
)
def test_a_wrong_var_list_is_refused_and_builds_nothing(var_list, error, match):
    opt, var = RMSprop(), np.ones(2)
    with pytest.raises(error, match=match):
        opt.build(var_list)
    assert len(opt.weights) == 1
    assert opt.apply_gradients(ones(var)) == 1  # still open


def test_build_reads_callables_before_it_builds():
    def broken():
        raise LookupError("no value today")

    opt = RMSprop(momentum=broken)
    with pytest.raises(LookupError, match="no value today"):
        opt.build([np.ones(3)])
    assert len(opt.weights) == 1


def test_a_closed_list_gets_slots_that_are_needed_later():
    var, opt = np.full(3, 8.0), RMSprop(0.5, **EXACT)
    opt.build([var])
    opt.apply_gradients(ones(var))
    opt.momentum = 0.5
    opt.apply_gradients(ones(var))
    opt.apply_gradients(ones(var))
    # The increments are 0.5, then 0.5 * 0 + 0.5, then 0.5 * 0.5 + 0.5.
    np.testing.assert_array_equal(var, np.full(3, 8.0 - 0.5 - 0.5 - 0.75))


@pytest.mark.parametrize("works", range(4))
@pytest.mark.parametrize("call", ["build", "apply_gradients"])
def test_an_allocation_that_fails_binds_nothing(monkeypatch, call, works):
    a, b, opt = np.full(3, 8.0), np.full(2, 8.0), RMSprop(0.5, **EXACT)
    opt.momentum = 0.5  # two slots for each variable: four allocations
    pairs, made, zeros = ones(a, b), [], np.zeros

    def scarce(*arguments, **options):
        made.append(1)
        if len(made) > works:
            raise MemoryError("no more arrays")
        return zeros(*arguments, **options)

    monkeypatch.setattr(np, "zeros", scarce)
    with pytest.raises(MemoryError, match="no more arrays"):
        getattr(opt, call)([a, b] if call == "build" else pairs)
    monkeypatch.undo()
    assert len(opt.weights) == 1
    assert opt.get_slot_names() == []
    assert opt.apply_gradients(pairs) == 1
    np.testing.assert_array_equal(np.concatenate([a, b]), np.full(5, 7.5))


# --- forget ---------------------------------------------------------------------------


def test_forget_drops_the_slots_of_one_variable(abc):
    opt = RMSprop(**FULL)
    opt.apply_gradients(ones(*abc.values()))
    left = {name: abc[name] for name in "ac"}
    kept = {name: id(opt.get_slot(abc[name], "mg")) for name in "ac"}
    opt.forget(abc["b"])
    assert names_of(opt, left) == (
        ["a.rms", "c.rms", "a.momentum", "c.momentum", "a.mg", "c.mg"]
    )
    assert {name: id(opt.get_slot(abc[name], "mg")) for name in "ac"} == kept
    assert opt.iterations == 1
    with pytest.raises(KeyError, match="var must be a variable of this optimizer"):
        opt.get_slot(abc["b"], "rms")


@pytest.mark.parametrize("gone", ["a", "b", "c"])
def test_the_variables_left_continue_bit_for_bit(abc, gone):
    copies = {name: var.copy() for name, var in abc.items()}
    opt, plain = RMSprop(**FULL), RMSprop(**FULL)
    left = [name for name in "abc" if name != gone]
    opt.apply_gradients(ones(*abc.values()))
    plain.apply_gradients(ones(*copies.values()))
    opt.forget(abc[gone][...])
    for _ in range(2):
        opt.apply_gradients(ones(*(abc[name] for name in left)))
        plain.apply_gradients(ones(*(copies[name] for name in left)))
    assert bits(abc.values()) == bits(copies.values())


def test_a_forgotten_variable_comes_back_as_a_new_one():
    var, opt = np.full(3, 8.0), RMSprop(0.5, rho=0.5)
    opt.apply_gradients(ones(var))
    opt.forget(var)
    opt.apply_gradients(ones(var))
    np.testing.assert_array_equal(opt.get_slot(var, "rms"), np.full(3, 0.5))


def test_the_memory_of_a_forgotten_variable_is_free_again():
    var, opt = np.ones(6), RMSprop()
    opt.apply_gradients(ones(var))
    opt.forget(var)
    assert opt.apply_gradients([(var[3:], var[:3])]) == 2  # another shape, a gradient
    opt.forget(var[:3])
    opt.apply_gradients(ones(var.reshape(2, 3)))
    assert len(opt.weights) == 2


def test_forget_twice_is_a_key_error():
    var, opt = np.ones(3), RMSprop()
    opt.apply_gradients(ones(var))
    opt.forget(var)
    with pytest.raises(KeyError, match="var must be a variable of this optimizer"):
        opt.forget(var)


# --- add_slot -------------------------------------------------------------------------


INITIALIZERS = {
    "default": ((), [0.0, 0.0]),
    "zeros": (("zeros",), [0.0, 0.0]),
    "ones": (("ones",), [1.0, 1.0]),
    "array": ((np.array([2.0, 3.0]),), [2.0, 3.0]),
    "float32-array": ((np.array([2.0, 3.0], np.float32),), [2.0, 3.0]),
    "list": (([2, 3],), [2.0, 3.0]),
    "callable": ((lambda shape, dtype: np.full(shape, 4.0, dtype),), [4.0, 4.0]),
    "callable-of-list": ((lambda shape, dtype: [5.0, 6.0],), [5.0, 6.0]),
}


@pytest.mark.parametrize(
    ("arguments", "expected"), INITIALIZERS.values(), ids=INITIALIZERS
)
def test_add_slot_returns_the_new_live_slot(arguments, expected):
    var, opt = np.full(2, 8.0), RMSprop()
    slot = opt.add_slot(var, "rms", *arguments)
    assert type(slot) is np.ndarray
    assert slot.dtype == np.float64
    np.testing.assert_array_equal(slot, expected)
    assert opt.get_slot(var, "rms") is slot
    assert opt.weights[1] is slot
    np.testing.assert_array_equal(var, np.full(2, 8.0))


def test_a_callable_initializer_gets_shape_and_dtype():
    seen = []

    def initializer(shape, dtype):
        seen.append((shape, dtype))
        return np.zeros(shape, dtype)

    RMSprop().add_slot(np.ones((2, 3), np.float32), "rms", initializer)
    assert seen == [((2, 3), np.dtype(np.float32))]


@pytest.mark.parametrize(
    ("slot_name", "options", "expected"),
    [
        # rho 1 keeps rms at 4: 0.5 * 1 / sqrt(4).
        ("rms", {"rho": 1.0, "epsilon": 0.0}, 0.25),
        # 0.5 * 4 + 0.5.
        ("momentum", {**EXACT, "momentum": 0.5}, 2.5),
        # rho 1 keeps mg at 4 and rms at 0, d is clamped to 0: 0.5 * 1 / sqrt(0.25).
        ("mg", {"rho": 1.0, "epsilon": 0.25, "centered": True}, 1.0),
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_later_steps_use_a_slot_that_was_added(slot_name, options, expected, known):
    var, opt = np.full(2, 8.0), RMSprop(0.5, **options)
    if known:
        opt.add_slot(var, "extra")
    opt.add_slot(var, slot_name, np.full(2, 4.0))
    opt.apply_gradients(ones(var))
    np.testing.assert_array_equal(var, np.full(2, 8.0 - expected))


def test_add_slot_is_idempotent():
    var, opt = np.ones(3), RMSprop()
    slot = opt.add_slot(var, "rms", "ones")
    assert opt.add_slot(var[:], "rms", "zeros") is slot
    np.testing.assert_array_equal(slot, np.ones(3))
    assert len(opt.weights) == 2
    opt.apply_gradients(ones(var))
    assert opt.add_slot(var, "rms") is slot


def test_slots_of_any_name_can_be_added():
    var, opt = np.ones(3), RMSprop()
    opt.apply_gradients(ones(var))
    slot = opt.add_slot(var, "average", "ones")
    assert opt.get_slot_names() == ["rms", "average"]
    assert opt.get_slot(var, "average") is slot
    opt.apply_gradients(ones(var))
    np.testing.assert_array_equal(slot, np.ones(3))


def test_added_slots_join_the_weights_in_order_of_creation():
    a, b, opt = np.ones(3), np.ones(2), RMSprop()
    first = opt.add_slot(b, "momentum")
    second = opt.add_slot(a, "average")
    opt.apply_gradients(ones(a, b))
    slots = [first, second, opt.get_slot(b, "rms"), opt.get_slot(a, "rms")]
    assert sorted(map(id, opt.weights[1:])) == sorted(map(id, slots))
    assert [id(w) for w in opt.weights[1:3]] == [id(first), id(second)]


def test_an_array_given_as_initializer_is_copied():
    given, var, opt = np.ones(3), np.ones(3), RMSprop()
    slot = opt.add_slot(var, "rms", given)
    assert not np.shares_memory(slot, given)
    opt.apply_gradients(ones(var))
    np.testing.assert_array_equal(given, np.ones(3))


def test_the_variable_itself_may_give_the_first_values():
    var, opt = np.array([2.0, 3.0]), RMSprop()
    slot = opt.add_slot(var, "average", var)
    assert not np.shares_memory(slot, var)
    np.testing.assert_array_equal(slot, [2.0, 3.0])


@pytest.mark.parametrize("through", ["array", "callable"])
def test_a_slot_can_live_in_a_file(tmp_path, through):
    path = tmp_path / "slot"
    made = np.memmap(path, np.float64, "w+", shape=(3,))
    made[:] = 4.0
    given = made if through == "array" else lambda shape, dtype: made
    var, opt = np.full(3, 8.0), RMSprop(0.5, rho=0.5, epsilon=0.0)
    assert opt.add_slot(var, "rms", given) is made
    opt.apply_gradients([(np.full(3, 2.0), var)])
    made.flush()
    # 0.5 * 4 + 0.5 * 2**2 stays 4.
    np.testing.assert_array_equal(np.fromfile(path), np.full(3, 4.0))
    opt.apply_gradients([(np.zeros(3), var)])
    made.flush()
    np.testing.assert_array_equal(np.fromfile(path), np.full(3, 2.0))


def test_a_read_only_memmap_is_copied(tmp_path):
    path = tmp_path / "slot"
    np.full(3, 4.0).tofile(path)
    made = np.memmap(path, np.float64, "r", shape=(3,))
    var, opt = np.ones(3), RMSprop()
    slot = opt.add_slot(var, "rms", made)
    assert slot.flags.writeable
    opt.apply_gradients(ones(var))
    np.testing.assert_array_equal(np.fromfile(path), np.full(3, 4.0))


def test_one_memmap_is_not_for_two_slots(tmp_path):
    made = np.memmap(tmp_path / "slot", np.float64, "w+", shape=(3,))
    a, b, opt = np.ones(3), np.ones(3), RMSprop()
    opt.add_slot(a, "rms", made)
    for arguments in [(b, "rms", made), (a, "momentum", made[:])]:
        with pytest.raises(ValueError, match="initializer shares memory with"):
            opt.add_slot(*arguments)
    assert len(opt.weights) == 2


def test_a_memmap_is_not_for_a_variable_and_its_slot(tmp_path):
    var, opt = np.memmap(tmp_path / "var", np.float64, "w+", shape=(3,)), RMSprop()
    with pytest.raises(ValueError, match="initializer shares memory with"):
        opt.add_slot(var, "rms", var)
    assert len(opt.weights) == 1
    assert opt.apply_gradients([(np.ones(3), var)]) == 1


@pytest.mark.parametrize(
    ("initializer", "error", "match"),
    [
        ("uniform", ValueError, "initializer must be one of zeros, ones, .*'uniform'"),
        (
            np.ones(2),
            ValueError,
            r"initializer must give var's shape \(3,\), got \(2,\)",
        ),
        (1.0, ValueError, r"initializer must give var's shape \(3,\), got \(\)"),
        (np.ones((1, 3)), ValueError, r"initializer must give .* got \(1, 3\)"),
        (lambda s, d: np.ones(4), ValueError, r"initializer must give .* got \(4,\)"),
        (
            np.ones(3, complex),
            TypeError,
            "initializer must give float64 or .* complex128",
        ),
        (None, (TypeError, ValueError), "initializer must"),
    ],
    ids="name shape scalar broadcastable callable complex None".split(),  # noqa: SIM905
)
def test_a_wrong_initializer_is_refused_and_binds_nothing(initializer, error, match):
    var, opt = np.ones(3), RMSprop()
    with pytest.raises(error, match=match):
        opt.add_slot(var, "rms", initializer)
    assert len(opt.weights) == 1
    with pytest.raises(KeyError):
        opt.get_slot(var, "rms")


def test_an_initializer_that_raises_binds_nothing():
    def broken(shape, dtype):
        raise LookupError("no values today")

    var, opt = np.ones(3), RMSprop()
    with pytest.raises(LookupError, match="no values today"):
        opt.add_slot(var, "rms", broken)
    assert len(opt.weights) == 1


@pytest.mark.parametrize("slot_name", [None, 3, b"rms"], ids=repr)
def test_a_slot_name_must_be_text(slot_name):
    with pytest.raises(TypeError, match="slot_name must be a str, got "):
        RMSprop().add_slot(np.ones(3), slot_name)


@pytest.mark.parametrize(
    ("var", "error", "match"),
    [
        ([1.0], TypeError, "^var must be a numpy.ndarray, got list"),
        (np.ones(3, int), TypeError, "^var must have dtype float32 or float64"),
        (np.broadcast_to(1.0, 3), ValueError, "^var must be writable"),
    ],
    ids=["list", "integers", "read-only"],
)
def test_add_slot_refuses_what_is_no_variable(var, error, match):
    opt = RMSprop()
    with pytest.raises(error, match=match):
        opt.add_slot(var, "rms")
    assert len(opt.weights) == 1


def test_add_slot_refuses_a_variable_in_another_shape():
    var, opt = np.ones(6), RMSprop()
    opt.apply_gradients(ones(var))
    with pytest.raises(ValueError, match=r"var must keep the shape.* got \(2, 3\)"):
        opt.add_slot(var.reshape(2, 3), "average")
    with pytest.raises(ValueError, match="variable shares memory with"):
        opt.add_slot(var[1:], "average")
    assert len(opt.weights) == 2


# --- add_weight -----------------------------------------------------------------------


def test_add_weight_returns_an_array_that_is_not_in_weights():
    opt = RMSprop()
    weight = opt.add_weight("w", (2, 3))
    assert (weight.shape, weight.dtype) == ((2, 3), np.float32)
    assert not weight.any()
    assert len(opt.weights) == 1


def test_add_weight_takes_a_dtype_and_an_initializer():
    weight = RMSprop().add_weight("w", [2], dtype="float64", initializer="ones")
    assert weight.dtype == np.float64
    np.testing.assert_array_equal(weight, [1.0, 1.0])
    given = np.array([2.0, 3.0])
    weight = RMSprop().add_weight("w", (2,), np.float32, given)
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, given)
    weight = RMSprop().add_weight("w", (), np.float64, lambda s, d: np.full(s, 4.0, d))
    assert weight == 4.0


def test_add_weight_takes_the_words_of_keras_at_their_defaults():
    weight = RMSprop().add_weight(
        "w", (2,), trainable=None, synchronization=None, aggregation=None
    )
    assert weight.shape == (2,)


@pytest.mark.parametrize("word", ["trainable", "synchronization", "aggregation"])
def test_arguments_of_keras_have_no_effect(word):
    weight = RMSprop().add_weight("w", (2,), **{word: True})
    assert weight.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((None, (2,)), TypeError, "name must be a str, got None"),
        (("w", 2), TypeError, "shape must be a sequence of integers, got 2"),
        (("w", (-1,)), ValueError, r"shape\[0\] must be >= 0, got -1"),
        (("w", (2,), "int64"), TypeError, "dtype must be float32 or float64"),
        (("w", (2,), "no-dtype"), TypeError, "dtype must be float32 or float64"),
        (("w", (2,), None, "uniform"), ValueError, "initializer must be one of"),
        (("w", (2,), None, np.ones(3)), ValueError, "initializer must give"),
    ],
    ids="name shape negative int64 no-dtype initializer values".split(),  # noqa: SIM905
)
def test_add_weight_refuses_wrong_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        RMSprop().add_weight(*arguments)
