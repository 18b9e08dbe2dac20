"""Steps on a CUDA device: against its copy bandwidth, torch and what rows must cost.

Seconds are the device's own, between two of its events around enough steps to fill a
few milliseconds; the host's time is measured by itself.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.harness import OURS, Case, Contestant, Effort, Entry, Target
from benchmarks.peers import Peer, enter, torch_rmsprop
from benchmarks.problems import (
    EPSILON,
    LEARNING_RATE,
    PLAIN,
    RHO,
    VARIANTS,
    Array,
    Dense,
    Sparse,
    Variant,
)
from rmsprop_fast import IndexedSlices, RMSprop

__all__ = ["cases", "device_name", "lacks"]

LARGE = 2**27
QUICK_LARGE = 2**24
MANY = [(20_000,)] * 500
TABLE = (10**6, 64)
OCCURRENCES = 2**16
BLOCK = 20e-3  # seconds between two events, at least
HOST_STEPS = 20  # launched without waiting: the device's queue holds them all

LARGE_TARGETS = (
    Target(("copy",), 0.9, ">= 0.90 of the copy bandwidth"),
    Target(("torch foreach",), 2.4, ">= 2.4x torch foreach"),
    Target(("torch.compile",), 0.95, ">= 0.95x torch.compile"),
)
MANY_TARGETS = (Target(("torch foreach",), 5, ">= 5x torch foreach"),)
HOST_TARGETS = (Target(("0.1 ms",), 1, "<= 0.1 ms of the host's time"),)
ROWS_TARGETS = (
    Target(("sort + gather",), 0.5, "within 2x of sort and gather"),
    Target(("densify + foreach",), 3, ">= 3x densify + torch foreach"),
)


def lacks() -> str | None:
    """Return what this machine lacks for these cases, None if nothing."""
    if importlib.util.find_spec("cupy") is None:
        return "needs CuPy, the extra cupy"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"needs a CUDA device: {error}"
    return None if count else "needs a CUDA device: there is none"


def device_name() -> str:
    """Return the device's name and the driver's version."""
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)
    driver = cupy.cuda.runtime.driverGetVersion()
    return f"{properties['name'].decode()}, driver for CUDA {driver // 1000}"


def cases(effort: Effort) -> Iterator[Case]:
    """Yield large variables, many, and a table."""
    size = QUICK_LARGE if effort.quick else LARGE
    for variant in VARIANTS:
        for dtype in "float32", "float64":
            built = partial(dense, [(size,)], dtype, variant)
            name = f"gpu/dense/{variant.name}/{dtype}/2^{size.bit_length() - 1}"
            yield Case(name, "GB", built, LARGE_TARGETS)
    yield Case(
        "gpu/many/500x20000", "GB", partial(dense, MANY, "float32"), MANY_TARGETS
    )
    yield Case("gpu/host/500x20000", "step", host, HOST_TARGETS)
    yield Case("gpu/sparse/zipf/1e6x64", "row", sparse, ROWS_TARGETS)


# --- The device's clock ---------------------------------------------------------------


def device_seconds(step: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that measures one step's seconds on the device."""
    import cupy

    def measure(calls: int) -> float:
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        for _ in range(calls):
            step()
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, end)) * 1e-3

    calls = 0

    def cost() -> float:
        nonlocal calls
        if calls == 0:
            measure(3)  # warm: pools, clocks, whatever is made at first
            calls = max(3, math.ceil(BLOCK / max(measure(3) / 3, 1e-6)))
        measure(1)
        return measure(calls) / calls

    return cost


def host_seconds(step: Callable[[], Any]) -> Callable[[], float]:
    """Return a function that measures one step's seconds of the host."""
    import cupy

    def cost() -> float:
        step()
        cupy.cuda.Device().synchronize()
        start = time.perf_counter()
        for _ in range(HOST_STEPS):
            step()
        seconds = time.perf_counter() - start
        cupy.cuda.Device().synchronize()
        return seconds / HOST_STEPS

    return cost


def timed(contestant: Contestant, clock: Any = device_seconds) -> Contestant:
    """Return a contestant whose cost one of the clocks above measures."""
    contestant.cost = clock(contestant.step)
    return contestant


# --- Dense ----------------------------------------------------------------------------


class OnDevice(Peer):
    """This package."""

    name = OURS
    package = "cupy"

    def __init__(self, problem: Dense) -> None:
        import cupy

        variant = problem.variant
        self._params = [cupy.asarray(array) for array in problem.zeros()]
        self.grads = [cupy.asarray(array) for array in problem.grads]
        self.n_bytes = problem.n_bytes
        opt = RMSprop(LEARNING_RATE, RHO, variant.momentum, EPSILON, variant.centered)
        opt.build(self._params)
        pairs = list(zip(self.grads, self._params, strict=True))
        self.step = partial(opt.apply_gradients, pairs)

    def params(self) -> Sequence[Array]:
        return [array.get() for array in self._params]


class TorchOnDevice(Peer):
    """torch.optim.RMSprop on CuPy's stream, with our gradients."""

    name = "torch for-loop"
    package = "torch"
    eps_in_sqrt = False
    foreach = False

    def __init__(self, problem: Dense, grads: Sequence[Any]) -> None:
        import cupy
        import torch

        if (
            pointer := cupy.cuda.get_current_stream().ptr
        ):  # 0 is the default of torch, too
            torch.cuda.set_stream(torch.cuda.ExternalStream(pointer))
        self.tensors = [
            torch.zeros(shape, dtype=getattr(torch, problem.dtype.name), device="cuda")
            for shape in problem.shapes
        ]
        for tensor, grad in zip(self.tensors, grads, strict=True):
            tensor.grad = torch.from_dlpack(grad)
        self.opt = torch_rmsprop(self.tensors, problem.variant, self.foreach)
        self.step = self.opt.step

    def params(self) -> Sequence[Array]:
        return [tensor.cpu().numpy() for tensor in self.tensors]


class TorchForeachOnDevice(TorchOnDevice):
    name = "torch foreach"
    foreach = True


class TorchCompiledOnDevice(TorchOnDevice):
    """torch.compile(opt.step), in its steady state: compiling is not timed."""

    name = "torch.compile"

    def __init__(self, problem: Dense, grads: Sequence[Any]) -> None:
        import torch

        super().__init__(problem, grads)
        torch._dynamo.reset()
        self.step = torch.compile(self.opt.step)


TORCH: tuple[type[TorchOnDevice], ...] = (
    TorchForeachOnDevice,
    TorchOnDevice,
    TorchCompiledOnDevice,
)


def copy(grad: Any) -> Contestant:
    """Return a plain copy within the device: what its memory moves at most."""
    import cupy

    target = cupy.empty_like(grad)
    step = partial(target.data.copy_from_device_async, grad.data, grad.nbytes)
    return timed(Contestant(step, 2 * grad.nbytes / 1e9, 2 * grad.nbytes))


def dense(
    shapes: list[tuple[int, ...]], dtype: str, variant: Variant = VARIANTS[0]
) -> Iterator[Entry]:
    """Yield ourselves, a copy of as many bytes, and torch; all per GB of our floor."""
    problem = Dense(shapes, dtype, variant)
    ours = OnDevice(problem)
    gigabytes = problem.n_bytes / 1e9
    yield OURS, lambda: timed(enter(ours, problem, gigabytes))
    yield "copy", partial(copy, max(ours.grads, key=lambda grad: grad.size))

    def rival(peer: type[TorchOnDevice]) -> Contestant:
        return timed(enter(peer(problem, ours.grads), problem, gigabytes))

    if importlib.util.find_spec("torch"):
        for peer in TORCH:
            yield peer.name, partial(rival, peer)


def host() -> Iterator[Entry]:
    """Yield what a step over many variables costs the host."""
    problem = Dense(MANY)
    ours = OnDevice(problem)
    yield OURS, lambda: timed(enter(ours, problem, 1), host_seconds)
    yield "0.1 ms", lambda: Contestant(lambda: None, cost=lambda: 1e-4)

    def rival() -> Contestant:
        peer = TorchForeachOnDevice(problem, ours.grads)
        return timed(enter(peer, problem, 1), host_seconds)

    if importlib.util.find_spec("torch"):
        yield TorchForeachOnDevice.name, rival


# --- Row-sparse -----------------------------------------------------------------------


def rotate(batches: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """Return a step that calls the next of `batches` every time."""
    following = itertools.cycle(batches)
    return lambda: next(following)()


class RowsOnDevice(Peer):
    """This package."""

    name = OURS
    package = "cupy"

    def __init__(self, problem: Sparse, **options: Any) -> None:
        import cupy

        self.table = cupy.asarray(problem.zeros())
        self.values = cupy.asarray(problem.values)
        self.batches = [cupy.asarray(batch) for batch in problem.batches]
        opt = RMSprop(LEARNING_RATE, RHO, epsilon=EPSILON, **options)
        opt.build([self.table])
        self.step = rotate(
            [
                partial(
                    opt.apply_gradients,
                    [(IndexedSlices(self.values, batch), self.table)],
                )
                for batch in self.batches
            ]
        )

    def params(self) -> Sequence[Array]:
        return [self.table.get()]


def sort_and_gather(ours: RowsOnDevice) -> Contestant:
    """Return what every row-sparse step needs: to sort the rows and to read them."""
    import cupy

    def step(batch: Any) -> None:
        order = cupy.argsort(batch)
        ours.values.take(order, axis=0)
        ours.table.take(batch, axis=0)

    batches = [partial(step, batch) for batch in ours.batches]
    return timed(Contestant(rotate(batches), OCCURRENCES))


class Densified(Peer):
    """torch: the rows added into a gradient of the table's size, then foreach."""

    name = "densify + foreach"
    package = "torch"
    eps_in_sqrt = False

    def __init__(self, problem: Sparse, ours: RowsOnDevice) -> None:
        import torch

        self.tensor = torch.zeros(problem.shape, device="cuda")
        self.tensor.grad = torch.zeros_like(self.tensor)
        opt = torch_rmsprop([self.tensor], PLAIN, foreach=True)
        values = torch.from_dlpack(ours.values)

        def update(batch: Any) -> None:
            self.tensor.grad.zero_().index_add_(0, batch, values)
            opt.step()

        self.step = rotate(
            [partial(update, torch.from_dlpack(batch)) for batch in ours.batches]
        )

    def params(self) -> Sequence[Array]:
        return [self.tensor.cpu().numpy()]


OPTIONS: dict[str, dict[str, bool]] = {
    "catch_up": {"catch_up": True},
    "check_finite": {"check_finite": True},
}


def sparse() -> Iterator[Entry]:
    """Yield ourselves, the floor, a dense gradient instead, and what options cost."""
    problem = Sparse(*TABLE, OCCURRENCES, "zipf")
    ours = RowsOnDevice(problem)
    yield OURS, lambda: timed(enter(ours, problem, OCCURRENCES))
    yield "sort + gather", partial(sort_and_gather, ours)

    def rival() -> Contestant:
        # Rows without a gradient forget with it: another result, so not checked.
        return timed(Contestant(Densified(problem, ours).step, OCCURRENCES))

    if importlib.util.find_spec("torch"):
        yield Densified.name, rival

    def with_option(options: dict[str, bool]) -> Contestant:
        step = RowsOnDevice(problem, **options).step
        return timed(Contestant(step, OCCURRENCES))

    for name, options in OPTIONS.items():
        yield name, partial(with_option, options)
