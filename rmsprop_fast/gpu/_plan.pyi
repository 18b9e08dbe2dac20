from typing import Any

import numpy as np
from typing_extensions import disjoint_base

from rmsprop_fast.cpu._extents import Extents

THREADS: int
DIGITS: int
IDLE_BITS: int
NONFINITE_FOUND: int
FAULT_SIZE: int
NONFINITE_SIZE: int

_Parameter = np.ndarray[Any, Any]
_Group = tuple[int, int, bool, int]

@disjoint_base
class Table:
    array: _Parameter
    def __init__(self, size: int) -> None: ...

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
    host_pairs: list[Any]
    groups: list[_Group]
    dtypes: list[tuple[int, int]]
    def __init__(
        self,
        by_key: dict[Any, int],
        extents: Extents,
        silent: set[frozenset[Any]],
        array_type: type,
    ) -> None: ...
    def bind(
        self,
        index: int,
        var: Any,
        rms: Any,
        momentum: Any,
        mg: Any,
        steps: Any = ...,
        row_steps: Any = ...,
        decays: bool = ...,
    ) -> None: ...
    def collect(
        self, pairs: list[Any], variant: int, overlaps_checked: bool
    ) -> bool: ...
    def collect_gradients(self, grads: list[Any]) -> None: ...
    def collect_idle(
        self, indices: list[int], variant: int, rows: Any = ...
    ) -> None: ...
    def set_scalars(
        self,
        lr: float,
        rho: float,
        momentum: float,
        epsilon: float,
        weight_decay: float,
        factor: float,
        clip: float,
        lr_address: int = ...,
        lr_is_f32: bool = ...,
    ) -> None: ...
    def set_idle_powers(self, rho: float, momentum: float) -> None: ...
    def use(self, stop: int, scales: int = ..., skip: int = ...) -> None: ...
    def count(self, device: int) -> tuple[int, int]: ...
    def fill_dense(self, group: _Group, start: int) -> tuple[_Parameter, int, int]: ...
    def fill_gradients(
        self,
        device: int,
        is_double: int,
        start: int,
        sums: int,
        squares: int,
        is_any: int,
        nonfinite: int,
    ) -> tuple[_Parameter, int, int, int]: ...
    def fill_rows(
        self, group: _Group, start: int
    ) -> tuple[Table, int, int, int, int, int, int]: ...
    def place_rows(
        self, table: Table, partial: int, occurrences: int, fault: int, step: int
    ) -> None: ...
    def read_rows(self, table: Table, occurrences: int) -> _Parameter: ...
    def fill_idle(
        self, group: _Group, start: int, made: int
    ) -> tuple[_Parameter, int, int, int]: ...
    def fill_idle_rows(
        self, table: Table, group: _Group, start: int, occurrences: int, made: int
    ) -> _Parameter: ...
    def fill_take(
        self, outs: list[Any], device: int, is_double: int, start: int
    ) -> tuple[_Parameter, int, int]: ...

class SortPass:
    n: int
    n_passes: int
    n_tiles: int
    @property
    def n_bytes(self) -> int: ...
    def __init__(self, n: int, n_keys: int, is_wide: bool) -> None: ...
    def parameter(self, scratch: int, k: int) -> _Parameter: ...
    def result(self, scratch: int) -> int: ...

def norm_factors(
    squares: int,
    scales: int,
    n: int,
    factor: float,
    norm: float,
    is_global: bool,
) -> _Parameter: ...
def verdict(
    stop: int,
    is_any: int,
    nonfinite: int,
    fault: int,
    n: int,
    step: int,
    skips: bool,
) -> _Parameter: ...
