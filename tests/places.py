"""Where a test's arrays lie: what it makes with NumPy is put there, and got back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rmsprop_fast import IndexedSlices, RMSprop


class Host:
    """NumPy's own arrays."""

    def __call__(self, host: Any) -> Any:
        """Return a copy."""
        return np.array(host)

    def grad(self, grad: Any) -> Any:
        """Return a gradient of either kind."""
        return grad

    def get(self, array: Any) -> np.ndarray:
        """Return the elements."""
        return array


class OnDevice:
    """CuPy arrays, or arrays of the fake CuPy."""

    def __init__(self, cupy: ModuleType) -> None:
        self.cupy = cupy

    @property
    def is_fake(self) -> bool:
        return hasattr(self.cupy, "machine")

    def __call__(self, host: Any, offset: int = 0, device: int = 0) -> Any:
        """Return a copy on a device, `offset` elements after an aligned address."""
        host = np.asarray(host)
        with self.cupy.cuda.Device(device):
            shifted = np.concatenate([np.zeros(offset, host.dtype), host.ravel()])
            return self.cupy.asarray(shifted)[offset:].reshape(host.shape)

    def grad(self, grad: Any, offset: int = 0, device: int = 0) -> Any:
        """Return a gradient of either kind on a device."""
        if not isinstance(grad, IndexedSlices):
            return self(grad, offset, device)
        values = self(grad.values, offset, device)
        indices = self(grad.indices, 0, device)
        return IndexedSlices(values, indices, grad.dense_shape)

    def get(self, array: Any) -> np.ndarray:
        """Return a copy on the host."""
        return array.get()

    @contextlib.contextmanager
    def captured(self, opt: RMSprop, pairs: Any) -> Iterator[tuple[Any, Any]]:
        """Make a step, which compiles it, and capture the next; on a stream of its own.

        Gives the stream, which is current, and the graph.
        """
        pairs = list(pairs)
        stream = self.cupy.cuda.Stream(non_blocking=True)
        self.cupy.cuda.Device(0).synchronize()
        with stream:
            opt.apply_gradients(pairs)
            stream.synchronize()
            stream.begin_capture()
            opt.apply_gradients(pairs)
            yield stream, stream.end_capture()


def real_cupy() -> ModuleType:
    """Return CuPy where it has a device, or skip."""
    cupy = pytest.importorskip("cupy", reason="needs CuPy: the extra cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"needs a CUDA device: {error}")
    if count == 0:
        pytest.skip("needs a CUDA device: there is none")
    return cupy
