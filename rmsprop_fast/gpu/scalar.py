"""A learning rate on a device: the kernels read it, the host does not."""

from __future__ import annotations

from typing import Any

from rmsprop_fast import backends, rules

__all__ = ["DeviceScalar"]


class DeviceScalar:
    """A 0-d device array in place of a number.

    Parameters
    ----------
    name : str
        The hyperparameter, for an error.
    array : cupy.ndarray, float32 or float64, 0-d
        The kernels of every step read it, so its value may change between two replays
        of a captured step.
    """

    def __init__(self, name: str, array: Any) -> None:
        self.name = name
        self.array = device_scalar(name, array)

    @property
    def device(self) -> int:
        """The number of its device."""
        return backends.device_id(self.array)

    def __float__(self) -> float:
        """Return the value; waits for the device."""
        return float(backends.as_numpy(self.array))

    def __reduce__(self) -> Any:
        """Become a number in a pickle and in a copy."""
        return float, (float(self),)

    def __repr__(self) -> str:
        return f"<{self.array.dtype} on {backends.place_of(self.array)}>"


def device_scalar(name: str, value: Any) -> Any:
    """Return a device array that stands for a number."""
    if value.ndim != 0:
        raise ValueError(f"{name} must have 0 dimensions, got shape {value.shape}")
    if not rules.is_real(value):
        raise TypeError(
            f"{name} must have dtype float32 or float64, got {value.dtype.str!r}"
        )
    return value
