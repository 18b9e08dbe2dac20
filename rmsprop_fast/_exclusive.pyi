from types import TracebackType
from typing import Self

from typing_extensions import disjoint_base

@disjoint_base
class Exclusive:
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
