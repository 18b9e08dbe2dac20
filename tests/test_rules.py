"""The rules: scalars, every refusal of a step, and that both of its checks agree."""

import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided
from support import FULL, bits, frozen, nothing_changes, ones

from rmsprop_fast import IndexedSlices, RMSprop, rules, step_rules
from rmsprop_fast.cpu._step import StepArguments


def rows(values, indices, **options):
    return IndexedSlices(np.array(values), np.array(indices, np.int64), **options)


# --- Scalars --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [1, 0.5, np.float32(0.5), np.float64(0.5), np.int8(1), Fraction(1, 2)]
)
def test_a_real_number_becomes_a_float(value):
    result = rules.number("x", value)
    assert type(result) is float
    assert result == value


@pytest.mark.parametrize(
    "value", [None, "1", True, np.True_, 1j, [1.0], np.array(1.0), np.ones(1)], ids=repr
)
@pytest.mark.parametrize(
    "rule", ["number", "finite", "at_least_zero", "positive", "fraction"]
)
def test_what_is_no_real_number_is_a_type_error(rule, value):
    match = f"x must be a real number, got {re.escape(repr(value))}"
    with pytest.raises(TypeError, match=match):
        getattr(rules, rule)("x", value)


# Each rule with its last good and first bad values.
RULES = {
    "finite": ([-1e308, 0, 1e308], [np.inf, -np.inf, np.nan, 10**400], "finite"),
    "at_least_zero": (
        [0, 5e-324, 1e308],  # 5e-324 is the smallest float above 0
        [-5e-324, -1, np.inf, np.nan],
        "finite and >= 0",
    ),
    "positive": ([5e-324, 1e308], [0, -1, np.inf, np.nan], "finite and > 0"),
    "fraction": (
        [0, 1, 0.5],
        [np.nextafter(1.0, 2.0), -5e-324, np.inf, np.nan],
        r"in \[0, 1\]",
    ),
}


@pytest.mark.parametrize(
    ("rule", "value"), [(rule, value) for rule in RULES for value in RULES[rule][0]]
)
def test_a_number_within_the_range_is_returned(rule, value):
    assert getattr(rules, rule)("x", value) == value


@pytest.mark.parametrize(
    ("rule", "value"),
    [(rule, value) for rule in RULES for value in RULES[rule][1]],
    ids=lambda x: x if isinstance(x, str) else repr(x)[:20],
)
def test_a_number_outside_the_range_is_a_value_error(rule, value):
    match = f"x must be {RULES[rule][2]}, got {re.escape(repr(value))}"
    with pytest.raises(ValueError, match=match):
        getattr(rules, rule)("x", value)


@pytest.mark.parametrize(("value", "least"), [(0, 0), (3, 1), (np.int64(2), 0)])
def test_an_integer_becomes_an_int(value, least):
    result = rules.integer("n", value, least)
    assert type(result) is int
    assert result == value


@pytest.mark.parametrize("value", [1.0, "1", None, True, np.True_, [1]], ids=repr)
def test_what_is_no_integer_is_a_type_error(value):
    match = f"n must be an integer, got {re.escape(repr(value))}"
    with pytest.raises(TypeError, match=match):
        rules.integer("n", value, 0)


def test_an_integer_below_its_least_is_a_value_error():
    with pytest.raises(ValueError, match="n must be >= 1, got 0"):
        rules.integer("n", 0, 1)


@pytest.mark.parametrize("value", [True, False, np.True_])
def test_a_flag_becomes_a_bool(value):
    assert rules.flag("f", value) is bool(value)


@pytest.mark.parametrize("value", [1, 0.0, "yes", None, [True]], ids=repr)
def test_what_is_no_flag_is_a_type_error(value):
    match = f"f must be a bool, got {re.escape(repr(value))}"
    with pytest.raises(TypeError, match=match):
        rules.flag("f", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, None), ((), ()), ([2, 3], (2, 3)), (np.array([2, 3]), (2, 3))],
    ids=["None", "empty", "list", "array"],
)
def test_a_shape_becomes_a_tuple_of_ints(value, expected):
    result = rules.shape("s", value)
    assert result == expected
    assert result is None or all(type(n) is int for n in result)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (3, TypeError, "s must be a sequence of integers, got 3"),
        ("34", TypeError, "s must be a sequence of integers, got '34'"),
        ([2.0], TypeError, r"s\[0\] must be an integer, got 2.0"),
        ([2, None], TypeError, r"s\[1\] must be an integer, got None"),
        ([2, -1], ValueError, r"s\[1\] must be >= 0, got -1"),
    ],
    ids=["number", "text", "float", "None", "negative"],
)
def test_a_wrong_shape_is_refused(value, error, match):
    with pytest.raises(error, match=match):
        rules.shape("s", value)


# --- Refusals of a step ---------------------------------------------------------------


class World:
    """Some variables, and an optimizer that may know them."""

    def __init__(self):
        self.opt = RMSprop(**FULL)
        self.table = np.arange(12.0).reshape(4, 3)
        self.bias = np.arange(5, dtype=np.float32)
        self.square = np.arange(4.0).reshape(2, 2)
        self.twin = np.arange(12.0).reshape(4, 3)
        self.variables = [self.table, self.bias, self.square, self.twin]

    def pairs(self):
        return ones(*self.variables)

    def slot(self, name="rms"):
        return self.opt.get_slot(self.table, name)

    def zeros(self, *shape):
        return np.zeros(shape)


def alone(var):
    """A variable with a gradient that fits it."""
    return [(np.ones(var.shape, var.dtype), var)]


OVERLAP = "shares memory with"
ARRAY = "must be a numpy.ndarray"
REAL = "must have dtype float32 or float64"
ITSELF = "must not overlap itself"
KEEP = "must keep the shape"
IN_TABLE = r"is not in \[0, 4\)"

# What makes the last of some pairs wrong, and how it is refused.
VARIABLES = {
    "list": (lambda w: [(w.zeros(1), [1.0])], TypeError, f"var {ARRAY}, got list"),
    "number": (lambda w: [(w.zeros(), 1.0)], TypeError, f"var {ARRAY}, got float"),
    "numpy-scalar": (
        lambda w: [(w.zeros(), np.float64(1))],
        TypeError,
        f"var {ARRAY}, got float64",
    ),
    "None": (lambda w: [(w.zeros(1), None)], TypeError, f"var {ARRAY}, got NoneType"),
    "slices": (
        lambda w: [(w.zeros(1), rows([1.0], [0]))],
        TypeError,
        f"var {ARRAY}, got IndexedSlices",
    ),
    "None-for-None": (
        lambda w: [(None, None)],
        TypeError,
        f"var {ARRAY}, got NoneType",
    ),
    "None-for-a-list": (lambda w: [(None, [1.0])], TypeError, f"var {ARRAY}, got list"),
    "None-for-integers": (
        lambda w: [(None, np.zeros(3, int))],
        TypeError,
        f"var {REAL}",
    ),
    "None-for-read-only": (
        lambda w: [(None, frozen(w.zeros(3)))],
        ValueError,
        "var must be writable",
    ),
    "swapped-pair": (
        lambda w: [(w.table, rows([[1.0] * 3], [0]))],
        TypeError,
        f"var {ARRAY}, got IndexedSlices",
    ),
    **{
        f"dtype-{kind}": (
            lambda w, kind=kind: alone(np.zeros(3, kind)),
            TypeError,
            f"var {REAL} in native byte order, got '{kind}'",
        )
        for kind in ["<i8", "|i1", "<u4", "|b1", "<f2", ">f4", ">f8", "<c16", "|O"]
    },
    "dtype-longdouble": (
        lambda w: alone(np.zeros(3, np.longdouble)),
        TypeError,
        f"var {REAL}",
    ),
    "read-only": (
        lambda w: alone(frozen(w.zeros(3))),
        ValueError,
        "var must be writable, got a read-only array",
    ),
    "read-only-view-of-a-variable": (
        lambda w: alone(frozen(w.table.view())),
        ValueError,
        "var must be writable",
    ),
    "zero-strides": (
        lambda w: alone(as_strided(w.zeros(6), (3,), (0,))),
        ValueError,
        rf"var {ITSELF}, got shape \(3,\) with strides \(0,\)",
    ),
    "sliding-windows": (
        lambda w: alone(as_strided(w.zeros(6), (3, 4), (8, 8))),
        ValueError,
        rf"var {ITSELF}, got shape \(3, 4\) with strides \(8, 8\)",
    ),
    "odd-strides": (  # 12 bytes apart, 8 bytes long, and back again: bytes 8-16 twice
        lambda w: alone(as_strided(w.zeros(6), (2, 2), (12, 4))),
        ValueError,
        f"var {ITSELF}",
    ),
    "a-variable-flat": (
        lambda w: alone(w.table.reshape(-1)),
        ValueError,
        rf"var {KEEP}, strides and dtype .* \(4, 3\).* got \(12,\)",
    ),
    "a-variable-deeper": (
        lambda w: alone(w.table[None]),
        ValueError,
        rf"var {KEEP}.* got \(1, 4, 3\)",
    ),
    "a-variable-as-float32": (
        lambda w: alone(w.table.view(np.float32)),
        ValueError,
        f"var {KEEP}.* and float32",
    ),
    "a-variable-transposed": (
        lambda w: alone(w.square.T),
        ValueError,
        rf"var {KEEP}, strides.* got .*\(8, 16\)",
    ),
    "a-variable's-first-rows": (
        lambda w: alone(w.table[:2]),
        ValueError,
        rf"var {KEEP}.* got \(2, 3\)",
    ),
    "a-variable's-later-rows": (
        lambda w: alone(w.table[1:3]),
        ValueError,
        f"variable {OVERLAP}",
    ),
    "a-variable-reversed": (
        lambda w: alone(w.table[::-1]),
        ValueError,
        f"variable {OVERLAP}",
    ),
    "a-variable's-column": (
        lambda w: alone(w.table[:, 1]),
        ValueError,
        f"variable {OVERLAP}",
    ),
    "two-new-that-meet": (
        lambda w: (lambda x: alone(x[:3]) + alone(x[2:5]))(w.zeros(6)),
        ValueError,
        f"variable {OVERLAP}",
    ),
    "two-new-that-interleave-and-meet": (
        lambda w: (lambda x: alone(x[:, :2]) + alone(x[:, 1:3]))(w.zeros(3, 4)),
        ValueError,
        f"variable {OVERLAP}",
    ),
    "two-new-one-in-another-shape": (
        lambda w: (lambda x: alone(x) + alone(x.reshape(2, 3)))(w.zeros(6)),
        ValueError,
        rf"var {KEEP}.* got \(2, 3\)",
    ),
}
GRADIENTS = {
    "list": (
        lambda w: [(w.table.tolist(), w.table)],
        TypeError,
        "gradient must be a numpy.ndarray, IndexedSlices or None, got list",
    ),
    "number": (lambda w: [(1.0, w.table)], TypeError, "gradient must be .* got float"),
    "text": (lambda w: [("grad", w.table)], TypeError, "gradient must be .* got str"),
    **{
        f"dtype-{kind}": (
            lambda w, kind=kind: [(np.ones((4, 3), kind), w.table)],
            TypeError,
            f"gradient has dtype {np.dtype(kind)}, its variable float64",
        )
        for kind in ["<f4", "<i8", "<f2", ">f8", "<c16", "|b1", "|O"]
    },
    "float64-for-float32": (
        lambda w: [(np.ones(5), w.bias)],
        TypeError,
        "gradient has dtype float64, its variable float32",
    ),
    **{
        f"shape-{shape}": (
            lambda w, shape=shape: [(np.ones(shape), w.table)],
            ValueError,
            rf"gradient has shape {re.escape(str(shape))}, its variable \(4, 3\)",
        )
        for shape in [
            (),
            (3,),
            (12,),
            (1, 3),
            (4, 1),
            (3, 4),
            (4, 3, 1),
            (0, 3),
            (5, 3),
        ]
    },
    "shape-(1,)-for-0-d": (
        lambda w: [(np.ones(1), w.zeros())],
        ValueError,
        r"gradient has shape \(1,\), its variable \(\)",
    ),
    "its-variable": (
        lambda w: [(w.table, w.table)],
        ValueError,
        f"gradient {OVERLAP}",
    ),
    "its-variable-reversed": (
        lambda w: [(w.table[::-1], w.table)],
        ValueError,
        f"gradient {OVERLAP}",
    ),
    "another-variable": (
        lambda w: [(w.table, w.twin)],
        ValueError,
        f"gradient {OVERLAP}",
    ),
    "part-of-a-variable": (
        lambda w: [(w.table[1], w.zeros(3))],
        ValueError,
        f"gradient {OVERLAP}",
    ),
    "a-new-variable-of-the-call": (
        lambda w: (lambda x: [*alone(x), (x, w.zeros(7))])(w.zeros(7)),
        ValueError,
        f"gradient {OVERLAP}",
    ),
}
SLICES = {
    "row-too-large": (
        lambda w: [(rows([[1.0] * 3] * 2, [0, 4]), w.table)],
        IndexError,
        rf"row 4 at position 1 {IN_TABLE}",
    ),
    "row-negative": (
        lambda w: [(rows([[1.0] * 3] * 3, [0, 1, -1]), w.table)],
        IndexError,
        rf"row -1 at position 2 {IN_TABLE}",
    ),
    "row-very-negative": (
        lambda w: [(rows([[1.0] * 3], [-(2**63)]), w.table)],
        IndexError,
        rf"row -9223372036854775808 at position 0 {IN_TABLE}",
    ),
    "row-int8-negative": (
        lambda w: [(IndexedSlices(np.ones((1, 3)), np.array([-1], np.int8)), w.table)],
        IndexError,
        rf"row -1 at position 0 {IN_TABLE}",
    ),
    "row-beyond-int64": (
        lambda w: [
            (IndexedSlices(np.ones((1, 3)), np.array([2**64 - 1], "u8")), w.table)
        ],
        IndexError,
        rf"row 18446744073709551615 at position 0 {IN_TABLE}",
    ),
    "row-of-an-empty-table": (
        lambda w: [(rows([[1.0] * 3], [0]), w.zeros(0, 3))],
        IndexError,
        r"row 0 at position 0 is not in \[0, 0\)",
    ),
    "dtype": (
        lambda w: [
            (IndexedSlices(np.ones((1, 3), np.float32), np.array([0])), w.table)
        ],
        TypeError,
        "values has dtype float32, its variable float64",
    ),
    "row-too-wide": (
        lambda w: [(rows([[1.0] * 4], [0]), w.table)],
        ValueError,
        r"values has rows of shape \(4,\), its variable \(3,\)",
    ),
    "row-broadcastable": (
        lambda w: [(rows([[1.0]], [0]), w.table)],
        ValueError,
        r"values has rows of shape \(1,\), its variable \(3,\)",
    ),
    "rows-of-too-few-dimensions": (
        lambda w: [(rows([1.0], [0]), w.table)],
        ValueError,
        r"values has rows of shape \(\), its variable \(3,\)",
    ),
    "rows-of-too-many-dimensions": (
        lambda w: [(rows([[[1.0] * 3]], [0]), w.table)],
        ValueError,
        r"values has rows of shape \(1, 3\), its variable \(3,\)",
    ),
    "dense-shape": (
        lambda w: [(rows([[1.0] * 3], [0], dense_shape=(5, 3)), w.table)],
        ValueError,
        r"dense_shape is \(5, 3\), its variable has shape \(4, 3\)",
    ),
    "dense-shape-of-other-rank": (
        lambda w: [(rows([[1.0] * 3], [0], dense_shape=(4,)), w.table)],
        ValueError,
        r"dense_shape is \(4,\), its variable has shape \(4, 3\)",
    ),
    "0-d": (
        lambda w: [(rows([1.0], [0]), w.zeros())],
        ValueError,
        "a variable without dimensions has no rows",
    ),
    "values-of-the-variable": (
        lambda w: [(IndexedSlices(w.table[1:2], np.array([0])), w.table)],
        ValueError,
        f"gradient {OVERLAP}",
    ),
    "values-of-another-variable": (
        lambda w: [(IndexedSlices(w.twin[1:2], np.array([0])), w.table)],
        ValueError,
        f"gradient {OVERLAP}",
    ),
}
# Only an optimizer that knows its variables has slots to run into.
SLOTS = {
    "variable-is-a-slot": (
        lambda w: alone(w.slot()),
        ValueError,
        f"variable {OVERLAP}.*'rms'",
    ),
    "variable-in-a-slot": (
        lambda w: alone(w.slot("mg")[1:]),
        ValueError,
        f"variable {OVERLAP}.*'mg'",
    ),
    "gradient-is-a-slot": (
        lambda w: [(w.slot(), w.table)],
        ValueError,
        f"gradient {OVERLAP}.*'rms'",
    ),
    "gradient-in-another's-slot": (
        lambda w: [(w.slot("momentum")[0], w.zeros(3))],
        ValueError,
        f"gradient {OVERLAP}.*'momentum'",
    ),
    "values-in-a-slot": (
        lambda w: [(IndexedSlices(w.slot()[:1], np.array([0])), w.table)],
        ValueError,
        f"gradient {OVERLAP}.*'rms'",
    ),
}
ANYWHERE = {
    f"{what}-{name}": case
    for what, cases in [("var", VARIABLES), ("grad", GRADIENTS), ("slices", SLICES)]
    for name, case in cases.items()
}
KNOWING = {**ANYWHERE, **SLOTS}


def arrays_of(pairs):
    """Every array that a step over these pairs might have changed."""
    values = [getattr(grad, "values", grad) for grad, _ in pairs]
    return [x for x in [*values, *(v for _, v in pairs)] if isinstance(x, np.ndarray)]


def assert_refused(world, good, broken, error, match):
    """The last pair is refused and leaves no trace, not even in the next step."""
    twin = World()
    if world.opt.iterations:
        twin.opt.apply_gradients(twin.pairs())
    where = rf"^grads_and_vars\[{len(good) + len(broken) - 1}\]: "
    pairs = [*good, *broken]
    arrays = [*world.variables, *arrays_of(pairs)]
    with nothing_changes(world.opt, *arrays):
        with pytest.raises(error, match=where + match) as caught:
            world.opt.apply_gradients(pairs)
        assert caught.type is error
    for w in (world, twin):
        w.opt.apply_gradients(w.pairs())
    assert bits([*world.variables, *world.opt.weights]) == bits(
        [*twin.variables, *twin.opt.weights]
    )


@pytest.mark.parametrize(("broken", "error", "match"), KNOWING.values(), ids=KNOWING)
def test_a_broken_pair_alone_is_refused(broken, error, match):
    world = World()
    world.opt.apply_gradients(world.pairs())
    assert_refused(world, [], broken(world), error, match)


@pytest.mark.parametrize(("broken", "error", "match"), KNOWING.values(), ids=KNOWING)
def test_a_broken_pair_after_good_ones_is_refused(broken, error, match):
    world = World()
    world.opt.apply_gradients(world.pairs())
    assert_refused(world, world.pairs(), broken(world), error, match)


@pytest.mark.parametrize(("broken", "error", "match"), ANYWHERE.values(), ids=ANYWHERE)
def test_a_broken_pair_of_a_first_step_binds_nothing(broken, error, match):
    world = World()
    assert_refused(world, world.pairs(), broken(world), error, match)


@pytest.mark.parametrize(("broken", "error", "match"), ANYWHERE.values(), ids=ANYWHERE)
def test_after_a_refused_first_step_the_weights_are_iterations_alone(
    broken, error, match
):
    world = World()
    with pytest.raises(error, match=match):
        world.opt.apply_gradients([*world.pairs(), *broken(world)])
    assert len(world.opt.weights) == 1
    assert world.opt.weights[0] == 0
    assert world.opt.get_slot_names() == []


def test_a_gradient_may_not_be_a_new_variable_that_comes_later():
    x, y, opt = np.ones(3), np.ones(3), RMSprop()
    with (
        nothing_changes(opt, x, y),
        pytest.raises(ValueError, match=r"grads_and_vars\[0\]: gradient shares memory"),
    ):
        opt.apply_gradients([(x, y), *ones(x)])


def test_every_element_of_a_refused_overlap_is_found():
    # Only one element in 101 * 103 is shared, and the bounds of both overlap anyway.
    base = np.zeros((101, 206))
    var, grad = base[:, ::2], base[:, 1::2]
    opt = RMSprop()
    assert opt.apply_gradients([(grad, var)]) == 1
    grad = as_strided(base[0, 1:], (101, 103), (206 * 8, 16))
    assert opt.apply_gradients([(grad, var)]) == 2
    grad = as_strided(base[0, 1:], (101, 103), (205 * 8, 16))  # meets a column
    with (
        nothing_changes(opt, base),
        pytest.raises(ValueError, match=f"gradient {OVERLAP}"),
    ):
        opt.apply_gradients([(grad, var)])


def test_a_bound_variable_that_became_read_only_is_refused():
    var, opt = np.ones(3), RMSprop()
    opt.apply_gradients(ones(var))
    var.flags.writeable = False
    with (
        nothing_changes(opt, var),
        pytest.raises(ValueError, match=r"grads_and_vars\[0\]: var must be writable"),
    ):
        opt.apply_gradients([(np.ones(3), var)])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # NumPy's, for setting shape
def test_a_bound_variable_that_was_reshaped_in_place_is_refused():
    var, opt = np.ones(6), RMSprop()
    opt.apply_gradients(ones(var))
    var.shape = (2, 3)
    with (
        nothing_changes(opt, var),
        pytest.raises(ValueError, match=rf"var {KEEP}.* got \(2, 3\)"),
    ):
        opt.apply_gradients([(np.ones((2, 3)), var)])


# --- Both checks of a step agree ------------------------------------------------------

# The compiled step tests with macros what `step_rules` tests in Python. Each draw
# makes pairs for an optimizer that knows all these variables; no two bounds overlap.


def known_variables():
    return [
        np.ones((4, 3)),
        np.ones((4, 3)),
        np.ones((2, 2)),
        np.ones(5, np.float32),
        np.ones(()),
        np.ones((1, 4)),
        np.ones((2, 1, 1), np.float32),
        np.ones(12, np.float32)[::2],
        np.ones((3, 2), np.float32)[::-1],
        np.ones((3, 2), order="F"),
        np.ones((0, 3), np.float32),
        np.ones((3, 0)),
        np.ndarray((3, 2), np.float64, bytearray(64), offset=3),  # not aligned
    ]


def other_dtype(array):
    return np.dtype(np.float32 if array.dtype == np.float64 else np.float64)


def in_other_shape(array):
    if array.size == 0:
        return array  # there is no memory that it could share
    return as_strided(array, (1, *array.shape), (0, *array.strides))


def in_other_strides(array):
    """Other strides, but only where they lead nowhere."""
    strides = [
        s + 8 * (n == 1) for s, n in zip(array.strides, array.shape, strict=True)
    ]
    return as_strided(array, array.shape, strides)


def in_zero_strides(array):
    if array.size < 2:
        return array
    return as_strided(array, array.shape, [0] * array.ndim)


def in_other_dtype(array):
    if not array.flags.c_contiguous or array.dtype == np.float32:
        return array
    return array[..., None].view(np.float32)


def on_memory(array, offset=0, dtype=None):
    """Ones of the same shape, `offset` bytes into fresh memory."""
    dtype = array.dtype if dtype is None else np.dtype(dtype)
    fresh = np.ndarray(
        array.shape, dtype, bytearray(array.size * dtype.itemsize + 8), offset
    )
    fresh[...] = 1
    return fresh


VARIABLE_KINDS = {
    "itself": lambda v, opt: v,
    "a view": lambda v, opt: v[...],
    "other idle strides": lambda v, opt: in_other_strides(v),
    "a read-only view": lambda v, opt: frozen(v[...]),
    "other shape": lambda v, opt: in_other_shape(v),
    "transposed": lambda v, opt: v.T if v.size else v,
    "zero strides": lambda v, opt: in_zero_strides(v),
    "other dtype": lambda v, opt: in_other_dtype(v),
    "integers": lambda v, opt: v.view(f"i{v.itemsize}"),
    "swapped bytes": lambda v, opt: v.view(v.dtype.newbyteorder()),
    "reversed": lambda v, opt: v[::-1] if v.ndim and len(v) > 1 else v,
    "its slot": lambda v, opt: opt.get_slot(v, "rms") if v.size else v,
    "a list": lambda v, opt: v.tolist(),
    "None": lambda v, opt: None,
}
GRADIENT_KINDS = {
    "ones": lambda v, opt: on_memory(v),
    "fortran": lambda v, opt: np.asfortranarray(on_memory(v)).reshape(v.shape),
    "strided": lambda v, opt: np.ones((*v.shape, 2), v.dtype)[..., 0],
    "not aligned": lambda v, opt: on_memory(v, 1),
    "read-only": lambda v, opt: frozen(on_memory(v)),
    "broadcast": lambda v, opt: np.broadcast_to(v.dtype.type(1), v.shape),
    "other dtype": lambda v, opt: on_memory(v, dtype=other_dtype(v)),
    "integers": lambda v, opt: on_memory(v, dtype=f"i{v.itemsize}"),
    "half": lambda v, opt: on_memory(v, dtype=np.float16),
    "swapped bytes": lambda v, opt: on_memory(v, dtype=v.dtype.newbyteorder()),
    "deeper": lambda v, opt: np.ones((*v.shape, 1), v.dtype),
    "a scalar": lambda v, opt: np.ones((), v.dtype),
    "longer": lambda v, opt: np.ones([n + 1 for n in v.shape], v.dtype),
    "transposed": lambda v, opt: on_memory(v).T,
    "a list": lambda v, opt: v.tolist(),
    "a number": lambda v, opt: 1.0,
    "the variable": lambda v, opt: v,
    "a slot": lambda v, opt: opt._slots[1].slots["momentum"],
    "another variable": lambda v, opt: opt._slots[0].var,
    "None": lambda v, opt: None,
}


# What may be wrong with a row-sparse gradient; one thing at a time.
FLAWS = ["dtype", "width", "rank", "dense_shape", "negative", "too large"]
# Its constructor refuses these; but nothing keeps arrays from changing afterwards.
LATER_FLAWS = {
    "2-D": lambda indices: indices[None],
    "float": lambda indices: indices.astype(float),
    "bool": lambda indices: indices.astype(bool),
    "swapped": lambda indices: indices.astype(">i8"),
    "shorter": lambda indices: indices[1:],
}


def slices(flaw):
    return st.tuples(
        st.lists(st.integers(0, 100), max_size=4),
        st.sampled_from(["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"]),
        st.sampled_from(["run", "strided", "read-only"]),
        st.booleans(),  # is the right dense_shape given?
        flaw,
    )


def make_slices(v, recipe):
    """Values and indices that fit `v`, but for the flaw."""
    numbers, kind, layout, has_dense_shape, flaw = recipe
    n_rows = len(v) if v.ndim else 1
    indices = np.array([k % max(n_rows, 1) for k in numbers], kind)
    indices[-1:] = {"negative": np.array(-1).astype(kind), "too large": n_rows}.get(
        flaw, indices[-1:]
    )
    inner = [n + (flaw == "width") for n in v.shape[1:]] + [1] * (flaw == "rank")
    real = v if v.dtype in (np.float32, np.float64) else np.ones(v.shape)
    dtype = other_dtype(real) if flaw == "dtype" else real.dtype
    values = np.ones((len(indices), *inner), dtype)
    if layout == "strided":
        values, indices = np.repeat(values, 2, axis=0)[::2], np.repeat(indices, 2)[::2]
    elif layout == "read-only":
        values, indices = frozen(values), frozen(indices.copy())
    dense_shape = v.shape if has_dense_shape else None
    if flaw == "dense_shape":
        dense_shape = (*v.shape, 1)
    grad = IndexedSlices(values, indices, dense_shape)
    if flaw in LATER_FLAWS:
        grad._indices = LATER_FLAWS[flaw](indices)
    return grad


positions = st.integers(0, len(known_variables()) - 1)
good_variables = st.sampled_from(["itself", "a view", "other idle strides"])
good_gradients = st.sampled_from(
    ["ones", "fortran", "strided", "not aligned", "read-only", "broadcast", "None"]
) | slices(st.none())
# Pairs that should do, and among them one that may not.
good_pairs = st.tuples(positions, good_variables, good_gradients)
other_pairs = (
    good_pairs
    | st.tuples(positions, st.sampled_from(list(VARIABLE_KINDS)), good_gradients)
    | st.tuples(positions, good_variables, st.sampled_from(list(GRADIENT_KINDS)))
    | st.tuples(
        positions, good_variables, slices(st.sampled_from([*FLAWS, *LATER_FLAWS]))
    )
)
recipes = st.tuples(
    st.lists(good_pairs, max_size=2), other_pairs, st.lists(good_pairs, max_size=2)
).map(lambda parts: [*parts[0], parts[1], *parts[2]]) | st.lists(
    other_pairs, max_size=3
)


def make_pair(opt, variables, recipe):
    index, variable_kind, gradient_kind = recipe
    v = variables[index]
    var = VARIABLE_KINDS[variable_kind](v, opt)
    if gradient_kind == "None":
        return None, v  # broken variables without gradients: see test_optimizer.py
    # A gradient fits what its variable pretends to be: only one rule is broken.
    like = var if isinstance(var, np.ndarray) else v
    if isinstance(gradient_kind, str):
        return GRADIENT_KINDS[gradient_kind](like, opt), var
    return make_slices(like, gradient_kind), var


@settings(max_examples=600)
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@given(recipes, st.integers(0, 7))
def test_the_compiled_step_and_step_rules_refuse_the_same(drawn, variant):
    variables = known_variables()
    opt = RMSprop(**FULL)
    opt.apply_gradients(ones(*variables))
    pairs = [make_pair(opt, variables, recipe) for recipe in drawn]
    # Another view of no memory is another variable, and the step refuses new ones.
    empty = [
        var
        for (i, *_), (_, var) in zip(drawn, pairs, strict=True)
        if variables[i].size == 0
    ]
    assume(all(opt._slots.find(var) is not None for var in empty))
    missing = [pair for pair in pairs if pair[0] is None]
    if missing:  # the step knows what was warned about
        opt.apply_gradients([*ones(variables[0]), *missing])
    before, state = opt.iterations, bits([*variables, *opt.weights])
    try:
        step_rules.step(pairs, opt._slots)
        refused = False
    except (TypeError, ValueError, IndexError):
        refused = True
    done = opt._step.update(opt._slots, pairs, StepArguments(variant))
    assert done == (-1 if refused else before + 1)
    if refused:
        assert bits([*variables, *opt.weights]) == state


@settings(max_examples=200)
@pytest.mark.filterwarnings("ignore:Gradients do not exist")
@given(recipes, st.booleans())
def test_a_step_is_whole_or_refused(drawn, known):
    variables = known_variables()
    opt, other = RMSprop(**FULL), RMSprop(**FULL)
    other.apply_gradients(ones(*variables))  # has the slots that a draw may ask for
    if known:
        opt.apply_gradients(ones(*variables))
    pairs = [make_pair(other, variables, recipe) for recipe in drawn]
    before, state = opt.iterations, bits([*variables, *opt.weights])
    names = opt.get_slot_names()
    try:
        done = opt.apply_gradients(pairs)
    except (TypeError, ValueError, IndexError):
        assert bits([*variables, *opt.weights]) == state
        assert opt.get_slot_names() == names
    else:
        assert done == opt.iterations == before + 1
