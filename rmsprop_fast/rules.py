"""Rules about one scalar or one array, and the texts of their errors.

No function here writes to an array. It returns the checked value, or raises an error
with the name of the argument, the rule and the value.
"""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np

from rmsprop_fast import backends

Array = np.ndarray[Any, Any]

MAX_ITERATIONS = 2**63 - 1
MAX_THREADS = 1024  # OpenMP ends the process when it cannot start a thread

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def number(name: str, value: Any) -> float:
    """Return `value` as a float; refuse what is not a real number."""
    if type(value) is float:
        return value
    if not isinstance(value, numbers.Real) or value is True or value is False:
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        return float(value)
    except OverflowError:  # an int beyond the largest float
        raise ValueError(f"{name} must be finite, got {value!r}") from None


def finite(name: str, value: Any) -> float:
    """Return a finite float."""
    result = number(name, value)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return result


def at_least_zero(name: str, value: Any) -> float:
    """Return a finite float >= 0."""
    result = number(name, value)
    if not 0.0 <= result < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value!r}")
    return result


def positive(name: str, value: Any) -> float:
    """Return a finite float > 0."""
    result = number(name, value)
    if not 0.0 < result < math.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value!r}")
    return result


def fraction(name: str, value: Any) -> float:
    """Return a float in [0, 1]."""
    result = number(name, value)
    if not 0.0 <= result <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return result


def integer(name: str, value: Any, least: int, most: int = sys.maxsize) -> int:
    """Return an int in [`least`, `most`]."""
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if result < least:
        raise ValueError(f"{name} must be >= {least}, got {value!r}")
    if result > most:
        raise ValueError(f"{name} must be <= {most}, got {value!r}")
    return result


def flag(name: str, value: Any) -> bool:
    """Return a bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be a bool, got {value!r}")


def text(name: str, value: Any) -> str:
    """Return a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    return value


def no_names(name: str, value: Any) -> None:
    """Refuse to look for variables by their names."""
    if value is not None:
        raise ValueError(f"{name} must be None: arrays have no names, got {value!r}")


def known_keywords(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a keyword that is not among `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(
                f"Unexpected keyword argument passed to optimizer: {name}; "
                f"known are {', '.join(known)}"
            )


def one_norm(clipnorm: float | None, global_clipnorm: float | None) -> None:
    """Refuse both norms at once."""
    if clipnorm is not None and global_clipnorm is not None:
        raise ValueError(
            "global_clipnorm must be None when clipnorm is given, "
            f"got clipnorm={clipnorm!r} and global_clipnorm={global_clipnorm!r}"
        )


def shape(name: str, value: Any) -> tuple[int, ...] | None:
    """Return a shape as a tuple of ints; None stays None."""
    if value is None:
        return None
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of integers, got {value!r}")
    return tuple(integer(f"{name}[{axis}]", n, 0) for axis, n in enumerate(value))


def slot_dtype(name: str, value: Any) -> np.dtype[Any]:
    """Return float32 or float64 as a dtype."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64, got {value!r}") from None
    if dtype not in DTYPES:
        raise TypeError(f"{name} must be float32 or float64, got {value!r}")
    return dtype


def is_real(array: Array) -> bool:
    return array.dtype in DTYPES and array.dtype.isnative


def real_array(where: str, name: str, value: Any) -> Array:
    if not backends.is_array(value):
        raise TypeError(
            f"{where}{name} must be a numpy.ndarray, got {type(value).__name__}"
        )
    if not is_real(value):
        raise TypeError(
            f"{where}{name} must have dtype float32 or float64 in native byte order, "
            f"got {value.dtype.str!r}"
        )
    contiguous_on_device(where, name, value)
    return value  # type: ignore[no-any-return]


def contiguous_on_device(where: str, name: str, array: Any) -> None:
    """Refuse a device array whose elements do not follow each other."""
    if backends.is_on_device(array) and not backends.is_contiguous(array):
        raise ValueError(
            f"{where}{name} must be C-contiguous on a device, got shape {array.shape} "
            f"with strides {array.strides}"
        )


def same_place(where: str, name: str, array: Any, other_name: str, other: Any) -> None:
    """Refuse two arrays that are in different places."""
    place, wanted = backends.place_of(array), backends.place_of(other)
    if place != wanted:
        raise TypeError(
            f"{where}{name} must be where {other_name} is, on {wanted}, got an array "
            f"on {place}"
        )


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements share a byte. Exact."""
    axes = sorted(
        (abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1
    )
    reach = array.itemsize
    for stride, n in axes:
        if stride < reach:
            break
        reach += (n - 1) * stride
    else:
        return False  # the stride of each axis is larger than the extent of inner ones
    if array.size == 0:
        return False
    offsets = np.zeros(1, np.int64)
    for stride, n in axes:
        offsets = (offsets[:, None] + stride * np.arange(n)).ravel()
    offsets.sort()
    return bool((np.diff(offsets) < array.itemsize).any())


def variable(where: str, var: Any) -> Array:
    """Return an array that can be updated in place; rules about this array alone."""
    real_array(where, "var", var)
    if backends.is_on_device(var):
        return var  # type: ignore[no-any-return]  # contiguous, and never read-only
    if not var.flags.writeable:
        raise ValueError(f"{where}var must be writable, got a read-only array")
    if _overlaps_itself(var):
        raise ValueError(
            f"{where}var must not overlap itself, got shape {var.shape} with strides "
            f"{var.strides}"
        )
    return var  # type: ignore[no-any-return]


def is_same_array(var: Array, other: Array) -> bool:
    """Whether two arrays at one address are the same; axes of length 1 may differ."""
    return (
        var.shape == other.shape
        and var.dtype == other.dtype
        and all(
            s == t or n == 1
            for s, t, n in zip(var.strides, other.strides, var.shape, strict=True)
        )
    )


def same_array(where: str, var: Array, bound: Array) -> None:
    """Refuse the memory of a variable in another shape."""
    if not is_same_array(var, bound):
        raise ValueError(
            f"{where}var must keep the shape, strides and dtype it was bound with, "
            f"{bound.shape}, {bound.strides} and {bound.dtype}, got {var.shape}, "
            f"{var.strides} and {var.dtype}"
        )


def row_numbers(name: str, value: Any, like: Any) -> Array:
    """Return row numbers as a 1-D array of integers, on the device of `like`.

    An array of integers in native byte order is returned as it is, not copied.
    """
    array = value
    if not backends.is_array(value):
        try:
            array = np.asarray(value)
        except (TypeError, ValueError):  # lists of different lengths
            raise TypeError(
                f"{name} must be a sequence of integers, got {value!r}"
            ) from None
        if array.size == 0:
            array = array.astype(np.int64)
        if backends.is_array(like):
            array = backends.place(array, like)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have 1 dimension, got shape {array.shape}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    contiguous_on_device("", name, array)
    return array  # type: ignore[no-any-return]


def listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, Iterable) or backends.is_array(value):
        raise TypeError(f"{name} must be a list, got {type(value).__name__}")
    return list(value)


def no_further_step(iterations: int) -> NoReturn:
    """Raise when the count of steps cannot grow, or is no count."""
    if iterations < 0:
        raise ValueError(f"iterations must be >= 0, got {iterations}")
    raise OverflowError(
        f"iterations must be < {MAX_ITERATIONS} for another step, got {iterations}"
    )
