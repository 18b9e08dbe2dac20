"""One step over arrays of NumPy's and CuPy's: tested and prepared, then launched."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from rmsprop_fast import backends, rules, step_rules
from rmsprop_fast.cpu import _step
from rmsprop_fast.gpu import compiler
from rmsprop_fast.gpu._plan import IDLE_BITS, NONFINITE_FOUND, Plan
from rmsprop_fast.gpu.device import IN_FLIGHT, Arena, Device, Launch
from rmsprop_fast.gpu.launches import (
    Bounds,
    Gradients,
    Group,
    IdleRows,
    Rows,
    suffix_of,
)
from rmsprop_fast.gpu.scalar import DeviceScalar
from rmsprop_fast.slots import Slots

__all__ = ["DeviceStep"]


class Ready(NamedTuple):
    """What is to be launched on a device, in order, and what that needs."""

    device: Device
    step: int  # as the device reports it, see `DeviceStep._number_on`
    launches: list[Launch]
    scratch: Any  # goes back to the pool after the launches


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
    devices : dict of int to Device, optional
        What the optimizer had on devices before: graphs know it by its addresses.
    """

    def __init__(
        self,
        host: _step.Step,
        slots: Slots,
        silent: set[frozenset[Any]],
        devices: dict[int, Device] | None = None,
    ) -> None:
        import cupy

        self.host = host
        self._slots = slots
        self._iterations = slots.iterations
        self._plan = Plan(slots.by_key, slots.extents, silent, cupy.ndarray)
        self.devices: dict[int, Device] = {} if devices is None else devices
        self._number = 0  # of the next step

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
            self._plan.bind(index, var, rms, momentum, mg, steps, row_steps, decays)
        else:
            self.host.bind(index, var, rms, momentum, mg, steps, row_steps, decays)

    def _device(self, number: int) -> Device:
        device = self.devices.get(number)
        if device is None:
            device = self.devices[number] = Device(number)
        return device

    def compile(self, variant: int) -> None:
        """Compile or load the dense kernels of the bound variables."""
        for number, is_double in self._plan.dtypes:
            suffix = suffix_of(is_double)
            with self._device(number).current():
                compiler.kernel(f"dense_{suffix}_{variant}")
                if self._slots.counts_rows:
                    compiler.kernel(f"catch_up_all_{suffix}_{variant & IDLE_BITS}")
                    compiler.kernel("count_steps")

    # --- What devices found -----------------------------------------------------------

    def check(self) -> None:
        """Wait for all devices, and raise what a step there has found."""
        for device in self.devices.values():
            device.wait()
        self._raise_found()
        for device in self.devices.values():
            device.steps.clear()  # all have been made

    def see_skipped(self) -> None:
        """Take back the count of the steps that devices are known to have left out."""
        for device in self.devices.values():
            of_calls, of_graphs = device.see_skipped()
            self._iterations -= of_calls  # a replay was not counted
            self._slots.skipped_steps += of_calls + of_graphs

    def _raise_found(self) -> None:
        self.see_skipped()
        for device in self.devices.values():
            fault = device.fault
            if not fault.found:
                continue
            device.clear_stop()
            self.see_skipped()
            if fault.step >= 0:
                self._take_back({step for step in device.steps if step >= fault.step})
            found, row, nonfinite = fault.found, fault.row, fault.nonfinite
            fault.forget()
            if found == NONFINITE_FOUND:
                shapes = [shape for shape, _ in self._slots.specs]
                step_rules.nonfinite_found(device.number, *nonfinite, shapes)
            step_rules.row_found(device.number, *row)

    def _take_back(self, steps: set[int]) -> None:
        """Count steps, by their numbers, no more: they did nothing on some device."""
        self._iterations -= len(steps)
        for (
            device
        ) in self.devices.values():  # one of several devices is taken back once
            device.steps = deque(
                (step for step in device.steps if step not in steps), IN_FLIGHT
            )

    def _number_on(self, device: Device) -> int:
        """Return what the current device is to report as the next step's number."""
        return -1 if device.is_capturing() else self._number

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
        check_finite: bool | str = False,
    ) -> int:
        """Update every variable once and return the new count of iterations.

        Returns REFUSED, with nothing changed, when any rule is broken or a variable is
        new, and NOT_FINITE as the host's step: devices tell of that later.
        Parameters as those of `cpu._step.Step.update`; `lr` may be on a device.
        """
        self._raise_found()
        plan = self._plan
        if not plan.collect(pairs, variant, overlaps_checked):
            return _step.REFUSED
        host_pairs, groups = plan.host_pairs, plan.groups
        numbers = list(dict.fromkeys(group[0] for group in groups))
        places = len(numbers) + bool(host_pairs)
        if places > 1 and (global_clipnorm < math.inf or check_finite is not False):
            return _step.REFUSED
        if isinstance(lr, DeviceScalar):
            if host_pairs or numbers != [lr.device]:
                return _step.REFUSED
            address, is_f32 = backends.address(lr.array), lr.array.dtype.itemsize == 4
            rate = lr.divisor
        else:
            address, is_f32, rate = 0, False, lr
        if self._iterations == rules.MAX_ITERATIONS:
            rules.too_many_iterations()
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
        if groups and self._slots.counts_rows:
            plan.set_idle_powers(rho, momentum)
        bounds = Bounds(grad_factor, clipnorm, global_clipnorm)
        # Whatever can fail comes before the first array changes.
        ready = [
            self._prepare(self._device(number), variant, bounds, check_finite)
            for number in numbers
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
        for each in ready:
            if each.step >= 0:
                each.device.steps.append(each.step)
        self._number += 1
        self._launch(ready)
        return int(self._iterations)

    def _launch(self, ready: list[Ready]) -> None:
        for each in ready:
            with each.device.current():
                for launch in each.launches:
                    launch()

    def _prepare(
        self, device: Device, variant: int, bounds: Bounds, check_finite: bool | str
    ) -> Ready:
        """Return what a device's part of the step launches."""
        plan, skips = self._plan, check_finite == "skip"
        rows = self._rows(device)
        tables = [each for group in rows.values() for each in group]
        with device.current():
            gradients = Gradients(
                plan, device.number, bounds, check_finite is not False
            )
            scratch = self._scratch(device, [*tables, gradients])
            plan.use(
                device.stop.data.ptr, gradients.factors, gradients.any if skips else 0
            )
            step = self._number_on(device)
            # Everything is checked before any variable changes.
            launches = [launch for each in tables for launch in each.keys(device, step)]
            launches += gradients.launches(device, scratch, step, skips)
            for group, own in rows.items():
                launches += (
                    self._row_updates(device, own, variant)
                    if group[2]
                    else self._dense_updates(device, group, variant)
                )
        return Ready(device, step, launches, scratch)

    def _scratch(self, device: Device, parts: list[Any]) -> Any:
        """Return memory for all parts, which know then where their own lies."""
        arena = Arena()
        for part in parts:
            part.take(arena)
        memory = device.allocate(arena.n_bytes) if arena.n_bytes else None
        for part in parts:
            part.place(memory.ptr if memory else 0)
        return memory

    def _rows(self, device: Device) -> dict[Group, list[Rows]]:
        """Return a device's groups in order; row-sparse ones with their tables."""
        own = sorted(group for group in self._plan.groups if group[0] == device.number)
        return {group: list(self._tables(group)) if group[2] else [] for group in own}

    def _tables(self, group: Group) -> Iterator[Rows]:
        start = 0
        while start >= 0:
            rows = Rows(self._plan, group, start)
            start = rows.next
            if rows.n or self._slots.counts_rows:
                yield rows

    def _row_updates(
        self, device: Device, tables: list[Rows], variant: int
    ) -> Iterator[Launch]:
        for each in tables:
            yield from each.sorting(device)
            if not self._slots.counts_rows:
                yield from each.updating(device, variant)
                continue
            idle = each.idle(made=1)
            yield from each.catching_up(device, idle, variant)
            yield from each.updating(device, variant)
            yield from each.counting(device, idle, made=1)

    def _dense_updates(
        self, device: Device, group: Group, variant: int
    ) -> Iterator[Launch]:
        if not self._slots.counts_rows:
            yield from self._dense(device, group, variant)
            return
        idle = IdleRows(self._plan, group, made=1)
        yield from idle.catching_up(device, variant)
        yield from self._dense(device, group, variant)
        yield from idle.counting(device)

    def _dense(self, device: Device, group: Group, variant: int) -> Iterator[Launch]:
        start = 0
        while start >= 0:
            table, start, chunks = self._plan.fill_dense(group, start)
            if chunks:
                name = f"dense_{suffix_of(group[3])}_{variant}"
                yield device.launch(name, table, chunks, 1)

    # --- Rows that missed steps -------------------------------------------------------

    def catch_up(
        self,
        indices: list[int],
        rows: Any,
        variant: int,
        rho: float,
        momentum: float,
        num_threads: int | None = None,
    ) -> bool:
        """Make up for the steps that rows have missed.

        Parameters as those of `cpu._step.Step.catch_up`; `rows` lie where their
        variable does. Returns whether they were in range, as far as the host can see.
        """
        self._raise_found()
        if not backends.is_on_device(rows):
            if not self.host.catch_up(
                indices, rows, variant, rho, momentum, num_threads
            ):
                return False
            if rows is not None:
                return True
        plan = self._plan
        plan.collect_idle(indices, variant, rows)
        plan.set_idle_powers(rho, momentum)
        self._launch(
            [
                self._prepare_idle(self._device(number), variant)
                for number in sorted({group[0] for group in plan.groups})
            ]
        )
        return True

    def _prepare_idle(self, device: Device, variant: int) -> Ready:
        """Return what a device launches so that rows catch up."""
        groups = self._rows(device)
        with device.current():
            tables = [each for own in groups.values() for each in own]
            scratch = self._scratch(device, tables)
            self._plan.use(device.stop.data.ptr)
            step = self._number_on(device)
            launches: list[Launch] = []
            for group, own in groups.items():
                for rows in own:
                    launches += rows.keys(device, step)
                    launches += rows.sorting(device)
                    idle = rows.idle(made=0)
                    launches += rows.catching_up(device, idle, variant)
                    launches += rows.counting(device, idle, made=0)
                if not group[2]:
                    every = IdleRows(self._plan, group, made=0)
                    launches += every.catching_up(device, variant)
                    launches += every.counting(device)
        return Ready(device, step, launches, scratch)

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
            gradients = Gradients(plan, number, bounds)
            scratch = self._scratch(device, [gradients])
            plan.use(device.stop.data.ptr, gradients.factors)
            launches = list(gradients.launches(device, scratch, -1, False))
            for is_double in (0, 1):
                start = 0
                while start >= 0:
                    table, start, chunks = plan.fill_take(new, number, is_double, start)
                    if chunks:
                        name = f"take_{suffix_of(is_double)}"
                        launches.append(device.launch(name, table, chunks, 1))
        self._launch([Ready(device, -1, launches, scratch)])
