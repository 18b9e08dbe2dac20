from typing import Any

import numpy as np
from typing_extensions import disjoint_base

from rmsprop_fast.cpu._records import Records
from rmsprop_fast.slots import Slots

_Array = np.ndarray[Any, Any]

REFUSED: int
NOT_FINITE: int

def set_serial_below(work: int) -> int: ...
def clipped(grads: list[_Array], arguments: StepArguments) -> list[_Array]: ...
def assign(pairs: list[tuple[_Array, _Array]]) -> None: ...

@disjoint_base
class StepArguments:
    variant: int
    learning_rate: float
    rho: float
    momentum: float
    epsilon: float
    weight_decay: float
    clipvalue: float
    clipnorm: float
    global_clipnorm: float
    factor: float
    check_finite: bool
    skips: bool
    num_threads: int | None
    rate: Any
    overlaps_checked: bool
    def __init__(
        self,
        variant: int,
        rho: float = ...,
        momentum: float = ...,
        epsilon: float = ...,
        *,
        clipvalue: float | None = ...,
        clipnorm: float | None = ...,
        global_clipnorm: float | None = ...,
        weight_decay: float = ...,
        check_finite: bool | str = ...,
        num_threads: int | None = ...,
    ) -> None: ...
    def set_learning_rate(self, rate: Any, decay: float) -> None: ...
    def begin(self, iterations: _Array, factor: float) -> None: ...

@disjoint_base
class Step:
    records: Records
    devices: Any
    team: int
    def follow(self, slots: Slots) -> None: ...
    def update(
        self, slots: Slots, pairs: list[Any], arguments: StepArguments
    ) -> int: ...
    def update_host(self, slots: Slots, arguments: StepArguments) -> int: ...
    def catch_up(
        self,
        slots: Slots,
        indices: list[int],
        rows: _Array | None,
        arguments: StepArguments,
    ) -> bool: ...
