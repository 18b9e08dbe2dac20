"""Save an optimizer to one file and load it again, exactly.

A checkpoint is a ``.npz`` file, a zip archive that `numpy.load` reads too. It holds one
``.npy`` member for each array, then ``header.json``, and is the same bytes whenever the
optimizer is the same. The header has the format's version, the optimizer's class and
configuration, its state, and name, shape, dtype and CRC-32 of each array; the archive's
comment is the header's SHA-256. So a damaged file is found before anything is made of
it, and an array from another file is too. Nothing is ever unpickled, and no class is
imported because a file names it.

Arrays are named by what they are, then the number of their variable: ``slot.0.rms``,
``variable.0``. A reader refuses what it does not know.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rmsprop_fast import schedules, step_rules
from rmsprop_fast.optimizer import Optimizer
from rmsprop_fast.rmsprop import RMSprop
from rmsprop_fast.schedules import LearningRateSchedule
from rmsprop_fast.slots import Slots

__all__ = ["load", "save"]

Array = np.ndarray[Any, Any]

FORMAT = "rmsprop_fast"
VERSION = 1
HEADER = "header.json"
CHUNK = 2**20  # bytes: in cache between their checksum and their copy

_CLASSES: Mapping[str, type[Optimizer]] = {"RMSprop": RMSprop}

# What the header must have, and of which type.
_FIELDS: Mapping[str, type] = {
    "class": str,
    "module": str,
    "config": dict,
    "callables": dict,
    "state": dict,
    "arrays": list,
}


# --- Save ----------------------------------------------------------------------------


def save(
    optimizer: Optimizer, path: str | os.PathLike[str], var_list: Any = None
) -> None:
    """Write an optimizer to a file; see `Optimizer.save`."""
    target = _path(path)
    variables = (
        [] if var_list is None else step_rules.variables("var_list", var_list, Slots())
    )
    config, callables = _configuration(optimizer)
    header = {
        "format": FORMAT,
        "format_version": VERSION,
        "class": type(optimizer).__name__,
        "module": _module(type(optimizer), _CLASSES),
        "config": config,
        "callables": callables,
    }
    with optimizer._lock:
        state = optimizer._state()
        arrays = state.pop("arrays")
        arrays.update({f"variable.{k}": var for k, var in enumerate(variables)})
        with _replacing(target) as file:
            _write(file, {**header, "state": state}, arrays)


def _path(path: Any) -> Path:
    try:
        return Path(os.fsdecode(path))
    except TypeError:
        raise TypeError(
            f"path must be a str or an os.PathLike, got {type(path).__name__}"
        ) from None


def _module(cls: type, known: Mapping[str, type]) -> str:
    """Return what tells a class of the caller's from ours of that name."""
    return FORMAT if known.get(cls.__name__) is cls else cls.__module__


def _configuration(optimizer: Optimizer) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the optimizer's config, and what the callables are that it leaves out."""
    callables, serialized = {}, {}
    for name, value in optimizer._hyper.items():
        if isinstance(value, LearningRateSchedule):
            module = _module(type(value), schedules.BUILT_INS)
            try:
                serialized[name] = {**schedules.serialize(value), "module": module}
                continue
            except NotImplementedError:  # one of the caller's, without get_config
                pass
        if callable(value):
            callables[name] = _description(value)
    # get_config may be a subclass's own, and calls what it finds: ask one that has
    # nothing to call. Zero is in the range of every hyperparameter.
    stand_in = object.__new__(type(optimizer))
    vars(stand_in).update(vars(optimizer))
    stand_in._hyper = {
        **optimizer._hyper,
        **dict.fromkeys([*callables, *serialized], 0.0),
    }
    config = stand_in.get_config()
    config.update({k: v for k, v in serialized.items() if k in config})
    callables = {k: v for k, v in callables.items() if config.pop(k, None) is not None}
    return config, callables


def _description(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _write(file: BinaryIO, header: dict[str, Any], arrays: dict[str, Array]) -> None:
    described = []
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            array = np.ascontiguousarray(array).reshape(array.shape)
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member, np.lib.format.header_data_from_array_1_0(array)
                )
                for chunk in _chunks(array):
                    member.write(chunk)
            described.append(
                {
                    "name": name,
                    "shape": list(array.shape),
                    "dtype": array.dtype.str,
                    "crc32": entry.CRC,
                }
            )
        text = _json({**header, "arrays": described})
        archive.writestr(zipfile.ZipInfo(HEADER), text)
        archive.comment = _digest(text)


def _json(header: dict[str, Any]) -> bytes:
    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(
            f"get_config of {header['class']} must return what JSON can hold, "
            f"got {value!r}"
        )

    return json.dumps(header, default=plain).encode()


def _digest(text: bytes) -> bytes:
    return b"sha256:" + hashlib.sha256(text).hexdigest().encode()


def _chunks(array: Array) -> Iterator[memoryview]:
    """Yield the bytes of a C-contiguous array."""
    whole = array.reshape(-1).view(np.uint8).data
    for start in range(0, len(whole), CHUNK):
        yield whole[start : start + CHUNK]


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` if the block succeeds.

    Its bytes are on the disk before its name is: at any moment the name stands for the
    old file or for the whole new one.
    """
    target = Path(os.path.realpath(path))
    mode = _mode(target, path)
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.tmp")
    file = open(temporary, "xb")  # noqa: SIM115, not ours to delete if this fails
    try:
        with file:
            if mode is not None:
                os.chmod(temporary, mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if hasattr(os, "O_DIRECTORY"):  # Windows opens no folder
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
    os.close(os.open(target, os.O_WRONLY))  # a rename asks not whether we may write
    return stat.S_IMODE(mode)


# --- Load ----------------------------------------------------------------------------


def load(
    path: str | os.PathLike[str],
    var_list: Any = None,
    *,
    custom_objects: Mapping[str, Any] | None = None,
) -> Optimizer:
    """Return an optimizer from a file that `Optimizer.save` wrote.

    Parameters
    ----------
    path : str or os.PathLike
        The file.
    var_list : list of ndarray, optional
        As many arrays as were saved, of the same shapes and dtypes; their saved values
        are copied in. It is needed if the file holds variables; an empty list leaves
        them in the file.
    custom_objects : dict, optional
        What a file cannot hold: optimizers and schedules of the caller's by the name of
        their class, callables by the name of the hyperparameter.

    Returns
    -------
    Optimizer
        It goes on exactly where the saved one was. It binds by position to the
        variables of the next `build` or `apply_gradients`.

    Raises
    ------
    ValueError
        The file is truncated, damaged, of another kind or of a newer format; it needs
        custom objects that are not given; `var_list` does not match.
    TypeError
        `path` is no path; an argument is of the wrong kind.
    OSError
        The file cannot be read.

    Notes
    -----
    Everything is checked, checksums too, before anything is made or `var_list` is
    written. Nothing is unpickled and nothing is imported: a file from a stranger can be
    wrong, but it cannot run code.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import rmsprop_fast
    >>> w, opt = np.ones(3), rmsprop_fast.RMSprop(momentum=0.9)
    >>> opt.apply_gradients([(np.ones(3), w)])
    1
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "state.npz")
    >>> opt.save(path, [w])
    >>> again = np.zeros(3)
    >>> twin = rmsprop_fast.load(path, [again])
    >>> bool((again == w).all()), twin.iterations
    (True, 1)
    >>> folder.cleanup()
    """
    custom = dict(custom_objects or {})
    with _named(_path(path)):
        header, arrays = _read(_path(path))
    cls, config = _with_custom_objects(_path(path), header, custom)
    saved = [arrays.pop(name) for name in list(arrays) if name.startswith("variable.")]
    variables = _matched(saved, var_list)
    optimizer = cls.from_config(config, custom)
    with _named(_path(path)):
        optimizer._restore({**header["state"], "arrays": arrays})
    for var, values in zip(variables, saved, strict=False):
        var[...] = values
    return optimizer


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever a wrong file brings about into a ValueError with its name.

    The list is what zipfile and NumPy raise, found by flipping every bit of a file.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EINVAL:  # an offset that no file has
            raise
        raise ValueError(f"{str(path)!r} cannot be loaded: {error}") from error
    except (
        *(zipfile.BadZipFile, struct.error, EOFError, RuntimeError, ArithmeticError),
        *(ValueError, TypeError, LookupError, AttributeError),
    ) as error:
        raise ValueError(f"{str(path)!r} cannot be loaded: {error}") from error


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the header and the arrays of a file in which everything is right."""
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
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"{info.filename} is compressed")
            header = _header(archive)
            _check_members(archive, header["arrays"])
            return header, {
                entry["name"]: _array(archive, entry) for entry in header["arrays"]
            }


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
    for name, kind in _FIELDS.items():
        if not isinstance(header.get(name), kind):
            raise ValueError(f"{HEADER} has no {name} that is a {kind.__name__}")
    return header


def _check_members(archive: zipfile.ZipFile, entries: Sequence[dict[str, Any]]) -> None:
    expected = Counter([HEADER, *(f"{entry['name']}.npy" for entry in entries)])
    found = Counter(archive.namelist())
    if found != expected:
        different = sorted((found - expected) + (expected - found))
        raise ValueError(
            f"its members are not those that {HEADER} names: {', '.join(different)}"
        )


def _array(archive: zipfile.ZipFile, entry: dict[str, Any]) -> Array:
    """Return an array that is what the header says of it."""
    name = entry["name"]
    info = archive.getinfo(f"{name}.npy")
    if entry["crc32"] != info.CRC:
        raise ValueError(f"array {name} is not the one that {HEADER} describes")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version != (1, 0):
            raise ValueError(f"array {name} is of .npy version {version}")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(member)
        described = [list(shape), dtype.str, is_fortran]
        if described != [entry["shape"], entry["dtype"], False]:
            raise ValueError(f"array {name} is not the one that {HEADER} describes")
        if dtype.kind not in "iuf":
            raise ValueError(f"array {name} has dtype {dtype}")
        n_bytes = math.prod(shape) * dtype.itemsize
        if info.file_size != member.tell() + n_bytes:
            raise ValueError(f"array {name} has not the size of its shape {shape}")
        array = np.empty(shape, dtype)
        for chunk in _chunks(array):
            chunk[:] = member.read(len(chunk))  # the last one checks the CRC
    return array


def _with_custom_objects(
    path: Path, header: dict[str, Any], custom: dict[str, Any]
) -> tuple[type[Optimizer], dict[str, Any]]:
    """Return the class and its config; what the file cannot hold must be given."""
    needed = {}
    name, module, config = header["class"], header["module"], dict(header["config"])
    cls = custom.get(name, _CLASSES.get(name) if module == FORMAT else None)
    if cls is None:
        needed[name] = f"the optimizer is a {module}.{name}"
    rate = config.get("learning_rate")
    if isinstance(rate, dict) and rate.get("module", FORMAT) != FORMAT:
        kind = rate["class_name"]
        if kind not in custom:
            needed[kind] = f"learning_rate is a {rate['module']}.{kind}"
    for hyper, description in header["callables"].items():
        if hyper in custom:
            config[hyper] = custom[hyper]
        else:
            needed[hyper] = f"{hyper} is {description}"
    if needed:
        objects = ", ".join(f"{name!r}: ..." for name in needed)
        raise ValueError(
            f"{str(path)!r} cannot be loaded: {', '.join(needed.values())}, which a "
            f"file cannot hold; give custom_objects={{{objects}}}"
        )
    if not (isinstance(cls, type) and issubclass(cls, Optimizer)):
        raise TypeError(
            f"custom_objects[{name!r}] must be an Optimizer class, got {cls!r}"
        )
    return cls, config


def _matched(saved: Sequence[Array], var_list: Any) -> list[Array]:
    """Return the variables to copy into."""
    if var_list is None:
        if saved:
            raise ValueError(
                f"var_list must be the {len(saved)} variables to copy the saved ones "
                "into, or an empty list to leave them, got None"
            )
        return []
    if isinstance(var_list, (list, tuple)) and not var_list:
        return []
    variables = step_rules.variables("var_list", var_list, Slots())
    found = [(var.shape, var.dtype.name) for var in variables]
    expected = [(array.shape, array.dtype.name) for array in saved]
    if found != expected:
        raise ValueError(
            f"var_list must have the shapes and dtypes saved, {expected}, got {found}"
        )
    return variables
