"""One device: launches on the caller's current stream, scratch, and the flag."""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from rmsprop_fast.gpu import compiler
from rmsprop_fast.gpu._plan import FAULT_SIZE, THREADS, Fault

__all__ = ["Arena", "Device", "Launch"]

BLOCKS_PER_PROCESSOR = 8  # of 256 threads: a processor's most, where registers allow
ALIGNMENT = 256  # bytes, of each part of the scratch
IN_FLIGHT = 2**14  # steps: more than a driver queues before a launch waits

Launch = Callable[[], Any]

# By device: the flag and the memory for faults of optimizers that are gone. Their steps
# may still be running, and a pool would give this memory to somebody else at once.
_left: dict[int, list[tuple[Any, Any]]] = {}


class Device:
    """What an optimizer keeps for one device.

    Parameters
    ----------
    number : int
        As CuPy counts devices.

    Attributes
    ----------
    stop : cupy.ndarray
        The flag that a refused step sets; while it is set no kernel updates.
    fault : Fault
        What the host finds then, in memory that both reach: no copy, no waiting.
    skipped : tuple of int
        Steps that it has left out as far as the host has seen: of calls, of graphs.
    steps : deque of int
        The numbers of the last steps that were launched here.
    """

    def __init__(self, number: int) -> None:
        import cupy

        self._cupy = cupy
        self.number = number
        self._captured: list[Any] = []
        self.skipped = (0, 0)
        self.steps: deque[int] = deque(maxlen=IN_FLIGHT)
        left = _left.setdefault(number, [])
        with self.current():
            self.stop, memory = self._memory(left)
            # Another stream may be the next to read it. Once in an optimizer's life.
            cupy.cuda.get_current_stream().synchronize()
            processors = cupy.cuda.Device(number).attributes["MultiProcessorCount"]
        self.fault = Fault(memory, memory.ptr)
        weakref.finalize(self, left.append, (self.stop, memory)).atexit = False
        self.blocks = BLOCKS_PER_PROCESSOR * int(processors)

    def _memory(self, left: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Return a flag that is 0 and memory for faults."""
        if left and not self.is_capturing():
            with contextlib.suppress(IndexError):  # another thread was quicker
                stop, memory = left.pop()
                self.wait()
                stop.data.memset_async(0, stop.nbytes)
                return stop, memory
        stop = self._cupy.zeros(1, np.int32)
        return stop, self._cupy.cuda.alloc_pinned_memory(FAULT_SIZE)

    def current(self) -> Any:
        """Return a context in which this is the current device."""
        return self._cupy.cuda.Device(self.number)

    def is_capturing(self) -> bool:
        """Return whether the current stream records a graph; this device is current."""
        stream = self._cupy.cuda.get_current_stream()
        return bool(stream.ptr and stream.is_capturing())  # the null stream never does

    def is_recording(self) -> bool:
        """Return the same from anywhere."""
        with self.current():
            return self.is_capturing()

    def launch(self, name: str, parameter: Any, n_items: int, per_block: int) -> Launch:
        """Return a launch, compiled, that waits for its call; this device is current.

        Its kernel loops when there are more than `per_block` of `n_items` for each of
        the blocks that the device's processors hold at once.
        """
        grid = min(-(-n_items // per_block), self.blocks)
        return self.launch_blocks(name, parameter, grid)

    def launch_blocks(self, name: str, parameter: Any, n_blocks: int) -> Launch:
        """Return a launch of exactly so many blocks."""
        kernel = compiler.kernel(name)
        return partial(kernel, (n_blocks,), (THREADS,), (parameter,))

    def allocate(self, n_bytes: int) -> Any:
        """Return scratch for one step, from CuPy's pool.

        The pool gives it to nobody on another stream before this one is done. A graph
        keeps its addresses, so what a captured step uses is not from a pool, which
        could make the allocation a part of the graph, and is kept here.
        """
        cuda = self._cupy.cuda
        if not self.is_capturing():
            return cuda.alloc(n_bytes)
        memory = cuda.MemoryPointer(cuda.Memory(n_bytes), 0)
        self._captured.append(memory)
        return memory

    def clearing(self, memory: Any, n_bytes: int) -> Launch:
        """Return a launch that sets scratch to zeros."""
        return partial(memory.memset_async, 0, n_bytes)

    def wait(self) -> None:
        """Wait for everything that was launched on this device."""
        with self.current():
            self._cupy.cuda.runtime.deviceSynchronize()

    def see_skipped(self) -> tuple[int, int]:
        """Return how many steps it has left out since the last call, see `skipped`."""
        before, self.skipped = self.skipped, self.fault.skipped
        return self.skipped[0] - before[0], self.skipped[1] - before[1]

    def clear_stop(self) -> None:
        """Let steps update again, after all that did nothing because of the flag."""
        self.wait()
        with self.current():
            self.stop.data.memset_async(0, self.stop.nbytes)
        self.wait()


class Arena:
    """Sizes first, addresses later: the parts of one step's scratch."""

    def __init__(self) -> None:
        self.n_bytes = 0

    def reserve(self, n_bytes: int) -> int:
        """Return the offset of so many bytes."""
        offset = self.n_bytes
        self.n_bytes += n_bytes + -n_bytes % ALIGNMENT
        return offset
