"""Losses with gradients, for `minimize`, `get_gradients` and `get_updates`.

`autograd` and `jax` make a loss from a function of the variables: the library of that
name differentiates the function. `wrap` makes a loss from any function that returns a
value and its gradients. A library is imported only when its function is called.

autograd and JAX return dense gradients. For row-sparse gradients, write a loss that
returns ``(value, grads)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rmsprop_fast import backends, rules, step_rules

__all__ = ["ValueAndGrad", "autograd", "jax", "wrap"]

Array = np.ndarray[Any, Any]


class ValueAndGrad:
    """A loss of the variables that returns its gradients too; `wrap` makes one.

    Parameters
    ----------
    value_and_grad : callable
        As for `wrap`.

    See Also
    --------
    wrap : Describes the argument, with an example.
    """

    def __init__(self, value_and_grad: Callable[..., tuple[Any, Any]]) -> None:
        if not callable(value_and_grad):
            raise TypeError(
                "value_and_grad must be a callable that returns (value, grads), "
                f"got {value_and_grad!r}"
            )
        self._value_and_grad = value_and_grad

    def __call__(self, *variables: Array) -> tuple[Any, list[Any]]:
        """Return the loss and its gradients.

        Parameters
        ----------
        *variables : ndarray
            Only read.

        Returns
        -------
        value : scalar
            The loss; a 0-d CuPy array where the function returns one.
        grads : list
            A gradient for each variable.

        Raises
        ------
        TypeError
            The function does not return a value and its gradients.
        ValueError
            The loss is not a scalar; the number of gradients is not the number of
            variables.
        """
        value, grads = loss_result(self._value_and_grad(*variables))
        if not backends.is_on_device(value):  # it stays there: nobody waits for it
            value = np.asarray(value)[()]
        scalar_loss(np.shape(value))
        if not isinstance(grads, (list, tuple)):  # the gradient of the only variable
            grads = [grads]
        grads, _ = matched(grads, variables)
        return value, grads


def wrap(value_and_grad: Callable[..., tuple[Any, Any]]) -> ValueAndGrad:
    """Make a loss for `minimize` from a function that returns value and gradients.

    Parameters
    ----------
    value_and_grad : callable
        Takes the variables as arguments and returns ``(value, grads)``: a scalar, and
        a list or tuple with a gradient for every variable, or the gradient itself if
        there is one variable. Each gradient is an array of the shape and dtype of its
        variable, `rmsprop_fast.IndexedSlices`, or None.

    Returns
    -------
    ValueAndGrad
        For `minimize`, `get_gradients` and `get_updates`, which call it with the
        variables in `var_list`.

    Raises
    ------
    TypeError
        `value_and_grad` is not callable.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop_fast import RMSprop, gradients
    >>> half_square = gradients.wrap(lambda w: (w @ w / 2, w.copy()))
    >>> w, opt = np.array([3.0, -4.0]), RMSprop(0.5)
    >>> opt.minimize(half_square, [w])
    1
    >>> float(opt.last_loss)
    12.5
    """
    return ValueAndGrad(value_and_grad)


def autograd(f: Callable[..., Any]) -> ValueAndGrad:
    """Differentiate a function that is written in NumPy, with HIPS autograd.

    Parameters
    ----------
    f : callable
        Takes the variables as arguments and returns a scalar. autograd follows NumPy
        functions and operators. It cannot follow assignments into arrays.

    Returns
    -------
    ValueAndGrad
        For `minimize`, `get_gradients` and `get_updates`. The gradient of a variable
        that `f` does not use is zero, so that its running means decay.

    Raises
    ------
    ImportError
        The extra ``autograd`` is not installed.
    TypeError
        `f` is not callable.

    Notes
    -----
    A gradient has the dtype of its variable. The arithmetic may have another dtype:
    with float32 variables and float64 data, autograd computes in float64 and rounds.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop_fast import RMSprop, gradients
    >>> x = np.linspace(-1.0, 1.0, 50)
    >>> w, b, opt = np.zeros(1), np.zeros(1), RMSprop(0.01)
    >>> def loss(w, b):
    ...     return np.mean((w * x + b - (3 * x + 1)) ** 2)
    >>> for _ in range(500):
    ...     step = opt.minimize(gradients.autograd(loss), [w, b])
    >>> w.round(1), b.round(1)
    (array([3.]), array([1.]))
    """
    f = function("f", f)
    try:
        from autograd import value_and_grad
    except ImportError as error:
        raise _missing("autograd", error) from error

    scalar = _scalar(f)

    def call(*variables: Array) -> tuple[Any, list[Array]]:
        everything = tuple(range(len(variables)))
        # autograd knows ndarray, but no subclasses such as memmap.
        plain = [np.asarray(var) for var in variables]
        value, grads = value_and_grad(scalar, everything)(*plain)
        return value, [np.asarray(grad) for grad in grads]

    return ValueAndGrad(call)


def jax(f: Callable[..., Any]) -> ValueAndGrad:
    """Differentiate a function that is written in ``jax.numpy``, with JAX.

    Parameters
    ----------
    f : callable
        Takes the variables, as JAX arrays, and returns a scalar. It is not compiled:
        give ``jax.jit(f)`` for that. A compiled function keeps the outside data of its
        first call.

    Returns
    -------
    ValueAndGrad
        For `minimize`, `get_gradients` and `get_updates`. The gradient of a variable
        that `f` does not use is zero, so that its running means decay.

    Raises
    ------
    ImportError
        The extra ``jax`` is not installed.
    TypeError
        `f` is not callable. When the loss is called: a variable is float64, and JAX
        would turn it into float32. Call ``jax.config.update("jax_enable_x64", True)``
        first.

    Notes
    -----
    Variables are copied to JAX, because JAX assumes that its arrays never change.
    Gradients are copied back. If JAX computes on another device, each step waits for
    both copies.
    """
    f = function("f", f)
    try:
        import jax
    except ImportError as error:
        raise _missing("jax", error) from error

    scalar = _scalar(f)

    def call(*variables: Array) -> tuple[Any, list[Array]]:
        for k, var in enumerate(variables):
            if var.dtype == np.float64 and not jax.config.jax_enable_x64:
                raise TypeError(
                    f"variable {k} must be float32 for JAX as it is configured, got "
                    'float64; call jax.config.update("jax_enable_x64", True)'
                )
        copies = [jax.numpy.array(var, copy=True) for var in variables]
        transformed = jax.value_and_grad(scalar, tuple(range(len(copies))))
        value, grads = transformed(*copies)
        return value, [np.asarray(grad) for grad in grads]

    return ValueAndGrad(call)


def _scalar(f: Callable[..., Any]) -> Callable[..., Any]:
    """Return `f`, refusing a value that cannot be differentiated."""

    def scalar(*variables: Any) -> Any:
        value = f(*variables)
        scalar_loss(np.shape(value))
        return value

    return scalar


def _missing(extra: str, error: ImportError) -> ImportError:
    return ImportError(
        f"gradients.{extra} needs the extra {extra}: "
        f"python -m pip install 'rmsprop-fast[{extra}]'",
        name=error.name,
    )


# --- Rules ---------------------------------------------------------------------------


def loss(value: Any) -> Callable[[], Any]:
    """Return a loss that can be called."""
    if not callable(value):
        raise TypeError(
            f"loss must be a callable that returns (value, grads), got {value!r}"
        )
    return value  # type: ignore[no-any-return]


def function(name: str, value: Any) -> Callable[..., Any]:
    """Return a function of the variables."""
    if not callable(value):
        raise TypeError(
            f"{name} must be a callable of the variables that returns a scalar, "
            f"got {value!r}"
        )
    return value  # type: ignore[no-any-return]


def scalar_loss(shape: tuple[int, ...]) -> None:
    """Refuse a loss that is an array; only a scalar has gradients."""
    if shape != ():
        raise ValueError(
            f"loss must be a scalar, such as a mean or a sum, got shape {shape}"
        )


def loss_result(result: Any) -> tuple[Any, Any]:
    """Return what a loss returned as (value, grads)."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(
            f"loss must return (value, grads), got {type(result).__name__}"
            + (f" of {len(result)}" if isinstance(result, (tuple, list)) else "")
        )
    return result[0], result[1]


def loss_variables(var_list: Any) -> list[Array]:
    """Return the variables that a loss is called with."""
    variables = rules.listed("var_list", var_list)
    return [rules.variable(f"var_list[{k}]: ", var) for k, var in enumerate(variables)]


def matched(grads: Any, var_list: Any) -> tuple[list[Any], list[Any]]:
    """Return gradients and variables as lists of one length."""
    grads, var_list = rules.listed("grads", grads), rules.listed("var_list", var_list)
    if len(grads) != len(var_list):
        raise ValueError(
            f"loss must return a gradient for each of the {len(var_list)} variables, "
            f"got {len(grads)}"
        )
    return grads, var_list


def gradients(grads: Sequence[Any], params: Sequence[Any]) -> list[Array]:
    """Return the arrays of the gradients; each parameter must have a gradient."""
    arrays = []
    for k, (grad, var) in enumerate(zip(grads, params, strict=True)):
        rules.variable(f"params[{k}]: ", var)
        if grad is None:
            raise ValueError(
                f"loss must return a gradient for every variable, got None for "
                f"params[{k}] of shape {var.shape}"
            )
        arrays.append(step_rules.gradient(f"params[{k}]: ", grad, var))
    return arrays
