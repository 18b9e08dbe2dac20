"""Save an optimizer to one file and load it again, exactly.

`archive` is the format of the file. Its header contains the class of the optimizer, its
configuration and its state. The name of an array is its kind, then the number of its
variable: ``slot.0.rms``, ``variable.0``. `load` refuses names that it does not know. It
imports no class that a file names: the classes of this package register here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rmsprop_fast import backends, schedules, step_rules
from rmsprop_fast.gpu.scalar import DeviceScalar
from rmsprop_fast.schedules import LearningRateSchedule
from rmsprop_fast.slots import Slots

__all__ = ["load", "register", "save"]

Array = Any  # numpy.ndarray or cupy.ndarray
Optimizer = Any  # its module imports this one
Class = TypeVar("Class", bound=type)

OURS = "rmsprop_fast"

_CLASSES: dict[str, type] = {}

# What the header must have, and of which type.
_FIELDS: Mapping[str, type] = {
    "class": str,
    "module": str,
    "config": dict,
    "callables": dict,
    "state": dict,
}


def register(cls: Class) -> Class:
    """Allow files to name a class of this package; a class decorator."""
    _CLASSES[cls.__name__] = cls
    return cls


# --- Save ----------------------------------------------------------------------------


def save(
    optimizer: Optimizer, path: str | os.PathLike[str], var_list: Any = None
) -> None:
    """Write an optimizer to a file; see `Optimizer.save`."""
    from rmsprop_fast import archive  # its imports cost more than ours

    target = _path(path)
    variables = (
        [] if var_list is None else step_rules.variables("var_list", var_list, Slots())
    )
    with archive.writing(target) as file:
        with optimizer._lock:
            twin = _twin(optimizer)
            state = optimizer._state()
            for name, array in state.pop("arrays").items():
                file.add(name, array)
            for k, var in enumerate(variables):
                file.add(f"variable.{k}", backends.as_numpy(var))
        config, callables = _configuration(twin)
        cls = type(optimizer)
        header = {
            "class": cls.__name__,
            "module": _module(cls, _CLASSES),
            "config": config,
            "callables": callables,
            "state": state,
        }

        def plain(value: Any) -> Any:
            if isinstance(value, np.generic):
                return value.item()
            raise TypeError(
                f"get_config of {cls.__name__} must return what JSON can hold, "
                f"got {value!r}"
            )

        file.finish(header, plain)


def _path(path: Any) -> Path:
    try:
        return Path(os.fsdecode(path))
    except TypeError:
        raise TypeError(
            f"path must be a str or an os.PathLike, got {type(path).__name__}"
        ) from None


def _module(cls: type, known: Mapping[str, type]) -> str:
    """Return a module name that differs for our class and a class of the caller."""
    return OURS if known.get(cls.__name__) is cls else cls.__module__


def _twin(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer with the attributes that this one has now.

    Its `get_config` may be a subclass's own and runs code of the caller. So it is
    called after the lock is released, and sees the configuration of the saved step.
    """
    cls = type(optimizer)
    # A finaliser of the caller's class would end what both have.
    without: Any = type(cls.__name__, (cls,), {"__del__": lambda self: None})
    twin: Any = object.__new__(without)
    for name, value in vars(optimizer).items():
        vars(twin)[name] = dict(value) if type(value) is dict else value
    for name, value in twin._values.items():
        if isinstance(value, DeviceScalar):
            twin._values[name] = float(value)
    return twin


def _configuration(twin: Optimizer) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the config, and a description of each callable that it leaves out."""
    callables, serialized = {}, {}
    for name, value in twin._values.items():
        if isinstance(value, LearningRateSchedule):
            module = _module(type(value), schedules.BUILT_INS)
            try:
                serialized[name] = {**schedules.serialize(value), "module": module}
                continue
            except NotImplementedError:  # a schedule of the caller, without get_config
                pass
        if callable(value):
            named = value if hasattr(value, "__qualname__") else type(value)
            callables[name] = f"{named.__module__}.{named.__qualname__}"
    # get_config calls the callables that it finds: leave none. Zero is in the range of
    # every hyperparameter.
    twin._values.update(dict.fromkeys([*callables, *serialized], 0.0))
    config = twin.get_config()
    config.update({k: v for k, v in serialized.items() if k in config})
    callables = {k: v for k, v in callables.items() if config.pop(k, None) is not None}
    return config, callables


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
        As many arrays as were saved, of the same shapes and dtypes; the saved values
        are copied into them. It is required if the file contains variables. With an
        empty list, only the optimizer is loaded.
    custom_objects : dict, optional
        What a file cannot hold: your own optimizers and schedules by the name of their
        class, callables by the name of the hyperparameter.

    Returns
    -------
    Optimizer
        It continues exactly where the saved optimizer was. It takes the variables of
        the next `build` or `apply_gradients`, by position.

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
    `load` checks the whole file, with its checksums, before it creates the optimizer or
    writes to `var_list`. It unpickles nothing and imports nothing: a file from a
    stranger can be wrong, but it cannot run code.

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
    from rmsprop_fast import archive

    custom, source = dict(custom_objects or {}), _path(path)
    with archive.named(source):
        header, arrays = archive.read(source)
        for field, kind in _FIELDS.items():
            if not isinstance(header.get(field), kind):
                raise ValueError(f"the header has no {field} that is a {kind.__name__}")
        config = _config(header, custom)
    name = header["class"]
    cls: Any = custom.get(name, _CLASSES.get(name))
    known = tuple(_CLASSES.values())
    is_optimizer = isinstance(cls, type) and issubclass(cls, known)
    if not is_optimizer:
        raise TypeError(
            f"custom_objects[{name!r}] must be an Optimizer class, got {cls!r}"
        )
    saved = [arrays.pop(key) for key in list(arrays) if key.startswith("variable.")]
    variables = _matched(saved, var_list)
    # Errors that objects of the caller raise stay as they are.
    with nullcontext() if custom else archive.named(source):
        optimizer: Optimizer = cls.from_config(config, custom)
    with archive.named(source):
        optimizer._restore({**header["state"], "arrays": arrays})
    for var, values in zip(variables, saved, strict=False):
        backends.copy_into(var, values)
    return optimizer


def _config(header: dict[str, Any], custom: dict[str, Any]) -> dict[str, Any]:
    """Return the config with the objects of the caller; refuse if one is missing."""
    needed = {}
    name, module, config = header["class"], header["module"], dict(header["config"])
    if name not in custom and (module != OURS or name not in _CLASSES):
        needed[name] = f"the optimizer is a {module}.{name}"
    rate = config.get("learning_rate")
    if isinstance(rate, dict) and rate.get("module", OURS) != OURS:
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
            f"{', '.join(needed.values())}, which a file cannot hold; give "
            f"custom_objects={{{objects}}}"
        )
    return config


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
