"""Every rule about what callers pass, and the text of every error.

Nothing here writes to an array or computes an update: a function returns the checked
value, or raises with the argument, the rule and what came. The compiled step tests the
same rules with macros; it calls `step` when one is broken, or a variable is new.
"""

from __future__ import annotations

import math
import numbers
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rmsprop_fast import backends

if TYPE_CHECKING:
    from rmsprop_fast.slots import Slots

__all__ = [
    "at_least_zero",
    "finite",
    "fraction",
    "number",
    "positive",
    "slices",
    "step",
    "variables",
    "weights",
]

Array = np.ndarray[Any, Any]

MAX_ITERATIONS = 2**63 - 1
MAX_THREADS = 1024  # OpenMP ends the process when it cannot start a thread

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


# --- Scalars -------------------------------------------------------------------------


def number(name: str, value: Any) -> float:
    """Return `value` as a float; refuse what is not a real number."""
    if type(value) is float:
        return value
    if not isinstance(value, numbers.Real) or value is True or value is False:
        raise TypeError(f"{name} must be a real number, got {value!r}")
    try:
        return float(value)
    except OverflowError:  # an int beyond the largest float
        raise ValueError(f"{name} must be finite, got {value!r}") from None


def finite(name: str, value: Any) -> float:
    """Return a finite float."""
    result = number(name, value)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return result


def at_least_zero(name: str, value: Any) -> float:
    """Return a finite float >= 0."""
    result = number(name, value)
    if not 0.0 <= result < math.inf:
        raise ValueError(f"{name} must be finite and >= 0, got {value!r}")
    return result


def positive(name: str, value: Any) -> float:
    """Return a finite float > 0."""
    result = number(name, value)
    if not 0.0 < result < math.inf:
        raise ValueError(f"{name} must be finite and > 0, got {value!r}")
    return result


def fraction(name: str, value: Any) -> float:
    """Return a float in [0, 1]."""
    result = number(name, value)
    if not 0.0 <= result <= 1.0:
        raise ValueError(f"{name} must be in [0, 1], got {value!r}")
    return result


def integer(name: str, value: Any, least: int, most: int = sys.maxsize) -> int:
    """Return an int in [`least`, `most`]."""
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if result < least:
        raise ValueError(f"{name} must be >= {least}, got {value!r}")
    if result > most:
        raise ValueError(f"{name} must be <= {most}, got {value!r}")
    return result


def no_schedule(name: str, value: Any) -> NoReturn:
    """Raise for a schedule where only the learning rate may have one."""
    raise TypeError(
        f"{name} must be a real number or a callable without arguments, got {value!r}"
    )


def flag(name: str, value: Any) -> bool:
    """Return a bool."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be a bool, got {value!r}")


def text(name: str, value: Any) -> str:
    """Return a str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    return value


def finiteness(name: str, value: Any) -> bool | str:
    """Return what `check_finite` may be."""
    if isinstance(value, str) and value == "skip":
        return value
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"{name} must be a bool or 'skip', got {value!r}")


def no_callable_with_catch_up(name: str, value: Any) -> None:
    """Refuse a callable where missed steps are made up for with one number."""
    if callable(value):
        raise ValueError(f"{name} must be a number with catch_up=True, got {value!r}")


def no_weight_decay_with_catch_up(value: Any) -> None:
    """Refuse weight decay where missed steps are made up for."""
    if value:
        raise ValueError(
            f"weight_decay must be None or 0 with catch_up=True, got {value!r}"
        )


def left_at_default(name: str, value: Any) -> None:
    """Refuse an argument of Keras's that has no meaning for arrays."""
    if value is not None:
        raise ValueError(f"{name} must be None: arrays know no {name}, got {value!r}")


def known_keywords(given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a keyword that is not among `known`."""
    known = list(known)
    for name in given:
        if name not in known:
            raise TypeError(
                f"Unexpected keyword argument passed to optimizer: {name}; "
                f"known are {', '.join(known)}"
            )


def one_norm(clipnorm: float | None, global_clipnorm: float | None) -> None:
    """Refuse both norms at once."""
    if clipnorm is not None and global_clipnorm is not None:
        raise ValueError(
            "global_clipnorm must be None when clipnorm is given, "
            f"got clipnorm={clipnorm!r} and global_clipnorm={global_clipnorm!r}"
        )


def shape(name: str, value: Any) -> tuple[int, ...] | None:
    """Return a shape as a tuple of ints; None stays None."""
    if value is None:
        return None
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TypeError(f"{name} must be a sequence of integers, got {value!r}")
    return tuple(integer(f"{name}[{axis}]", n, 0) for axis, n in enumerate(value))


def slot_dtype(name: str, value: Any) -> np.dtype[Any]:
    """Return float32 or float64 as a dtype."""
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError:
        raise TypeError(f"{name} must be float32 or float64, got {value!r}") from None
    if dtype not in DTYPES:
        raise TypeError(f"{name} must be float32 or float64, got {value!r}")
    return dtype


# --- Arrays --------------------------------------------------------------------------


def _is_real(array: Array) -> bool:
    return array.dtype in DTYPES and array.dtype.isnative


def _real_array(where: str, name: str, value: Any) -> Array:
    if not backends.is_array(value):
        raise TypeError(
            f"{where}{name} must be a numpy.ndarray, got {type(value).__name__}"
        )
    if not _is_real(value):
        raise TypeError(
            f"{where}{name} must have dtype float32 or float64 in native byte order, "
            f"got {value.dtype.str!r}"
        )
    _contiguous_on_device(where, name, value)
    return value  # type: ignore[no-any-return]


def _contiguous_on_device(where: str, name: str, array: Any) -> None:
    """Refuse a device array whose elements do not follow each other."""
    if backends.is_on_device(array) and not backends.is_contiguous(array):
        raise ValueError(
            f"{where}{name} must be C-contiguous on a device, got shape {array.shape} "
            f"with strides {array.strides}"
        )


def _same_place(where: str, name: str, array: Any, other_name: str, other: Any) -> None:
    """Refuse arrays of which one is elsewhere."""
    place, wanted = backends.place_of(array), backends.place_of(other)
    if place != wanted:
        raise TypeError(
            f"{where}{name} must be where {other_name} is, on {wanted}, got an array "
            f"on {place}"
        )


def _overlaps_itself(array: Array) -> bool:
    """Whether two elements share a byte. Exact."""
    axes = sorted(
        (abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1
    )
    reach = array.itemsize
    for stride, n in axes:
        if stride < reach:
            break
        reach += (n - 1) * stride
    else:
        return False  # every axis steps over all that the inner ones reach
    if array.size == 0:
        return False
    offsets = np.zeros(1, np.int64)
    for stride, n in axes:
        offsets = (offsets[:, None] + stride * np.arange(n)).ravel()
    offsets.sort()
    return bool((np.diff(offsets) < array.itemsize).any())


def variable(where: str, var: Any) -> Array:
    """Return an array that can be updated in place; the rules that need no other."""
    _real_array(where, "var", var)
    if backends.is_on_device(var):
        return var  # type: ignore[no-any-return]  # contiguous, and never read-only
    if not var.flags.writeable:
        raise ValueError(f"{where}var must be writable, got a read-only array")
    if _overlaps_itself(var):
        raise ValueError(
            f"{where}var must not overlap itself, got shape {var.shape} with strides "
            f"{var.strides}"
        )
    return var  # type: ignore[no-any-return]


def _is_same_array(var: Array, other: Array) -> bool:
    """Whether two arrays of one address are the same; axes of length 1 step nowhere."""
    return (
        var.shape == other.shape
        and var.dtype == other.dtype
        and all(
            s == t or n == 1
            for s, t, n in zip(var.strides, other.strides, var.shape, strict=True)
        )
    )


def same_array(where: str, var: Array, bound: Array) -> None:
    """Refuse the memory of a variable in another shape."""
    if not _is_same_array(var, bound):
        raise ValueError(
            f"{where}var must keep the shape, strides and dtype it was bound with, "
            f"{bound.shape}, {bound.strides} and {bound.dtype}, got {var.shape}, "
            f"{var.strides} and {var.dtype}"
        )


class _Memory:
    """The arrays of an optimizer and of this call, to find overlaps among them."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._new: list[tuple[str, Array, tuple[int, int]]] = []

    def add(self, label: str, var: Array) -> None:
        self._new.append((label, var, backends.bounds(var)))

    def refuse(self, where: str, name: str, array: Array) -> None:
        """Raise when `array` shares memory with any other; bounds first, then exact."""
        low, high = backends.bounds(array)
        others = self._new
        if self._slots.extents.may_touch(low, high):
            bound = [
                (*each, backends.bounds(each[1])) for each in self._slots.labelled()
            ]
            others = others + bound
        for label, other, (other_low, other_high) in others:
            if (
                low < other_high
                and other_low < high
                and backends.shares_memory(array, other)
            ):
                raise ValueError(
                    f"{where}{name} must not overlap a variable or a slot, "
                    f"got memory of {label}"
                )


def variables(where: str, var_list: Any, slots: Slots) -> list[Array]:
    """Return the variables of a list, each once; refuse what cannot be bound."""
    if backends.is_array(var_list) or not isinstance(var_list, Iterable):
        raise TypeError(
            f"{where} must be a list of arrays, got {type(var_list).__name__}"
        )
    memory = _Memory(slots)
    seen: dict[Any, Array] = {}
    for k, var in enumerate(var_list):
        _bindable(f"{where}[{k}]: ", f"{where}[{k}]", var, slots, seen, memory)
    if not seen:
        raise ValueError(f"{where} must hold at least one array, got none")
    if slots.is_restored:
        restored(list(seen.values()), slots)
    return list(seen.values())


def _bindable(
    where: str,
    label: str,
    var: Any,
    slots: Slots,
    seen: dict[Any, Array],
    memory: _Memory,
) -> None:
    """Check one variable against those bound and those of this call."""
    # A bound variable passed these rules; what can change since is being writable.
    variable(where, var)
    key = slots.key(var)
    index = slots.by_key.get(key)
    twin = seen.get(key) if index is None else slots.variables[index]
    if twin is not None:
        same_array(where, var, twin)
    elif slots.is_closed and not slots.is_restored:
        _stranger(where, var, slots)
    else:
        memory.refuse(where, "var", var)
        memory.add(label, var)
    seen.setdefault(key, var)


def bindable(var: Any, slots: Slots) -> None:
    """Check one array that is a variable of an optimizer, or may become one."""
    if slots.is_restored:
        raise ValueError(
            "a restored optimizer must be bound by build or apply_gradients before "
            "it gets another slot"
        )
    _bindable("", "var", var, slots, {}, _Memory(slots))


def _stranger(where: str, var: Array, slots: Slots) -> NoReturn:
    raise ValueError(
        f"{where}var must be one of the {len(slots.variables)} arrays given to build, "
        f"got another of shape {var.shape}"
    )


def restored(new: Sequence[Array], slots: Slots) -> None:
    """Refuse variables that do not match a restored optimizer's, one by one."""
    if len(new) != len(slots.specs):
        raise ValueError(
            f"the variables must be as many as the restored optimizer had, "
            f"{len(slots.specs)}, got {len(new)}"
        )
    for k, (var, spec) in enumerate(zip(new, slots.specs, strict=True)):
        if (var.shape, var.dtype) != spec:
            raise ValueError(
                f"variable {k} must have the restored optimizer's shape {spec[0]} and "
                f"dtype {spec[1]}, got {var.shape} and {var.dtype}"
            )


# --- Gradients -----------------------------------------------------------------------


def _integers(name: str, indices: Any) -> Array:
    if not backends.is_array(indices):
        raise TypeError(f"{name} must be a numpy.ndarray, got {type(indices).__name__}")
    if indices.dtype.kind not in "iu" or not indices.dtype.isnative:
        raise TypeError(
            f"{name} must have an integer dtype in native byte order, "
            f"got {indices.dtype.str!r}"
        )
    _contiguous_on_device("", name, indices)
    return indices  # type: ignore[no-any-return]


def slices(values: Any, indices: Any, where: str = "") -> None:
    """Check a row-sparse gradient by itself."""
    _real_array(where, "values", values)
    _integers(f"{where}indices", indices)
    _same_place(where, "indices", indices, "values", values)
    if values.ndim == 0:
        raise ValueError(f"{where}values must have at least 1 dimension, got 0")
    if indices.ndim != 1:
        raise ValueError(
            f"{where}indices must have 1 dimension, got shape {indices.shape}"
        )
    if len(values) != len(indices):
        raise ValueError(
            f"{where}values must have as many rows as indices, {len(indices)}, "
            f"got {len(values)}"
        )


def _slices_for(where: str, grad: Any, var: Array) -> None:
    """Check a row-sparse gradient against its variable."""
    slices(grad.values, grad.indices, where)
    _same_place(where, "values", grad.values, "var", var)
    if var.ndim == 0:
        raise ValueError(
            f"{where}var must have at least 1 dimension for IndexedSlices, got 0"
        )
    if grad.values.dtype != var.dtype:
        raise TypeError(
            f"{where}values must have var's dtype {var.dtype}, got {grad.values.dtype}"
        )
    if grad.values.shape[1:] != var.shape[1:]:
        raise ValueError(
            f"{where}values must have rows of var's shape {var.shape[1:]}, "
            f"got {grad.values.shape[1:]}"
        )
    if grad.dense_shape is not None and grad.dense_shape != var.shape:
        raise ValueError(
            f"{where}dense_shape must be var's shape {var.shape}, "
            f"got {grad.dense_shape}"
        )
    if backends.is_on_device(var):
        return  # the device looks at the rows, see `row_found`
    bad = np.flatnonzero((grad.indices < 0) | (grad.indices >= len(var)))
    if bad.size:
        raise IndexError(
            f"{where}indices must be in [0, {len(var)}), "
            f"got {grad.indices[bad[0]]} at position {bad[0]}"
        )


def gradient(where: str, grad: Any, var: Array) -> Array:
    """Check one gradient against its variable; return the array of its values."""
    from rmsprop_fast.indexed_slices import IndexedSlices

    if type(grad) is IndexedSlices:
        _slices_for(where, grad, var)
        return grad.values
    if not backends.is_array(grad):
        raise TypeError(
            f"{where}grad must be a numpy.ndarray, IndexedSlices or None, "
            f"got {type(grad).__name__}"
        )
    if grad.dtype != var.dtype or not grad.dtype.isnative:
        raise TypeError(
            f"{where}grad must have var's dtype {var.dtype}, got {grad.dtype.str!r}"
        )
    if grad.shape != var.shape:
        raise ValueError(
            f"{where}grad must have var's shape {var.shape}, got {grad.shape}"
        )
    _same_place(where, "grad", grad, "var", var)
    _contiguous_on_device(where, "grad", grad)
    return grad  # type: ignore[no-any-return]


def _before(what: str, device: int) -> str:
    """Return when and where a device found what is raised now."""
    return (
        f", in a {what} on cuda:{device} before this call; that and the steps after it "
        f"changed nothing there"
    )


def row_found(device: int, pair: int, row: int, position: int, n_rows: int) -> NoReturn:
    """Raise for a row that a device found; a `pair` of -1 is `catch_up`'s `rows`."""
    name = "rows" if pair < 0 else f"grads_and_vars[{pair}]: indices"
    raise IndexError(
        f"{name} must be in [0, {n_rows}), got {row} at position {position}"
        + _before("catch_up" if pair < 0 else "step", device)
    )


def one_place(name: str, wanted: Any, arrays: Iterable[Any]) -> None:
    """Refuse what is of gradients in several places: one would have to wait."""
    places = list(dict.fromkeys(map(backends.place_of, arrays)))
    if len(places) > 1:
        raise ValueError(
            f"{name} must be {wanted}, or all gradients of a call in one place, "
            f"got some on {', some on '.join(places)}"
        )


def rate_place(rate: Any, variables: Iterable[Any]) -> None:
    """Refuse a learning rate on a device for variables elsewhere."""
    where = backends.place_of(rate)
    for var in variables:
        if backends.place_of(var) != where:
            raise ValueError(
                f"learning_rate on {where} must be for variables there, got one on "
                f"{backends.place_of(var)}"
            )


def device_scalar(name: str, value: Any) -> Any:
    """Return a device array that stands for a number."""
    if value.ndim != 0:
        raise ValueError(f"{name} must have 0 dimensions, got shape {value.shape}")
    if not _is_real(value):
        raise TypeError(
            f"{name} must have dtype float32 or float64, got {value.dtype.str!r}"
        )
    return value


def cuda_is_old(
    what: str, version: tuple[int, int], least: tuple[int, int]
) -> NoReturn:
    """Raise for a CUDA that cannot run the kernels."""
    raise RuntimeError(
        f"{what} must be of CUDA {least[0]}.{least[1]} or newer, "
        f"got {version[0]}.{version[1]}"
    )


def device_is_old(capability: str, least: int) -> NoReturn:
    """Raise for a device that cannot run the kernels."""
    raise RuntimeError(
        f"a device must have compute capability {least / 10} or higher, "
        f"got {int(capability) / 10}"
    )


def iterator(name: str, value: Any) -> Iterator[Any]:
    """Return an iterator over pairs; errors while it runs are the caller's own."""
    try:
        return iter(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an iterable of (grad, var) pairs, "
            f"got {type(value).__name__}"
        ) from None


def pairs(grads_and_vars: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return a list of (grad, var) tuples."""
    result = []
    for k, pair in enumerate(grads_and_vars):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"grads_and_vars[{k}] must be a (grad, var) pair, got "
                + (
                    f"{len(pair)} items"
                    if isinstance(pair, (tuple, list))
                    else type(pair).__name__
                )
            )
        result.append((pair[0], pair[1]))
    return result


def step(
    grads_and_vars: Sequence[tuple[Any, Any]], slots: Slots
) -> tuple[list[Array], list[Array]]:
    """Check everything about the arrays of one step.

    Returns
    -------
    to_bind : list of ndarray
        The variables that the step updates, each once, in order; of a restored
        optimizer, which binds by position, those without a gradient too.
    missing : list of ndarray
        The variables that have no gradient.
    """
    memory = _Memory(slots)
    seen: dict[Any, Array] = {}
    missing: list[Array] = []
    for k, (grad, var) in enumerate(grads_and_vars):
        where = f"grads_and_vars[{k}]: "
        if grad is None and not slots.is_restored:
            missing.append(variable(where, var))  # not bound by this
            if slots.is_closed and slots.key(var) not in slots.by_key:
                _stranger(where, var, slots)
            continue
        _bindable(where, f"grads_and_vars[{k}]", var, slots, seen, memory)
        if grad is None:
            missing.append(var)
        else:
            gradient(where, grad, var)
    if len(missing) == len(grads_and_vars):
        raise ValueError(
            f"grads_and_vars must hold at least one gradient, got none for "
            f"{len(missing)} variables"
        )
    if slots.is_restored:
        restored(list(seen.values()), slots)
    for k, (grad, _) in enumerate(grads_and_vars):
        if grad is not None:
            values = grad if backends.is_array(grad) else grad.values
            memory.refuse(f"grads_and_vars[{k}]: ", "grad", values)
    return list(seen.values()), missing


def nonfinite(grads_and_vars: Sequence[tuple[Any, Any]]) -> None:
    """Raise if an element of a gradient on the host is infinite or no number."""
    found = []
    for k, (grad, var) in enumerate(grads_and_vars):
        if grad is None or backends.is_on_device(var):
            continue
        values = grad if isinstance(grad, np.ndarray) else grad.values
        count = values.size - int(np.count_nonzero(np.isfinite(values)))
        if count:
            found.append(_bad_elements(k, count, values.size, var.shape))
    if found:
        raise FloatingPointError(_not_finite(found))


def _bad_elements(pair: int, count: int, size: int, shape: tuple[int, ...]) -> str:
    return (
        f"{count} of {size} elements in grads_and_vars[{pair}], of the "
        f"variable of shape {shape}, that are not"
    )


def _not_finite(found: Sequence[str]) -> str:
    return f"every element of a gradient must be finite, got {', '.join(found)}"


def nonfinite_found(
    device: int,
    bad: Sequence[tuple[int, int, int, int]],
    n_more: int,
    shapes: Sequence[tuple[int, ...]],
) -> NoReturn:
    """Raise for gradients (pair, variable, count, size) that a device found."""
    found = [
        _bad_elements(pair, count, size, shapes[variable])
        for pair, variable, count, size in bad
    ]
    if n_more:
        found.append(f"and some in {n_more} more")
    raise FloatingPointError(_not_finite(found) + _before("step", device))


# --- Losses --------------------------------------------------------------------------


def loss(value: Any) -> Callable[[], Any]:
    """Return a loss that can be called."""
    if not callable(value):
        raise TypeError(
            f"loss must be a callable that returns (value, grads), got {value!r}"
        )
    return value  # type: ignore[no-any-return]


def function(name: str, value: Any) -> Callable[..., Any]:
    """Return a function of the variables."""
    if not callable(value):
        raise TypeError(
            f"{name} must be a callable of the variables that returns a scalar, "
            f"got {value!r}"
        )
    return value  # type: ignore[no-any-return]


def scalar_loss(shape: tuple[int, ...]) -> None:
    """Refuse a loss that is an array; only a scalar has gradients."""
    if shape != ():
        raise ValueError(
            f"loss must be a scalar, such as a mean or a sum, got shape {shape}"
        )


def loss_result(result: Any) -> tuple[Any, Any]:
    """Return what a loss returned as (value, grads)."""
    if not isinstance(result, (tuple, list)) or len(result) != 2:
        raise TypeError(
            f"loss must return (value, grads), got {type(result).__name__}"
            + (f" of {len(result)}" if isinstance(result, (tuple, list)) else "")
        )
    return result[0], result[1]


def loss_variables(var_list: Any) -> list[Array]:
    """Return the variables that a loss is called with."""
    variables = _listed("var_list", var_list)
    return [variable(f"var_list[{k}]: ", var) for k, var in enumerate(variables)]


def _listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, Iterable) or backends.is_array(value):
        raise TypeError(f"{name} must be a list, got {type(value).__name__}")
    return list(value)


def matched(grads: Any, var_list: Any) -> tuple[list[Any], list[Any]]:
    """Return gradients and variables as lists of one length."""
    grads, var_list = _listed("grads", grads), _listed("var_list", var_list)
    if len(grads) != len(var_list):
        raise ValueError(
            f"loss must return a gradient for each of the {len(var_list)} variables, "
            f"got {len(grads)}"
        )
    return grads, var_list


def gradients(grads: Sequence[Any], params: Sequence[Any]) -> list[Array]:
    """Return the gradients' arrays; each parameter must have one."""
    arrays = []
    for k, (grad, var) in enumerate(zip(grads, params, strict=True)):
        variable(f"params[{k}]: ", var)
        if grad is None:
            raise ValueError(
                f"loss must return a gradient for every variable, got None for "
                f"params[{k}] of shape {var.shape}"
            )
        arrays.append(gradient(f"params[{k}]: ", grad, var))
    return arrays


# --- State ---------------------------------------------------------------------------


def weights(name: str, given: Any, current: Sequence[Array]) -> list[Array]:
    """Return arrays to copy into `current`, iterations first."""
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"weights must be a list of arrays, got {type(given).__name__}")
    arrays = [backends.as_numpy(value) for value in given]
    if len(arrays) == len(current) - 1:
        arrays = [np.zeros((), np.int64), *arrays]  # as Keras 1 wrote them
    if len(arrays) != len(current):
        raise ValueError(
            f"weights must hold the {len(current)} arrays of optimizer {name!r}, "
            f"got {len(arrays)}"
        )
    for k, (new, old) in enumerate(zip(arrays, current, strict=True)):
        if new.shape != old.shape:
            raise ValueError(
                f"weights[{k}] must have the shape {old.shape}, got {new.shape}"
            )
        if not np.can_cast(new.dtype, old.dtype, "same_kind"):
            raise TypeError(
                f"weights[{k}] must cast to {old.dtype} within its kind, "
                f"got {new.dtype}"
            )
    integer("weights[0]", int(arrays[0]), 0, MAX_ITERATIONS)
    return arrays


def no_row_is_behind(what: str, slots: Slots) -> None:
    """Refuse what needs all steps of all rows."""
    behind = slots.behind()
    if behind:
        raise ValueError(
            f"{what} needs every row to have its variable's steps, got "
            f"{len(behind)} variable{'s' * (len(behind) > 1)} with rows that miss "
            "some: call catch_up()"
        )


def counted_rows(slots: Slots) -> None:
    """Refuse to catch up where steps are not counted, or variables not known yet."""
    if not slots.counts_rows:
        raise ValueError("catch_up needs an optimizer made with catch_up=True")
    if slots.is_restored and slots.behind():
        raise ValueError(
            "a restored optimizer must be bound by build or apply_gradients before "
            "its rows catch up"
        )


def rows(value: Any, var: Any) -> Array:
    """Return row numbers of `var`; the step itself finds what is out of range."""
    if var is None:
        raise ValueError("rows must be None when var is None: all rows catch up")
    array = _integers("rows", value)
    if array.ndim != 1:
        raise ValueError(f"rows must have 1 dimension, got shape {array.shape}")
    if var.ndim == 0:
        raise ValueError("var must have at least 1 dimension for rows, got 0")
    _same_place("", "rows", array, "var", var)
    return array


def row_out_of_range(rows: Array, var: Array) -> NoReturn:
    """Raise for the first row that is not there."""
    bad = np.flatnonzero((rows < 0) | (rows >= len(var)))[0]
    raise IndexError(
        f"rows must be in [0, {len(var)}), got {rows[bad]} at position {bad}"
    )


def to_exclude(var_list: Any, var_names: Any, slots: Slots) -> list[Array]:
    """Return arrays that are variables, or may become some."""
    if var_names is not None:
        raise ValueError(
            f"var_names must be None: arrays have no names, got {var_names!r}"
        )
    if backends.is_array(var_list) or not isinstance(var_list, Iterable):
        raise TypeError(
            f"var_list must be a list of arrays, got {type(var_list).__name__}"
        )
    arrays = list(var_list)
    for k, var in enumerate(arrays):
        where = f"var_list[{k}]: "
        variable(where, var)
        index = slots.find(var)
        bound = None if index is None else slots.variables[index]
        if bound is not None:
            same_array(where, var, bound)
        elif slots.is_closed and not slots.is_restored:
            _stranger(where, var, slots)
    return arrays


def unbound_exclusions(arrays: Sequence[Array]) -> NoReturn:
    """Raise for exclusions that nothing could find again."""
    shapes = ", ".join(str(array.shape) for array in arrays)
    raise ValueError(
        "arrays excluded from weight decay must be bound by build or apply_gradients "
        f"before the optimizer is copied or saved, got unbound ones of shape {shapes}"
    )


def slot_array(value: Any, var_shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an initial value for a slot as an array that fits."""
    host = backends.as_numpy(value) if backends.is_on_device(value) else value
    array: Array = np.asanyarray(host)
    if array.shape != var_shape:
        raise ValueError(
            f"initializer must give var's shape {var_shape}, got {array.shape}"
        )
    if not np.can_cast(array.dtype, dtype, "same_kind"):
        raise TypeError(
            f"initializer must give {dtype} or what casts to it within its kind, "
            f"got {array.dtype}"
        )
    return array


def new_slot(slot: Array, var: Array, slots: Slots) -> None:
    """Check that a slot's memory is its own."""
    memory = _Memory(slots)
    memory.add("its variable", var)
    memory.refuse("", "initializer", slot)


def saved_slot(
    key: str,
    index: int,
    array: Array,
    specs: Sequence[tuple[tuple[int, ...], np.dtype[Any]]],
) -> None:
    """Refuse a restored slot that does not fit its variable."""
    if not 0 <= index < len(specs):
        raise ValueError(f"{key} must be of one of {len(specs)} variables")
    if (array.shape, array.dtype) != specs[index]:
        raise ValueError(
            f"{key} must have its variable's shape {specs[index][0]} and dtype "
            f"{specs[index][1]}, got {array.shape} and {array.dtype}"
        )


def saved_counter(
    key: str,
    index: int,
    name: str,
    array: Array,
    counters: Sequence[dict[str, Array]],
) -> None:
    """Refuse a restored counter that its variable cannot have."""
    new = counters[index].get(name) if 0 <= index < len(counters) else None
    if new is None:
        raise ValueError(f"{key} must be of a variable whose rows are counted")
    if (array.shape, array.dtype) != (new.shape, new.dtype):
        raise ValueError(
            f"{key} must have the shape {new.shape} and dtype {new.dtype}, got "
            f"{array.shape} and {array.dtype}"
        )


def saved_flags(name: str, flags: Sequence[Any], n: int) -> list[bool]:
    """Return restored flags, one for each of n variables."""
    if len(flags) != n:
        raise ValueError(f"{name} must be of {n} variables, got {len(flags)}")
    return [flag(name, value) for value in flags]


def too_many_iterations() -> NoReturn:
    """Raise when the count of steps cannot grow."""
    raise OverflowError(
        f"iterations must be < {MAX_ITERATIONS} for another step, got {MAX_ITERATIONS}"
    )


def unknown_slot(name: Any, slots: Slots) -> NoReturn:
    """Raise for a slot that was not created."""
    raise KeyError(f"slot_name must be one of {slots.names()}, got {name!r}")


def unknown_variable(var: Any) -> NoReturn:
    """Raise for an array that no slot was created for."""
    if backends.is_array(var):
        raise KeyError(
            f"var must be a variable of this optimizer, got one it has not "
            f"seen, of shape {var.shape}"
        )
    raise KeyError(
        f"var must be a variable of this optimizer, got {type(var).__name__}"
    )


KERNEL_STATUS = {
    "BAD_SIZE": (ValueError, "n, n_rows and width must be >= 0 and fit into memory"),
    "BAD_POINTER": (
        ValueError,
        "arrays must be aligned, and only mg, mom (at momentum 0) and arrays without "
        "elements may be NULL",
    ),
    "BAD_OVERLAP": (
        ValueError,
        "param, grad or values, rms, mg and mom must not share memory",
    ),
    "BAD_SCALAR": (
        ValueError,
        "lr and epsilon must be finite and >= 0, rho and momentum in [0, 1], "
        "keep finite, clip > 0",
    ),
    "BAD_THREADS": (ValueError, f"num_threads must be in [0, {MAX_THREADS}]"),
    "BAD_ROW": (IndexError, "rows must be in [0, n_rows)"),
    "NO_MEMORY": (MemoryError, "rows need 16 bytes each to be sorted"),
}


def kernel_status(name: str) -> NoReturn:
    """Raise for what a function of `rmsprop_fast.kernels` returned."""
    kind, rule = KERNEL_STATUS[name]
    raise kind(rule)
