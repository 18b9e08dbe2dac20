"""The facade: steps, missing gradients, losses, clipping, copies of an optimizer."""

import copy
import pickle
import threading
import warnings
from collections import deque, namedtuple
from contextlib import contextmanager

import numpy as np
import pytest
from support import FULL, bits, frozen, nothing_changes, ones

from rmsprop_fast import IndexedSlices, Optimizer, RMSprop
from rmsprop_fast.schedules import ExponentialDecay

# With rho and epsilon 0, rms is g*g and the increment lr*g/sqrt(g*g): a gradient of 1
# moves its variable by exactly the learning rate, where that is a power of two.
EXACT = {"rho": 0.0, "epsilon": 0.0}


@contextmanager
def silence():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def rows(values, indices, **options):
    return IndexedSlices(np.array(values), np.array(indices, np.int64), **options)


# --- apply_gradients: what it takes ---------------------------------------------------


class Indexable:
    """Iterable by __getitem__ alone, as `iter` allows."""

    def __init__(self, items):
        self.items = items

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        tuple,
        iter,
        deque,
        lambda p: (x for x in p),
        lambda p: zip(*zip(*p, strict=True), strict=True),
    ]
    + [lambda p: dict(enumerate(p)).values(), Indexable],
    ids=["list", "tuple", "iterator", "deque", "generator", "zip"]
    + ["dict-values", "__getitem__"],
)
def test_any_iterable_of_pairs_makes_a_step(wrap):
    a, b = np.full(3, 8.0), np.full((2, 2), 8.0)
    assert RMSprop(0.5, **EXACT).apply_gradients(wrap(ones(a, b))) == 1
    np.testing.assert_array_equal(a, np.full(3, 7.5))  # 8 - learning rate
    np.testing.assert_array_equal(b, np.full((2, 2), 7.5))


Pair = namedtuple("Pair", "grad var")


@pytest.mark.parametrize(
    "pair", [list, tuple, Pair._make], ids=["list", "tuple", "named"]
)
def test_a_pair_may_be_any_tuple_or_list(pair):
    var = np.full(3, 8.0)
    opt = RMSprop(0.5, **EXACT)
    for step in (1, 2):  # the first binds, the second finds
        assert opt.apply_gradients([pair((np.ones(3), var))]) == step
    np.testing.assert_array_equal(var, np.full(3, 7.0))  # 8 - 2 * 0.5


def test_an_iterable_of_pairs_is_consumed_once():
    var = np.full(3, 8.0)
    given = iter(ones(var, var.copy()))
    RMSprop().apply_gradients(given)
    assert list(given) == []


def test_apply_gradients_returns_the_new_count_of_iterations():
    var, opt = np.ones(3), RMSprop()
    assert [opt.apply_gradients(ones(var)) for _ in range(3)] == [1, 2, 3]
    assert opt.iterations == 3
    assert type(opt.apply_gradients(ones(var))) is int


def test_a_name_has_no_effect():
    var = np.ones(3)
    assert RMSprop().apply_gradients(ones(var), name=None) == 1
    assert RMSprop().apply_gradients(ones(var), name="scope") == 1
    assert RMSprop().minimize(lambda: (0.0, ones(var)[0][:1]), [var], None, "loss") == 1


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (None, r"grads_and_vars must be an iterable .* got NoneType"),
        (5, r"grads_and_vars must be an iterable .* got int"),
        (
            np.ones((2, 2)),
            r"grads_and_vars\[0\] must be a \(gradient, variable\) pair, got nd",
        ),
        (
            [None],
            r"grads_and_vars\[0\] must be a \(gradient, variable\) pair, got NoneType",
        ),
        (["ab"], r"grads_and_vars\[0\] must be a \(gradient, variable\) pair, got str"),
        ([np.ones((2, 3))], r"grads_and_vars\[0\] must be .* got ndarray"),
        (
            [()],
            r"grads_and_vars\[0\] must be a \(gradient, variable\) pair, got 0 items",
        ),
        ([(np.ones(1),)], r"grads_and_vars\[0\] must be .* pair, got 1 items"),
        ([(np.ones(1),) * 3], r"grads_and_vars\[0\] must be .* pair, got 3 items"),
        ([[np.ones(1)] * 3], r"grads_and_vars\[0\] must be .* pair, got 3 items"),
        (
            {"a": 1},
            r"grads_and_vars\[0\] must be a \(gradient, variable\) pair, got str",
        ),
    ],
    ids=[
        "None",
        "number",
        "array",
        "None-item",
        "text",
        "row",
        "0-tuple",
        "1-tuple",
        "3-tuple",
        "3-list",
        "dict",
    ],
)
def test_malformed_pairs_are_a_type_error(given, match):
    opt, var = RMSprop(), np.ones(3)
    opt.apply_gradients(ones(var))
    with nothing_changes(opt, var), pytest.raises(TypeError, match=match):
        opt.apply_gradients(given)


def test_a_malformed_pair_after_good_ones_changes_nothing():
    opt, var = RMSprop(), np.ones(3)
    opt.apply_gradients(ones(var))
    with (
        nothing_changes(opt, var),
        pytest.raises(TypeError, match=r"grads_and_vars\[1\] must be .* got 3 items"),
    ):
        opt.apply_gradients([*ones(var), (1, 2, 3)])


def test_an_iterable_that_raises_changes_nothing():
    opt, var = RMSprop(), np.ones(3)
    opt.apply_gradients(ones(var))

    def broken():
        yield from ones(var)
        raise LookupError("no more gradients")

    with nothing_changes(opt, var), pytest.raises(LookupError, match="no more"):
        opt.apply_gradients(broken())


def test_the_base_class_has_no_update_of_its_own():
    with pytest.raises(NotImplementedError, match="Optimizer has no update"):
        Optimizer().apply_gradients(ones(np.ones(3)))


def test_the_base_class_has_a_repr():
    assert repr(Optimizer("mine", decay=0.5)).startswith("Optimizer(name='mine'")


# --- apply_gradients: variables and gradients that are right --------------------------


def test_legal_neighbours_step_as_arrays_of_their_own():
    table = np.arange(12.0).reshape(3, 4)
    apart = [table[:, k].copy() for k in range(4)]
    grads = [np.array([1.0, -2.0, 3.0]) * (k + 1) for k in range(4)]
    one, other = RMSprop(0.1), RMSprop(0.1)
    for _ in range(3):
        # Interleaved columns: their bounds overlap, their elements do not.
        one.apply_gradients([(g, table[:, k]) for k, g in enumerate(grads)])
        other.apply_gradients(zip(grads, apart, strict=True))
    np.testing.assert_array_equal(table, np.stack(apart, axis=1))


def test_a_gradient_between_the_elements_of_its_variable_is_legal():
    table = np.full((4, 2), 8.0)
    table[:, 1] = 1.0
    opt = RMSprop(0.5, **EXACT)
    for _ in range(2):
        opt.apply_gradients([(table[:, 1], table[:, 0])])
    np.testing.assert_array_equal(table, np.tile([7.0, 1.0], (4, 1)))  # 8 - 2 * 0.5


def test_two_variables_may_share_a_gradient():
    grad, a, b = np.ones(3), np.full(3, 8.0), np.full(3, 4.0)
    opt = RMSprop(0.5, **EXACT)
    for _ in range(2):
        opt.apply_gradients([(grad, a), (grad, b)])
    np.testing.assert_array_equal(a, np.full(3, 7.0))
    np.testing.assert_array_equal(b, np.full(3, 3.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda g: np.asfortranarray(g),
        lambda g: np.repeat(g, 2, axis=1)[:, ::2],
        lambda g: g[::-1, ::-1].copy()[::-1, ::-1],
        lambda g: np.frombuffer(g.tobytes(), g.dtype).reshape(g.shape),
    ],
    ids=["fortran", "strided", "reversed", "read-only"],
)
def test_gradients_of_any_layout_are_only_read(make):
    grad = np.arange(1.0, 7.0).reshape(2, 3)
    given = make(grad)
    np.testing.assert_array_equal(given, grad)
    one, other = np.ones((2, 3)), np.ones((2, 3))
    RMSprop(clipvalue=2.5).apply_gradients([(grad.copy(), one)])
    RMSprop(clipvalue=2.5).apply_gradients([(given, other)])
    np.testing.assert_array_equal(other, one)
    np.testing.assert_array_equal(given, grad)


def test_a_broadcast_view_is_a_gradient_like_any_other():
    var = np.full((2, 3), 8.0)
    RMSprop(0.5, **EXACT).apply_gradients([(np.broadcast_to(1.0, (2, 3)), var)])
    np.testing.assert_array_equal(var, np.full((2, 3), 7.5))


def test_a_0d_variable_takes_a_step():
    var, opt = np.array(8.0), RMSprop(0.5, **EXACT)
    opt.apply_gradients([(np.array(1.0), var)])
    assert var == 7.5
    assert opt.get_slot(var, "rms").shape == ()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)], ids=str)
def test_an_empty_variable_takes_a_step(shape):
    var, opt = np.ones(shape), RMSprop()
    assert opt.apply_gradients([(np.ones(shape), var)]) == 1
    assert opt.apply_gradients([(rows(np.ones((0, *shape[1:])), []), var)]) == 2
    assert [w.shape for w in opt.weights] == [(), shape]


def test_empty_variables_do_not_disturb_their_neighbours():
    base = np.full(4, 8.0)
    opt = RMSprop(0.5, **EXACT)
    for _ in range(2):  # base[:0] has the address of base
        opt.apply_gradients(ones(base[:0], base))
    np.testing.assert_array_equal(base, np.full(4, 7.0))


def test_the_rows_of_a_step_are_those_that_indices_hold_when_it_begins():
    var, indices = np.full(4, 8.0), np.array([0, 1])
    grad = IndexedSlices(np.ones(2), indices)
    indices[:] = [2, 3]
    RMSprop(0.5, **EXACT).apply_gradients([(grad, var)])
    np.testing.assert_array_equal(var, [8.0, 8.0, 7.5, 7.5])


def test_rows_that_are_not_in_indices_keep_their_values_and_slots():
    var, opt = np.full((4, 2), 8.0), RMSprop(**FULL)
    opt.apply_gradients(ones(var))
    others = [0, 1, 3]
    before = [array[others].tobytes() for array in (var, *opt.weights[1:])]
    opt.apply_gradients([(rows([[1.0, 1.0]], [2]), var)])
    assert [array[others].tobytes() for array in (var, *opt.weights[1:])] == before
    assert var[2, 0] != var[1, 0]


def test_empty_slices_are_a_step_that_changes_no_row():
    var, opt = np.full((4, 2), 8.0), RMSprop(**FULL)
    opt.apply_gradients(ones(var))
    before = bits([var, *opt.weights[1:]])
    assert opt.apply_gradients([(rows(np.ones((0, 2)), []), var)]) == 2
    assert bits([var, *opt.weights[1:]]) == before


def test_a_row_that_occurs_twice_has_one_update_with_the_sum():
    one, other = np.full((3, 2), 8.0), np.full((3, 2), 8.0)
    RMSprop(0.1).apply_gradients([(rows([[1.0, 2.0], [4.0, 8.0]], [1, 1]), one)])
    RMSprop(0.1).apply_gradients([(rows([[5.0, 10.0]], [1]), other)])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_indices_may_have_any_integer_dtype(kind):
    var = np.full(4, 8.0)
    RMSprop(0.5, **EXACT).apply_gradients(
        [(IndexedSlices(np.ones(2), np.array([3, 1], kind)), var)]
    )
    np.testing.assert_array_equal(var, [8.0, 7.5, 8.0, 7.5])


@pytest.mark.parametrize("shape", [(4, 2), [4, 2], np.array([4, 2])], ids=repr)
def test_the_right_dense_shape_is_accepted(shape):
    var = np.full((4, 2), 8.0)
    grad = rows([[1.0, 1.0]], [3], dense_shape=shape)
    assert RMSprop().apply_gradients([(grad, var)]) == 1


# --- The same variable twice ----------------------------------------------------------


@pytest.mark.parametrize("known", [False, True], ids=["first-step", "later-step"])
def test_the_same_variable_twice_is_two_updates_in_order_and_one_step(known):
    def gradients():
        return [
            np.array([[1.0, -2.0], [3.0, 4.0]]),
            rows([[5.0, 6.0], [7.0, 8.0]], [1, 1]),
            np.array([[-1.0, 1.0], [2.0, -2.0]]),
        ]

    one, other = np.ones((2, 2)), np.ones((2, 2))
    once, thrice = RMSprop(**FULL), RMSprop(**FULL)
    if known:
        once.apply_gradients(ones(one))
        thrice.apply_gradients(ones(other))
    start = once.iterations
    assert once.apply_gradients([(g, one) for g in gradients()]) == start + 1
    for grad in gradients():
        thrice.apply_gradients([(grad, other)])
    np.testing.assert_array_equal(one, other)
    assert bits(once.weights[1:]) == bits(thrice.weights[1:])


def test_the_same_variable_twice_keeps_its_order_among_others():
    x, y = np.full(2, 8.0), np.full(2, 8.0)
    first, second = np.array([1.0, 4.0]), np.array([16.0, 2.0])
    opt = RMSprop(0.1)
    opt.apply_gradients([(first, x), (first, y), (second, x), (second, y)])
    assert x.tobytes() == y.tobytes()
    z = np.full(2, 8.0)
    RMSprop(0.1).apply_gradients([(second, z), (first, z)])
    assert z.tobytes() != x.tobytes()  # so the order is seen at all


def test_a_large_variable_twice_is_never_updated_by_two_threads_at_once(
    any_work_is_shared,
):
    # 2**16 elements on 4 threads: shares of one variable's two updates would race.
    var, opt = np.full(2**16, 8.0), RMSprop(0.5, **EXACT, num_threads=4)
    for _ in range(10):
        var[...] = 8.0
        opt.apply_gradients(ones(var, var))
        np.testing.assert_array_equal(var, np.full(2**16, 7.0))  # 8 - 2 * 0.5


# --- Missing gradients ----------------------------------------------------------------

MISSING = "Gradients do not exist for {} variable"


def test_a_gradient_of_none_leaves_its_variable_alone_with_a_warning():
    a, b, opt = np.full(3, 8.0), np.full(2, 8.0), RMSprop(0.5, **EXACT)
    with pytest.warns(UserWarning, match=MISSING.format(1)):
        assert opt.apply_gradients([(None, b), *ones(a)]) == 1
    np.testing.assert_array_equal(a, np.full(3, 7.5))
    np.testing.assert_array_equal(b, np.full(2, 8.0))
    assert len(opt.weights) == 2  # iterations and the slot of `a`
    with pytest.raises(KeyError):
        opt.get_slot(b, "rms")


def test_missing_gradients_warn_once_for_each_set_of_variables():
    a, b, c, opt = np.ones(3), np.ones(2), np.ones(4), RMSprop()
    with pytest.warns(UserWarning, match=MISSING.format(1)):
        opt.apply_gradients([*ones(a), (None, b)])
    opt.apply_gradients([*ones(a), (None, b)])  # a warning would be an error here
    opt.apply_gradients([*ones(a), (None, b[:])])
    with pytest.warns(UserWarning, match=MISSING.format(2)):
        opt.apply_gradients([*ones(a), (None, b), (None, c)])
    opt.apply_gradients([*ones(a), (None, b), (None, c)])
    opt.apply_gradients([*ones(a), (None, b)])


def test_a_new_variable_does_not_repeat_a_warning():
    a, b, c, opt = np.ones(3), np.ones(2), np.ones(4), RMSprop()
    with pytest.warns(UserWarning, match=MISSING.format(1)):
        opt.apply_gradients([*ones(a), (None, b)])
    opt.apply_gradients([*ones(a), (None, b), *ones(c)])


def test_a_set_of_variables_without_gradients_has_no_order():
    a, b, c, opt = np.ones(3), np.ones(2), np.ones(4), RMSprop()
    with pytest.warns(UserWarning, match=MISSING.format(2)):
        opt.apply_gradients([*ones(a), (None, b), (None, c)])
    opt.apply_gradients([*ones(a), (None, c), (None, b)])  # the same set


def test_another_variable_of_the_same_address_is_another_set():
    a, base, opt = np.ones(3), np.ones((4, 2)), RMSprop()
    for n in (1, 2):
        with pytest.warns(UserWarning, match=rf"of shape.* \({n}, 2\)"):
            opt.apply_gradients([*ones(a), (None, base[:n])])


def test_a_known_variable_may_miss_its_gradient_and_keeps_its_slots():
    a, b, opt = np.full(3, 8.0), np.full(2, 8.0), RMSprop(**FULL)
    opt.apply_gradients(ones(a, b))
    kept = bits([b, *(opt.get_slot(b, name) for name in opt.get_slot_names())])
    with pytest.warns(UserWarning, match=MISSING.format(1)):
        opt.apply_gradients([*ones(a), (None, b)])
    slots = [opt.get_slot(b, name) for name in opt.get_slot_names()]
    assert bits([b, *slots]) == kept


@pytest.mark.parametrize("known", [False, True], ids=["first-step", "later-step"])
def test_a_warning_that_is_raised_changes_nothing_each_time(known):
    a, b, opt = np.ones(3), np.ones(2), RMSprop()
    if known:
        opt.apply_gradients(ones(a))
    for _ in range(2):
        with (
            nothing_changes(opt, a, b),
            pytest.raises(UserWarning, match=MISSING.format(1)),
        ):
            opt.apply_gradients([*ones(a), (None, b)])


@pytest.mark.parametrize(
    "call",
    [
        lambda opt, a, b: opt.apply_gradients([*ones(a), (None, b)]),
        lambda opt, a, b: opt.minimize(lambda: (0.0, [np.ones(3), None]), [a, b]),
    ],
    ids=["apply_gradients", "minimize"],
)
def test_the_warning_points_at_the_caller(call):
    with pytest.warns(UserWarning, match=MISSING.format(1)) as caught:
        call(RMSprop(), np.ones(3), np.ones(2))
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("known", [False, True], ids=["first-step", "later-step"])
def test_a_step_without_any_gradient_is_a_value_error(n, known):
    a, b, opt = np.ones(3), np.ones(2), RMSprop()
    if known:
        opt.apply_gradients(ones(a, b))
    with (
        nothing_changes(opt, a, b),
        pytest.raises(ValueError, match=f"^No gradients provided .* {n} var"),
    ):
        opt.apply_gradients([(None, a), (None, b)][:n])


def test_a_variable_without_gradient_is_checked_whether_warned_about_or_not():
    a, b, opt = np.ones(3), np.ones(2), RMSprop()
    b.flags.writeable = False
    match = r"grads_and_vars\[1\]: var must be writable"
    with pytest.raises(ValueError, match=match):
        opt.apply_gradients([*ones(a), (None, b)])
    b.flags.writeable = True
    with silence():
        opt.apply_gradients([*ones(a), (None, b)])
    b.flags.writeable = False
    with nothing_changes(opt, a, b), pytest.raises(ValueError, match=match):
        opt.apply_gradients([*ones(a), (None, b)])


# --- iterations -----------------------------------------------------------------------


def test_iterations_can_be_set_at_any_time():
    var, opt = np.ones(3), RMSprop()
    assert opt.iterations == 0
    opt.iterations = 7
    assert opt.apply_gradients(ones(var)) == 8
    opt.iterations = np.int32(2)
    assert opt.iterations == 2
    assert type(opt.iterations) is int
    assert opt.weights[0] == 2


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (-1, ValueError, "iterations must be >= 0, got -1"),
        (2**63, ValueError, "iterations must be"),  # does not fit the int64 it is
        (1.0, TypeError, "iterations must be an integer, got 1.0"),
        (True, TypeError, "iterations must be an integer, got True"),
        (None, TypeError, "iterations must be an integer, got None"),
        ("3", TypeError, "iterations must be an integer, got '3'"),
    ],
    ids=["negative", "too-large", "float", "bool", "None", "text"],
)
def test_a_wrong_count_of_iterations_is_refused(value, error, match):
    opt = RMSprop()
    opt.iterations = 5
    with pytest.raises(error, match=match):
        opt.iterations = value
    assert opt.iterations == 5


def test_iterations_do_not_overflow():
    var, opt = np.ones(3), RMSprop()
    opt.apply_gradients(ones(var))
    opt.iterations = 2**63 - 1  # the largest int64
    with (
        nothing_changes(opt, var),
        pytest.raises((ValueError, OverflowError, RuntimeError)),
    ):
        opt.apply_gradients(ones(var))


# --- minimize, get_gradients, get_updates ---------------------------------------------


def test_minimize_applies_the_gradients_that_the_loss_returns():
    one, other = np.array([1.0, 2.0]), np.array([1.0, 2.0])
    opt, plain = RMSprop(0.1), RMSprop(0.1)
    for step in (1, 2, 3):
        assert opt.minimize(lambda: (0.0, [one * 3.0]), [one]) == step
        plain.apply_gradients([(other * 3.0, other)])
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("call", ["minimize", "get_gradients", "get_updates"])
def test_the_loss_is_called_once_and_its_value_kept(call):
    var, opt, calls = np.ones(2), RMSprop(), []
    value = object()

    def loss():
        calls.append(1)
        return value, [np.ones(2)]

    assert opt.last_loss is None
    getattr(opt, call)(loss, [var])
    assert len(calls) == 1
    assert opt.last_loss is value


@pytest.mark.parametrize("call", ["minimize", "get_gradients", "get_updates"])
@pytest.mark.parametrize(
    "wrap",
    [list, tuple, iter, lambda v: v[0], lambda v: lambda: v, lambda v: lambda: v[0]],
    ids=["list", "tuple", "iterator", "array", "callable", "callable-of-array"],
)
def test_variables_may_come_in_many_ways(call, wrap):
    var, opt = np.full(2, 8.0), RMSprop(0.5, **EXACT)
    getattr(opt, call)(lambda: (0.0, [np.ones(2)]), wrap([var]))
    moved = call != "get_gradients"
    np.testing.assert_array_equal(var, np.full(2, 7.5 if moved else 8.0))


@pytest.mark.parametrize("call", ["minimize", "get_gradients", "get_updates"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ones(2),
        lambda: (np.ones(2),),
        lambda: iter([np.ones(2)]),
        lambda: rows([1.0, 1.0], [0, 1]),
    ],
    ids=["array", "tuple", "iterator", "slices"],
)
def test_gradients_may_come_in_many_ways(call, make):
    var, opt = np.full(2, 8.0), RMSprop(0.5, **EXACT)
    result = getattr(opt, call)(lambda: (0.0, make()), [var])
    if call == "get_gradients":
        assert len(result) == 1
    else:
        np.testing.assert_array_equal(var, np.full(2, 7.5))


def test_a_callable_var_list_is_called_once_after_the_loss():
    var, calls = np.ones(2), []

    def loss():
        calls.append("loss")
        return 0.0, [np.ones(2)]

    def var_list():
        calls.append("var_list")
        return [var]

    RMSprop().minimize(loss, var_list)
    assert calls == ["loss", "var_list"]


@pytest.mark.parametrize(
    ("grad_loss", "options", "expected"),
    [
        (None, {}, [3.0, 4.0]),
        (2, {}, [6.0, 8.0]),
        (np.float32(0.5), {}, [1.5, 2.0]),
        (-1.0, {}, [-3.0, -4.0]),
        (0.0, {}, [0.0, 0.0]),
        # Clipped first it would be [1.75, 1.75] / 2.
        (0.5, {"clipvalue": 1.75}, [1.5, 1.75]),
        # The norm is 2 * 5; clipped first, 5 <= 5 would leave [6, 8].
        (2.0, {"clipnorm": 5.0}, [3.0, 4.0]),
        (2.0, {"global_clipnorm": 5.0}, [3.0, 4.0]),
        (-2.0, {"clipnorm": 5.0}, [-3.0, -4.0]),
        # 5 / 2 is not above 2.5; clipped first it would be [0.75, 1].
        (0.5, {"clipnorm": 2.5}, [1.5, 2.0]),
        (2.0, {"clipnorm": 5.0, "clipvalue": 3.5}, [3.0, 3.5]),
    ],
    ids=repr,
)
def test_grad_loss_multiplies_the_gradients_before_clipping(
    grad_loss, options, expected, dtype
):
    # The gradient [3, 4] has the norm 5, and every factor here is exact.
    grad = np.array([3.0, 4.0], dtype)
    one, other = np.ones(2, dtype), np.ones(2, dtype)
    opt, plain = RMSprop(0.1, **options), RMSprop(0.1)
    for _ in range(2):  # the first step binds, the second finds
        opt.minimize(lambda: (0.0, [grad]), [one], grad_loss=grad_loss)
        plain.apply_gradients([(np.array(expected, dtype), other)])
        np.testing.assert_array_equal(one, other)


def test_grad_loss_leaves_the_gradients_alone():
    grad, var = np.array([3.0, 4.0]), np.ones(2)
    RMSprop(clipnorm=1.0).minimize(lambda: (0.0, [grad]), [var], grad_loss=2.0)
    np.testing.assert_array_equal(grad, [3.0, 4.0])


@pytest.mark.parametrize(
    ("grad_loss", "error", "match"),
    [
        ("2", TypeError, "grad_loss must be a real number, got '2'"),
        ([2.0], TypeError, r"grad_loss must be a real number, got \[2.0\]"),
        (True, TypeError, "grad_loss must be a real number, got True"),
        (np.inf, ValueError, "grad_loss must be finite, got inf"),
        (np.nan, ValueError, "grad_loss must be finite, got nan"),
    ],
    ids=["text", "list", "bool", "inf", "nan"],
)
def test_a_grad_loss_that_is_no_finite_scalar_is_refused(grad_loss, error, match):
    var, opt = np.ones(2), RMSprop()
    with nothing_changes(opt, var), pytest.raises(error, match=match):
        opt.minimize(lambda: (0.0, [np.ones(2)]), [var], grad_loss=grad_loss)


@pytest.mark.parametrize("call", ["minimize", "get_gradients", "get_updates"])
@pytest.mark.parametrize(
    ("loss", "error", "match"),
    [
        (None, TypeError, "loss must be a callable .* got None"),
        (0.5, TypeError, "loss must be a callable .* got 0.5"),
        (np.ones(2), TypeError, "loss must be a callable"),
        (lambda: None, TypeError, r"loss must return \(value, grads\), got NoneType"),
        (lambda: 0.5, TypeError, r"loss must return \(value, grads\), got float"),
        (lambda: np.ones(2), TypeError, r"loss must return .* got ndarray"),
        (lambda: (0.5,), TypeError, r"loss must return .* got tuple of 1"),
        (lambda: (0.5, [], []), TypeError, r"loss must return .* got tuple of 3"),
        (lambda: (0.5, None), TypeError, "grads must be a list, got NoneType"),
        (lambda: (0.5, 1.0), TypeError, "grads must be a list, got float"),
        (lambda: (0.5, []), ValueError, "each of the 1 variables, got 0"),
        (lambda: (0.5, [np.ones(2)] * 2), ValueError, "each of the 1 variables, got 2"),
        (lambda: (0.5, [np.ones(3)]), ValueError, r"gradient has shape \(3,\)"),
        (lambda: (0.5, [[1.0, 1.0]]), TypeError, "gradient must be .* got list"),
        (lambda: (0.5, [rows([1.0], [2])]), IndexError, r"row 2 at position 0 is not"),
    ],
    ids=[
        "None",
        "number",
        "array",
        "returns-None",
        "returns-number",
        "returns-array",
        "returns-1",
        "returns-3",
        "grads-None",
        "grads-number",
        "too-few",
        "too-many",
        "shape",
        "list",
        "row",
    ],
)
def test_a_wrong_loss_is_refused(call, loss, error, match):
    var, opt = np.ones(2), RMSprop()
    opt.apply_gradients(ones(var))
    with nothing_changes(opt, var), pytest.raises(error, match=match) as caught:
        getattr(opt, call)(loss, [var])
    assert caught.type is error
    assert opt.last_loss is None


@pytest.mark.parametrize("call", ["minimize", "get_gradients", "get_updates"])
@pytest.mark.parametrize("var_list", [None, 5, lambda: None], ids=["None", "5", "call"])
def test_a_wrong_var_list_is_refused(call, var_list):
    opt = RMSprop()
    with (
        nothing_changes(opt),
        pytest.raises(TypeError, match="var_list must be a list"),
    ):
        getattr(opt, call)(lambda: (0.0, [np.ones(2)]), var_list)


def test_minimize_without_variables_is_a_value_error():
    with pytest.raises(ValueError, match="No gradients provided"):
        RMSprop().minimize(lambda: (0.0, []), [])


def test_minimize_drops_missing_gradients():
    a, b = np.full(2, 8.0), np.full(3, 8.0)
    with pytest.warns(UserWarning, match=MISSING.format(1)):
        RMSprop(0.5, **EXACT, clipnorm=9.0).minimize(
            lambda: (0.0, [np.ones(2), None]), [a, b]
        )
    np.testing.assert_array_equal(a, np.full(2, 7.5))
    np.testing.assert_array_equal(b, np.full(3, 8.0))


@pytest.mark.parametrize("call", ["get_gradients", "get_updates"])
def test_a_missing_gradient_is_a_value_error_where_all_are_asked_for(call):
    a, b, opt = np.ones(2), np.ones(3), RMSprop()
    with (
        nothing_changes(opt, a, b),
        pytest.raises(ValueError, match=r"got None for params\[1\] of shape \(3,\)"),
    ):
        getattr(opt, call)(lambda: (0.0, [np.ones(2), None]), [a, b])


def test_get_gradients_returns_clipped_copies(dtype):
    dense = np.array([3.0, 4.0], dtype)
    sparse = IndexedSlices(np.array([[6.0], [8.0]], dtype), np.array([1, 1]), (3, 1))
    a, b = np.ones(2, dtype), np.ones((3, 1), dtype)
    opt = RMSprop(clipnorm=2.5)
    with nothing_changes(opt, a, b, dense, sparse.values, sparse.indices):
        first, second = opt.get_gradients(lambda: (0.0, [dense, sparse]), [a, b])
    # Norms 5 and 10 become 2.5: the scales 1/2 and 1/4 are exact.
    np.testing.assert_array_equal(first, [1.5, 2.0])
    assert type(second) is IndexedSlices
    np.testing.assert_array_equal(second.values, [[1.5], [2.0]])
    np.testing.assert_array_equal(second.indices, [1, 1])
    assert second.dense_shape == (3, 1)
    assert first.dtype == second.values.dtype == dtype


@pytest.mark.parametrize("clip", [{}, {"clipvalue": 9.0}], ids=["unclipped", "clipped"])
def test_get_gradients_returns_memory_of_its_own(clip):
    dense, sparse = np.ones(2), rows([1.0], [0])
    got = RMSprop(**clip).get_gradients(
        lambda: (0.0, [dense, sparse]), [np.ones(2), np.ones(2)]
    )
    assert not np.shares_memory(got[0], dense)
    assert not np.shares_memory(got[1].values, sparse.values)
    assert not np.shares_memory(got[1].indices, sparse.indices)
    got[0][:] = 0.0
    np.testing.assert_array_equal(dense, [1.0, 1.0])


@pytest.mark.parametrize(
    "make",
    [lambda g: g[::-1], lambda g: np.asfortranarray(g), lambda g: frozen(g), np.array],
    ids=["reversed", "fortran", "read-only", "plain"],
)
def test_get_gradients_takes_any_layout(make):
    grad = make(np.arange(6.0).reshape(2, 3))
    expected = np.clip(grad, -2.5, 2.5)
    (got,) = RMSprop(clipvalue=2.5).get_gradients(
        lambda: (0.0, [grad]), [np.ones((2, 3))]
    )
    np.testing.assert_array_equal(got, expected)
    got[...] = 0.0  # writable, as a new array is


def test_get_gradients_of_0d_and_empty_variables():
    got = RMSprop(clipnorm=2.0).get_gradients(
        lambda: (0.0, [np.array(4.0), np.ones((0, 3))]), [np.ones(()), np.ones((0, 3))]
    )
    assert got[0].shape == ()
    assert got[0] == 2.0  # the norm 4 becomes 2
    assert got[1].shape == (0, 3)


def test_applying_what_get_gradients_returned_is_a_step_of_minimize():
    one, other = np.ones((3, 2)), np.ones((3, 2))
    grad = rows([[3.0, -9.0], [5.0, 2.0]], [2, 2])
    direct, apart = RMSprop(clipvalue=4.0), RMSprop(clipvalue=4.0)
    direct.minimize(lambda: (0.0, [grad]), [one])
    got = apart.get_gradients(lambda: (0.0, [grad]), [other])
    apart.apply_gradients(zip(got, [other], strict=True))
    np.testing.assert_array_equal(one, other)


def test_get_updates_is_a_step_and_returns_its_count_in_a_list():
    var, opt = np.full(2, 8.0), RMSprop(0.5, **EXACT)
    assert opt.get_updates(lambda: (0.0, [np.ones(2)]), [var]) == [1]
    np.testing.assert_array_equal(var, np.full(2, 7.5))


def test_minimize_and_get_updates_clip_once(rng):
    grads = [rng.standard_normal(100) for _ in range(20)]
    applied, minimized, updated = ([np.zeros(100) for _ in grads] for _ in range(3))
    opt = RMSprop(clipnorm=1.0)
    once = opt.get_gradients(lambda: (0.0, grads), applied)
    twice = opt.get_gradients(lambda: (0.0, once), applied)
    assert bits(once) != bits(twice)  # some norm was rounded up: twice would show
    RMSprop().apply_gradients(zip(once, applied, strict=True))
    RMSprop(clipnorm=1.0).minimize(lambda: (0.0, grads), minimized)
    RMSprop(clipnorm=1.0).get_updates(lambda: (0.0, grads), updated)
    assert bits(minimized) == bits(applied)
    assert bits(updated) == bits(applied)


# --- Clipping -------------------------------------------------------------------------


def clipped(grads, **options):
    """What an optimizer makes of gradients."""
    return RMSprop(**options).get_gradients(
        lambda: (0.0, grads), [np.zeros_like(g) for g in grads]
    )


# One gradient [3, 4], whose norm is 5; every scale below is a power of two.
CLIPPED = {
    "off": ({}, [3.0, 4.0]),
    "norm": ({"clipnorm": 2.5}, [1.5, 2.0]),
    "norm-not-reached": ({"clipnorm": 5.0}, [3.0, 4.0]),
    "global-norm": ({"global_clipnorm": 2.5}, [1.5, 2.0]),
    "value": ({"clipvalue": 3.5}, [3.0, 3.5]),
    # The other order would be [1.75, 1.75], whose norm of 2.47 is below 2.5.
    "norm-then-value": ({"clipnorm": 2.5, "clipvalue": 1.75}, [1.5, 1.75]),
    "global-norm-then-value": (
        {"global_clipnorm": 2.5, "clipvalue": 1.75},
        [1.5, 1.75],
    ),
    "norm-zero": ({"clipnorm": 0.0}, [0.0, 0.0]),
    "global-norm-zero": ({"global_clipnorm": 0.0}, [0.0, 0.0]),
    "value-zero": ({"clipvalue": 0.0}, [0.0, 0.0]),
}


@pytest.mark.parametrize(("options", "expected"), CLIPPED.values(), ids=CLIPPED)
def test_gradients_are_clipped(options, expected, dtype):
    (got,) = clipped([np.array([3.0, 4.0], dtype)], **options)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("options", "expected"), CLIPPED.values(), ids=CLIPPED)
@pytest.mark.parametrize("call", ["apply_gradients", "minimize", "get_updates"])
def test_every_step_clips(call, options, expected, dtype):
    grad, one, other = np.array([3.0, 4.0], dtype), np.ones(2, dtype), np.ones(2, dtype)
    opt, plain = RMSprop(0.1, **options), RMSprop(0.1)
    for _ in range(2):
        if call == "apply_gradients":
            opt.apply_gradients([(grad, one)])
        else:
            getattr(opt, call)(lambda: (0.0, [grad]), [one])
        plain.apply_gradients([(np.array(expected, dtype), other)])
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(grad, [3.0, 4.0])


def test_clipvalue_is_symmetric():
    (got,) = clipped([np.array([-3.0, -1.0, 1.0, 3.0])], clipvalue=2.0)
    np.testing.assert_array_equal(got, [-2.0, -1.0, 1.0, 2.0])


def test_clipnorm_is_of_each_gradient_and_of_all_its_axes():
    got = clipped(
        [np.array([[3.0], [4.0]]), np.array([0.5, 0.5]), np.array([6.0, 8.0])],
        clipnorm=2.5,
    )
    # Norms 5, 0.71 and 10.
    np.testing.assert_array_equal(got[0], [[1.5], [2.0]])
    np.testing.assert_array_equal(got[1], [0.5, 0.5])
    np.testing.assert_array_equal(got[2], [1.5, 2.0])


def test_global_clipnorm_is_of_all_gradients_together():
    got = clipped(
        [np.array([3.0]), np.array([[4.0]], np.float32), np.array([12.0])],
        global_clipnorm=6.5,
    )
    # sqrt(9 + 16 + 144) is 13: everything is halved.
    np.testing.assert_array_equal(got[0], [1.5])
    np.testing.assert_array_equal(got[1], [[2.0]])
    np.testing.assert_array_equal(got[2], [6.0])


def test_global_clipnorm_does_not_count_missing_gradients():
    one, other, idle = np.ones(1), np.ones(1), np.ones(5)
    with silence():
        RMSprop(0.1, global_clipnorm=2.0).apply_gradients(
            [(np.array([4.0]), one), (None, idle)]
        )
    RMSprop(0.1).apply_gradients([(np.array([2.0]), other)])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "values", "total"),
    [
        # Values 3 and 4 of one row: 1.5 + 2; their sum 7 would become 2.5.
        ({"clipnorm": 2.5}, [3.0, 4.0], 3.5),
        ({"global_clipnorm": 2.5}, [3.0, 4.0], 3.5),
        # 2 + 2; their sum would become 2.
        ({"clipvalue": 2.0}, [3.0, 4.0], 4.0),
        # 3 + -4 is -1, within every bound; the raw values are not.
        ({"clipnorm": 2.5}, [3.0, -4.0], -0.5),
        ({"clipvalue": 3.0}, [3.0, -4.0], 0.0),
        ({"clipnorm": 2.5, "clipvalue": 1.75}, [3.0, 4.0], 3.25),
    ],
    ids=["norm", "global-norm", "value", "norm-signs", "value-signs", "norm-and-value"],
)
def test_slices_are_clipped_before_duplicates_are_summed(options, values, total, dtype):
    one, other = np.ones((3, 1), dtype), np.ones((3, 1), dtype)
    grad = IndexedSlices(np.array(values, dtype)[:, None], np.array([1, 1]))
    RMSprop(0.1, **options).apply_gradients([(grad, one)])
    summed = IndexedSlices(np.array([[total]], dtype), np.array([1]))
    RMSprop(0.1).apply_gradients([(summed, other)])
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_a_zero_gradient_stays_zero(clip, bound, dtype):
    (got,) = clipped([np.zeros(3, dtype)], **{clip: bound})
    np.testing.assert_array_equal(got, np.zeros(3))


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
def test_an_infinite_norm_scales_by_zero(clip, dtype):
    # The scale is c/inf = 0, and 0 * inf is NaN.
    (got,) = clipped([np.array([np.inf, 1.0], dtype)], **{clip: 1.0})
    np.testing.assert_array_equal(got, [np.nan, 0.0])


def test_a_nan_norm_spoils_its_own_gradient_only(dtype):
    bad, good = np.array([np.nan, 1.0], dtype), np.array([3.0, 4.0], dtype)
    got = clipped([bad, good], clipnorm=2.5)
    np.testing.assert_array_equal(got[0], [np.nan, np.nan])
    np.testing.assert_array_equal(got[1], [1.5, 2.0])


def test_a_nan_in_a_global_norm_spoils_all_gradients(dtype):
    bad, good = np.array([np.nan, 1.0], dtype), np.array([3.0, 4.0], dtype)
    got = clipped([bad, good], global_clipnorm=2.5)
    np.testing.assert_array_equal(np.concatenate(got), [np.nan] * 4)


def test_clipvalue_leaves_a_nan_in_its_own_element(dtype):
    (got,) = clipped([np.array([np.nan, 9.0, -np.inf], dtype)], clipvalue=2.0)
    np.testing.assert_array_equal(got, [np.nan, 2.0, -2.0])


def test_the_norm_of_large_float32_values_does_not_overflow():
    (got,) = clipped([np.array([1.5e38, 2e38], np.float32)], clipnorm=1.0)
    # The norm is 2.5e38 in double. Its scale of 4e-39 is a subnormal float32, whose
    # spacing 1.4e-45 makes it 2e-7 off.
    np.testing.assert_allclose(got, [0.6, 0.8], rtol=1e-6)


def test_the_norm_of_huge_float64_values_overflows_and_scales_by_zero():
    (got,) = clipped([np.array([1e200, -1e200])], clipnorm=1.0)  # 1e400 is inf
    np.testing.assert_array_equal(got, [0.0, 0.0])


# --- Copies of an optimizer -----------------------------------------------------------

CLONES = {
    **{
        f"pickle-{protocol}": lambda opt, protocol=protocol: pickle.loads(
            pickle.dumps(opt, protocol)
        )
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(params=CLONES.values(), ids=CLONES)
def clone(request):
    return request.param


def model(rng):
    return [rng.standard_normal((4, 3)), rng.standard_normal(5).astype(np.float32)]


def train(opt, variables, rng, steps):
    for _ in range(steps):
        grads = [rng.standard_normal(v.shape).astype(v.dtype) for v in variables]
        grads[0] = IndexedSlices(grads[0][:3].copy(), rng.integers(0, 4, 3))
        opt.apply_gradients(zip(grads, variables, strict=True))


def trained(steps=4, **options):
    rng = np.random.default_rng(5)
    opt = RMSprop(ExponentialDecay(0.1, 3, 0.5), **{**options, "momentum": 0.9})
    opt.centered = True
    variables = model(rng)
    train(opt, variables, rng, steps)
    return opt, variables


@pytest.mark.parametrize("binding", ["apply_gradients", "build"])
def test_a_copy_continues_bit_for_bit(clone, binding):
    opt, variables = trained(clipnorm=1.0, decay=0.1)
    twin, copies = clone(opt), [v.copy() for v in variables]
    if binding == "build":
        twin.build(copies)
    train(opt, variables, np.random.default_rng(6), 3)
    train(twin, copies, np.random.default_rng(6), 3)
    assert bits(copies) == bits(variables)
    assert bits(twin.weights) == bits(opt.weights)
    assert twin.iterations == opt.iterations == 7  # 4 + 3


def test_a_copy_has_the_same_configuration_and_weights(clone):
    opt, _ = trained(clipvalue=0.5, num_threads=2)
    twin = clone(opt)
    assert type(twin) is RMSprop
    assert twin.get_config() == opt.get_config()
    assert bits(twin.get_weights()) == bits(opt.get_weights())
    assert twin.get_slot_names() == opt.get_slot_names()


def test_a_copy_shares_no_state_with_the_original(clone):
    opt, variables = trained()
    twin = clone(opt)
    for ours, theirs in zip(opt.weights, twin.weights, strict=True):
        assert not np.shares_memory(ours, theirs)
    with nothing_changes(opt, *variables):
        train(twin, [v.copy() for v in variables], np.random.default_rng(6), 2)
        twin.rho = 0.5
        twin.clipnorm = 3.0
    assert opt.rho == 0.9
    assert opt.clipnorm is None


def test_a_copy_of_a_fresh_optimizer_is_fresh(clone):
    twin, var = clone(RMSprop(0.5, **EXACT)), np.full(3, 8.0)
    assert twin.apply_gradients(ones(var)) == 1
    np.testing.assert_array_equal(var, np.full(3, 7.5))


def test_a_copy_of_a_copy_continues_bit_for_bit(clone):
    opt, variables = trained()
    twin, copies = clone(clone(opt)), [v.copy() for v in variables]
    train(opt, variables, np.random.default_rng(6), 2)
    train(twin, copies, np.random.default_rng(6), 2)
    assert bits(copies) == bits(variables)


def test_a_copy_may_be_bound_to_the_same_variables(clone):
    opt, variables = trained()
    twin = clone(opt)
    start = [v.copy() for v in variables]
    train(twin, variables, np.random.default_rng(6), 2)
    after = bits(variables)
    for var, old in zip(variables, start, strict=True):
        var[...] = old
    train(opt, variables, np.random.default_rng(6), 2)
    assert bits(variables) == after


def test_a_copy_binds_by_position_counting_missing_gradients(clone):
    opt, variables = trained()
    twin, copies = clone(opt), [v.copy() for v in variables]
    kept = bits(twin.weights[1:])
    with pytest.warns(UserWarning, match=MISSING.format(1)):
        twin.apply_gradients([(None, copies[0]), *ones(copies[1])])
    with silence():
        opt.apply_gradients([(None, variables[0]), *ones(variables[1])])
    assert bits(copies) == bits(variables)
    assert bits(twin.weights) == bits(opt.weights)
    assert bits(twin.weights[1::2]) == kept[::2]  # the first variable's slots
    twin.apply_gradients(ones(*copies))
    opt.apply_gradients(ones(*variables))
    assert bits(copies) == bits(variables)


def test_a_copy_counts_a_variable_given_twice_once(clone):
    opt, variables = trained()
    twin, copies = clone(opt), [v.copy() for v in variables]
    twin.apply_gradients(ones(*copies, copies[0]))
    opt.apply_gradients(ones(*variables, variables[0]))
    assert bits(copies) == bits(variables)


def test_a_copy_takes_variables_of_another_layout(clone):
    opt, (table, bias) = trained()
    twin = clone(opt)
    copies = [np.asfortranarray(table), np.repeat(bias, 2)[::2]]
    train(opt, [table, bias], np.random.default_rng(6), 2)
    train(twin, copies, np.random.default_rng(6), 2)
    np.testing.assert_array_equal(copies[0], table)
    np.testing.assert_array_equal(copies[1], bias)


MISMATCHES = {
    "too-few": (lambda a, b: [a], "variables: the restored optimizer had 2, got 1"),
    "too-many": (
        lambda a, b: [a, b, np.ones(2)],
        "variables: the restored optimizer had 2, got 3",
    ),
    "order": (lambda a, b: [b, a], r"variable 0: .* had shape \(4, 3\).* got \(5,\)"),
    "shape": (
        lambda a, b: [a, np.ones(6, np.float32)],
        r"variable 1: .* had shape \(5,\) .* got \(6,\)",
    ),
    "rank": (
        lambda a, b: [a, np.ones((5, 1), np.float32)],
        r"variable 1: .* had shape \(5,\) .* got \(5, 1\)",
    ),
    "dtype": (
        lambda a, b: [a, np.ones(5)],
        r"variable 1: .* dtype float32, got .* float64",
    ),
}


@pytest.mark.parametrize("binding", ["apply_gradients", "build"])
@pytest.mark.parametrize(("choose", "match"), MISMATCHES.values(), ids=MISMATCHES)
def test_a_copy_refuses_variables_that_do_not_match(clone, binding, choose, match):
    opt, variables = trained()
    twin, copies = clone(opt), [v.copy() for v in variables]
    chosen = choose(*copies)
    bind = (
        twin.build if binding == "build" else lambda v: twin.apply_gradients(ones(*v))
    )
    with nothing_changes(twin, *chosen), pytest.raises(ValueError, match=match):
        bind(chosen)
    train(opt, variables, np.random.default_rng(6), 2)
    train(twin, copies, np.random.default_rng(6), 2)  # still to be bound
    assert bits(copies) == bits(variables)


def test_a_copy_whose_first_step_is_refused_is_still_to_be_bound(clone):
    opt, variables = trained()
    twin, copies = clone(opt), [v.copy() for v in variables]
    with (
        nothing_changes(twin, *copies),
        pytest.raises(ValueError, match=r"grads_and_vars\[1\]: gradient has shape"),
    ):
        twin.apply_gradients([*ones(copies[0]), (np.ones(4, np.float32), copies[1])])
    others = [v.copy() for v in variables]
    train(opt, variables, np.random.default_rng(6), 2)
    train(twin, others, np.random.default_rng(6), 2)
    assert bits(others) == bits(variables)


def test_a_copy_without_any_gradient_is_a_value_error(clone):
    opt, variables = trained()
    twin = clone(opt)
    with (
        nothing_changes(twin, *variables),
        pytest.raises(
            ValueError,
            match="No gradients provided for any variable: grads_and_vars has 2",
        ),
    ):
        twin.apply_gradients([(None, v) for v in variables])


def test_a_copy_that_is_not_bound_knows_no_variable(clone):
    opt, variables = trained()
    twin = clone(opt)
    with pytest.raises(KeyError, match="var must be a variable of this optimizer"):
        twin.get_slot(variables[0], "rms")
    with (
        nothing_changes(twin),
        pytest.raises(ValueError, match="must be bound by build or apply_gradients"),
    ):
        twin.add_slot(variables[0], "extra")


@pytest.mark.parametrize("use", ["gradient", "variable"])
def test_the_slots_of_a_copy_are_neither_gradients_nor_variables(clone, use):
    opt, (table, bias) = trained()
    twin = clone(opt)
    slot = twin.weights[1]  # the table's rms
    pairs = [(slot, table)] if use == "gradient" else [(np.ones((4, 3)), slot)]
    with (
        nothing_changes(twin, table, bias),
        pytest.raises(ValueError, match=r"\[0\]: .* shares memory with .*slot 'rms'"),
    ):
        twin.apply_gradients([*pairs, *ones(bias)])


def test_weights_of_a_copy_can_be_set_before_it_is_bound(clone):
    opt, variables = trained()
    twin, copies = clone(opt), [v.copy() for v in variables]
    train(opt, variables, np.random.default_rng(6), 1)
    for copied, var in zip(copies, variables, strict=True):
        copied[...] = var
    twin.set_weights(opt.get_weights())
    train(opt, variables, np.random.default_rng(7), 2)
    train(twin, copies, np.random.default_rng(7), 2)
    assert bits(copies) == bits(variables)


def test_a_copy_of_a_closed_list_is_closed(clone):
    a, b, opt = np.ones(3), np.ones(2), RMSprop()
    opt.build([a])
    twin = clone(opt)
    twin.apply_gradients(ones(a))
    with pytest.raises(ValueError, match="one of the 1 arrays given to build"):
        twin.apply_gradients(ones(a, b))


def test_a_copy_of_an_open_list_is_open_once_bound(clone):
    a, b, opt = np.full(3, 8.0), np.full(2, 8.0), RMSprop(0.5, **EXACT)
    opt.apply_gradients(ones(a))
    twin = clone(opt)
    twin.apply_gradients(ones(a))
    twin.apply_gradients(ones(a, b))
    np.testing.assert_array_equal(b, np.full(2, 7.5))


def test_a_copy_gets_slots_that_its_original_had_not(clone):
    a, opt = np.full(2, 8.0), RMSprop(0.5, **EXACT)
    opt.apply_gradients(ones(a))
    twin = clone(opt)
    twin.momentum = 0.5
    twin.apply_gradients(ones(a))
    twin.apply_gradients(ones(a))
    # The increments are 0.5, then 0.5 * 0.5 + 0.5.
    np.testing.assert_array_equal(a, np.full(2, 8.0 - 0.5 - 0.5 - 0.75))


def test_copies_keep_callables_and_schedules():
    opt = RMSprop(lambda: 0.25, rho=lambda: 0.5)
    twin = copy.deepcopy(opt)
    assert (twin.learning_rate, twin.rho) == (0.25, 0.5)
    schedule = ExponentialDecay(0.1, 3, 0.5)
    assert pickle.loads(pickle.dumps(RMSprop(schedule))).learning_rate == schedule


def test_a_copy_made_from_separate_buffers_has_writable_slots_of_its_own():
    # As joblib and distributed send arrays: pickle 5 with buffers out of band.
    opt, variables = trained()
    buffers = []
    data = pickle.dumps(opt, protocol=5, buffer_callback=buffers.append)
    raw = [buffer.raw().tobytes() for buffer in buffers]  # bytes are immutable
    before = [bytes(bytearray(buffer)) for buffer in raw]
    twin = pickle.loads(data, buffers=raw)
    copies = [v.copy() for v in variables]
    train(opt, variables, np.random.default_rng(6), 2)
    train(twin, copies, np.random.default_rng(6), 2)
    assert bits(copies) == bits(variables)
    assert raw == before


def test_a_copy_made_from_the_buffers_of_its_original_shares_no_state():
    opt, variables = trained()
    buffers = []
    data = pickle.dumps(opt, protocol=5, buffer_callback=buffers.append)
    twin = pickle.loads(data, buffers=buffers)
    with nothing_changes(opt, *variables):
        train(twin, [v.copy() for v in variables], np.random.default_rng(6), 2)


# --- Two threads ----------------------------------------------------------------------


def test_two_threads_that_call_one_optimizer_make_whole_steps():
    n_threads, n_steps, size = 4, 25, 2**13  # 8,192 elements: the GIL is let go
    opt, var = RMSprop(2.0**-6, **EXACT), np.full(size, 8.0)
    start, counts = threading.Barrier(n_threads), []

    def work():
        grad = np.ones(size)
        start.wait()
        counts.extend([opt.apply_gradients([(grad, var)]) for _ in range(n_steps)])

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert opt.iterations == n_threads * n_steps
    assert sorted(counts) == list(range(1, n_threads * n_steps + 1))
    # Every step moves every element by 2**-6: a lost or torn one would show.
    np.testing.assert_array_equal(var, 8.0 - n_threads * n_steps * 2.0**-6)


def test_threads_that_bring_new_variables_bind_each_once():
    n_threads, size = 4, 100
    opt = RMSprop(2.0**-6, **EXACT)
    variables = [np.full(size, 8.0) for _ in range(8)]
    start = threading.Barrier(n_threads)

    def work():
        start.wait()
        for var in variables:
            opt.apply_gradients([(np.ones(size), var[:])])

    threads = [threading.Thread(target=work) for _ in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(opt.weights) == 1 + len(variables)
    for var in variables:
        np.testing.assert_array_equal(var, 8.0 - n_threads * 2.0**-6)


def another_thread_gets_in(opt):
    """Whether another thread may use the optimizer now."""
    thread = threading.Thread(target=opt.get_weights, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


@pytest.mark.parametrize(
    "name", ["learning_rate", "rho", "momentum", "epsilon", "decay"]
)
def test_callables_run_before_the_lock_is_taken(name):
    free = []
    opt = RMSprop()

    def read():
        free.append(another_thread_gets_in(opt))
        return 0.5

    setattr(opt, name, read)
    opt.apply_gradients(ones(np.ones(3)))
    assert free == [True]


def test_losses_run_before_the_lock_is_taken():
    free, opt, var = [], RMSprop(), np.ones(3)

    def loss():
        free.append(another_thread_gets_in(opt))
        return 0.0, [np.ones(3)]

    opt.minimize(loss, lambda: (free.append(another_thread_gets_in(opt)), [var])[1])
    assert free == [True, True]
