"""What the package uses of CuPy, over the host's memory, with CuPy's own rules.

Devices run nothing until somebody waits: launches, memsets and frees queue up in
order, so that a host that reads too early, or frees too early, shows. Freed memory is
poisoned. A kernel's arguments are what `cupy/cuda/function.pyx` accepts, and must have
the size of the kernel's parameters.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gpu_host.build import Library

N_DEVICES = 2
CAPABILITIES = "90", "80"  # two architectures, so that both are compiled for
POISON = 0xFF  # bytes: NaN as numbers, nowhere as addresses

libc = ctypes.CDLL(None)
libc.free.argtypes = [ctypes.c_void_p]
libc.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]


class Machine:
    """The devices behind one fake module."""

    def __init__(self, kernels: Library) -> None:
        self.kernels = kernels
        self.reset()

    def reset(self) -> None:
        self.current = 0
        self.streams: list[list[Any]] = [[Stream(self)] for _ in range(N_DEVICES)]
        self.queues: list[list[tuple[Any, Callable[[], None]]]] = [
            [] for _ in range(N_DEVICES)
        ]
        self.capturing: dict[Any, list[Callable[[], None]]] = {}
        self.allocates: set[Any] = set()  # streams whose graph allocates
        self.launched: list[tuple[str, int, Any]] = []  # name, device, stream
        self.waits = 0
        self.live: dict[int, tuple[int, int]] = {}  # address: size, device
        self.pinned: dict[int, list[np.ndarray]] = {}  # free, by size

    def enqueue(self, work: Callable[[], None]) -> None:
        """Append work to the current stream of the current device."""
        stream = self.streams[self.current][-1]
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            self.queues[self.current].append((stream, work))

    def wait(self, device: int, stream: Stream | None = None) -> None:
        """Run all that was launched on a device, or on one of its streams."""
        if self.capturing:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported")
        self.waits += 1
        if stream is None:
            self.run(device)
            return
        queue, self.queues[device] = self.queues[device], []
        for item in queue:
            if item[0] is stream:
                item[1]()
            else:
                self.queues[device].append(item)

    def run(self, device: int) -> None:
        queue, self.queues[device] = self.queues[device], []
        for _, work in queue:
            work()

    def check_addresses(self, parameter: bytes, name: str) -> None:
        """Refuse memory of another device, or memory that was freed."""
        words = np.frombuffer(parameter[: len(parameter) // 8 * 8], np.uint64)
        for address, (size, device) in self.live.copy().items():
            if device != self.current and size:
                inside = (words >= address) & (words < address + size)
                assert not inside.any(), f"{name} was given memory of device {device}"


class Memory:
    """Bytes of one device; freed when all that was launched before has run."""

    def __init__(self, machine: Machine, size: int, device: int) -> None:
        self.machine, self.size, self.device = machine, size, device
        held = ctypes.c_void_p()
        libc.posix_memalign(ctypes.byref(held), 256, max(size, 1))
        self.ptr = held.value or 0
        ctypes.memset(self.ptr, POISON, size)
        machine.live[self.ptr] = size, device

    def __del__(self) -> None:
        address, size, machine = self.ptr, self.size, self.machine

        def free() -> None:
            ctypes.memset(address, POISON, size)
            libc.free(address)

        if machine.live.pop(address, None):
            # Not part of a graph that records: CuPy's pool would hand it out again.
            machine.queues[self.device].append((None, free))


class MemoryPointer:
    def __init__(self, mem: Memory | None, offset: int = 0, device_id: int = 0) -> None:
        self.mem = mem
        self.ptr = mem.ptr + offset if mem else 0
        self.device_id = mem.device if mem else device_id

    def __add__(self, offset: int) -> MemoryPointer:
        return MemoryPointer(self.mem, self.ptr - self.mem.ptr + offset)

    def memset_async(self, value: int, size: int, stream: Any = None) -> None:
        machine, address = self.mem.machine, self.ptr
        machine.enqueue(lambda: ctypes.memset(address, value, size))


class PinnedMemoryPointer:
    """Memory of the host's; who lets go of it gives it to the next, at once."""

    def __init__(self, machine: Machine, size: int) -> None:
        self._pool = machine.pinned.setdefault(size, [])
        self._buffer = (
            self._pool.pop() if self._pool else np.full(size, POISON, np.uint8)
        )
        self.ptr = self._buffer.ctypes.data

    def __del__(self) -> None:
        self._pool.append(self._buffer)


class Flags:
    def __init__(self, c_contiguous: bool) -> None:
        self.c_contiguous = c_contiguous


class ndarray:  # noqa: N801, CuPy's name
    """An array of a device. As CuPy's, it becomes NumPy's only when asked to."""

    def __init__(
        self, shape: Any, dtype: Any, memptr: MemoryPointer, strides: Any = None
    ):
        self.data = memptr
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self.strides = strides
        if strides is None:
            sizes = [self.dtype.itemsize]
            for n in reversed(self.shape[1:]):
                sizes.append(sizes[-1] * max(n, 1))
            self.strides = tuple(reversed(sizes)) if self.shape else ()
        self.ndim = len(self.shape)
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = self.size * self.dtype.itemsize
        self.itemsize = self.dtype.itemsize

    @property
    def _host(self) -> np.ndarray:
        if self.size == 0:
            return np.empty(self.shape, self.dtype)
        low = self.data.mem.ptr
        raw = (ctypes.c_char * self.data.mem.size).from_address(low)
        offset = self.data.ptr - low
        return np.ndarray(self.shape, self.dtype, raw, offset, self.strides)

    def _like(self, host: np.ndarray) -> ndarray:
        offset = host.ctypes.data - self.data.mem.ptr if host.size else 0
        memptr = MemoryPointer(self.data.mem, offset, self.data.device_id)
        return ndarray(host.shape, host.dtype, memptr, host.strides)

    @property
    def flags(self) -> Flags:
        return Flags(self._host.flags.c_contiguous)

    @property
    def device(self) -> Any:
        return Device(self.data.mem.machine, self.data.device_id)

    def get(self) -> np.ndarray:
        if self.data.mem is not None:
            self.data.mem.machine.wait(self.data.device_id)
        return self._host.copy()

    def set(self, host: np.ndarray) -> None:
        if not isinstance(host, np.ndarray) or host.dtype != self.dtype:
            raise TypeError("only a numpy.ndarray of the same dtype can be set")
        if host.shape != self.shape or not self.flags.c_contiguous:
            raise ValueError("shapes must be the same, and contiguous")
        if self.size:  # a part of the current stream's queue, and of no other
            machine, copied = self.data.mem.machine, host.copy()
            assert machine.current == self.data.device_id
            machine.enqueue(lambda: self._host.__setitem__(..., copied))

    def view(self) -> ndarray:
        return ndarray(self.shape, self.dtype, self.data, self.strides)

    def copy(self) -> ndarray:
        self.data.mem.machine.run(self.data.device_id)
        new = empty(self.data.mem.machine, self.shape, self.dtype)
        if self.size:
            new._host[...] = self._host
        return new

    def reshape(self, *shape: Any) -> ndarray:
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape
        if self.size == 0:
            return ndarray(shape, self.dtype, self.data)
        return self._like(self._host.reshape(shape))

    def __getitem__(self, key: Any) -> ndarray:
        return self._like(np.asarray(self._host[key])) if self.size else self

    @property
    def T(self) -> ndarray:  # noqa: N802
        return self._like(self._host.T)

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, *_: Any, **__: Any) -> None:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` "
            "to construct a NumPy array explicitly."
        )

    def __float__(self) -> float:
        return float(self.get())


def empty(machine: Machine, shape: Any, dtype: Any = np.float64) -> ndarray:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    n_bytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    memory = Memory(machine, n_bytes, machine.current) if n_bytes else None
    return ndarray(shape, dtype, MemoryPointer(memory, 0, machine.current))


class Device:
    def __init__(self, machine: Machine, number: int | None = None) -> None:
        self._machine = machine
        self.id = machine.current if number is None else int(number)
        if not 0 <= self.id < N_DEVICES:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")

    def __enter__(self) -> Device:
        self._before = self._machine.current
        self._machine.current = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        self._machine.current = self._before

    @property
    def compute_capability(self) -> str:
        return CAPABILITIES[self.id]

    @property
    def attributes(self) -> dict[str, int]:
        return {
            "MultiProcessorCount": 2
        }  # few, so that kernels go round in their loops

    def synchronize(self) -> None:
        self._machine.wait(self.id)


class Graph:
    def __init__(
        self, machine: Machine, work: list[Callable[[], None]], allocates: bool
    ) -> None:
        self._machine, self._work = machine, work
        self._allocates, self._was_launched = allocates, False

    def launch(self) -> None:
        if self._allocates and self._was_launched:
            raise RuntimeError(
                "cudaErrorInvalidValue: memory is not freed by the graph"
            )
        self._was_launched = True
        for work in self._work:
            self._machine.enqueue(work)


class Stream:
    def __init__(self, machine: Machine, ptr: int = 0) -> None:
        self._machine, self.ptr = machine, ptr

    def __enter__(self) -> Stream:
        self._machine.streams[self._machine.current].append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        self._machine.streams[self._machine.current].pop()

    def synchronize(self) -> None:
        self._machine.wait(self._machine.current, self)

    def is_capturing(self) -> bool:
        if self.ptr == 0:
            raise RuntimeError("cudaErrorStreamCaptureImplicit")
        return self in self._machine.capturing

    def begin_capture(self) -> None:
        self._machine.capturing[self] = []

    def end_capture(self) -> Graph:
        work = self._machine.capturing.pop(self)
        return Graph(self._machine, work, self in self._machine.allocates)


class RawKernel:
    """A kernel and CuPy's rules for its arguments."""

    def __init__(self, machine: Machine, name: str) -> None:
        self._machine, self.name = machine, name
        self._size = machine.kernels.parameter_size(name)
        if self._size == 0:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")

    def compile(self) -> None:
        pass

    def __call__(self, grid: tuple, block: tuple, args: tuple) -> None:
        assert isinstance(grid, tuple)
        assert isinstance(block, tuple)
        machine = self._machine
        (argument,) = args
        if not isinstance(argument, np.ndarray) or argument.size != 1:
            raise TypeError(f"Unsupported type {type(argument)}")
        assert argument.itemsize == self._size, (
            "the kernel's parameter has another size"
        )
        assert argument.itemsize <= 32_764, "a kernel cannot have more parameters"
        assert 0 < grid[0] < 2**31, "CuPy would launch one block"
        assert 0 < block[0] <= 1024
        parameter = argument.tobytes()  # copied by the launch, as the driver does
        machine.check_addresses(parameter, self.name)
        name, number = self.name, machine.current
        machine.launched.append((name, number, machine.streams[number][-1]))
        machine.enqueue(
            lambda: machine.kernels.launch(name, grid[0], block[0], parameter)
        )


class CUDADriverError(RuntimeError):
    pass


class NVRTCError(RuntimeError):
    pass


class NVRTC(types.ModuleType):
    """A compiler that keeps what it was given, and cuts off a byte as CuPy does."""

    def __init__(self) -> None:
        super().__init__("cupy.cuda.nvrtc")
        self.NVRTCError = NVRTCError
        self.compiled: list[tuple[str, ...]] = []
        self.version = 13, 0

    def getVersion(self) -> tuple[int, int]:  # noqa: N802
        return self.version

    def createProgram(self, text: str, name: str, headers: Any, names: Any) -> list:  # noqa: N802
        assert isinstance(text, str)
        assert isinstance(name, str)
        assert all(isinstance(x, bytes) for x in (*headers, *names))
        return []

    def compileProgram(self, program: list, options: tuple[str, ...]) -> None:  # noqa: N802
        assert isinstance(options, tuple)
        self.compiled.append(options)
        program.append(options)

    def getProgramLog(self, program: list) -> str:  # noqa: N802
        return "no such architecture"

    def getCUBIN(self, program: list) -> bytes:  # noqa: N802
        kernels = next(x for x in program[0] if x.startswith("-DRMSPROP_KERNELS="))
        return b"\x7fELF" + kernels.partition("=")[2].encode()

    def destroyProgram(self, program: list) -> None:  # noqa: N802
        program.clear()


class RawModule:
    def __init__(self, machine: Machine, path: str) -> None:
        self._machine, self._path = machine, Path(path)

    def get_function(self, name: str) -> RawKernel:
        content = self._path.read_bytes()
        if not (content.startswith(b"\x7fELF") and content.endswith(b"\0")):
            raise CUDADriverError(
                "CUDA_ERROR_INVALID_IMAGE: device kernel image is bad"
            )
        from rmsprop_fast.gpu import compiler

        kernels = compiler.kernels_of(name.removeprefix("rmsprop_"))
        if content[4:-1].decode() != kernels:
            raise CUDADriverError("CUDA_ERROR_NOT_FOUND: named symbol not found")
        return RawKernel(self._machine, name)


def make(kernels: Library) -> types.ModuleType:
    """Return a module to stand for cupy; `machine` is what is behind it."""
    machine = Machine(kernels)
    cupy = types.ModuleType("cupy")
    cupy.machine = machine
    cupy.ndarray = ndarray
    cupy.empty = lambda shape, dtype=float: empty(machine, shape, dtype)
    cupy.RawModule = lambda *, path: RawModule(machine, path)

    def zeros(shape: Any, dtype: Any = float) -> ndarray:
        array = empty(machine, shape, dtype)
        if array.size:
            array.data.memset_async(0, array.nbytes)
        return array

    def asarray(host: np.ndarray) -> ndarray:
        array = empty(machine, host.shape, host.dtype)
        if array.size:
            copied = host.copy()  # as CuPy does, into memory that it keeps
            machine.enqueue(lambda: array._host.__setitem__(..., copied))
        return array

    cupy.zeros, cupy.asarray = zeros, asarray
    cupy.asnumpy = lambda array: array.get()

    cuda = types.ModuleType("cupy.cuda")
    cuda.nvrtc = NVRTC()
    cuda.Device = lambda number=None: Device(machine, number)
    pointers = iter(range(1000, 10**9))
    cuda.Stream = lambda non_blocking=False: Stream(machine, next(pointers))
    cuda.get_current_stream = lambda: machine.streams[machine.current][-1]

    def alloc(size: int) -> MemoryPointer:
        """As MemoryAsyncPool: while a stream records, memory is a node of the graph."""
        stream = machine.streams[machine.current][-1]
        if stream in machine.capturing:
            machine.allocates.add(stream)
        return MemoryPointer(Memory(machine, size, machine.current))

    cuda.alloc = alloc
    cuda.Memory = lambda size: Memory(machine, size, machine.current)
    cuda.MemoryPointer = MemoryPointer
    cuda.alloc_pinned_memory = lambda size: PinnedMemoryPointer(machine, size)
    cuda.driver = types.SimpleNamespace(CUDADriverError=CUDADriverError)
    cuda.runtime = types.SimpleNamespace(
        driverGetVersion=lambda: 13000,
        deviceSynchronize=lambda: machine.wait(machine.current),
    )
    cupy.cuda = cuda
    return cupy


@contextlib.contextmanager
def installed(cupy: types.ModuleType, monkeypatch: Any) -> Iterator[types.ModuleType]:
    """Let ``import cupy`` give this module."""
    from rmsprop_fast.gpu import compiler, device

    with monkeypatch.context() as patch:
        patch.setattr(device, "_left", {})
        patch.setitem(sys.modules, "cupy", cupy)
        patch.setitem(sys.modules, "cupy.cuda", cupy.cuda)
        patch.setattr(compiler, "_kernels", {})
        yield cupy
