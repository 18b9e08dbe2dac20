from typing import Any

import numpy as np
from typing_extensions import disjoint_base

from rmsprop_fast.cpu._extents import Extents

_Array = np.ndarray[Any, Any]

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
    ) -> None: ...
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
    ) -> int: ...
