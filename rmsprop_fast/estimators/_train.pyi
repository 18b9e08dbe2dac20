from typing import Any

import numpy as np
from typing_extensions import disjoint_base

from rmsprop_fast.estimators.table import Table

_Array = np.ndarray[Any, Any]

LOSSES: dict[str, int]

def set_serial_below(work: int) -> int: ...
def use(isa: str) -> None: ...

@disjoint_base
class Samples:
    n: int
    dtype: np.dtype[Any]
    def __init__(self, x: Any) -> None: ...

@disjoint_base
class Trainer:
    def __init__(
        self,
        table: Table,
        *,
        loss: int,
        fit_intercept: bool,
        rho: float,
        momentum: float,
        epsilon: float,
        l1: float,
        l2: float,
        l2_factors: float,
        delta: float,
        average_after: int | None,
        num_threads: int,
    ) -> None: ...
    def epoch(
        self,
        x: Samples,
        y: _Array,
        weight: _Array,
        order: _Array,
        batch_size: int,
        learning_rates: _Array,
    ) -> float: ...
    def predict(self, x: Samples, order: _Array, batch_size: int) -> _Array: ...
    def settle(self) -> None: ...
    def result(self) -> _Array: ...
