"""Rows that catch up: the closed form's bits, the dense algorithm, what refuses."""

from __future__ import annotations

import copy
import json
import pickle
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import Host
from reference import Reference
from support import (
    OPTIONS,
    assert_equals_reference,
    assert_same_bits,
    bits,
    nothing_changes,
    wide_range,
)

from rmsprop_fast import IndexedSlices, RMSprop, load, schedules
from rmsprop_fast.cpu import _platform

# rms, mg, momentum: k steps round k times densely, and in float64 the k-th power of the
# closed form has k roundings of its own. Each is half a unit of the last place (ulp) of
# something up to twice as large as an ulp says. Three more for the last products.
ULPS = {np.float32: lambda k: k + 3, np.float64: lambda k: 2 * k + 3}


def rows_of(rng, n_rows, width, n, dtype):
    """A row-sparse gradient with duplicates."""
    indices = rng.integers(0, n_rows, n)
    return IndexedSlices(rng.standard_normal((n, width)).astype(dtype), indices)


def densify(grad, var):
    """The same gradient with its zeros; duplicates summed in order, as specified."""
    rows, sums = Reference(var.dtype.type).sum_duplicates(
        grad.indices, grad.values.astype(float)
    )
    dense = np.zeros_like(var)
    dense[rows] = sums
    return dense


def ulps(ours, theirs):
    """How many units of the last place of the larger one two arrays are apart."""
    larger = np.maximum(np.abs(ours), np.abs(theirs))
    return float((np.abs(ours - theirs) / np.spacing(larger)).max(initial=0))


# --- The closed form ------------------------------------------------------------------


def test_rows_that_catch_up_equal_the_reference(
    rng, dtype, centered, momentum, eps_in_sqrt, isa, n_threads
) -> None:
    options = OPTIONS | {"centered": centered, "momentum": momentum}
    options |= {"eps_in_sqrt": eps_in_sqrt}
    opt = RMSprop(**options, catch_up=True, num_threads=n_threads)
    ref = Reference(dtype, **options, catches_up=True)
    var = wide_range(rng, (40, 19), dtype)
    for t in range(8):
        # Few occurrences, so that rows miss steps; many of one row, so that it is hot;
        # or a dense step, by which every row catches up.
        indices = rng.integers(0, 40, 5)
        if t % 3 == 1:
            indices = np.concatenate([indices, np.full(150, 7)])
        grad = IndexedSlices(wide_range(rng, (len(indices), 19), dtype), indices)
        if t == 5:
            grad = wide_range(rng, var.shape, dtype)
        expected = ref.update(var, grad)
        opt.apply_gradients([(grad, var)])
        assert_same_bits(var, expected)
        assert_equals_reference(opt, var, ref)
    assert opt._step.team == (n_threads if _platform.OPENMP else 1)
    some = rng.integers(0, 40, 30).astype(np.int16)
    expected = ref.catch_up(var, np.unique(some)).astype(dtype)
    opt.catch_up(var, some)
    assert_same_bits(var, expected)
    expected = ref.catch_up(var).astype(dtype)
    opt.catch_up()
    assert_same_bits(var, expected)
    assert_equals_reference(opt, var, ref)


@pytest.mark.parametrize("missed", [1, 2, 3, 1000, 2**20 + 5, 2**40 - 1])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999, 1.0])
def test_any_number_of_missed_steps_equals_the_reference(
    rng, dtype, isa, missed, momentum
) -> None:
    options = OPTIONS | {"rho": 0.9999, "momentum": momentum, "centered": True}
    opt = RMSprop(**options, catch_up=True)
    ref = Reference(dtype, **options, catches_up=True)
    var = wide_range(rng, (3, 37), dtype)
    grad = wide_range(rng, var.shape, dtype)
    ref.update(var, grad)
    opt.apply_gradients([(grad, var)])
    # What a variable misses is state: pretend that it made many row-sparse steps.
    opt._slots[0].counters["steps"][0] += missed
    ref.steps += missed
    expected = ref.catch_up(var).astype(dtype)
    opt.catch_up(var)
    assert_same_bits(var, expected)
    assert_equals_reference(opt, var, ref)


def test_momentum_of_one_moves_a_row_by_the_number_of_missed_steps(
    anywhere, dtype
) -> None:
    # rho and epsilon 0: the increment is lr*g/|g|, and lr is a power of two.
    opt = RMSprop(0.25, 0.0, 1.0, 0.0, catch_up=True)
    var = anywhere(np.zeros((2, 3), dtype))
    first, second = (
        anywhere.grad(IndexedSlices(np.ones((1, 3), dtype), np.array([row])))
        for row in (0, 1)
    )
    opt.apply_gradients([(first, var)])
    for _ in range(1000):
        opt.apply_gradients([(second, var)])
    opt.catch_up(var, anywhere(np.array([0])))
    np.testing.assert_array_equal(anywhere.get(var)[0], -0.25 * 1001)


def test_factors_below_the_smallest_normal_number_are_zero(dtype, isa) -> None:
    opt = RMSprop(rho=0.5, catch_up=True)
    var = np.ones((1, 20), dtype)
    opt.apply_gradients([(np.full_like(var, 1e3), var)])
    opt._slots[0].counters["steps"][0] += -np.finfo(dtype).minexp + 1
    opt.catch_up()
    assert (opt.get_slot(var, "rms") == 0).all()


# --- The dense algorithm --------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data())
def test_missed_steps_equal_dense_ones_within_the_stated_ulps(anywhere, data) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    k = data.draw(st.integers(1, 400), "missed steps")
    rho = data.draw(st.floats(0.5, 1.0), "rho")
    momentum = data.draw(st.sampled_from([0.0, 0.3, 0.9, 0.99, 1.0]), "momentum")
    centered = data.draw(st.booleans(), "centered")
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    options = {"rho": rho, "momentum": momentum, "centered": centered}
    options |= {"learning_rate": 0.01, "epsilon": 1e-3}
    opt, dense = RMSprop(**options, catch_up=True), RMSprop(**options)
    twin = rng.standard_normal((2, 33)).astype(dtype)
    var = anywhere(twin)
    first = rng.standard_normal(twin.shape).astype(dtype)
    opt.apply_gradients([(anywhere(first), var)])
    dense.apply_gradients([(first, twin)])
    before = twin.copy()
    nothing = np.zeros_like(twin)
    empty = anywhere.grad(IndexedSlices(nothing[:0], np.zeros(0, np.intp)))
    largest, path = np.abs(before), np.zeros(var.shape)
    for _ in range(k):
        opt.apply_gradients([(empty, var)])
        if momentum:
            path += np.abs(dense.get_slot(twin, "momentum"))
        dense.apply_gradients([(nothing, twin)])
        largest = np.maximum(largest, np.abs(twin))
    np.testing.assert_array_equal(anywhere.get(var), before)  # nobody has asked
    opt.catch_up()
    for name in dense.get_slot_names():
        ours = anywhere.get(opt.get_slot(var, name))
        assert ulps(ours, dense.get_slot(twin, name)) <= ULPS[dtype](k)
    # The path's factors are as far apart as the momentum; k subtractions round.
    unit = np.finfo(dtype).eps
    bound = ULPS[dtype](k) * unit * path + (k + 1) / 2 * np.spacing(largest)
    assert (np.abs(anywhere.get(var) - twin) <= bound).all()


@settings(max_examples=40)
@given(data=st.data())
def test_row_sparse_training_equals_dense_training(anywhere, data) -> None:
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    centered = data.draw(st.booleans(), "centered")
    momentum = data.draw(st.sampled_from([0.0, 0.9]), "momentum")
    eps_in_sqrt = data.draw(st.booleans(), "eps_in_sqrt")
    rate = data.draw(
        st.sampled_from(
            [0.01, schedules.ExponentialDecay(0.01, 5, 0.5), lambda: 0.003]
        ),
        "learning_rate",
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 99), "seed"))
    options = {"centered": centered, "momentum": momentum, "learning_rate": rate}
    # An epsilon that keeps rounding in rms - mg*mg from growing without a bound.
    options |= {"eps_in_sqrt": eps_in_sqrt, "epsilon": 1e-2, "decay": 0.01}
    options |= {"clipvalue": 1.5}
    opt, dense = RMSprop(**options, catch_up=True), RMSprop(**options)
    twin = rng.standard_normal((30, 5)).astype(dtype)
    var = anywhere(twin)
    n_steps = 60
    for _ in range(n_steps):
        grad = rows_of(rng, 30, 5, 3, dtype)
        # Clipped before duplicates are summed: let the dense one have no need.
        grad = IndexedSlices(np.clip(grad.values, -0.5, 0.5), grad.indices)
        opt.apply_gradients([(anywhere.grad(grad), var)])
        dense.apply_gradients([(densify(grad, twin), twin)])
    opt.catch_up()
    ours = anywhere.get(opt.get_slot(var, "rms"))
    assert ulps(ours, dense.get_slot(twin, "rms")) <= ULPS[dtype](n_steps)
    # Each of 60 steps moves by at most lr/sqrt(.1), or ten times that with momentum,
    # some hundred units relative to that apart.
    atol = 300 * np.finfo(dtype).eps
    np.testing.assert_allclose(anywhere.get(var), twin, rtol=0, atol=atol)


def test_a_dense_step_catches_up_first(anywhere, rng, dtype) -> None:
    opt = RMSprop(momentum=0.9, centered=True, catch_up=True)
    var = anywhere(rng.standard_normal((20, 4)).astype(dtype))
    for _ in range(5):
        opt.apply_gradients([(anywhere.grad(rows_of(rng, 20, 4, 3, dtype)), var)])
    twin_var = anywhere(anywhere.get(var))
    twin = copy.deepcopy(opt)
    twin.build([twin_var])
    twin.catch_up()
    grad = anywhere(rng.standard_normal(var.shape).astype(dtype))
    opt.apply_gradients([(grad, var)])
    twin.apply_gradients([(grad, twin_var)])
    assert_same_bits(anywhere.get(var), anywhere.get(twin_var))
    assert bits(opt.get_weights()) == bits(twin.get_weights())


def test_only_a_touch_and_catch_up_write(anywhere, rng) -> None:
    opt = RMSprop(momentum=0.9, catch_up=True)
    var = anywhere(rng.standard_normal((10, 4)))
    opt.apply_gradients([(anywhere(np.ones((10, 4))), var)])
    before = anywhere.get(var).copy()
    rms = anywhere.get(opt.get_slot(var, "rms")).copy()
    grad = anywhere.grad(IndexedSlices(np.ones((1, 4)), np.array([2])))
    for _ in range(3):
        opt.apply_gradients([(grad, var)])
    others = np.delete(np.arange(10), 2)
    with nothing_changes(opt, var):
        opt.get_slot(var, "momentum")
        pickle.dumps(opt)
        assert opt.weights[1] is opt.get_slot(var, "rms")
    np.testing.assert_array_equal(anywhere.get(var)[others], before[others])
    ours = anywhere.get(opt.get_slot(var, "rms"))
    np.testing.assert_array_equal(ours[others], rms[others])
    opt.catch_up(var, anywhere(np.array([5, 5, 5])))
    changed = np.flatnonzero((anywhere.get(var) != before).any(axis=1))
    np.testing.assert_array_equal(changed, [2, 5])


def test_catching_up_twice_changes_nothing_more(anywhere, rng, n_threads) -> None:
    opt = RMSprop(momentum=0.9, catch_up=True, num_threads=n_threads)
    var = anywhere(rng.standard_normal((10, 4)))
    for _ in range(3):
        opt.apply_gradients([(anywhere.grad(rows_of(rng, 10, 4, 3, float)), var)])
    opt.catch_up(var, anywhere(np.arange(10)))
    with nothing_changes(opt, var):
        opt.catch_up()
        opt.catch_up(var, anywhere(np.arange(10)))


def test_a_variable_updated_twice_in_a_call_makes_two_steps(anywhere, rng) -> None:
    options = {"momentum": 0.9, "catch_up": True}
    opt, other = RMSprop(**options), RMSprop(**options)
    start = rng.standard_normal((10, 4))
    var, twin = anywhere(start), anywhere(start)
    grads = [anywhere.grad(rows_of(rng, 10, 4, 3, float)) for _ in range(6)]
    for one, two in zip(grads[::2], grads[1::2], strict=True):
        opt.apply_gradients([(one, var), (two, var)])
        other.apply_gradients([(one, twin)])
        other.apply_gradients([(two, twin)])
    opt.catch_up()
    other.catch_up()
    assert_same_bits(anywhere.get(var), anywhere.get(twin))


@pytest.mark.parametrize(
    "view",
    [lambda a: a[::2, ::-3], lambda a: a.T, lambda a: a[::3], lambda a: a[:, :5]],
    ids=["strided", "transposed", "every third row", "columns"],
)
def test_layouts_catch_up_to_the_same_bits(rng, dtype, view, n_threads) -> None:
    var = view(wide_range(rng, (40, 900), dtype))
    plain = np.ascontiguousarray(var)
    opts = [
        RMSprop(momentum=0.9, catch_up=True, num_threads=n_threads) for _ in range(2)
    ]
    for _ in range(4):
        n_rows, width = plain.shape
        grad = rows_of(rng, n_rows, width, 4, dtype)
        for opt, array in zip(opts, (var, plain), strict=True):
            opt.apply_gradients([(grad, array)])
    opts[0].catch_up(var, np.arange(3))
    opts[1].catch_up(plain, np.arange(3))
    assert_same_bits(var, plain)
    for opt in opts:
        opt.catch_up()
    assert_same_bits(var, plain)
    assert bits(opts[0].get_weights()) == bits(opts[1].get_weights())


def test_variables_of_any_rank_may_catch_up(anywhere, dtype) -> None:
    opt = RMSprop(momentum=0.9, catch_up=True)
    shapes = [(), (0,), (3, 0), (5,), (4, 2, 3)]
    variables = [anywhere(np.ones(shape, dtype)) for shape in shapes]
    for _ in range(3):
        grads = [np.ones(shape, dtype) for shape in shapes]
        grads[3] = IndexedSlices(np.ones(1, dtype), np.array([2]))
        grads[4] = IndexedSlices(np.ones((1, 2, 3), dtype), np.array([1]))
        grads[2] = IndexedSlices(np.ones((1, 0), dtype), np.array([1]))
        opt.apply_gradients(zip(map(anywhere.grad, grads), variables, strict=True))
    opt.catch_up()
    assert len(opt.get_weights()) == 1 + 2 * len(variables)


# --- Hyperparameters ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("rho", 0.5), ("momentum", 0.2), ("centered", False)]
)
def test_setting_what_missed_steps_depend_on_catches_up_first(
    anywhere, rng, name, value
) -> None:
    twin = rng.standard_normal((10, 4))
    var = anywhere(twin)
    opt = RMSprop(0.01, momentum=0.9, centered=True, epsilon=1e-2, catch_up=True)
    dense = RMSprop(0.01, momentum=0.9, centered=True, epsilon=1e-2)
    for t in range(12):
        if t == 6:
            setattr(opt, name, value)
            setattr(dense, name, value)
            assert_caught_up(opt)
        grad = rows_of(rng, 10, 4, 2, float)
        opt.apply_gradients([(anywhere.grad(grad), var)])
        dense.apply_gradients([(densify(grad, twin), twin)])
    opt.catch_up()
    np.testing.assert_allclose(anywhere.get(var), twin, rtol=1e-12)
    ours = anywhere.get(opt.get_slot(var, "mg"))
    np.testing.assert_allclose(ours, dense.get_slot(twin, "mg"), rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"), [("rho", 0.5), ("momentum", 0.2), ("centered", False)]
)
def test_a_step_uses_what_was_set_while_its_callables_ran(rng, name, value) -> None:
    # As another thread may: all other rows have caught up at the old value.
    def rate():
        if opt.iterations == 4:
            setattr(opt, name, value)
        return 0.01

    start = rng.standard_normal((10, 4))
    var, twin_var = start.copy(), start.copy()
    options = {"momentum": 0.9, "centered": True, "catch_up": True}
    opt, twin = RMSprop(rate, **options), RMSprop(0.01, **options)
    for t in range(8):
        if t == 4:
            setattr(twin, name, value)
        grad = rows_of(rng, 10, 4, 2, float)
        opt.apply_gradients([(grad, var)])
        twin.apply_gradients([(grad, twin_var)])
    opt.catch_up()
    twin.catch_up()
    assert_same_bits(var, twin_var)


def assert_caught_up(opt):
    opt.get_weights()  # a ValueError otherwise


@pytest.mark.parametrize("name", ["rho", "momentum"])
def test_a_callable_is_refused_with_catch_up(name) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be a number with catch_up"):
        RMSprop(**{name: lambda: 0.5}, catch_up=True)
    opt = RMSprop(catch_up=True)
    with pytest.raises(ValueError, match=rf"^{name} must be a number with catch_up"):
        setattr(opt, name, lambda: 0.5)
    assert getattr(opt, name) == getattr(RMSprop(), name)


def test_a_value_out_of_range_does_not_catch_up(anywhere, rng) -> None:
    opt = RMSprop(momentum=0.9, catch_up=True)
    var = anywhere(np.ones((10, 4)))
    opt.apply_gradients([(anywhere.grad(rows_of(rng, 10, 4, 2, float)), var)])
    with nothing_changes(opt, var), pytest.raises(ValueError, match=r"rho must be in"):
        opt.rho = 2.0


def test_weight_decay_is_refused_with_catch_up() -> None:
    with pytest.raises(ValueError, match=r"^weight_decay must be None or 0"):
        RMSprop(weight_decay=0.1, catch_up=True)
    opt = RMSprop(weight_decay=0.0, catch_up=True)
    with pytest.raises(ValueError, match=r"^weight_decay must be None or 0"):
        opt.weight_decay = 0.1
    assert opt.weight_decay == 0


def test_catch_up_is_part_of_the_configuration() -> None:
    opt = RMSprop(catch_up=True)
    config = json.loads(json.dumps(opt.get_config()))
    assert config["catch_up"] is True
    assert RMSprop.from_config(config).get_config() == config
    assert "catch_up" not in RMSprop().get_config()
    with pytest.raises(TypeError, match=r"^catch_up must be a bool"):
        RMSprop(catch_up=1)


# --- State ----------------------------------------------------------------------------


@pytest.fixture
def behind(anywhere, rng):
    """An optimizer and its variable, of which all rows but the last miss steps."""
    opt = RMSprop(momentum=0.9, catch_up=True)
    var = anywhere(rng.standard_normal((10, 4)))
    opt.apply_gradients([(anywhere(np.ones((10, 4))), var)])
    for _ in range(3):
        grad = IndexedSlices(rng.standard_normal((1, 4)), np.array([9]))
        opt.apply_gradients([(anywhere.grad(grad), var)])
    return opt, var


def test_get_weights_needs_every_row_to_have_caught_up(anywhere, behind) -> None:
    opt, var = behind
    with nothing_changes(opt, var), pytest.raises(ValueError, match=r"call catch_up()"):
        opt.get_weights()
    opt.catch_up(var, anywhere(np.arange(9)))
    assert len(opt.get_weights()) == 3


def test_after_set_weights_no_row_misses_a_step(anywhere, behind) -> None:
    opt, var = behind
    weights = [array.copy() for array in opt.weights]
    before = anywhere.get(var).copy()
    opt.set_weights(weights)
    opt.catch_up()
    np.testing.assert_array_equal(anywhere.get(var), before)


def saved_and_loaded(opt: RMSprop) -> RMSprop:
    with tempfile.TemporaryDirectory() as folder:
        opt.save(f"{folder}/state.npz")
        return load(f"{folder}/state.npz")


@pytest.mark.parametrize(
    "twin_of",
    [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), saved_and_loaded],
)
@pytest.mark.parametrize("is_bound", [True, False], ids=["bound", "restored"])
@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["here", "on the host"])
def test_copies_miss_the_same_steps(
    anywhere, behind, rng, twin_of, is_bound, is_elsewhere
) -> None:
    opt, var = behind
    there = Host() if is_elsewhere else anywhere
    twin, twin_var = twin_of(opt), there(anywhere.get(var))
    if not is_bound:
        twin = twin_of(twin)
    twin.build([twin_var])
    for _ in range(3):
        grad = rows_of(rng, 10, 4, 2, float)
        opt.apply_gradients([(anywhere.grad(grad), var)])
        twin.apply_gradients([(there.grad(grad), twin_var)])
    assert_same_bits(anywhere.get(var), there.get(twin_var))
    opt.catch_up()
    twin.catch_up()
    assert_same_bits(anywhere.get(var), there.get(twin_var))
    assert bits(opt.get_weights()) == bits(twin.get_weights())


def test_counters_of_rows_are_not_stored_where_all_are_equal(behind) -> None:
    opt, _ = behind
    counters = {"counter.0.steps", "counter.0.row_steps"}
    assert counters <= opt._slots.to_save()["arrays"].keys()
    opt.catch_up()
    assert "counter.0.steps" in opt._slots.to_save()["arrays"]
    assert "counter.0.row_steps" not in opt._slots.to_save()["arrays"]


def test_forgetting_a_variable_leaves_the_others_counters(
    anywhere, behind, rng
) -> None:
    opt, var = behind
    second = anywhere(rng.standard_normal((5, 2)))
    opt.apply_gradients([(anywhere(np.ones((5, 2))), second)])
    grad = anywhere.grad(IndexedSlices(np.ones((1, 2)), np.array([0])))
    for _ in range(2):
        opt.apply_gradients([(grad, second)])
    before = anywhere.get(second).copy()
    opt.forget(var)
    opt.catch_up(second)
    assert (anywhere.get(second)[1:] != before[1:]).all()
    assert_caught_up(opt)


# --- What refuses ---------------------------------------------------------------------


def catch_up(opt, var, rows):
    """Catch up and raise what is wrong with it, wherever that is found."""
    opt.catch_up(var, rows)
    opt.check()


def test_catch_up_needs_the_constructor_s_keyword() -> None:
    opt = RMSprop()
    with pytest.raises(ValueError, match=r"made with catch_up=True"):
        opt.catch_up()


def test_a_restored_optimizer_is_bound_before_its_rows_catch_up(behind) -> None:
    opt, _ = behind
    twin = copy.deepcopy(opt)
    with pytest.raises(ValueError, match=r"must be bound by build"):
        twin.catch_up()
    with pytest.raises(ValueError, match=r"must be bound by build"):
        twin.rho = 0.5
    assert twin.rho == 0.9
    opt.catch_up()
    copy.deepcopy(opt).catch_up()  # nothing is missed


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (["1", 2], TypeError, "^rows must be integers, got dtype"),
        (np.array([1.0]), TypeError, "^rows must be integers, got dtype float"),
        (np.array([[1]]), ValueError, "^rows must have 1 dimension"),
        (np.array([3, -1]), IndexError, r"^rows: row -1 at position 1 is not in"),
        (np.array([3, 0, 10], np.uint8), IndexError, "row 10 at position 2"),
    ],
)
def test_rows_that_are_none_change_nothing(
    anywhere, behind, rows, error, message
) -> None:
    opt, var = behind
    if isinstance(rows, np.ndarray):
        rows = anywhere(rows)
    with nothing_changes(opt, var), pytest.raises(error, match=message):
        catch_up(opt, var, rows)


def test_catch_up_refuses_other_arguments(anywhere, behind) -> None:
    opt, var = behind
    for stranger in (anywhere(np.ones(3)), [1.0], "table"):
        with pytest.raises(KeyError):
            opt.catch_up(stranger, anywhere(np.array([0])))
    with pytest.raises(ValueError, match=r"^rows must be None when var is None"):
        opt.catch_up(rows=anywhere(np.array([1])))
    with pytest.raises(ValueError, match=r"^var must keep the shape"):
        opt.catch_up(var.reshape(4, 10))
    scalar = anywhere(np.ones(()))
    opt.apply_gradients([(anywhere(np.ones(())), scalar)])
    with pytest.raises(ValueError, match=r"^var must have at least 1 dimension"):
        opt.catch_up(scalar, anywhere(np.array([0])))


def test_rows_lie_where_their_variable_does(fake, rng) -> None:
    opt = RMSprop(catch_up=True)
    host, var = np.ones((3, 2)), fake(np.ones((3, 2)))
    opt.build([host, var])
    with pytest.raises(TypeError, match=r"^rows must be where var is, on cuda:0, got"):
        opt.catch_up(var, np.array([1]))
    with pytest.raises(TypeError, match=r"^rows must be where var is, on the host, "):
        opt.catch_up(host, fake(np.array([1])))


def test_a_variable_that_is_read_only_does_not_catch_up() -> None:
    opt, var = RMSprop(catch_up=True), np.ones((10, 4))
    opt.build([var])
    var.flags.writeable = False
    with pytest.raises(ValueError, match=r"^var must be writable"):
        opt.catch_up(var)
