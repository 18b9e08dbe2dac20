from typing import Any

import numpy as np

from rmsprop_fast.cpu._extents import Extents

Array = np.ndarray[Any, Any]

def set_serial_below(work: int) -> int: ...
def clipped(
    grads: list[Array],
    clipvalue: float = ...,
    clipnorm: float = ...,
    global_clipnorm: float = ...,
    grad_factor: float = ...,
    num_threads: int | None = ...,
) -> list[Array]: ...

class Step:
    team: int
    def __init__(
        self,
        by_key: dict[Any, int],
        extents: Extents,
        iterations: Array,
        silent: set[frozenset[Any]],
    ) -> None: ...
    def bind(
        self,
        index: int,
        var: Array,
        rms: Array | None,
        momentum: Array | None,
        mg: Array | None,
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
    ) -> int: ...
