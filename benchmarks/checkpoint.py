"""Saving and loading, against the same bytes written and read plainly.

All write to one folder and wait for its disk; all read what the page cache holds. The
folder is the system's for temporary files: TMPDIR chooses another disk.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rmsprop_fast
from benchmarks.harness import OURS, Case, Contestant, Effort, Entry

__all__ = ["cases"]

Arrays = list[np.ndarray[Any, Any]]
Shapes = list[tuple[int, ...]]

# 1000 small variables are mostly headers; a state of 200 MB is mostly bytes.
STATES: dict[str, Shapes] = {
    "1000x64": [(64,)] * 1000,
    "20MB": [(5_000_000,)],
    "200MB": [(50_000_000,)],
}
QUICK = ("1000x64", "20MB")


def cases(effort: Effort) -> Iterator[Case]:
    """Yield saving and loading of small and large states."""
    for name in QUICK if effort.quick else STATES:
        for verb, entries in (("save", savers), ("load", loaders)):
            built = partial(entries, STATES[name])
            yield Case(f"checkpoint/{verb}/{name}", "MB", built)


class Folder:
    """An optimizer with a state, and a folder that lives as long as this does."""

    def __init__(self, shapes: Shapes) -> None:
        self._path = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self._path)
        self.optimizer = rmsprop_fast.RMSprop()
        variables = [np.zeros(shape, np.float32) for shape in shapes]
        self.optimizer.build(variables)
        rng = np.random.default_rng(1)
        for slot in self.optimizer.weights[1:]:
            slot[...] = rng.random(slot.shape, np.float32)
        self.slots = self.optimizer.get_weights()[1:]
        self.optimizer.save(self / "ours.npz")
        self.n_bytes = (self / "ours.npz").stat().st_size

    def __truediv__(self, name: str) -> Path:
        return self._path / name

    def enter(self, step: Callable[[], Any], found: Callable[[], Arrays]) -> Contestant:
        """Return a contestant; `found` gives the slots as its step left them."""

        def check() -> str | None:
            step()
            pairs = zip(found(), self.slots, strict=True)
            return None if all(map(equal, pairs)) else "other values came back"

        return Contestant(step, self.n_bytes / 1e6, self.n_bytes, check)


def equal(pair: Any) -> bool:
    return np.array_equal(*pair)


def synced(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file and wait until the disk has it."""
    with open(path, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def read_npz(path: Path) -> Arrays:
    with np.load(path) as file:
        return [file[name] for name in file.files if name != "header.json"]


def savers(shapes: Shapes) -> Iterator[Entry]:
    """Yield ourselves, the bytes of our file, and what else stores arrays."""
    folder = Folder(shapes)
    data = (folder / "ours.npz").read_bytes()
    path = folder / "saved"

    def plain(file: Any) -> None:
        file.write(data)

    def savez(file: Any) -> None:
        np.savez(file, *folder.slots)

    def pickled(file: Any) -> None:
        pickle.dump(folder.slots, file, protocol=5)

    ways: dict[str, tuple[Callable[[], Any], Callable[[], Arrays]]] = {
        OURS: (partial(folder.optimizer.save, path), partial(read_npz, path)),
        "plain write": (partial(synced, path, plain), partial(read_npz, path)),
        "np.savez": (partial(synced, path, savez), partial(read_npz, path)),
        "pickle": (
            partial(synced, path, pickled),
            lambda: pickle.loads(path.read_bytes()),
        ),
    }
    for name, (step, found) in ways.items():
        yield name, partial(folder.enter, step, found)


def loaders(shapes: Shapes) -> Iterator[Entry]:
    """Yield ourselves, a plain read into memory that is there, and others."""
    folder = Folder(shapes)
    path = folder / "ours.npz"
    memory = bytearray(folder.n_bytes)
    synced(folder / "pickle", lambda file: pickle.dump(folder.slots, file, 5))

    def plain() -> None:
        with open(path, "rb", buffering=0) as file:
            file.readinto(memory)

    def copied() -> Arrays:
        (folder / "copy").write_bytes(memory)
        return read_npz(folder / "copy")

    def unpickled() -> Arrays:
        with open(folder / "pickle", "rb") as file:
            slots: Arrays = pickle.load(file)
        return slots

    yield (
        OURS,
        lambda: folder.enter(
            partial(rmsprop_fast.load, path),
            lambda: rmsprop_fast.load(path).get_weights()[1:],
        ),
    )
    yield "plain read", partial(folder.enter, plain, copied)
    for name, step in (("np.load", partial(read_npz, path)), ("pickle", unpickled)):
        yield name, partial(folder.enter, step, step)
