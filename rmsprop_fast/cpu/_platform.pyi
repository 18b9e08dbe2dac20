from typing import Final

ISAS: Final[dict[str, bool]]
OPENMP: Final[int]
COMPILER: Final[str]

def max_threads() -> int: ...
def end_threads() -> bool: ...
