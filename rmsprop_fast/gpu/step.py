"""The part of a step that is on devices: prepared, then launched."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from rmsprop_fast import backends, step_rules
from rmsprop_fast.cpu import _step
from rmsprop_fast.cpu._step import StepArguments
from rmsprop_fast.gpu import compiler
from rmsprop_fast.gpu._plan import NONFINITE_FOUND, ZERO_GRADIENT, Plan
from rmsprop_fast.gpu.compiler import SUFFIXES
from rmsprop_fast.gpu.device import IN_FLIGHT, Arena, Device, Launch
from rmsprop_fast.gpu.launches import Gradients, Group, Rows, dense
from rmsprop_fast.slots import Slots

__all__ = ["DeviceStep"]


class Ready(NamedTuple):
    """The launches for one device, in order, and the scratch that they use."""

    device: Device
    step: int  # as the device reports it, see `DeviceStep._number_on`
    launches: list[Launch]
    scratch: Any  # goes back to the pool after the launches


class DeviceStep:
    """The part of steps that is on devices; `Step` does the host's.

    Parameters
    ----------
    host : Step
        Holds the bound variables, and the entries of the step that it collected last.
    """

    def __init__(self, host: _step.Step) -> None:
        import cupy

        self.host = host
        self._plan = Plan(host.records, cupy.ndarray)
        self.devices: dict[int, Device] = {}
        self._number = 0  # of the next step

    def _device(self, number: int) -> Device:
        device = self.devices.get(number)
        if device is None:
            device = self.devices[number] = Device(number)
        return device

    def compile(self, slots: Slots, variant: int) -> None:
        """Compile or load the dense kernels of the bound variables."""
        variables = [each for each in slots if backends.is_on_device(each.var)]
        kinds = [(backends.device_id(each.var), each.dtype.name) for each in variables]
        for number, name in dict.fromkeys(kinds):
            suffix = compiler.suffix_of(name)
            with self._device(number).current():
                compiler.kernel(f"dense_{suffix}_{variant}")
                if slots.counts_rows:
                    compiler.kernel(f"catch_up_all_{suffix}_{variant & ZERO_GRADIENT}")
                    compiler.kernel("count_steps")

    # --- What devices found -----------------------------------------------------------

    def synchronize(self, slots: Slots) -> None:
        """Wait for all devices, and raise what a step there has found."""
        for device in self.devices.values():
            device.wait()
        self.raise_found(slots)
        for device in self.devices.values():
            device.steps.clear()  # all have been made

    def see_skipped(self, slots: Slots) -> None:
        """Take back the count of the steps that devices are known to have left out."""
        for device in self.devices.values():
            of_calls, of_graphs = device.see_skipped()
            slots.iterations[()] -= of_calls  # a replay was not counted
            slots.skipped_steps += of_calls + of_graphs

    def raise_found(self, slots: Slots) -> None:
        """Raise what a step on a device has found, as far as the host knows.

        While the device's current stream records a graph nothing is raised: that would
        have to wait for the device. A later call raises it.
        """
        self.see_skipped(slots)
        for device in self.devices.values():
            fault = device.fault
            if not fault.found or device.is_recording():
                continue
            device.clear_stop()
            self.see_skipped(slots)
            if fault.step >= 0:
                self._take_back(
                    slots, {step for step in device.steps if step >= fault.step}
                )
            found, row, nonfinite = fault.found, fault.row, fault.nonfinite
            fault.forget()
            if found == NONFINITE_FOUND:
                shapes = [each.shape for each in slots]
                step_rules.nonfinite_found(device.number, *nonfinite, shapes)
            step_rules.row_found(device.number, *row)

    def _take_back(self, slots: Slots, steps: set[int]) -> None:
        """Count steps, by their numbers, no more: they did nothing on some device."""
        slots.iterations[()] -= len(steps)
        # A step on several devices is taken back once.
        for device in self.devices.values():
            device.steps = deque(
                (step for step in device.steps if step not in steps), IN_FLIGHT
            )

    def _number_on(self, device: Device) -> int:
        """Return what the current device is to report as the next step's number."""
        return -1 if device.is_capturing() else self._number

    # --- The step ---------------------------------------------------------------------

    def update(self, slots: Slots, arguments: StepArguments) -> int:
        """Do the step that was collected last and return the new count of iterations.

        Returns REFUSED, with nothing changed, when the gradients are in places that the
        arguments do not allow, and NOT_FINITE as the host's step: devices report
        elements that are not finite later.
        """
        plan = self._plan
        plan.use_collected()
        numbers = list(dict.fromkeys(group[0] for group in plan.groups))
        needs_one_place = arguments.global_clipnorm < math.inf or arguments.check_finite
        if needs_one_place and len(numbers) + plan.has_host > 1:
            return _step.REFUSED
        if arguments.rate is None:
            plan.set_scalars(arguments)
        elif plan.has_host or numbers != [arguments.rate.device]:
            return _step.REFUSED
        else:
            rate = arguments.rate.array
            plan.set_scalars(arguments, backends.address(rate), rate.itemsize == 4)
        # Whatever can fail comes before the first array changes.
        ready = [
            self._prepare(slots, self._device(number), arguments) for number in numbers
        ]
        if plan.has_host:
            done = self.host.update_host(slots, arguments)
            if done < 0:
                return int(done)
        else:
            slots.iterations[()] += 1
        for each in ready:
            if each.step >= 0:
                each.device.steps.append(each.step)
        self._number += 1
        self._launch(ready)
        return int(slots.iterations)

    def _launch(self, ready: list[Ready]) -> None:
        for each in ready:
            with each.device.current():
                for launch in each.launches:
                    launch()

    def _prepare(self, slots: Slots, device: Device, arguments: StepArguments) -> Ready:
        """Return what a device's part of the step launches."""
        plan, variant = self._plan, arguments.variant
        groups = self._rows(device, slots.counts_rows, made=1)
        tables = [rows for tables in groups.values() for rows in tables]
        with device.current():
            gradients = Gradients(
                plan, device.number, arguments, arguments.check_finite
            )
            scratch = self._scratch(device, [*tables, gradients])
            plan.set_addresses(
                device.stop.data.ptr,
                gradients.scales,
                gradients.any if arguments.skips else 0,
            )
            step = self._number_on(device)
            # Everything is checked before any variable changes.
            launches = [launch for rows in tables for launch in rows.keys(device, step)]
            launches += gradients.launches(device, scratch, step)
            for group, tables in groups.items():
                launches += self._updates(
                    device, group, tables, variant, slots.counts_rows
                )
        return Ready(device, step, launches, scratch)

    def _scratch(self, device: Device, parts: list[Any]) -> Any:
        """Return memory for all parts, which then know their addresses."""
        arena = Arena()
        for part in parts:
            part.reserve(arena)
        memory = device.allocate(arena.n_bytes) if arena.n_bytes else None
        for part in parts:
            part.place(memory.ptr if memory else 0)
        return memory

    def _rows(
        self, device: Device, counts_rows: bool, made: int
    ) -> dict[Group, list[Rows]]:
        """Return a device's groups in order, with tables of the rows that they need."""
        own = sorted(group for group in self._plan.groups if group[0] == device.number)
        return {
            group: list(self._tables(group, counts_rows, made))
            if group[2] or counts_rows
            else []
            for group in own
        }

    def _tables(self, group: Group, counts_rows: bool, made: int) -> Iterator[Rows]:
        start = 0
        while start >= 0:
            table = self._plan.fill_rows(group, start, made)
            start = table.next
            if table.n_items or counts_rows:
                yield Rows(self._plan, group, table)

    def _updates(
        self,
        device: Device,
        group: Group,
        tables: list[Rows],
        variant: int,
        counts_rows: bool,
    ) -> Iterator[Launch]:
        for rows in tables:
            yield from rows.sorting(device)
            if counts_rows:
                yield from rows.catching_up(device, variant)
            yield from rows.updating(device, variant)
            if counts_rows and rows.is_list:
                yield from rows.counting(device, made=1)
        if not group[2]:
            yield from dense(
                device, self._plan, group, f"dense_{SUFFIXES[group[3]]}_{variant}"
            )
            for rows in tables:
                yield from rows.counting(device, made=1)

    # --- Rows that missed steps -------------------------------------------------------

    def catch_up(
        self, slots: Slots, indices: list[int], rows: Any, arguments: StepArguments
    ) -> bool:
        """Make up for the steps that rows on devices have missed.

        Parameters as those of `cpu._step.Step.catch_up`. Returns whether there may be
        rows on the host, too.
        """
        on_device = backends.is_on_device(rows)
        if rows is not None and not on_device:
            return True
        self._plan.use_missed_steps(indices, arguments.variant, rows)
        self._plan.set_scalars(arguments)
        self._launch(
            [
                self._prepare_missed(self._device(number), arguments.variant)
                for number in sorted({group[0] for group in self._plan.groups})
            ]
        )
        return not on_device

    def _prepare_missed(self, device: Device, variant: int) -> Ready:
        """Return what a device launches so that rows catch up."""
        groups = self._rows(device, counts_rows=True, made=0)
        tables = [rows for tables in groups.values() for rows in tables]
        with device.current():
            scratch = self._scratch(device, tables)
            self._plan.set_addresses(device.stop.data.ptr)
            step = self._number_on(device)
            launches: list[Launch] = []
            for rows in tables:
                launches += rows.keys(device, step)
                launches += rows.sorting(device)
                launches += rows.catching_up(device, variant)
                launches += rows.counting(device, made=0)
        return Ready(device, step, launches, scratch)

    # --- Gradients --------------------------------------------------------------------

    def clipped(self, arrays: list[Any], arguments: StepArguments) -> list[Any]:
        """Return new arrays: the gradients as an update would see them.

        Parameters as those of `cpu._step.clipped`, which does the host's.
        """
        import cupy

        out: list[Any] = [None] * len(arrays)
        places: dict[int | None, list[int]] = {}
        for k, array in enumerate(arrays):
            on_device = backends.is_on_device(array)
            number = backends.device_id(array) if on_device else None
            places.setdefault(number, []).append(k)
        for number, own in places.items():
            grads = [arrays[k] for k in own]
            if number is None:
                new = _step.clipped(grads, arguments)
            else:
                with cupy.cuda.Device(number):
                    new = [cupy.empty(grad.shape, grad.dtype) for grad in grads]
                self._clip(self._device(number), grads, new, arguments)
            for k, array in zip(own, new, strict=True):
                out[k] = array
        return out

    def _clip(
        self,
        device: Device,
        grads: list[Any],
        new: list[Any],
        arguments: StepArguments,
    ) -> None:
        """Fill `new` with clipped gradients, all on one device."""
        plan = self._plan
        plan.use_gradients(grads)
        plan.set_scalars(arguments)
        with device.current():
            gradients = Gradients(plan, device.number, arguments, is_checked=False)
            scratch = self._scratch(device, [gradients])
            plan.set_addresses(device.stop.data.ptr, gradients.scales)
            launches = list(gradients.launches(device, scratch, -1))
            for group in plan.groups:
                launches += dense(
                    device, plan, group, f"clip_{SUFFIXES[group[3]]}", new
                )
        self._launch([Ready(device, -1, launches, scratch)])
