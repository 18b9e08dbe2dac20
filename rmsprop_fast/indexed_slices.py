"""IndexedSlices: the gradient of some rows of a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmsprop_fast import backends, rules

__all__ = ["IndexedSlices"]


class IndexedSlices:
    """The gradient of some rows of a variable; all other rows have none.

    Row ``indices[k]`` of the variable has the gradient ``values[k]``. A row that occurs
    several times has the sum of its values, and is still updated once.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape ``(n, *var.shape[1:])``
        Only read; any layout. Its dtype must be that of the variable.
    indices : array_like of integers, shape ``(n,)``
        Row numbers, each in ``[0, var.shape[0])``; any order, duplicates allowed. An
        array of any integer dtype and layout is kept, not copied, and only read.
    dense_shape : sequence of int, optional
        The shape of the variable. When given, it must be that shape.

    Raises
    ------
    TypeError
        `values` is not an array of float32 or float64, `indices` are not integers, or
        `dense_shape` is not a sequence of integers.
    ValueError
        `values` is 0-d, `indices` is not 1-d, or their lengths differ.

    Notes
    -----
    Both are NumPy arrays, or both are C-contiguous CuPy arrays on one device.

    The arrays are not copied: a step uses the values that they have when it begins.
    Duplicates are summed in the order given: first in runs of 32, then the sums of the
    runs. So the bits of the sum do not depend on the machine.

    Examples
    --------
    >>> import numpy as np
    >>> from rmsprop_fast import IndexedSlices, RMSprop
    >>> table = np.ones((5, 2))
    >>> grad = IndexedSlices(values=np.full((3, 2), 0.5), indices=np.array([4, 1, 4]))
    >>> RMSprop(learning_rate=0.1).apply_gradients([(grad, table)])
    1
    >>> (table != 1).any(axis=1)
    array([False,  True, False, False,  True])
    """

    __slots__ = ("_dense_shape", "_indices", "_values")

    def __init__(
        self,
        values: np.ndarray[Any, Any],
        indices: Any,
        dense_shape: Sequence[int] | None = None,
    ) -> None:
        self._values = rules.real_array("", "values", values)
        self._indices = rules.row_numbers("indices", indices, values)
        slices(values, self._indices)
        self._dense_shape = rules.shape("dense_shape", dense_shape)

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """The gradients of the rows, shape ``(n, *var.shape[1:])``."""
        return self._values

    @property
    def indices(self) -> np.ndarray[Any, Any]:
        """The row numbers, shape ``(n,)``."""
        return self._indices

    @property
    def dense_shape(self) -> tuple[int, ...] | None:
        """The shape of the variable, or None."""
        return self._dense_shape

    def __repr__(self) -> str:
        shape = (
            "" if self._dense_shape is None else f", dense_shape={self._dense_shape}"
        )
        return (
            f"IndexedSlices(values={self._values!r}, indices={self._indices!r}{shape})"
        )


# --- Rules ---------------------------------------------------------------------------


def slices(values: Any, indices: Any, where: str = "") -> None:
    """Check a row-sparse gradient by itself."""
    rules.real_array(where, "values", values)
    if rules.row_numbers(f"{where}indices", indices, values) is not indices:
        raise TypeError(
            f"{where}indices must be an array of integers in native byte order"
        )
    rules.same_place(where, "indices", indices, "values", values)
    if values.ndim == 0:
        raise ValueError(f"{where}values must have at least 1 dimension, got 0")
    if len(values) != len(indices):
        raise ValueError(
            f"{where}values has {len(values)} rows, indices has {len(indices)}"
        )


def out_of_range(where: str, row: int, position: int, n_rows: int) -> str:
    """Return the text of an error about a row number."""
    return f"{where}: row {row} at position {position} is not in [0, {n_rows})"


def slices_for(where: str, grad: Any, var: Any) -> None:
    """Check a row-sparse gradient against its variable."""
    slices(grad.values, grad.indices, where)
    rules.same_place(where, "values", grad.values, "its variable", var)
    if var.ndim == 0:
        raise ValueError(f"{where}a variable without dimensions has no rows")
    if grad.values.dtype != var.dtype:
        raise TypeError(
            f"{where}values has dtype {grad.values.dtype}, its variable {var.dtype}"
        )
    if grad.values.shape[1:] != var.shape[1:]:
        raise ValueError(
            f"{where}values has rows of shape {grad.values.shape[1:]}, its variable "
            f"{var.shape[1:]}"
        )
    if grad.dense_shape is not None and grad.dense_shape != var.shape:
        raise ValueError(
            f"{where}dense_shape is {grad.dense_shape}, its variable has shape "
            f"{var.shape}"
        )
    if backends.is_on_device(var):
        return  # the device checks the row numbers, see `step_rules.row_found`
    bad = np.flatnonzero((grad.indices < 0) | (grad.indices >= len(var)))
    if bad.size:
        raise IndexError(
            out_of_range(
                where.rstrip(": "), grad.indices[bad[0]], int(bad[0]), len(var)
            )
        )
