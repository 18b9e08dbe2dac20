"""Rules about a whole step: find the broken rule and raise its error.

`cpu._records` tests the same rules in compiled code, which says only yes or no. When it
says no, or when a variable is new, the optimizer calls `step`. A property test checks
that both refuse the same arguments.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from rmsprop_fast import backends, indexed_slices, rules

if TYPE_CHECKING:
    from rmsprop_fast.slots import Slots

Array = np.ndarray[Any, Any]


class _Ranges:
    """Arrays sorted by address, to find those that overlap a range of addresses."""

    def __init__(self, labelled: Iterable[tuple[str, Array]]) -> None:
        ranges = ((*backends.bounds(array), label, array) for label, array in labelled)
        self._items = sorted((r for r in ranges if r[0] < r[1]), key=lambda r: r[:2])
        self._lows = [low for low, *_ in self._items]
        self._highest = list(accumulate((high for _, high, *_ in self._items), max))

    def meeting(self, low: int, high: int) -> Iterator[tuple[str, Array]]:
        """Yield the arrays whose bounds overlap [low, high), with their labels."""
        first = bisect_right(self._highest, low)  # all before it end at or before `low`
        for _, other_high, label, array in self._items[
            first : bisect_left(self._lows, high)
        ]:
            if low < other_high:
                yield label, array


class _Memory:
    """The arrays of an optimizer and of this call, to find overlaps among them."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._new: list[tuple[str, str, Array]] = []
        self._position: dict[str, int] = {}

    def add(self, where: str, label: str, var: Array) -> None:
        """Note a variable of this call."""
        self._position[label] = len(self._new)
        self._new.append((where, label, var))

    @cached_property
    def _ranges(self) -> _Ranges:
        return _Ranges((label, var) for _, label, var in self._new)

    @cached_property
    def _bound_ranges(self) -> _Ranges:
        return _Ranges(self._slots.labelled())

    def refuse_new(self) -> None:
        """Raise when a new variable shares memory with an earlier or a bound one."""
        for position, (where, _, var) in enumerate(self._new):
            self._refuse(where, "variable", var, position)

    def refuse(self, where: str, name: str, array: Array) -> None:
        """Raise when an array shares memory with any variable or slot."""
        self._refuse(where, name, array, len(self._new))

    def _refuse(self, where: str, name: str, array: Array, position: int) -> None:
        """Raise when an array shares memory with others; compare bounds first."""
        low, high = backends.bounds(array)
        others = [
            (label, other)
            for label, other in self._ranges.meeting(low, high)
            if self._position[label] < position
        ]
        if self._slots.state.extents.may_touch(low, high):
            others += self._bound_ranges.meeting(low, high)
        for label, other in others:
            if backends.shares_memory(array, other):
                raise ValueError(f"{where}{name} shares memory with {label}")


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
    memory.refuse_new()
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
    """Check one variable by itself; `memory` takes it when it is new."""
    # A bound variable has passed these rules; since then it may be read-only.
    rules.variable(where, var)
    not_resized(where, var, slots)
    key = slots.key(var)
    index = slots.find(var)
    twin = seen.get(key) if index is None else slots[index].var
    if twin is not None:
        rules.same_array(where, var, twin)
    elif slots.is_closed and not slots.is_restored:
        _stranger(where, var, slots)
    else:
        memory.add(where, label, var)
    seen.setdefault(key, var)


def bindable(var: Any, slots: Slots) -> None:
    """Check one array that is a variable of an optimizer, or may become one."""
    if slots.is_restored:
        raise ValueError(
            "a restored optimizer must be bound by build or apply_gradients before "
            "it gets another slot"
        )
    memory = _Memory(slots)
    _bindable("", "var", var, slots, {}, memory)
    memory.refuse_new()


def _stranger(where: str, var: Array, slots: Slots) -> NoReturn:
    raise ValueError(
        f"{where}var must be one of the {len(slots)} arrays given to build, "
        f"got another of shape {var.shape}"
    )


def restored(new: Sequence[Array], slots: Slots) -> None:
    """Refuse variables that do not match those of a restored optimizer by position."""
    if len(new) != len(slots):
        raise ValueError(
            f"variables: the restored optimizer had {len(slots)}, got {len(new)}"
        )
    for k, (var, bound) in enumerate(zip(new, slots, strict=True)):
        if (var.shape, var.dtype) != (bound.shape, bound.dtype):
            raise ValueError(
                f"variable {k}: the restored optimizer had shape {bound.shape} and "
                f"dtype {bound.dtype}, got {var.shape} and {var.dtype}"
            )


def not_resized(where: str, var: Any, slots: Slots) -> None:
    """Refuse a variable whose owner was resized: the bound memory is not its own."""
    k = slots.resized(var)
    if k is not None:
        raise ValueError(
            f"{where}variable {k} of shape {slots[k].shape} was resized in place after "
            "it was bound: forget it first"
        )


def to_exclude(var_list: Any, slots: Slots) -> list[Array]:
    """Return arrays that are variables, or may become some."""
    if backends.is_array(var_list) or not isinstance(var_list, Iterable):
        raise TypeError(
            f"var_list must be a list of arrays, got {type(var_list).__name__}"
        )
    arrays = list(var_list)
    for k, var in enumerate(arrays):
        where = f"var_list[{k}]: "
        rules.variable(where, var)
        index = slots.find(var)
        bound = None if index is None else slots[index].var
        if bound is not None:
            rules.same_array(where, var, bound)
        elif slots.is_closed and not slots.is_restored:
            _stranger(where, var, slots)
    return arrays


def new_slot(slot: Array, var: Array, slots: Slots) -> None:
    """Check that a slot shares no memory with a variable or another slot."""
    memory = _Memory(slots)
    memory.add("", "its variable", var)
    memory.refuse("", "initializer", slot)


def gradient(where: str, grad: Any, var: Array) -> Array:
    """Check one gradient against its variable; return the array of its values."""
    if type(grad) is indexed_slices.IndexedSlices:
        indexed_slices.slices_for(where, grad, var)
        return grad.values
    grad = backends.adopt(grad)
    if not backends.is_array(grad):
        raise TypeError(
            f"{where}gradient must be a numpy.ndarray, IndexedSlices or None, "
            f"got {type(grad).__name__}"
        )
    if grad.dtype != var.dtype or not grad.dtype.isnative:
        raise TypeError(
            f"{where}gradient has dtype {grad.dtype}, its variable {var.dtype}"
        )
    if grad.shape != var.shape:
        raise ValueError(
            f"{where}gradient has shape {grad.shape}, its variable {var.shape}"
        )
    rules.same_place(where, "gradient", grad, "its variable", var)
    rules.contiguous_on_device(where, "gradient", grad)
    return grad  # type: ignore[no-any-return]


def _before(what: str, device: int) -> str:
    """Return words for when and where a device found the error."""
    return (
        f"; found by an earlier {what} on cuda:{device}, which changed nothing there, "
        "and neither did the steps after it"
    )


def row_found(device: int, pair: int, row: int, position: int, n_rows: int) -> NoReturn:
    """Raise for a row that a device found; `pair` is -1 for `rows` of `catch_up`."""
    where = "rows" if pair < 0 else f"grads_and_vars[{pair}]"
    raise IndexError(
        indexed_slices.out_of_range(where, row, position, n_rows)
        + _before("catch_up" if pair < 0 else "step", device)
    )


def one_place(name: str, wanted: Any, arrays: Iterable[Any]) -> None:
    """Refuse gradients in several places: one would have to wait for another."""
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


def as_list(name: str, value: Any) -> list[Any]:
    """Return a new list of pairs; errors of an iterator are left as they are."""
    if type(value) is list:
        return value.copy()
    try:
        pairs = iter(value)
    except TypeError:
        raise TypeError(
            f"{name} must be an iterable of (gradient, variable) pairs, "
            f"got {type(value).__name__}"
        ) from None
    return list(pairs)


def pairs(grads_and_vars: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Return a list of (grad, var) tuples."""
    result = []
    for k, pair in enumerate(grads_and_vars):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(
                f"grads_and_vars[{k}] must be a (gradient, variable) pair, got "
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
        The variables that the step updates, each once, in order. For a restored
        optimizer, which binds by position, also the variables without a gradient.
    missing : list of ndarray
        The variables that have no gradient.
    """
    memory = _Memory(slots)
    seen: dict[Any, Array] = {}
    missing: list[Array] = []
    values: list[tuple[str, Array]] = []
    for k, (grad, var) in enumerate(grads_and_vars):
        where = f"grads_and_vars[{k}]: "
        if grad is None and not slots.is_restored:
            missing.append(rules.variable(where, var))  # this call does not bind it
            if slots.is_closed and slots.find(var) is None:
                _stranger(where, var, slots)
            continue
        _bindable(where, f"grads_and_vars[{k}]", var, slots, seen, memory)
        if grad is None:
            missing.append(var)
        else:
            values.append((where, gradient(where, grad, var)))
    if len(missing) == len(grads_and_vars):
        raise ValueError(
            "No gradients provided for any variable: grads_and_vars has "
            f"{len(missing)} variables and no gradient"
        )
    memory.refuse_new()
    if slots.is_restored:
        restored(list(seen.values()), slots)
    for where, array in values:
        memory.refuse(where, "gradient", array)
    return list(seen.values()), missing


def nonfinite(grads_and_vars: Sequence[tuple[Any, Any]]) -> None:
    """Raise if an element of a gradient on the host is infinite or no number."""
    found = []
    for k, (grad, var) in enumerate(grads_and_vars):
        if grad is None or backends.is_on_device(var):
            continue
        is_sparse = type(grad) is indexed_slices.IndexedSlices
        values = grad.values if is_sparse else backends.adopt(grad)
        count = values.size - int(np.count_nonzero(np.isfinite(values)))
        if count:
            found.append(_bad_elements(k, count, values.size, var.shape))
    if found:
        raise FloatingPointError("; ".join(found))


def _bad_elements(pair: int, count: int, size: int, shape: tuple[int, ...]) -> str:
    return (
        f"grads_and_vars[{pair}]: {count} of {size} gradient elements "
        f"{'is' if count == 1 else 'are'} not finite, its variable has shape {shape}"
    )


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
        found.append(f"and some in {n_more} more gradients")
    raise FloatingPointError("; ".join(found) + _before("step", device))


def rows(value: Any, var: Any) -> Array:
    """Return row numbers of `var`; the step itself checks their range."""
    if var is None:
        raise ValueError("rows must be None when var is None: all rows catch up")
    array = rules.row_numbers("rows", value, var)
    if var.ndim == 0:
        raise ValueError("var must have at least 1 dimension for rows, got 0")
    rules.same_place("", "rows", array, "var", var)
    return array


def row_out_of_range(rows: Array, var: Array) -> NoReturn:
    """Raise for the first row that is not there."""
    bad = np.flatnonzero((rows < 0) | (rows >= len(var)))[0]
    raise IndexError(indexed_slices.out_of_range("rows", rows[bad], bad, len(var)))
