"""The file format: named arrays and a header in one file that is checked as it is read.

A file is a ``.npz``, a zip archive that `numpy.load` reads too. It holds one ``.npy``
member for each array, then ``header.json``. The header lists the name, shape, dtype and
CRC-32 of each array, and the comment of the archive is the SHA-256 of the header. So
the reader finds a damaged file, and an array that comes from another file. Equal
contents give equal bytes. Nothing is unpickled, and no ``.npy`` header is parsed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import secrets
import stat
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["Writer", "named", "read", "writing"]

Array = np.ndarray[Any, Any]

FORMAT = "rmsprop_fast"
VERSION = 1
HEADER = "header.json"
MAGIC = b"\x93NUMPY\x01\x00"  # of a .npy file, version 1.0
CHUNK = 2**20  # bytes: a block stays in cache between its checksum and its writing


# --- Write ---------------------------------------------------------------------------


class Writer:
    """Write arrays one by one, then the header."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self._entries: list[dict[str, Any]] = []

    def add(self, name: str, array: Array) -> None:
        """Write an array; its checksum is right even if somebody writes it meanwhile.

        Each block is copied once. The checksum and the file both take that copy.
        """
        shape, dtype = array.shape, array.dtype.str
        info = zipfile.ZipInfo(f"{name}.npy")
        with self._archive.open(info, "w", force_zip64=True) as member:
            described = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, described)
            for block in _blocks(array.reshape(-1)):
                member.write(block.tobytes())
        self._entries.append(
            {"name": name, "shape": list(shape), "dtype": dtype, "crc32": info.CRC}
        )

    def finish(self, header: dict[str, Any], default: Callable[[Any], Any]) -> None:
        """Write the header; `default` is that of `json.dumps`."""
        start = {"format": FORMAT, "format_version": VERSION}
        whole = {**start, **header, "arrays": self._entries}
        text = json.dumps(whole, default=default).encode()
        self._archive.writestr(zipfile.ZipInfo(HEADER), text)
        self._archive.comment = _digest(text)


@contextmanager
def writing(path: Path) -> Iterator[Writer]:
    """Yield a writer; its file takes the place of `path` if the block succeeds."""
    with _replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        try:
            yield Writer(archive)
        except BaseException:
            archive.fp = None  # abandon it: closing would write once more, and can fail
            raise


def _digest(text: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(text).hexdigest().encode()


def _blocks(flat: Array) -> Iterator[Array]:
    """Yield views of a flat array, of at most CHUNK bytes."""
    n = max(CHUNK // flat.itemsize, 1)
    return (flat[start : start + n] for start in range(0, flat.size, n))


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` if the block succeeds.

    The disk has its bytes before `path` names it. At every moment `path` is the old
    file or the whole new one.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target, path)
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):  # the first error counts
            temporary.unlink()
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
        with suppress(PermissionError):  # we may write the folder, but not read it
            folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _mode(target: Path, path: Path) -> int | None:
    """Return the permissions of a file that may be replaced, None if it is new."""
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"path must be a regular file, got {str(path)!r}")  # a device
    os.close(os.open(target, os.O_WRONLY))  # a rename does not ask if we may write it
    return stat.S_IMODE(mode)


# --- Read ----------------------------------------------------------------------------


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Turn every error that a wrong file causes into a ValueError with its name.

    Errors of the system stay as they are: no permission, a broken disk, no memory.
    """
    try:
        yield
    except Exception as error:
        seeks_wrongly = isinstance(error, OSError) and error.errno == errno.EINVAL
        if isinstance(error, (OSError, MemoryError)) and not seeks_wrongly:
            raise
        raise ValueError(f"{str(path)!r} cannot be loaded: {error}") from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the arrays of a file in which everything is right.

    No allocation is larger than the file, except the parsed header: it may need some
    times the size of its text.
    """
    with open(path, "rb") as file:
        if (start := file.read(2)) != b"PK":
            raise ValueError("it is no .npz file" if start else "it is empty")
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile as error:
            raise ValueError(
                f"it is truncated or damaged, the zip archive has no end ({error})"
            ) from error
        with archive:
            members = archive.infolist()
            for info in members:
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{info.filename} is compressed")
            sizes = [max(info.file_size, info.compress_size) for info in members]
            if sum(sizes) > os.fstat(file.fileno()).st_size:
                raise ValueError("its members are larger than the file")
            header = _header(archive)
            entries = header.pop("arrays")
            expected = Counter([HEADER, *(f"{entry['name']}.npy" for entry in entries)])
            found = Counter(archive.namelist())
            if found != expected:
                different = sorted((found - expected) + (expected - found))
                raise ValueError(
                    f"its members are not those that {HEADER} names: "
                    f"{', '.join(different)}"
                )
            return header, {entry["name"]: _array(archive, entry) for entry in entries}


def _header(archive: zipfile.ZipFile) -> dict[str, Any]:
    if HEADER not in archive.namelist():
        raise ValueError(
            f"it is no checkpoint of rmsprop_fast, having no {HEADER} but "
            f"{', '.join(archive.namelist()) or 'nothing'}"
        )
    text = archive.read(HEADER)
    if archive.comment != _digest(text):
        raise ValueError(f"{HEADER} has not the digest at the end of the file")
    header = json.loads(text)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{HEADER} does not say that it is of format {FORMAT}")
    version = header.get("format_version")
    if version != VERSION:
        raise ValueError(
            f"its format version is {version!r}, this rmsprop_fast reads {VERSION}"
        )
    if not isinstance(header.get("arrays"), list):
        raise ValueError(f"{HEADER} has no arrays that is a list")
    return header


def _array(archive: zipfile.ZipFile, entry: dict[str, Any]) -> Array:
    """Return an array, after checking it against its entry in the header."""
    name, text, shape = entry["name"], entry["dtype"], tuple(entry["shape"])
    if not re.fullmatch("[<>|][iuf][1-8]", text):
        raise ValueError(f"array {name} has dtype {text!r}")
    dtype, info = np.dtype(text), archive.getinfo(f"{name}.npy")
    with archive.open(info) as member:
        start = member.read(len(MAGIC) + 2)
        described = member.read(int.from_bytes(start[len(MAGIC) :], "little"))
        # Compared, not parsed: NumPy's parser fails in many ways. It pads with spaces.
        expected = f"{{'descr': {text!r}, 'fortran_order': False, 'shape': {shape}, }}"
        if (
            not start.startswith(MAGIC)
            or described.rstrip() != expected.encode()
            or entry["crc32"] != info.CRC
        ):
            raise ValueError(f"array {name} is not the one that {HEADER} describes")
        if info.file_size != member.tell() + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"array {name} has not the size of its shape {shape}")
        array = np.empty(shape, dtype)
        for block in _blocks(array.reshape(-1)):
            data = member.read(block.nbytes)  # the last one checks the CRC
            block.view(np.uint8).data[:] = data  # as long, or a ValueError
    return array
