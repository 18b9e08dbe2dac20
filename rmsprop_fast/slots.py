"""The state of an optimizer: variables, their slots, their counts of steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn
from urllib.parse import quote

import numpy as np

from rmsprop_fast import backends, rules
from rmsprop_fast.cpu._extents import Extents
from rmsprop_fast.saved_state import check_state, parts

__all__ = ["INITIALIZERS", "Bound", "Slots", "initial"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
Spec = tuple[Shape, np.dtype[Any]]

INITIALIZERS: dict[str, Callable[..., Array]] = {"zeros": np.zeros, "ones": np.ones}


def initial(initializer: Any, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return the first values of a slot as a C-contiguous array.

    A writable memmap of that shape and dtype, given or returned by a callable, is used
    as it is: so a file can contain a slot. Any other array is copied.
    """
    if isinstance(initializer, str):
        if initializer not in INITIALIZERS:
            raise ValueError(
                f"initializer must be one of {', '.join(INITIALIZERS)}, a callable or "
                f"an array, got {initializer!r}"
            )
        return INITIALIZERS[initializer](shape, dtype)
    value = initializer(shape, dtype) if callable(initializer) else initializer
    array = slot_array(value, shape, dtype)
    if (
        isinstance(array, np.memmap)
        and array.dtype == dtype
        and array.flags.carray
        and array.dtype.isnative
    ):
        return array
    return np.array(array, dtype=dtype, order="C", subok=False)


def _own_copy(array: Array) -> Array:
    """Return an array that can be written and shares memory with no other object.

    Pickles with out-of-band buffers give views of these buffers: read-only ones, or
    views of the arrays that were pickled.
    """
    owned = array.flags.owndata and array.flags.carray
    return array if owned else np.array(array, order="C", subok=False)


def _not_owned(array: Array) -> Array:
    """Return an array that NumPy refuses to resize: callers get the live slots."""
    owns = isinstance(array, np.ndarray) and array.flags.owndata
    return array.view() if owns else array


class Bound(NamedTuple):
    """One variable, its slots and its counts of steps.

    Attributes
    ----------
    var : ndarray or None
        A view of the variable; None in a restored state.
    shape, dtype : tuple of int, numpy.dtype
        Those of the variable.
    slots : dict of str to ndarray
        By name. Each is C-contiguous and has the variable's shape and dtype.
    counters : dict of str to ndarray
        With ``catch_up=True``: int64 arrays on the device of the variable. ``"steps"``
        has two numbers: the steps of the variable, and the steps that all its rows have
        made. ``"row_steps"`` has a number for each row. A row has made as many steps as
        the larger of the last two numbers says.
    is_excluded : bool
        Weight decay does not change the variable.
    """

    var: Array | None
    shape: Shape
    dtype: np.dtype[Any]
    slots: dict[str, Array]
    counters: dict[str, Array]
    is_excluded: bool

    @property
    def was_resized(self) -> bool:
        """Whether the array that owns the memory has moved or shrunk since."""
        owner = getattr(self.var, "base", None)
        if self.var is None or not isinstance(owner, np.ndarray) or not self.var.size:
            return False
        low, high = backends.bounds(self.var)
        owner_low, owner_high = backends.bounds(owner)
        return low < owner_low or high > owner_high


def _owner_key(array: Any) -> Any:
    """Return a key for the array that owns the memory of an array."""
    base = getattr(array, "base", None)
    return "owner", id(base if isinstance(base, np.ndarray) else array)


class State(NamedTuple):
    """Everything about variables at one moment.

    A change makes another State and replaces the old one with one assignment. So an
    interrupt leaves the old state or the new one. `bound` and `order` may have more
    elements than `n` and `n_order` say: an interrupted change has left them there.
    """

    bound: list[Bound]
    n: int
    order: list[tuple[int, str]]  # (variable, slot name) in order of creation
    n_order: int
    by_key: dict[Any, int]
    extents: Extents
    is_closed: bool = False
    is_restored: bool = False

    def has_leftovers(self) -> bool:
        return len(self.bound) > self.n or len(self.order) > self.n_order


def _state_of(bound: list[Bound], order: list[tuple[int, str]], **flags: bool) -> State:
    """Return a new State of these variables, with new indices."""
    by_key: dict[Any, int] = {}
    arrays: list[Array] = []
    for index, each in enumerate(bound):
        if each.var is not None:
            by_key[Slots.key(each.var)] = by_key[_owner_key(each.var)] = index
            arrays.append(each.var)
        arrays += each.slots.values()
    extents = Extents()
    extents.add_all([backends.bounds(array) for array in arrays])
    return State(bound, len(bound), order, len(order), by_key, extents, **flags)


class Slots:
    """Slot arrays in order of creation, bound to variables by address.

    A variable is recognised by its address, shape, strides and dtype, so any view of
    the same memory finds the same slots. A restored state knows only shapes and dtypes.
    It takes the next variables by position.

    Parameters
    ----------
    counts_rows : bool, default False
        Whether to count the steps that each row of a variable has, see `Bound`.
    """

    def __init__(self, counts_rows: bool = False) -> None:
        self.iterations = _not_owned(np.zeros((), np.int64))
        self.skipped_steps = 0  # how many check_finite="skip" has skipped
        self.counts_rows = counts_rows
        # Sets of variables whose missing gradients were warned about.
        self.warned_missing: set[frozenset[Any]] = set()
        self._to_exclude: dict[Any, Array] = {}  # arrays that are not bound yet
        self.state = _state_of([], [])

    @staticmethod
    def key(var: Array) -> Any:
        """Return a key for the memory of an array; empty arrays have no memory."""
        address = backends.address(var)
        return address if var.size else (address, var.shape)

    def __len__(self) -> int:
        return self.state.n

    def __iter__(self) -> Iterator[Bound]:
        state = self.state
        return iter(state.bound[: state.n])

    def __getitem__(self, index: int) -> Bound:
        return self.state.bound[index]

    @property
    def is_closed(self) -> bool:
        """Whether `build` has closed the list of variables."""
        return self.state.is_closed

    @property
    def is_restored(self) -> bool:
        """Whether the state waits for variables to bind to."""
        return self.state.is_restored

    def find(self, var: Any) -> int | None:
        """Return the index of a bound variable."""
        if not backends.is_array(var):
            return None
        state = self.state
        index = state.by_key.get(self.key(var))
        return None if index is None or index >= state.n else index

    def resized(self, var: Any) -> int | None:
        """Return the index of a bound variable whose memory `var` owned and resized."""
        state = self.state
        index = state.by_key.get(_owner_key(var))
        if index is None or index >= state.n or not self[index].was_resized:
            return None
        return index

    def _order(self) -> list[tuple[int, str]]:
        return self.state.order[: self.state.n_order]

    def names(self) -> list[str]:
        """Return the slots' names in order of creation."""
        return list(dict.fromkeys(name for _, name in self._order()))

    def arrays(self) -> list[Array]:
        """Return every slot in order of creation."""
        return [self[index].slots[name] for index, name in self._order()]

    def labelled(self) -> Iterable[tuple[str, Array]]:
        """Yield every bound variable and slot with words for an error."""
        for index, each in enumerate(self):
            if each.var is not None:
                yield f"variable {index} of shape {each.shape}", each.var
        for index, name in self._order():
            yield f"slot {name!r} of variable {index}", self[index].slots[name]

    # --- Changes: each ends in one assignment to `state` ------------------------------

    def bind(
        self,
        new: Sequence[Array],
        names: Sequence[str],
        *,
        given: tuple[str, Array] | None = None,
        closes: bool = False,
    ) -> None:
        """Bind checked variables and create the slots they lack, as zeros.

        `given` is a slot, by name, of the one variable in `new`; `closes` refuses other
        variables from then on.
        """
        state = self._without_leftovers()
        if state.is_restored:
            state = self._bound_to(new)
            indices = list(range(len(new)))
        else:
            unknown = iter(range(state.n, state.n + len(new)))
            found = [self.find(var) for var in new]
            indices = [next(unknown) if k is None else k for k in found]
        added: dict[int, dict[str, Array]] = {index: {} for index in indices}
        order: list[tuple[int, str]] = []
        for name in names:
            for index, var in zip(indices, new, strict=True):
                if index >= state.n or name not in state.bound[index].slots:
                    added[index][name] = _not_owned(
                        backends.zeros(var.shape, var.dtype, var)
                    )
                    order.append((index, name))
        if given is not None:
            added[indices[0]][given[0]] = _not_owned(given[1])
            order.append((indices[0], given[0]))
        fresh = [
            Bound(
                backends.own_view(var),
                var.shape,
                var.dtype,
                added[index],
                self._new_counters(var.shape, var),
                self.key(var) in self._to_exclude,
            )
            for index, var in zip(indices, new, strict=True)
            if index >= state.n
        ]
        changed = {k: slots for k, slots in added.items() if slots and k < state.n}
        bound, all_order = state.bound, state.order
        if changed:
            bound = [
                each._replace(slots={**each.slots, **changed[k]})
                if k in changed
                else each
                for k, each in enumerate(bound)
            ]
            all_order = list(all_order)
        # After an interrupt here, the old state does not count the new elements.
        bound += fresh
        all_order += order
        arrays = []
        for index, var in zip(indices, new, strict=True):
            if index >= state.n:
                state.by_key[self.key(var)] = index
                state.by_key[_owner_key(var)] = index
                arrays.append(var)
            arrays += added[index].values()
        state.extents.add_all([backends.bounds(array) for array in arrays])
        self.state = State(
            bound,
            len(bound),
            all_order,
            len(all_order),
            state.by_key,
            state.extents,
            closes or state.is_closed,
        )
        for var in new:
            self._to_exclude.pop(self.key(var), None)
        if closes:
            self.warned_missing.clear()  # arrays that are not bound are now refused

    def _without_leftovers(self) -> State:
        """Return the state without the elements that an interrupted `bind` left."""
        state = self.state
        if state.has_leftovers():
            flags = {"is_closed": state.is_closed, "is_restored": state.is_restored}
            state = _state_of(
                state.bound[: state.n], state.order[: state.n_order], **flags
            )
            self.state = state
        return state

    def _bound_to(self, new: Sequence[Array]) -> State:
        """Return a restored state with the variables `new`, matched by position."""
        bound = []
        for each, var in zip(self, new, strict=True):
            slots, counters = (
                {
                    name: _not_owned(backends.place(array, var))
                    for name, array in arrays.items()
                }
                for arrays in (each.slots, each.counters)
            )
            is_excluded = each.is_excluded or self.key(var) in self._to_exclude
            view = backends.own_view(var)
            bound.append(
                Bound(view, each.shape, each.dtype, slots, counters, is_excluded)
            )
        return _state_of(bound, self._order(), is_closed=self.is_closed)

    def without(self, index: int) -> Slots:
        """Return the same state without a variable; later ones move up."""
        state = self._without_leftovers()
        other = object.__new__(Slots)
        other.__dict__.update(self.__dict__)
        other.warned_missing = set()
        order = [(k - (k > index), name) for k, name in self._order() if k != index]
        flags = {"is_closed": state.is_closed, "is_restored": state.is_restored}
        other.state = _state_of(
            [each for k, each in enumerate(self) if k != index], order, **flags
        )
        return other

    def exclude(self, new: Sequence[Array]) -> None:
        """Exclude arrays from weight decay, bound ones and those not bound yet."""
        state = self._without_leftovers()
        indices = [self.find(var) for var in new]
        for var, index in zip(new, indices, strict=True):
            if index is None:  # the view keeps the memory alive, and so its address
                self._to_exclude[self.key(var)] = backends.own_view(var)
        bound = [
            each._replace(is_excluded=True) if k in indices else each
            for k, each in enumerate(state.bound)
        ]
        self.state = state._replace(bound=bound)

    # --- Rows that missed steps -------------------------------------------------------

    def _new_counters(self, shape: Shape, like: Any = None) -> dict[str, Array]:
        """Return the counters of a variable of that shape, on the device of `like`."""
        if not self.counts_rows or 0 in shape or not shape:
            return {}
        # On the host, counters are written only when a gradient is row-sparse. Until
        # then, zeros need no memory.
        return {
            "steps": backends.zeros((2,), np.int64, like),
            "row_steps": backends.zeros(shape[:1], np.int64, like),
        }

    def behind(self) -> list[int]:
        """Return the indices of the variables with rows that miss steps."""
        return [k for k, each in enumerate(self) if _is_behind(each.counters)]

    def caught_up(self) -> list[tuple[Array, Array]]:
        """Return (counter, new values) pairs after which no row misses a step."""
        counters = [each.counters["steps"] for each in self if each.counters]
        return [(steps, backends.as_numpy(steps)[[0, 0]]) for steps in counters]

    # --- Saving -----------------------------------------------------------------------

    def to_save(self) -> dict[str, Any]:
        """Return everything but the variables.

        ``"arrays"`` maps names to the live arrays, in order, or to copies of those on
        devices; everything else is for JSON.
        """
        unbound = [var for var in self._to_exclude.values() if self.find(var) is None]
        if unbound:
            unbound_exclusions(unbound)
        arrays = {
            # The caller can give the live array another shape.
            f"slot.{index}.{quote(name, safe='')}": backends.as_numpy(
                self[index].slots[name]
            ).reshape(self[index].shape)
            for index, name in self._order()
        }
        for index, each in enumerate(self):
            for name, counter in _counters_to_save(each.counters).items():
                arrays[f"counter.{index}.{name}"] = counter
        return {
            "iterations": self.iterations.item(),
            "skipped_steps": self.skipped_steps,
            "variables": [[list(each.shape), each.dtype.name] for each in self],
            "is_closed": self.is_closed,
            "counts_rows": self.counts_rows,
            "is_excluded": [each.is_excluded for each in self],
            "arrays": arrays,
        }

    @classmethod
    def from_saved(cls, saved: dict[str, Any]) -> Slots:
        """Return slots that bind by position to the next variables.

        Raises ValueError for a state that no optimizer can have had.
        """
        check_state(saved)
        self = cls(bool(saved["counts_rows"]))
        self.iterations[()] = saved["iterations"]
        self.skipped_steps = int(saved["skipped_steps"])
        bound = [
            Bound(
                None,
                tuple(shape),
                np.dtype(dtype),
                {},
                self._new_counters(tuple(shape)),
                bool(is_excluded),
            )
            for (shape, dtype), is_excluded in zip(
                saved["variables"], saved["is_excluded"], strict=True
            )
        ]
        order = []
        for key, array in saved["arrays"].items():
            kind, index, name = parts(key)
            if kind == "slot":
                bound[index].slots[name] = _own_copy(array)
                order.append((index, name))
            else:
                bound[index].counters[name] = _own_copy(array)
        self.state = _state_of(
            bound,
            order,
            is_closed=bool(saved["is_closed"]),
            is_restored=bool(bound),
        )
        return self


def _is_behind(counters: dict[str, Array]) -> bool:
    if not counters:
        return False
    made, by_all = backends.as_numpy(counters["steps"])
    if by_all == made:
        return False
    return bool((backends.as_numpy(counters["row_steps"]) < made).any())


def _counters_to_save(counters: dict[str, Array]) -> dict[str, Array]:
    """Return counters; without those of rows, if no row misses a step."""
    if not counters:
        return {}
    steps = backends.as_numpy(counters["steps"])
    if steps[0] == steps[1]:
        return {"steps": steps}
    return {"steps": steps, "row_steps": backends.as_numpy(counters["row_steps"])}


# --- Rules ---------------------------------------------------------------------------


def weights(name: str, given: Any, current: Sequence[Array]) -> list[Array]:
    """Return arrays to copy into `current`, iterations first."""
    if not isinstance(given, (list, tuple)):
        raise TypeError(f"weights must be a list of arrays, got {type(given).__name__}")
    arrays = [backends.as_numpy(value) for value in given]
    if len(arrays) == len(current) - 1:
        arrays = [np.zeros((), np.int64), *arrays]  # a list of Keras 1
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
    rules.integer("weights[0]", int(arrays[0]), 0, rules.MAX_ITERATIONS)
    return arrays


def no_row_is_behind(what: str, slots: Slots) -> None:
    """Refuse an operation while rows miss steps."""
    behind = slots.behind()
    if behind:
        raise ValueError(
            f"{what} needs every row to have its variable's steps, got "
            f"{len(behind)} variable{'s' * (len(behind) > 1)} with rows that miss "
            "some: call catch_up()"
        )


def counted_rows(slots: Slots) -> None:
    """Refuse to catch up when steps are not counted, or variables are unknown."""
    if not slots.counts_rows:
        raise ValueError("catch_up needs an optimizer made with catch_up=True")
    if slots.is_restored and slots.behind():
        raise ValueError(
            "a restored optimizer must be bound by build or apply_gradients before "
            "its rows catch up"
        )


def unbound_exclusions(arrays: Sequence[Array]) -> NoReturn:
    """Raise for excluded arrays that a saved state cannot name."""
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
