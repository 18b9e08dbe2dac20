"""One step over arrays of NumPy's and CuPy's: tested and prepared, then launched."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from rmsprop_fast import backends, validation
from rmsprop_fast.cpu import _step
from rmsprop_fast.gpu import compiler
from rmsprop_fast.gpu._plan import DIGITS, THREADS, Plan, SortPass, norm_factors
from rmsprop_fast.gpu.device import Arena, Device, Launch
from rmsprop_fast.gpu.scalar import DeviceScalar
from rmsprop_fast.slots import Slots

__all__ = ["DeviceStep"]

WARPS = THREADS // 32
WIDE_FROM = 2**32  # occurrences or rows; from here on they are counted in 64 bits

Group = tuple[int, int, bool, int]  # device, turn, is it row-sparse, is it float64


class Bounds(NamedTuple):
    """What multiplies raw gradients, and the norms that bound them then."""

    factor: float
    clipnorm: float
    global_clipnorm: float

    @property
    def is_norm(self) -> bool:
        return self.clipnorm < math.inf or self.global_clipnorm < math.inf


def _suffix(is_double: int) -> str:
    return "f64" if is_double else "f32"


class _Norms:
    """The norms of a device's gradients, as factors of each."""

    def __init__(self, plan: Plan, number: int, bounds: Bounds) -> None:
        self.plan = plan
        self.number = number
        self.bounds = bounds
        self.n, self.n_blocks = plan.count(number)

    def take(self, arena: Arena) -> None:
        """Reserve the blocks' sums, the gradients' squares and their factors."""
        self.sums = arena.take(8 * self.n_blocks)
        self.squares = arena.take(8 * self.n)
        self.factors = arena.take(8 * self.n)

    def launches(self, device: Device, scratch: int) -> Iterator[Launch]:
        """Yield what fills the factors."""
        sums, squares = scratch + self.sums, scratch + self.squares
        for is_double in (0, 1):
            start = 0
            while start >= 0:
                table, start, n, n_blocks = self.plan.fill_norms(
                    self.number, is_double, start, sums, squares
                )
                sums += 8 * n_blocks
                if n_blocks:
                    name = f"norm_blocks_{_suffix(is_double)}"
                    yield device.launch(name, table, n_blocks, WARPS)
                if n:
                    yield device.launch("norm_squares", table, n, WARPS)
        is_global = self.bounds.clipnorm == math.inf
        parameter = norm_factors(
            squares,
            scratch + self.factors,
            self.n,
            self.bounds.factor,
            self.bounds.global_clipnorm if is_global else self.bounds.clipnorm,
            is_global,
        )
        yield device.launch_blocks("norm_factors", parameter, 1)


class _Rows:
    """The row-sparse updates of one table."""

    def __init__(self, plan: Plan, group: Group, start: int) -> None:
        filled = plan.fill_rows(group, start)
        self.table, self.next, self.n, n_keys, self.n_partial = filled[:5]
        self.chunks, self.run_chunks = filled[5:]
        is_wide = self.n >= WIDE_FROM or n_keys > WIDE_FROM
        self.plan = plan
        self.group = group
        self.wide = "_wide" if is_wide else ""
        self.sort = SortPass(self.n, n_keys, is_wide)

    def take(self, arena: Arena) -> None:
        """Reserve the sort's lists and counts, and the sums of runs."""
        self.lists = arena.take(self.sort.n_bytes)
        self.partial = arena.take(self.n_partial)

    def keys(self, device: Device, scratch: int, iterations: int) -> Launch:
        """Return the launch that copies and checks the rows."""
        self.lists += scratch
        self.plan.place_rows(
            self.table,
            scratch + self.partial,
            self.lists,
            device.fault.address,
            iterations,
        )
        return device.launch(f"keys{self.wide}", self.table.array, self.n, THREADS)

    def updates(self, device: Device, variant: int) -> Iterator[Launch]:
        """Yield what sorts, sums and updates."""
        yield from self._sorting(device)
        suffix = _suffix(self.group[3])
        table = self.plan.read_rows(self.table, self.sort.result(self.lists))
        if self.run_chunks:
            name = f"partial{self.wide}_{suffix}"
            yield device.launch(name, table, self.run_chunks, 1)
        name = f"rows{self.wide}_{suffix}_{variant}"
        yield device.launch(name, table, self.chunks, 1)

    def _sorting(self, device: Device) -> Iterator[Launch]:
        sort = self.sort
        if sort.n_tiles == 1:
            parameter = sort.parameter(self.lists, 0)
            yield device.launch_blocks(f"sort_all{self.wide}", parameter, 1)
            return
        parts = ("count", sort.n_tiles), ("scan", DIGITS), ("scatter", sort.n_tiles)
        for k in range(sort.n_passes):
            parameter = sort.parameter(self.lists, k)
            for part, n_blocks in parts:
                name = f"sort_{part}{self.wide}"
                yield device.launch_blocks(name, parameter, n_blocks)


class DeviceStep:
    """Steps over bound variables wherever they lie; `_step.Step` does the host's.

    Parameters
    ----------
    host : Step
        The step over NumPy's arrays.
    slots : Slots
        The state.
    silent : set of frozenset of (address, shape, strides)
        Sets of variables whose missing gradients were warned about.
    """

    def __init__(
        self, host: _step.Step, slots: Slots, silent: set[frozenset[Any]]
    ) -> None:
        import cupy

        self.host = host
        self._iterations = slots.iterations
        self._plan = Plan(slots.by_key, slots.extents, silent, cupy.ndarray)
        self._devices: dict[int, Device] = {}

    def bind(
        self,
        index: int,
        var: Any,
        rms: Any,
        momentum: Any,
        mg: Any,
        steps: Any = None,
        row_steps: Any = None,
        decays: bool = True,
    ) -> None:
        """Note variable `index` and its slots; again when it gets a slot."""
        if backends.is_on_device(var):
            self.host.hold_place(index)
            self._plan.bind(index, var, rms, momentum, mg, decays)
        else:
            self.host.bind(index, var, rms, momentum, mg, steps, row_steps, decays)

    def _device(self, number: int) -> Device:
        device = self._devices.get(number)
        if device is None:
            device = self._devices[number] = Device(number)
        return device

    def compile(self, variant: int) -> None:
        """Compile or load the dense kernels of the bound variables."""
        for number, is_double in self._plan.dtypes:
            with self._device(number).current():
                compiler.kernel(f"dense_{_suffix(is_double)}_{variant}")

    # --- What devices found -----------------------------------------------------------

    def check(self) -> None:
        """Wait for all devices, and raise what a step there has found."""
        for device in self._devices.values():
            device.wait()
        self._raise_found()

    def _raise_found(self) -> None:
        for device in self._devices.values():
            if device.fault.is_found:
                pair, row, position, n_rows, iterations = device.clear()
                if iterations >= 0:  # the steps since then did nothing here
                    self._iterations[()] = iterations
                validation.row_found(device.number, pair, row, position, n_rows)

    # --- The step ---------------------------------------------------------------------

    def update(
        self,
        pairs: list[Any],
        variant: int,
        lr: float | DeviceScalar,
        rho: float,
        momentum: float,
        epsilon: float,
        clipvalue: float = math.inf,
        clipnorm: float = math.inf,
        global_clipnorm: float = math.inf,
        grad_factor: float = 1.0,
        num_threads: int | None = None,
        overlaps_checked: bool = False,
        weight_decay: float = 0.0,
        check_finite: bool = False,
    ) -> int:
        """Update every variable once and return the new count of iterations.

        Returns REFUSED, with nothing changed, when any rule is broken or a variable is
        new; NOT_FINITE as the host's step, which alone can look for that.
        Parameters as those of `cpu._step.Step.update`; `lr` may be on a device.
        """
        self._raise_found()
        plan = self._plan
        if not plan.collect(pairs, variant, overlaps_checked):
            return _step.REFUSED
        host_pairs, groups = plan.host_pairs, plan.groups
        numbers = list(dict.fromkeys(group[0] for group in groups))
        places = len(numbers) + bool(host_pairs)
        if places > 1 and global_clipnorm < math.inf:
            return _step.REFUSED
        if groups and check_finite:
            return _step.REFUSED
        if isinstance(lr, DeviceScalar):
            if host_pairs or numbers != [lr.device]:
                return _step.REFUSED
            address, is_f32 = backends.address(lr.array), lr.array.dtype.itemsize == 4
            rate = lr.divisor
        else:
            address, is_f32, rate = 0, False, lr
        if self._iterations == validation.MAX_ITERATIONS:
            validation.too_many_iterations()
        plan.set_scalars(
            rate,
            rho,
            momentum,
            epsilon,
            weight_decay,
            grad_factor,
            clipvalue,
            address,
            is_f32,
        )
        bounds = Bounds(grad_factor, clipnorm, global_clipnorm)
        # Whatever can fail comes before the first array changes.
        ready = [
            (device, self._prepare(device, groups, variant, bounds))
            for device in map(self._device, numbers)
        ]
        if host_pairs:
            done = self.host.update(
                *(host_pairs, variant, rate, rho, momentum, epsilon),
                *(clipvalue, clipnorm, global_clipnorm, grad_factor, num_threads),
                *(overlaps_checked, weight_decay, check_finite),
            )
            if done < 0:
                return done
        else:
            self._iterations += 1
        for device, (launches, _scratch) in ready:
            with device.current():
                for launch in launches:
                    launch()
        return int(self._iterations)

    def _prepare(
        self, device: Device, groups: list[Group], variant: int, bounds: Bounds
    ) -> tuple[list[Launch], Any]:
        """Return a device's launches in order, and the scratch that they need."""
        plan, number = self._plan, device.number
        own = sorted(group for group in groups if group[0] == number)
        rows = {group: list(self._rows(group)) for group in own if group[2]}
        tables = [each for group in rows.values() for each in group]
        with device.current():
            norms = _Norms(plan, number, bounds) if bounds.is_norm else None
            scratch, base = self._scratch(
                device, [*tables, *([norms] if norms else [])]
            )
            plan.use(base + norms.factors if norms else 0, device.stop.data.ptr)
            iterations = -1 if device.is_capturing() else int(self._iterations)
            # Every row is checked before any variable changes.
            launches = [each.keys(device, base, iterations) for each in tables]
            if norms:
                launches += norms.launches(device, base)
            for group in own:
                if group[2]:
                    for each in rows[group]:
                        launches += each.updates(device, variant)
                else:
                    launches += self._dense(device, group, variant)
        return launches, scratch

    def _scratch(self, device: Device, parts: list[Any]) -> tuple[Any, int]:
        """Return memory for all parts and its address; they keep their offsets."""
        arena = Arena()
        for part in parts:
            part.take(arena)
        if arena.n_bytes == 0:
            return None, 0
        memory = device.allocate(arena.n_bytes)
        return memory, memory.ptr

    def _rows(self, group: Group) -> Iterator[_Rows]:
        start = 0
        while start >= 0:
            rows = _Rows(self._plan, group, start)
            start = rows.next
            if rows.n:
                yield rows

    def _dense(self, device: Device, group: Group, variant: int) -> Iterator[Launch]:
        start = 0
        while start >= 0:
            table, start, chunks = self._plan.fill_dense(group, start)
            if chunks:
                name = f"dense_{_suffix(group[3])}_{variant}"
                yield device.launch(name, table, chunks, 1)

    # --- Gradients --------------------------------------------------------------------

    def clipped(
        self,
        arrays: list[Any],
        clipvalue: float,
        clipnorm: float,
        global_clipnorm: float,
        grad_factor: float,
        num_threads: int | None,
    ) -> list[Any]:
        """Return new arrays: the gradients as an update would see them.

        Parameters as those of `cpu._step.clipped`, which does the host's.
        """
        import cupy

        bounds = Bounds(grad_factor, clipnorm, global_clipnorm)
        out: list[Any] = [None] * len(arrays)
        places: dict[int | None, list[int]] = {}
        for k, array in enumerate(arrays):
            on_device = backends.is_on_device(array)
            number = backends.device_id(array) if on_device else None
            places.setdefault(number, []).append(k)
        for number, own in places.items():
            grads = [arrays[k] for k in own]
            if number is None:
                new = _step.clipped(
                    grads,
                    clipvalue,
                    clipnorm,
                    global_clipnorm,
                    grad_factor,
                    num_threads,
                )
            else:
                with cupy.cuda.Device(number):
                    new = [cupy.empty(grad.shape, grad.dtype) for grad in grads]
                self._take(self._device(number), grads, new, bounds, clipvalue)
            for k, array in zip(own, new, strict=True):
                out[k] = array
        return out

    def _take(
        self,
        device: Device,
        grads: list[Any],
        new: list[Any],
        bounds: Bounds,
        clipvalue: float,
    ) -> None:
        """Fill `new` with clipped gradients, all on one device."""
        plan, number = self._plan, device.number
        plan.collect_gradients(grads)
        plan.set_scalars(0, 0, 0, 0, 0, bounds.factor, clipvalue)
        with device.current():
            norms = _Norms(plan, number, bounds) if bounds.is_norm else None
            _kept, base = self._scratch(device, [norms] if norms else [])
            plan.use(base + norms.factors if norms else 0, device.stop.data.ptr)
            launches = list(norms.launches(device, base)) if norms else []
            for is_double in (0, 1):
                start = 0
                while start >= 0:
                    table, start, chunks = plan.fill_take(new, number, is_double, start)
                    if chunks:
                        name = f"take_{_suffix(is_double)}"
                        launches.append(device.launch(name, table, chunks, 1))
            for launch in launches:
                launch()
