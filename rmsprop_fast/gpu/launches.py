"""The launches that make up a step on one device, and the scratch that they need."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rmsprop_fast.cpu._step import StepArguments
from rmsprop_fast.gpu._plan import (
    DIGITS,
    DTYPES,
    NONFINITE_SIZE,
    THREADS,
    ZERO_GRADIENT,
    Plan,
    RowsTable,
    SortPass,
    finite_check,
    norm_scales,
)
from rmsprop_fast.gpu.compiler import SUFFIXES
from rmsprop_fast.gpu.device import Arena, Device, Launch

__all__ = ["Gradients", "Group", "Rows", "dense"]

WARPS = THREADS // 32
WIDE_FROM = 2**32  # occurrences or rows; from here on they are counted in 64 bits

Group = tuple[int, int, bool, int]  # device, repeat, is it row-sparse, dtype


def dense(
    device: Device, plan: Plan, group: Group, kernel: str, outs: list[Any] | None = None
) -> Iterator[Launch]:
    """Yield the launches of a dense kernel over a group; `outs` as for `Plan.fill`."""
    start = 0
    while start >= 0:
        table, start, chunks = plan.fill(group, start, outs)
        if chunks:
            yield device.launch(kernel, table, chunks, 1)


class Gradients:
    """All gradients of a device: their norms, and whether they are finite.

    Parameters
    ----------
    plan : Plan
        Knows the gradients.
    number : int
        The device.
    arguments : StepArguments
        The bounds of norms.
    is_checked : bool
        Whether to look for elements that are not finite.
    """

    def __init__(
        self, plan: Plan, number: int, arguments: StepArguments, is_checked: bool
    ) -> None:
        self.plan = plan
        self.number = number
        self.arguments = arguments
        self.is_checked = is_checked
        norm = min(arguments.clipnorm, arguments.global_clipnorm)
        self.has_norm = norm < math.inf
        self.squares = self.sums = self.scales = self.any = self.nonfinite = 0

    def reserve(self, arena: Arena) -> None:
        """Reserve scratch for the results of the blocks and of the gradients."""
        self.n, n_blocks = self.plan.count(self.number)
        if self.has_norm:
            self.sums = arena.reserve(8 * n_blocks)
            self.squares = arena.reserve(8 * self.n)
            self.scales = arena.reserve(8 * self.n)
        if self.is_checked:
            self.any = arena.reserve(4)
            self.nonfinite = arena.reserve(NONFINITE_SIZE * self.n)
            self.cleared = arena.n_bytes - self.any

    def place(self, scratch: int) -> None:
        """Turn the offsets of `reserve` into addresses."""
        if self.has_norm:
            self.sums += scratch
            self.squares += scratch
            self.scales += scratch
        if self.is_checked:
            self.any += scratch
            self.nonfinite += scratch

    def launches(self, device: Device, memory: Any, step: int) -> Iterator[Launch]:
        """Yield the launches that fill `scales` and that stop a step not finite."""
        if self.is_checked:
            yield device.clearing(memory + (self.any - memory.ptr), self.cleared)
        if self.has_norm or self.is_checked:
            for dtype in DTYPES:
                yield from self._reductions(device, dtype)
        if self.has_norm:
            parameter = norm_scales(self.squares, self.scales, self.n, self.arguments)
            yield device.launch_blocks("norm_scales", parameter, 1)
        if self.is_checked:
            parameter = finite_check(
                device.stop.data.ptr,
                self.any,
                self.nonfinite,
                device.fault.address,
                self.n,
                step,
                self.arguments.skips,
            )
            yield device.launch_blocks("finite_check", parameter, 1)

    def _reductions(self, device: Device, dtype: int) -> Iterator[Launch]:
        start, suffix = 0, SUFFIXES[dtype]
        while start >= 0:
            table, start, n, n_blocks = self.plan.fill_norms(
                self.number,
                dtype,
                start,
                self.sums,
                self.squares,
                self.any,
                self.nonfinite,
            )
            if self.has_norm and n:
                if n_blocks:
                    yield device.launch(f"norm_blocks_{suffix}", table, n_blocks, WARPS)
                yield device.launch("norm_squares", table, n, WARPS)
            if self.is_checked and n_blocks:
                yield device.launch(f"nonfinite_{suffix}", table, n_blocks, WARPS)


class Rows:
    """The rows of one table: of row-sparse gradients, or all rows of variables.

    Parameters
    ----------
    plan : Plan
        Knows the variables and their gradients.
    group : Group
        Some of them.
    table : RowsTable
        Some of these.
    """

    def __init__(self, plan: Plan, group: Group, table: RowsTable) -> None:
        self.plan = plan
        self.table = table
        self.is_list = group[2]
        n = self.n = table.n_items if self.is_list else 0
        self.chunks, self.run_chunks = table.chunks
        is_wide = n >= WIDE_FROM or table.n_keys > WIDE_FROM
        self.wide = "_wide" if is_wide else ""
        self.suffix = SUFFIXES[group[3]]
        self.sort = SortPass(n, table.n_keys, is_wide)

    def reserve(self, arena: Arena) -> None:
        """Reserve the sort's lists and counts, and the sums of runs."""
        if self.is_list:
            self.lists = arena.reserve(self.sort.n_bytes)
            self.partial = arena.reserve(self.table.partial)

    def place(self, scratch: int) -> None:
        """Turn the offsets of `reserve` into addresses."""
        if self.is_list:
            self.lists += scratch
            self.partial += scratch

    def keys(self, device: Device, step: int) -> Iterator[Launch]:
        """Complete the table; yield the launch that copies and checks the rows."""
        if not self.is_list:
            self.table.place(self.plan, 0, 0, 0, step)
            self.parameter = self.table.array
            return
        self.table.place(
            self.plan, self.partial, self.lists, device.fault.address, step
        )
        self.parameter = self.table.reading(self.sort.result(self.lists))
        if self.n:
            yield device.launch(f"keys{self.wide}", self.table.array, self.n, THREADS)

    def sorting(self, device: Device) -> Iterator[Launch]:
        """Yield the launches that put listed rows in order."""
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
        """Yield the launches that sum the values of sorted rows and update each row."""
        if not self.n:
            return
        if self.run_chunks:
            name = f"partial{self.wide}_{self.suffix}"
            yield device.launch(name, self.parameter, self.run_chunks, 1)
        name = f"rows{self.wide}_{self.suffix}_{variant}"
        yield device.launch(name, self.parameter, self.chunks, 1)

    def catching_up(self, device: Device, variant: int) -> Iterator[Launch]:
        """Yield the launch that makes up for missed steps."""
        if self.chunks:
            which = f"rows{self.wide}" if self.is_list else "all"
            name = f"catch_up_{which}_{self.suffix}_{variant & ZERO_GRADIENT}"
            yield device.launch(name, self.parameter, self.chunks, 1)

    def counting(self, device: Device, made: int) -> Iterator[Launch]:
        """Yield the launches that count the steps of variables, and of listed rows."""
        if (made or not self.is_list) and self.table.n:
            yield device.launch_blocks("count_steps", self.parameter, 1)
        if self.n:
            name = f"count_rows{self.wide}"
            yield device.launch(name, self.parameter, self.n, THREADS)
