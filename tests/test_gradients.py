"""Losses that differentiate themselves: autograd, JAX, and whatever else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import bits, nothing_changes

from rmsprop_fast import IndexedSlices, RMSprop, gradients

LIBRARIES = {"autograd": gradients.autograd, "jax": gradients.jax}


@pytest.fixture(params=LIBRARIES)
def library(request):
    pytest.importorskip(request.param, reason=f"the extra {request.param} is missing")
    return LIBRARIES[request.param]


@pytest.fixture
def jax():
    return pytest.importorskip("jax", reason="the extra jax is missing")


@pytest.fixture
def x64(jax):
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


def quadratic(w, b):
    """Return a loss whose gradients are exact: w and 3."""
    return (w * w).sum() / 2 + 3 * b.sum()


def model(dtype=np.float32):
    return np.array([[1.0, -2.0], [4.0, 0.5]], dtype), np.array([2.0, 0.0], dtype)


# --- Both libraries -------------------------------------------------------------------


def test_the_value_and_the_gradients_are_the_functions(library):
    w, b = model()
    value, (of_w, of_b) = library(quadratic)(w, b)
    assert value == 16.625  # (1 + 4 + 16 + 0.25) / 2 + 6
    assert value.dtype == of_w.dtype == of_b.dtype == np.float32
    np.testing.assert_array_equal(of_w, w)
    np.testing.assert_array_equal(of_b, [3.0, 3.0])


def by_hand(w, b):
    return quadratic(w, b), [w.copy(), np.full_like(b, 3)]


def test_minimize_makes_the_step_of_hand_written_gradients(library):
    opt, twin = RMSprop(0.5, momentum=0.9), RMSprop(0.5, momentum=0.9)
    variables, others = model(), model()
    for _ in range(3):
        count = opt.minimize(library(quadratic), list(variables), grad_loss=0.5)
        twin.minimize(lambda: by_hand(*others), list(others), grad_loss=0.5)
    assert count == 3
    assert bits(variables) == bits(others)
    assert opt.last_loss == twin.last_loss


def test_get_updates_makes_the_step_of_hand_written_gradients(library):
    variables, others = model(), model()
    RMSprop(clipnorm=1.0).get_updates(library(quadratic), list(variables))
    RMSprop(clipnorm=1.0).get_updates(lambda: by_hand(*others), list(others))
    assert bits(variables) == bits(others)


def test_get_gradients_returns_clipped_gradients_and_makes_no_step(library):
    opt, (w, b) = RMSprop(clipvalue=2.0), model()
    with nothing_changes(opt, w, b):
        of_w, of_b = opt.get_gradients(library(quadratic), [w, b])
    np.testing.assert_array_equal(of_w, np.clip(w, -2, 2))
    np.testing.assert_array_equal(of_b, [2.0, 2.0])
    assert opt.last_loss == 16.625


@pytest.mark.parametrize("as_one", [False, True], ids=["list", "array"])
def test_variables_may_come_from_a_callable_and_alone(library, as_one):
    w, _ = model()
    before = w.copy()
    RMSprop().minimize(library(lambda w: (w * w).sum()), lambda: w if as_one else [w])
    assert (abs(w) < abs(before)).all()


def test_variables_of_any_layout_are_differentiated(library, tmp_path):
    plain = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    in_file = np.memmap(tmp_path / "w", np.float32, "w+", shape=(2, 3))
    in_file[...] = plain
    expected = plain.copy()
    RMSprop(0.5).apply_gradients([(plain.copy(), expected)])
    layouts = [np.asfortranarray(plain), np.repeat(plain, 2, axis=1)[:, ::2], in_file]
    for var in layouts:
        RMSprop(0.5).minimize(library(lambda w: (w * w).sum() / 2), [var])
        np.testing.assert_array_equal(var, expected)


def test_a_0d_variable_has_a_0d_gradient(library):
    var = np.array(3.0, np.float32)
    _, (grad,) = library(lambda w: w * w)(var)
    assert isinstance(grad, np.ndarray)
    assert (grad.shape, grad.dtype, grad) == ((), np.float32, 6.0)
    RMSprop().minimize(library(lambda w: w * w), [var])
    assert var < 3.0


def test_the_gradient_of_a_variable_that_is_not_used_is_zero(library):
    w, b = model()
    _, (_, of_b) = library(lambda w, b: w.sum())(w, b)
    np.testing.assert_array_equal(of_b, [0.0, 0.0])


@pytest.mark.parametrize("shape", [(2,), (1,), (2, 2)], ids=str)
def test_a_loss_that_is_an_array_is_refused_and_nothing_changes(library, shape):
    opt, w = RMSprop(), np.ones(shape, np.float32)
    match = rf"loss must be a scalar, such as a mean .*, got shape \({shape[0]}"
    with nothing_changes(opt, w), pytest.raises(ValueError, match=match):
        opt.minimize(library(lambda w: w * 2), [w])


def test_variables_are_never_written(library):
    w, b = model()
    w.flags.writeable = b.flags.writeable = False
    value, _ = library(quadratic)(w, b)
    assert value == 16.625


def test_an_error_of_the_function_comes_through(library):
    def broken(w):
        raise ZeroDivisionError("mine")

    opt, (w, _) = RMSprop(), model()
    with nothing_changes(opt, w), pytest.raises(ZeroDivisionError, match="mine"):
        opt.minimize(library(broken), [w])


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_is_no_function_is_refused(name):
    match = "f must be a callable of the variables that returns a scalar, got 3"
    with pytest.raises(TypeError, match=match):
        LIBRARIES[name](3)


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_missing_library_is_an_import_error_that_names_the_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    match = rf"gradients\.{name} needs the extra {name}: .*rmsprop-fast\[{name}\]"
    with pytest.raises(ImportError, match=match):
        LIBRARIES[name](quadratic)


def test_neither_library_is_imported_before_it_is_asked_for():
    code = """
import sys
import numpy as np
from rmsprop_fast import RMSprop, gradients
RMSprop().minimize(gradients.wrap(lambda w: (0.0, [w + 1])), [np.ones(2)])
print({"autograd", "jax"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["set()"], done.stderr


# --- autograd -------------------------------------------------------------------------


@given(st.data())
def test_autograds_gradient_of_a_network_is_that_of_differences(data):
    pytest.importorskip("autograd", reason="the extra autograd is missing")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, width = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 4))
    x, y = rng.standard_normal((n, 3)), rng.integers(0, 2, n)
    variables = [rng.standard_normal((3, width)), rng.standard_normal((width, 2))]

    def loss(w1, w2):
        scores = np.tanh(x @ w1) @ w2
        scores = scores - np.log(np.sum(np.exp(scores), axis=1, keepdims=True))
        return -np.mean(scores[np.arange(n), y])

    value, grads = gradients.autograd(loss)(*variables)
    assert value == loss(*variables)
    h = 1e-6
    for var, grad in zip(variables, grads, strict=True):
        for i in np.ndindex(var.shape):
            middle = var[i]
            ends = []
            for var[i] in (middle - h, middle + h):
                ends.append(loss(*variables))
            var[i] = middle
            # Central differences: h**2 of truncation, 1e-16 / h of rounding.
            np.testing.assert_allclose(grad[i], (ends[1] - ends[0]) / 2 / h, atol=1e-7)


@pytest.mark.parametrize(
    "loss",
    [
        lambda w, x: (w * x).sum(),
        lambda w, x: (x @ w).sum(),
        lambda w, x: np.mean(np.exp(w + x)),
        lambda w, x: np.einsum("ij,ij->", w, x),
        lambda w, x: (w[np.array([0, 0, 1])] * x[0]).sum(),
    ],
    ids=["multiply", "matmul", "exp", "einsum", "take"],
)
def test_autograds_gradient_has_the_variables_dtype_whatever_the_datas(loss):
    pytest.importorskip("autograd", reason="the extra autograd is missing")
    w, x = np.ones((2, 2), np.float32), np.ones((2, 2))
    _, (grad,) = gradients.autograd(lambda w: loss(w, x))(w)
    assert grad.dtype == np.float32
    assert RMSprop().minimize(gradients.autograd(lambda w: loss(w, x)), [w]) == 1


# --- JAX ------------------------------------------------------------------------------


def test_jax_refuses_float64_while_it_would_make_it_float32(jax):
    opt, variables = RMSprop(), model(np.float64)
    match = r"variable 0 must be float32 for JAX .*call jax\.config\.update\("
    with nothing_changes(opt, *variables), pytest.raises(TypeError, match=match):
        opt.minimize(gradients.jax(quadratic), list(variables))


def test_jax_differentiates_float64_when_it_is_told_to(x64):
    variables = model(np.float64)
    value, grads = gradients.jax(quadratic)(*variables)
    assert value.dtype == grads[0].dtype == np.float64
    assert RMSprop().minimize(gradients.jax(quadratic), list(variables)) == 1


def test_jax_takes_a_compiled_function(jax):
    opt, twin = RMSprop(), RMSprop()
    variables, others = model(), model()
    loss = gradients.jax(jax.jit(quadratic))
    for _ in range(3):
        opt.minimize(loss, list(variables))
        twin.minimize(gradients.jax(quadratic), list(others))
    assert bits(variables) == bits(others)


# --- Any other ------------------------------------------------------------------------


def test_a_wrapped_function_gets_the_variables_and_gives_any_gradients():
    table, bias, idle = np.zeros((4, 2)), np.zeros(2), np.zeros(3)
    seen = []

    def value_and_grad(*variables):
        seen.extend(variables)
        rows = IndexedSlices(np.ones((1, 2)), np.array([2]))
        return np.float32(7.5), (rows, np.ones(2), None)

    opt = RMSprop()
    with pytest.warns(UserWarning, match="Gradients do not exist for 1 variable"):
        opt.minimize(gradients.wrap(value_and_grad), [table, bias, idle])
    assert all(a is b for a, b in zip(seen, [table, bias, idle], strict=True))
    assert opt.last_loss == 7.5
    assert np.flatnonzero(table.any(axis=1)).tolist() == [2]
    assert bias.all()
    assert not idle.any()


@pytest.mark.parametrize("many", [list, tuple, lambda grads: grads[0]])
def test_one_gradient_may_stand_alone(many):
    w = np.ones(2)
    loss = gradients.wrap(lambda w: (w.sum(), many([np.ones(2)])))
    RMSprop().minimize(loss, [w])
    assert (w < 1).all()


@pytest.mark.parametrize(
    ("returned", "error", "match"),
    [
        (3.0, TypeError, r"loss must return \(value, grads\), got float"),
        ((3.0,), TypeError, r"loss must return \(value, grads\), got tuple of 1"),
        ((3.0, []), ValueError, "a gradient for each of the 1 variables, got 0"),
        ((np.ones(1), [np.ones(2)]), ValueError, r"a scalar, .* got shape \(1,\)"),
        (
            (3.0, [np.ones(3)]),
            ValueError,
            r"gradient has shape \(3,\), its variable \(2,\)",
        ),
        (
            (3.0, [[1.0, 1.0]]),
            TypeError,
            "gradient must be a numpy.ndarray, .* got list",
        ),
    ],
    ids=["value", "one", "none", "array", "shape", "list"],
)
def test_what_a_wrapped_function_may_not_return(returned, error, match):
    opt, w = RMSprop(), np.ones(2)
    with nothing_changes(opt, w), pytest.raises(error, match=match):
        opt.minimize(gradients.wrap(lambda w: returned), [w])


@pytest.mark.parametrize("var_list", [None, 3, [None]])
def test_what_is_no_list_of_variables_is_refused(var_list):
    loss = gradients.wrap(lambda *variables: (0.0, [np.ones(2)] * len(variables)))
    with pytest.raises(TypeError, match="var"):
        RMSprop().minimize(loss, var_list)


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(TypeError, match="value_and_grad must be a callable that retur"):
        gradients.wrap(None)
