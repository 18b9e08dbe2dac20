"""Rules about a whole step: they find the broken one and word its error.

The compiled step tests the same rules with macros, which say only yes or no. It calls
`step` when one is broken or a variable is new; a property test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rmsprop_fast import backends, indexed_slices, rules

if TYPE_CHECKING:
    from rmsprop_fast.slots import Slots

Array = np.ndarray[Any, Any]


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
    rules.variable(where, var)
    key = slots.key(var)
    index = slots.by_key.get(key)
    twin = seen.get(key) if index is None else slots.variables[index]
    if twin is not None:
        rules.same_array(where, var, twin)
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
        rules.variable(where, var)
        index = slots.find(var)
        bound = None if index is None else slots.variables[index]
        if bound is not None:
            rules.same_array(where, var, bound)
        elif slots.is_closed and not slots.is_restored:
            _stranger(where, var, slots)
    return arrays


def new_slot(slot: Array, var: Array, slots: Slots) -> None:
    """Check that a slot's memory is its own."""
    memory = _Memory(slots)
    memory.add("its variable", var)
    memory.refuse("", "initializer", slot)


def gradient(where: str, grad: Any, var: Array) -> Array:
    """Check one gradient against its variable; return the array of its values."""
    if type(grad) is indexed_slices.IndexedSlices:
        indexed_slices.slices_for(where, grad, var)
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
    rules.same_place(where, "grad", grad, "var", var)
    rules.contiguous_on_device(where, "grad", grad)
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
            missing.append(rules.variable(where, var))  # not bound by this
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


def rows(value: Any, var: Any) -> Array:
    """Return row numbers of `var`; the step itself finds what is out of range."""
    if var is None:
        raise ValueError("rows must be None when var is None: all rows catch up")
    array = rules.integers("rows", value)
    if array.ndim != 1:
        raise ValueError(f"rows must have 1 dimension, got shape {array.shape}")
    if var.ndim == 0:
        raise ValueError("var must have at least 1 dimension for rows, got 0")
    rules.same_place("", "rows", array, "var", var)
    return array


def row_out_of_range(rows: Array, var: Array) -> NoReturn:
    """Raise for the first row that is not there."""
    bad = np.flatnonzero((rows < 0) | (rows >= len(var)))[0]
    raise IndexError(
        f"rows must be in [0, {len(var)}), got {rows[bad]} at position {bad}"
    )
