"""The tests' own tool: each line is interrupted, and a lock is given back."""

from __future__ import annotations

import threading
from functools import partial

from faults import Interrupt, interrupted_at, lines_of, once_each

lock = threading.Lock()


def work(seen: list[str]) -> None:
    seen.append("a")
    with lock:
        seen.append("b")
    for _ in range(2):
        seen.append("c")


def test_each_line_is_interrupted_before_it_runs() -> None:
    lines = lines_of(partial(work, []), [__file__])
    # a, with, b, for, c, for, c, for; leaving the `with` is no line.
    assert len(lines) == 8
    assert len(once_each(lines)) == 7  # the third `for` is neither first nor last
    reached = []
    for k in range(len(lines)):
        seen: list[str] = []
        with interrupted_at(k, [__file__]) as fault:
            work(seen)
        assert fault.place == lines[k]
        assert isinstance(fault.error, Interrupt)
        assert not lock.locked()
        reached.append("".join(seen))
    assert reached == ["", "a", "a", "ab", "ab", "abc", "abc", "abcc"]
    with interrupted_at(len(lines), [__file__]) as fault:
        work([])
    assert not fault.happened
