"""IndexedSlices: the gradient of some rows of a variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rmsprop_fast import validation

__all__ = ["IndexedSlices"]


class IndexedSlices:
    """The gradient of some rows of a variable; all other rows have none.

    Row ``indices[k]`` of the variable has the gradient ``values[k]``. A row that occurs
    several times has the sum of its values, and is still updated once.

    Parameters
    ----------
    values : ndarray of float32 or float64, shape ``(n, *var.shape[1:])``
        Read only, any layout. Its dtype must be the variable's.
    indices : ndarray of integers, shape ``(n,)``
        Row numbers, each in ``[0, var.shape[0])``; any order, duplicates allowed.
        Read only, any layout.
    dense_shape : sequence of int, optional
        The shape of the variable. When given, it must be that shape.

    Raises
    ------
    TypeError
        `values` is no float32 or float64 array, `indices` no integer array, or
        `dense_shape` no sequence of integers.
    ValueError
        `values` is 0-d, `indices` is not 1-d, or their lengths differ.

    Notes
    -----
    Both arrays are NumPy's, or both are CuPy's, on one device and C-contiguous.

    The arrays are kept, not copied; what they hold when a step begins is what counts.
    Duplicates are summed in the order given, in runs of 32 whose sums are then added in
    order, so that the bits of the sum do not depend on the machine.

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
        indices: np.ndarray[Any, Any],
        dense_shape: Sequence[int] | None = None,
    ) -> None:
        validation.slices(values, indices)
        self._values = values
        self._indices = indices
        self._dense_shape = validation.shape("dense_shape", dense_shape)

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
