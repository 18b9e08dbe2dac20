from typing import Any

import numpy as np

from rmsprop_fast.estimators.table import Table

Array = np.ndarray[Any, Any]

LOSSES: dict[str, int]

def set_serial_below(work: int) -> int: ...

class Samples:
    n: int
    dtype: np.dtype[Any]
    def __init__(self, x: Any) -> None: ...

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
        y: Array,
        weight: Array,
        order: Array,
        batch_size: int,
        learning_rates: Array,
    ) -> float: ...
    def predict(self, x: Samples, order: Array, batch_size: int) -> Array: ...
    def settle(self) -> None: ...
    def result(self, out: Array | None = ...) -> Array: ...
