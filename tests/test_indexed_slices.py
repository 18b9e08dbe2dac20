"""IndexedSlices: what it takes, what it refuses, what it keeps."""

import copy
import pickle

import numpy as np
import pytest

from rmsprop_fast import IndexedSlices, RMSprop


def indices(*numbers, dtype=np.int64):
    return np.array(numbers, dtype)


def test_the_arguments_are_those_of_tensorflow_in_order():
    values, rows = np.ones((2, 3)), indices(4, 1)
    grad = IndexedSlices(values, rows, (5, 3))
    assert grad.values is values
    assert grad.indices is rows
    assert grad.dense_shape == (5, 3)
    again = IndexedSlices(dense_shape=(5, 3), indices=rows, values=values)
    assert again.values is values


def test_dense_shape_is_none_unless_given():
    assert IndexedSlices(np.ones(1), indices(0)).dense_shape is None


@pytest.mark.parametrize(
    "given", [(5, 3), [5, 3], np.array([5, 3]), (np.int32(5), 3)], ids=repr
)
def test_dense_shape_becomes_a_tuple_of_ints(given):
    kept = IndexedSlices(np.ones((1, 3)), indices(0), given).dense_shape
    assert kept == (5, 3)
    assert [type(n) for n in kept] == [int, int]


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"])
def test_indices_may_have_any_integer_dtype(kind):
    assert IndexedSlices(np.ones(2), indices(0, 1, dtype=kind)).indices.dtype == kind


@pytest.mark.parametrize("kind", [np.longlong, np.ulonglong, np.intp, np.uintp])
def test_integer_dtypes_of_equal_size_are_alike(kind):
    # NumPy has two type numbers for one size (long, long long).
    var = np.full(3, 8.0)
    grad = IndexedSlices(np.ones(2), indices(2, 0, dtype=kind))
    RMSprop(0.5, rho=0.0, epsilon=0.0).apply_gradients([(grad, var)])
    np.testing.assert_array_equal(var, [7.5, 8.0, 7.5])  # 8 - learning rate


def test_arrays_may_be_read_only_and_of_any_layout():
    values, rows = np.ones((4, 2))[::-2], indices(3, 2, 1, 0)[::2]
    values.flags.writeable = rows.flags.writeable = False
    grad = IndexedSlices(values, rows)
    assert grad.values is values
    assert grad.indices is rows


def test_no_rows_at_all_are_a_gradient():
    grad = IndexedSlices(np.ones((0, 3)), indices())
    assert (len(grad.values), len(grad.indices)) == (0, 0)


@pytest.mark.parametrize(
    "given",
    [
        [4, 1, 4],
        (4, 1, 4),
        range(4, 7),
        np.array([4, 1, 4], ">i4"),
        np.array([4, 1, 4], ">u2"),
        [np.uint8(4), 1, np.int64(4)],
    ],
    ids=["list", "tuple", "range", "big-endian", "big-endian-u2", "scalars"],
)
def test_row_numbers_are_any_integers(given):
    values = np.arange(6.0).reshape(3, 2)
    ours, theirs = np.ones((7, 2)), np.ones((7, 2))
    RMSprop().apply_gradients([(IndexedSlices(values, given), ours)])
    same = np.array(given, np.int64)
    RMSprop().apply_gradients([(IndexedSlices(values, same), theirs)])
    np.testing.assert_array_equal(ours, theirs)
    assert (ours != 1).any()


def test_an_empty_list_is_no_rows():
    var, opt = np.ones((7, 2)), RMSprop()
    assert opt.apply_gradients([(IndexedSlices(np.ones((0, 2)), []), var)]) == 1
    assert (var == 1).all()
    opt = RMSprop(catch_up=True)
    opt.build([var])
    opt.catch_up(var, [])
    opt.catch_up(var, [0, 6, 0])


ONE = np.ones(1)
REAL = "values must have dtype float32 or float64 in native byte order"
REFUSED = {
    "values-list": (
        ([1.0], indices(0)),
        TypeError,
        "values must be a numpy.ndarray, got list",
    ),
    "values-None": ((None, indices(0)), TypeError, "values must be .* got NoneType"),
    "values-scalar": (
        (np.float64(1), indices(0)),
        TypeError,
        "values must be .* got float64",
    ),
    **{
        f"values-{kind}": (
            (np.ones(1).astype(kind), indices(0)),
            TypeError,
            f"{REAL}, got '{kind}'",
        )
        for kind in ["<i8", "<f2", ">f4", ">f8", "<c16", "|b1", "|O"]
    },
    "values-0-d": (
        (np.array(1.0), indices(0)),
        ValueError,
        "values must have at least 1 dimension, got 0",
    ),
    "indices-None": ((ONE, None), TypeError, "indices must be integers, got dtype obj"),
    "indices-text": ((ONE, "0"), TypeError, "indices must be integers, got dtype "),
    "indices-floats": ((ONE, [0.0]), TypeError, "indices must be integers, .* float64"),
    "indices-bools": ((ONE, [True]), TypeError, "indices must be integers, .* bool"),
    "indices-ragged": (
        (ONE, [[0], [0, 1]]),
        TypeError,
        "indices must be a sequence of integers",
    ),
    "indices-number": (
        (ONE, 0),
        ValueError,
        "indices must have 1 dimension, got shape",
    ),
    **{
        f"indices-{kind}": (
            (ONE, indices(0).astype(kind)),
            TypeError,
            "indices must be integers, got dtype",
        )
        for kind in ["<f8", "|b1", "<c16", "|O", "<m8"]
    },
    "indices-0-d": (
        (ONE, np.array(0)),
        ValueError,
        r"indices must have 1 dimension, got shape \(\)",
    ),
    "indices-2-D": (
        (ONE, indices(0)[None]),
        ValueError,
        r"indices must have 1 dimension, got shape \(1, 1\)",
    ),
    "more-values": (
        (np.ones((3, 2)), indices(0, 1)),
        ValueError,
        "values has 3 rows, indices has 2",
    ),
    "more-indices": (
        (np.ones((1, 2)), indices(0, 1)),
        ValueError,
        "values has 1 rows, indices has 2",
    ),
    "no-values": (
        (np.ones((0, 2)), indices(0)),
        ValueError,
        "values has 0 rows, indices has 1",
    ),
    "dense-shape-number": (
        (ONE, indices(0), 5),
        TypeError,
        "dense_shape must be a sequence of integers, got 5",
    ),
    "dense-shape-text": (
        (ONE, indices(0), "5"),
        TypeError,
        "dense_shape must be a sequence of integers, got '5'",
    ),
    "dense-shape-float": (
        (ONE, indices(0), (5.0,)),
        TypeError,
        r"dense_shape\[0\] must be an integer, got 5.0",
    ),
    "dense-shape-None": (
        (ONE, indices(0), (5, None)),
        TypeError,
        r"dense_shape\[1\] must be an integer, got None",
    ),
    "dense-shape-negative": (
        (ONE, indices(0), (-5,)),
        ValueError,
        r"dense_shape\[0\] must be >= 0, got -5",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "match"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_gradient_of_rows_is_refused(arguments, error, match):
    with pytest.raises(error, match=f"^{match}") as caught:
        IndexedSlices(*arguments)
    assert caught.type is error


@pytest.mark.parametrize("name", ["values", "indices", "dense_shape"])
def test_its_parts_cannot_be_replaced(name):
    grad = IndexedSlices(np.ones(1), indices(0), (3,))
    with pytest.raises(AttributeError):
        setattr(grad, name, getattr(grad, name))


def test_it_takes_no_other_attribute():
    with pytest.raises(AttributeError):
        IndexedSlices(np.ones(1), indices(0)).name = "grad"


def test_its_repr_says_what_it_holds():
    grad = IndexedSlices(np.array([2.0]), indices(1))
    assert repr(grad) == "IndexedSlices(values=array([2.]), indices=array([1]))"
    grad = IndexedSlices(np.array([2.0]), indices(1), (3,))
    assert repr(grad) == (
        "IndexedSlices(values=array([2.]), indices=array([1]), dense_shape=(3,))"
    )


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_is_the_same_gradient(clone):
    grad = IndexedSlices(np.array([[1.0, 2.0], [3.0, 4.0]]), indices(2, 0), (3, 2))
    twin = clone(grad)
    np.testing.assert_array_equal(twin.values, grad.values)
    np.testing.assert_array_equal(twin.indices, grad.indices)
    one, other = np.ones((3, 2)), np.ones((3, 2))
    RMSprop().apply_gradients([(grad, one)])
    RMSprop().apply_gradients([(twin, other)])
    np.testing.assert_array_equal(one, other)


def test_a_step_leaves_the_gradient_alone():
    values, rows = np.array([[3.0], [4.0], [5.0]]), indices(2, 0, 2)
    grad, var = IndexedSlices(values, rows), np.ones((3, 1))
    RMSprop(clipnorm=1.0, clipvalue=0.5).apply_gradients([(grad, var)])
    np.testing.assert_array_equal(values, [[3.0], [4.0], [5.0]])
    np.testing.assert_array_equal(rows, [2, 0, 2])
