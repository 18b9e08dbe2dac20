"""A learning rate that lives on a device: read by the kernels, never by the host."""

from __future__ import annotations

from typing import Any

from rmsprop_fast import backends, rules

__all__ = ["DeviceScalar"]


class DeviceScalar:
    """A 0-d device array, and what divides its value.

    Parameters
    ----------
    name : str
        The hyperparameter, for an error.
    array : cupy.ndarray, float32 or float64, 0-d
        Read by the kernels of every step, so that its value may change between two
        replays of a captured one.
    divisor : float
        From `decay`.
    """

    def __init__(self, name: str, array: Any, divisor: float = 1.0) -> None:
        self.name = name
        self.array = device_scalar(name, array)
        self.divisor = divisor

    @property
    def device(self) -> int:
        """The device it lies on."""
        return backends.device_id(self.array)

    def __truediv__(self, divisor: float) -> DeviceScalar:
        return DeviceScalar(self.name, self.array, self.divisor * divisor)

    def __float__(self) -> float:
        """Return the value; waits for the device."""
        return float(backends.as_numpy(self.array)) / self.divisor

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
