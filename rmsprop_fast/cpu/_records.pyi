from typing import Final

from typing_extensions import disjoint_base

FLAGS: Final[dict[str, int]]
SLOTS: Final[dict[str, int]]

@disjoint_base
class Buffer: ...

@disjoint_base
class Entries: ...

@disjoint_base
class Records:
    counts_rows: bool
