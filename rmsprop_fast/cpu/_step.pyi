from typing import Any

import numpy as np
from typing_extensions import disjoint_base

from rmsprop_fast.cpu._extents import Extents

_Array = np.ndarray[Any, Any]

REFUSED: int
NOT_FINITE: int

def set_serial_below(work: int) -> int: ...
def clipped(
    grads: list[_Array],
    clipvalue: float = ...,
    clipnorm: float = ...,
    global_clipnorm: float = ...,
    grad_factor: float = ...,
    num_threads: int | None = ...,
) -> list[_Array]: ...

@disjoint_base
class Step:
    team: int
    def __init__(
        self,
        by_key: dict[Any, int],
        extents: Extents,
        iterations: _Array,
        silent: set[frozenset[Any]],
    ) -> None: ...
    def bind(
        self,
        index: int,
        var: _Array,
        rms: _Array | None,
        momentum: _Array | None,
        mg: _Array | None,
        steps: _Array | None = ...,
        row_steps: _Array | None = ...,
        decays: bool = ...,
    ) -> None: ...
    def hold_place(self, index: int) -> None: ...
    def update(
        self,
        pairs: list[Any],
        variant: int,
        lr: float,
        rho: float,
        momentum: float,
        epsilon: float,
        clipvalue: float = ...,
        clipnorm: float = ...,
        global_clipnorm: float = ...,
        grad_factor: float = ...,
        num_threads: int | None = ...,
        overlaps_checked: bool = ...,
        weight_decay: float = ...,
        check_finite: bool | str = ...,
    ) -> int: ...
    def catch_up(
        self,
        indices: list[int],
        rows: _Array | None,
        variant: int,
        rho: float,
        momentum: float,
        num_threads: int | None = ...,
    ) -> bool: ...
