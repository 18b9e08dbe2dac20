"""The launches that make up a step on one device, and the scratch that they need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from rmsprop_fast.gpu._plan import (
    DIGITS,
    IDLE_BITS,
    NONFINITE_SIZE,
    THREADS,
    Plan,
    SortPass,
    norm_factors,
    verdict,
)
from rmsprop_fast.gpu.device import Arena, Device, Launch

__all__ = ["Bounds", "Gradients", "Group", "IdleRows", "Rows", "suffix_of"]

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


def suffix_of(is_double: int) -> str:
    return "f64" if is_double else "f32"


class Gradients:
    """All gradients of a device: their norms, and whether they are finite.

    Parameters
    ----------
    plan : Plan
        That has collected them.
    number : int
        The device.
    bounds : Bounds
        What multiplies them.
    is_checked : bool
        Whether to look for elements that are not finite.
    """

    def __init__(
        self, plan: Plan, number: int, bounds: Bounds, is_checked: bool = False
    ) -> None:
        self.plan = plan
        self.number = number
        self.bounds = bounds
        self.is_checked = is_checked
        self.is_needed = bounds.is_norm or is_checked
        self.squares = self.sums = self.factors = self.any = self.nonfinite = 0

    def take(self, arena: Arena) -> None:
        """Reserve what is found out, of the blocks and of the gradients."""
        if not self.is_needed:
            return
        self.n, self.n_blocks = self.plan.count(self.number)
        if self.bounds.is_norm:
            self.sums = arena.take(8 * self.n_blocks)
            self.squares = arena.take(8 * self.n)
            self.factors = arena.take(8 * self.n)
        if self.is_checked:
            self.any = arena.take(4)
            self.nonfinite = arena.take(NONFINITE_SIZE * self.n)
            self.cleared = arena.n_bytes - self.any

    def place(self, scratch: int) -> None:
        """Turn what `take` reserved into addresses."""
        if self.bounds.is_norm:
            self.sums += scratch
            self.squares += scratch
            self.factors += scratch
        if self.is_checked:
            self.any += scratch
            self.nonfinite += scratch

    def launches(
        self, device: Device, memory: Any, step: int, skips: bool
    ) -> Iterator[Launch]:
        """Yield what fills the factors, and what keeps a bad step from happening."""
        if not self.is_needed:
            return
        if self.is_checked:
            yield device.clearing(memory + (self.any - memory.ptr), self.cleared)
        sums = self.sums
        for is_double in (0, 1):
            start = 0
            while start >= 0:
                table, start, n, n_blocks = self.plan.fill_gradients(
                    self.number,
                    is_double,
                    start,
                    sums,
                    self.squares,
                    self.any,
                    self.nonfinite,
                )
                if self.bounds.is_norm:
                    sums += 8 * n_blocks
                    yield from self._squares(device, table, is_double, n, n_blocks)
                if self.is_checked and n_blocks:
                    name = f"nonfinite_{suffix_of(is_double)}"
                    yield device.launch(name, table, n_blocks, WARPS)
        if self.bounds.is_norm:
            yield device.launch_blocks("norm_factors", self._factors(), 1)
        if self.is_checked:
            parameter = verdict(
                device.stop.data.ptr,
                self.any,
                self.nonfinite,
                device.fault.address,
                self.n,
                step,
                skips,
            )
            yield device.launch_blocks("judge", parameter, 1)

    def _squares(
        self, device: Device, table: Any, is_double: int, n: int, n_blocks: int
    ) -> Iterator[Launch]:
        if n_blocks:
            name = f"norm_blocks_{suffix_of(is_double)}"
            yield device.launch(name, table, n_blocks, WARPS)
        if n:
            yield device.launch("norm_squares", table, n, WARPS)

    def _factors(self) -> Any:
        is_global = self.bounds.clipnorm == math.inf
        return norm_factors(
            self.squares,
            self.factors,
            self.n,
            self.bounds.factor,
            self.bounds.global_clipnorm if is_global else self.bounds.clipnorm,
            is_global,
        )


class IdleRows:
    """All rows of a group's variables, in tables of some: they catch up, and count.

    Parameters
    ----------
    plan : Plan
        That has collected the variables and prepared what they catch up by.
    group : Group
        Which of them.
    made : int
        How many steps they make now, apart from those that they missed.
    """

    def __init__(self, plan: Plan, group: Group, made: int) -> None:
        self.suffix = suffix_of(group[3])
        self.tables = []
        start = 0
        while start >= 0:
            table, start, chunks, n = plan.fill_idle(group, start, made)
            self.tables.append((table, chunks, n))

    def catching_up(self, device: Device, variant: int) -> Iterator[Launch]:
        """Yield what makes up for missed steps."""
        for table, chunks, _ in self.tables:
            if chunks:
                name = f"catch_up_all_{self.suffix}_{variant & IDLE_BITS}"
                yield device.launch(name, table, chunks, 1)

    def counting(self, device: Device) -> Iterator[Launch]:
        """Yield what notes that all rows have all steps."""
        for table, _, n in self.tables:
            if n:
                yield device.launch_blocks("count_steps", table, 1)


class Rows:
    """The row-sparse updates of one table."""

    def __init__(self, plan: Plan, group: Group, start: int) -> None:
        filled = plan.fill_rows(group, start)
        self.table, self.next, self.n, n_keys, self.n_partial = filled[:5]
        self.chunks, self.run_chunks = filled[5:]
        is_wide = self.n >= WIDE_FROM or n_keys > WIDE_FROM
        self.plan = plan
        self.group = group
        self.start = start
        self.wide = "_wide" if is_wide else ""
        self.suffix = suffix_of(group[3])
        self.sort = SortPass(self.n, n_keys, is_wide)

    def take(self, arena: Arena) -> None:
        """Reserve the sort's lists and counts, and the sums of runs."""
        self.lists = arena.take(self.sort.n_bytes)
        self.partial = arena.take(self.n_partial)

    def place(self, scratch: int) -> None:
        """Turn what `take` reserved into addresses."""
        self.lists += scratch
        self.partial += scratch
        self.sorted = self.sort.result(self.lists)

    def keys(self, device: Device, step: int) -> Iterator[Launch]:
        """Yield what copies and checks the rows."""
        self.plan.place_rows(
            self.table, self.partial, self.lists, device.fault.address, step
        )
        if self.n:
            name = f"keys{self.wide}"
            yield device.launch(name, self.table.array, self.n, THREADS)

    def sorting(self, device: Device) -> Iterator[Launch]:
        """Yield what puts the rows in order."""
        sort = self.sort
        if not self.n:
            return
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

    def updating(self, device: Device, variant: int) -> Iterator[Launch]:
        """Yield what sums the values of sorted rows and updates each row."""
        if not self.n:
            return
        table = self.plan.read_rows(self.table, self.sorted)
        if self.run_chunks:
            name = f"partial{self.wide}_{self.suffix}"
            yield device.launch(name, table, self.run_chunks, 1)
        name = f"rows{self.wide}_{self.suffix}_{variant}"
        yield device.launch(name, table, self.chunks, 1)

    def idle(self, made: int) -> Any:
        """Return the table by which sorted rows catch up; `made` as for `IdleRows`."""
        return self.plan.fill_idle_rows(
            self.table, self.group, self.start, self.sorted, made
        )

    def catching_up(self, device: Device, idle: Any, variant: int) -> Iterator[Launch]:
        """Yield what makes up for steps that sorted rows have missed."""
        if self.n:
            name = f"catch_up_rows{self.wide}_{self.suffix}_{variant & IDLE_BITS}"
            yield device.launch(name, idle, self.chunks, 1)

    def counting(self, device: Device, idle: Any, made: int) -> Iterator[Launch]:
        """Yield what notes the variables' steps, and that sorted rows have them."""
        if made:
            yield device.launch_blocks("count_steps", idle, 1)
        if self.n:
            yield device.launch(f"count_rows{self.wide}", idle, self.n, THREADS)
