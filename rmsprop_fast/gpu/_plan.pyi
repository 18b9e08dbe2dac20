from typing import Any

import numpy as np

from rmsprop_fast.cpu._extents import Extents

THREADS: int
DIGITS: int
FAULT_SIZE: int

Parameter = np.ndarray[Any, Any]
Group = tuple[int, int, bool, int]

class Table:
    array: Parameter

class Fault:
    memory: Any
    address: int
    is_found: bool
    def __init__(self, memory: Any, address: int) -> None: ...
    def take(self) -> tuple[int, int, int, int, int]: ...

class Plan:
    host_pairs: list[Any]
    groups: list[Group]
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
        decays: bool = ...,
    ) -> None: ...
    def collect(
        self, pairs: list[Any], variant: int, overlaps_checked: bool
    ) -> bool: ...
    def collect_gradients(self, grads: list[Any]) -> None: ...
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
    def use(self, scales: int, stop: int) -> None: ...
    def count(self, device: int) -> tuple[int, int]: ...
    def fill_dense(self, group: Group, start: int) -> tuple[Parameter, int, int]: ...
    def fill_norms(
        self, device: int, is_double: int, start: int, sums: int, squares: int
    ) -> tuple[Parameter, int, int, int]: ...
    def fill_rows(
        self, group: Group, start: int
    ) -> tuple[Table, int, int, int, int, int, int]: ...
    def place_rows(
        self, table: Table, partial: int, occurrences: int, fault: int, iterations: int
    ) -> None: ...
    def read_rows(self, table: Table, occurrences: int) -> Parameter: ...
    def fill_take(
        self, outs: list[Any], device: int, is_double: int, start: int
    ) -> tuple[Parameter, int, int]: ...

class SortPass:
    n: int
    n_passes: int
    n_tiles: int
    n_bytes: int
    def __init__(self, n: int, n_keys: int, is_wide: bool) -> None: ...
    def parameter(self, scratch: int, k: int) -> Parameter: ...
    def result(self, scratch: int) -> int: ...

def norm_factors(
    squares: int,
    scales: int,
    n: int,
    factor: float,
    norm: float,
    is_global: bool,
) -> Parameter: ...
