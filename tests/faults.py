"""Interrupt a call at each of its lines, and let each of its allocations fail.

::

    lines = lines_of(lambda: make().step(), [rmsprop_fast])
    for k in once_each(lines):
        opt = make()
        with interrupted_at(k, [rmsprop_fast]):
            opt.step()
        opt.step()  # must do what it does without the interrupt

Lines are those of Python code in the given files or folders; compiled code has none.
A failing allocation can end the process: run `failing_allocation` in a subprocess.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from opcode import opmap
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

Place = tuple[str, int]


class Interrupt(KeyboardInterrupt):
    """What is raised: nobody presses Ctrl-C in the middle of a test."""


@dataclass
class Fault:
    """What an `interrupted_at` or a `failing_allocation` did."""

    place: Place | None = None  # file and line, if a line was interrupted
    error: BaseException | None = None  # what left the block, None if nothing did

    @property
    def happened(self) -> bool:
        return self.error is not None


def lines_of(
    call: Callable[[], object], files: Iterable[str | Path | ModuleType]
) -> list[Place]:
    """Return the lines that `call` executes, in order and with repetitions."""
    places: list[Place] = []
    with _tracing(files, places.append):
        call()
    return places


def once_each(places: Sequence[Place]) -> list[int]:
    """Return the first and the last position of each line in `places`."""
    first = {place: k for k, place in reversed([*enumerate(places)])}
    last = {place: k for k, place in enumerate(places)}
    return sorted({*first.values(), *last.values()})


@contextmanager
def interrupted_at(k: int, files: Iterable[str | Path | ModuleType]) -> Iterator[Fault]:
    """Raise `Interrupt` before the k-th line that the block executes; end the block.

    Other exceptions leave the block as they are. When the block ends before its k-th
    line, or swallows the interrupt, `Fault.happened` is False.
    """
    fault = Fault()
    n = 0

    def count(place: Place) -> None:
        nonlocal n
        n += 1
        if n == k + 1:
            fault.place = place
            raise Interrupt(f"before {place[0]}:{place[1]}")

    try:
        with _tracing(files, count):
            yield fault
    except Interrupt as error:
        fault.error = error.with_traceback(None)


@contextmanager
def failing_allocation(k: int) -> Iterator[Fault]:
    """Let CPython's k-th allocation in the block fail, counted from 0; end the block.

    Memory that NumPy or C code takes from malloc is not counted. Needs `_testcapi`.
    """
    import _testcapi

    fault = Fault()
    _testcapi.set_nomemory(k, k + 1)
    try:
        yield fault
    except MemoryError as error:
        _testcapi.remove_mem_hooks()
        fault.error = error.with_traceback(None)
    finally:
        _testcapi.remove_mem_hooks()


@contextmanager
def _tracing(
    files: Iterable[str | Path | ModuleType], see: Callable[[Place], None]
) -> Iterator[None]:
    """Call `see` before each line of `files`; what it raises, the line raises."""
    roots = [_root(file) for file in files]
    known: dict[str, bool] = {}

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if name not in known:
            path = Path(name).resolve()
            known[name] = any(root in (path, *path.parents) for root in roots)
        return trace_lines if known[name] else None

    def trace_lines(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and not _leaves_a_with(frame.f_code, frame.f_lasti):
            see((Path(frame.f_code.co_filename).name, frame.f_lineno))
        return trace_lines

    before = sys.gettrace()  # coverage's, perhaps
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def _root(file: str | Path | ModuleType) -> Path:
    if isinstance(file, ModuleType):
        assert file.__file__ is not None
        path = Path(file.__file__)
        file = path.parent if path.name == "__init__.py" else path
    return Path(file).resolve()


def _leaves_a_with(code: CodeType, at: int) -> bool:
    """Return whether a `with` block ends here: CPython checks for no signal there.

    An exception raised here would skip `__exit__`, which Ctrl-C cannot do. The compiler
    calls `__exit__(None, None, None)`: three loads of None in a row.
    """
    if None not in code.co_consts:
        return False
    word = code.co_code[at : at + 6]
    return (
        len(word) == 6
        and word[0:2] == word[2:4] == word[4:6]
        and word[0] == opmap["LOAD_CONST"]
        and code.co_consts[word[1]] is None
    )
