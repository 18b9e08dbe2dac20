from typing import Any

import numpy as np
from typing_extensions import disjoint_base

from rmsprop_fast.cpu._step import StepArguments

THREADS: int
DIGITS: int
ZERO_GRADIENT: int
NONFINITE_FOUND: int
FAULT_SIZE: int
NONFINITE_SIZE: int
DTYPES: range

_Parameter = np.ndarray[Any, Any]
_Group = tuple[int, int, bool, int]

@disjoint_base
class Table:
    array: _Parameter
    def __init__(self, size: int) -> None: ...

@disjoint_base
class RowsTable(Table):
    next: int
    n_keys: int
    partial: int
    n: int
    n_items: int
    chunks: tuple[int, int]
    def place(
        self, plan: Plan, partial: int, occurrences: int, fault: int, step: int
    ) -> None: ...
    def reading(self, occurrences: int) -> _Parameter: ...

@disjoint_base
class Fault:
    memory: Any
    address: int
    found: int
    step: int
    row: tuple[int, int, int, int]
    nonfinite: tuple[list[tuple[int, int, int, int]], int]
    skipped: tuple[int, int]
    def __init__(self, memory: Any, address: int) -> None: ...
    def forget(self) -> None: ...

@disjoint_base
class Plan:
    groups: list[_Group]
    has_host: bool
    def __init__(self, records: Any, array_type: type) -> None: ...
    def use_collected(self) -> None: ...
    def use_gradients(self, grads: list[Any]) -> None: ...
    def use_missed_steps(
        self, indices: list[int], variant: int, rows: Any = ...
    ) -> None: ...
    def count(self, device: int) -> tuple[int, int]: ...
    def set_scalars(
        self,
        arguments: StepArguments,
        lr_address: int = ...,
        lr_is_f32: bool = ...,
    ) -> None: ...
    def set_addresses(self, stop: int, scales: int = ..., skip: int = ...) -> None: ...
    def fill(
        self, group: _Group, start: int, outs: list[Any] | None = ...
    ) -> tuple[_Parameter, int, int]: ...
    def fill_norms(
        self,
        device: int,
        dtype: int,
        start: int,
        sums: int,
        squares: int,
        is_any: int,
        nonfinite: int,
    ) -> tuple[_Parameter, int, int, int]: ...
    def fill_rows(self, group: _Group, start: int, made: int) -> RowsTable: ...

class SortPass:
    n: int
    n_passes: int
    n_tiles: int
    @property
    def n_bytes(self) -> int: ...
    def __init__(self, n: int, n_keys: int, is_wide: bool) -> None: ...
    def parameter(self, scratch: int, k: int) -> _Parameter: ...
    def result(self, scratch: int) -> int: ...

def norm_scales(
    squares: int, scales: int, n: int, arguments: StepArguments
) -> _Parameter: ...
def finite_check(
    stop: int,
    is_any: int,
    nonfinite: int,
    fault: int,
    n: int,
    step: int,
    skips: bool,
) -> _Parameter: ...
