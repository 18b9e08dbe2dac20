"""Find out of which library an array is; operations for NumPy and CuPy arrays.

NumPy arrays are on the host, CuPy arrays on a device. This module never imports CuPy
first: a program that has a CuPy array has imported CuPy already.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from rmsprop_fast.cpu._extents import address_of, bounds_of

__all__ = [
    "address",
    "adopt",
    "as_numpy",
    "bounds",
    "copy_into",
    "device_id",
    "is_array",
    "is_contiguous",
    "is_on_device",
    "own_view",
    "place",
    "place_of",
    "shares_memory",
    "zeros",
]

Array = Any  # numpy.ndarray or cupy.ndarray
HOST = "the host"


def is_on_device(value: Any) -> bool:
    """Return whether `value` is a CuPy array."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(value, getattr(cupy, "ndarray", ()))


def is_array(value: Any) -> bool:
    """Return whether `value` is a NumPy or CuPy array."""
    return isinstance(value, np.ndarray) or is_on_device(value)


def adopt(value: Any) -> Any:
    """Return the array that an object stands for, or the object itself.

    This is the only place that has to learn a new type of array. The array shares the
    memory of the object, except for a NumPy scalar: it cannot be written, and is what
    NumPy makes of a 0-d array in arithmetic.
    """
    return np.asarray(value) if isinstance(value, np.generic) else value


def device_id(array: Array) -> int:
    """Return the number of the device of a CuPy array."""
    return int(array.data.device_id)


def place_of(array: Any) -> str:
    """Return where an array is, in words for an error."""
    return f"cuda:{device_id(array)}" if is_on_device(array) else HOST


def address(array: Array) -> int:
    """Return the address of the first element. Host and devices share all addresses."""
    if isinstance(array, np.ndarray):
        return address_of(array)
    return int(array.data.ptr)


def is_contiguous(array: Array) -> bool:
    """Return whether the elements follow each other in C order."""
    return bool(array.flags.c_contiguous)


def bounds(array: Array) -> tuple[int, int]:
    """Return the first address and the one after the last; equal without elements."""
    if isinstance(array, np.ndarray):
        return bounds_of(array)
    if not array.size:
        return 0, 0
    low = high = address(array)
    for n, stride in zip(array.shape, array.strides, strict=True):
        reach = (n - 1) * stride
        low, high = low + min(reach, 0), high + max(reach, 0)
    return low, high + array.itemsize


def shares_memory(a: Array, b: Array) -> bool:
    """Return whether two arrays whose bounds overlap share an element.

    On devices all arrays are contiguous, so arrays whose bounds overlap share memory.
    """
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return bool(np.shares_memory(a, b))
    return True


def own_view(array: Array) -> Array:
    """Return a view whose shape stays when the caller's array is reshaped in place."""
    return array.view(np.ndarray) if isinstance(array, np.ndarray) else array.view()


def zeros(shape: tuple[int, ...], dtype: Any, like: Array | None) -> Array:
    """Return C-contiguous zeros where `like` is; on the host if it is None."""
    if not is_on_device(like):
        return np.zeros(shape, dtype)
    import cupy

    with cupy.cuda.Device(device_id(like)):
        array = cupy.zeros(shape, dtype)
        _settle(cupy)
        return array


def place(array: Array, like: Array) -> Array:
    """Return `array` if it is where `like` is, else a copy of it there."""
    if place_of(array) == place_of(like):
        return array
    host = as_numpy(array)
    if isinstance(like, np.ndarray):
        return host
    import cupy

    with cupy.cuda.Device(device_id(like)):
        copy = cupy.asarray(host)
        _settle(cupy)
        return copy


def _settle(cupy: Any) -> None:
    """Wait for a new array of the current device: another stream may use it next."""
    stream = cupy.cuda.get_current_stream()
    if not (stream.ptr and stream.is_capturing()):
        stream.synchronize()


def as_numpy(value: Any) -> np.ndarray[Any, Any]:
    """Return a value as a NumPy array; a device array is copied to the host."""
    return value.get() if is_on_device(value) else np.asarray(value)


def copy_into(target: Array, source: np.ndarray[Any, Any]) -> None:
    """Copy a host array of the same shape into an array, cast within its kind."""
    if isinstance(target, np.ndarray):
        np.copyto(target, source, casting="same_kind")
        return
    if not target.size:
        return
    import cupy

    with cupy.cuda.Device(device_id(target)):
        # Before: steps on other streams. Afterwards: `set` has only queued the copy.
        cupy.cuda.runtime.deviceSynchronize()
        target.set(source.astype(target.dtype, order="C", copy=False))
        cupy.cuda.runtime.deviceSynchronize()
