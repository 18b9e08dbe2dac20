import enum
from collections.abc import Callable

__all__ = ["Status", "address", "api_version", "check", "function", "signature"]

api_version: int

class Status(enum.IntEnum):
    DONE = 0
    BAD_SIZE = 1
    BAD_POINTER = 2
    BAD_OVERLAP = 3
    BAD_SCALAR = 4
    BAD_THREADS = 5
    BAD_ROW = 6
    NO_MEMORY = 7

def address(name: str) -> int: ...
def check(status: int) -> None: ...
def function(name: str) -> Callable[..., int]: ...
def signature(name: str) -> str: ...
