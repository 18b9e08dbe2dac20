"""The state of an optimizer: slot arrays, the variables they belong to, their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

import numpy as np

from rmsprop_fast import backends, rules
from rmsprop_fast.cpu._extents import Extents
from rmsprop_fast.saved_state import check_state, parts

__all__ = ["INITIALIZERS", "Slots", "initial"]

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

INITIALIZERS: dict[str, Callable[..., Array]] = {"zeros": np.zeros, "ones": np.ones}


def initial(initializer: Any, shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Return a new C-contiguous array, or the one that `initializer` is made for.

    A writable memmap of that shape and dtype, given or returned by a callable, is used
    as it is: so a slot can live in a file. Any other array is copied.
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
    """Return an array that can be written and shares no memory with another object's.

    Pickles with buffers out of band give read-only views of them, or the original's.
    """
    owned = array.flags.owndata and array.flags.carray
    return array if owned else np.array(array, order="C", subok=False)


class Slots:
    """Slot arrays in order of creation, bound to variables by address.

    A variable is recognised by its address, shape, strides and dtype, so any view of
    the same memory finds the same slots. A restored state knows shapes and dtypes only,
    and is bound to the next variables by position.

    Parameters
    ----------
    counts_rows : bool, default False
        Whether to count the steps that each row of a variable has, see `counters`.
    """

    def __init__(self, counts_rows: bool = False) -> None:
        self.iterations = np.zeros((), np.int64)
        self.skipped_steps = 0  # that check_finite="skip" has left out
        self.variables: list[Array | None] = []
        self.specs: list[tuple[Shape, np.dtype[Any]]] = []
        self.by_key: dict[Any, int] = {}
        self.extents = Extents()
        self.counts_rows = counts_rows
        # For each variable with rows, int64, where it lies: "steps" are the two numbers
        # of steps that it made and that all its rows have; "row_steps" are those that
        # each row has. The larger of the last two counts.
        self.counters: list[dict[str, Array]] = []
        self.is_excluded: list[bool] = []  # from weight decay, for each variable
        self._to_exclude: dict[Any, Array] = {}  # arrays that are no variables yet
        self.is_closed = False
        self.is_restored = False
        self._arrays: list[dict[str, Array]] = []
        self._order: list[tuple[int, str]] = []

    @staticmethod
    def key(var: Array) -> Any:
        """Return what identifies an array's memory; empty ones have none to share."""
        address = backends.address(var)
        return address if var.size else (address, var.shape)

    def find(self, var: Any) -> int | None:
        """Return the index of a bound variable."""
        return self.by_key.get(self.key(var)) if backends.is_array(var) else None

    def get(self, index: int, name: str) -> Array | None:
        """Return one slot."""
        return self._arrays[index].get(name)

    def names(self) -> list[str]:
        """Return the slots' names in order of creation."""
        return list(dict.fromkeys(name for _, name in self._order))

    def arrays(self) -> list[Array]:
        """Return every slot in order of creation."""
        return [self._arrays[index][name] for index, name in self._order]

    def labelled(self) -> Iterable[tuple[str, Array]]:
        """Yield every bound variable and slot with words for an error."""
        for index, var in enumerate(self.variables):
            if var is not None:
                yield f"variable {index} of shape {var.shape}", var
        for index, name in self._order:
            yield f"slot {name!r} of variable {index}", self._arrays[index][name]

    # --- Binding ----------------------------------------------------------------------

    def bind(self, new: Sequence[Array], names: Sequence[str]) -> list[int]:
        """Bind checked variables and create the slots they lack, as zeros.

        Returns the indices of all variables that changed. Every array is allocated
        before anything is changed.
        """
        if self.is_restored:
            indices = list(range(len(new)))
        else:
            unbound = iter(range(len(self.variables), len(self.variables) + len(new)))
            found = [self.find(var) for var in new]
            indices = [next(unbound) if i is None else i for i in found]
        created = [
            (index, name, backends.zeros(var.shape, var.dtype, var))
            for name in names
            for index, var in zip(indices, new, strict=True)
            if index >= len(self._arrays) or name not in self._arrays[index]
        ]
        counters = {
            index: self._new_counters(var.shape, var)
            for index, var in zip(indices, new, strict=True)
            if index >= len(self.variables)
        }
        changed = {index for index, _, _ in created}
        if self.is_restored:
            changed.update(indices)
            self._rebind(new)
        for index, var in zip(indices, new, strict=True):
            if index == len(self.variables):
                changed.add(index)
                self._append(var, counters[index])
        for index, name, array in created:
            self.add(index, name, array)
        return sorted(changed)

    def add(self, index: int, name: str, array: Array) -> None:
        """Add one slot to a bound variable."""
        self._arrays[index][name] = array
        self._order.append((index, name))
        self._take(array)

    def _append(self, var: Array, counters: dict[str, Array]) -> None:
        self.by_key[self.key(var)] = len(self.variables)
        self.variables.append(backends.own_view(var))
        self.specs.append((var.shape, var.dtype))
        self.counters.append(counters)
        self.is_excluded.append(self._to_exclude.pop(self.key(var), None) is not None)
        self._arrays.append({})
        self._take(var)

    def _take(self, array: Array) -> None:
        if array.size:
            self.extents.add(*backends.bounds(array))

    def _rebind(self, new: Sequence[Array]) -> None:
        """Bind a restored state to `new`, which match it position by position."""
        self._arrays, self.counters = (
            [
                {name: backends.place(array, var) for name, array in arrays.items()}
                for arrays, var in zip(field, new, strict=True)
            ]
            for field in (self._arrays, self.counters)
        )
        self.is_restored = False
        for index, var in enumerate(new):
            for array in self._arrays[index].values():
                self._take(array)
            self.variables[index] = backends.own_view(var)
            self.by_key[self.key(var)] = index
            if self._to_exclude.pop(self.key(var), None) is not None:
                self.is_excluded[index] = True
            self._take(var)

    def forget(self, index: int) -> None:
        """Let go of a variable and its slots; later ones move up."""
        fields = (self.specs, self.counters, self.is_excluded, self._arrays)
        for field in (self.variables, *fields):
            del field[index]
        self._order = [(i - (i > index), name) for i, name in self._order if i != index]
        self.by_key = {}
        self.extents = Extents()
        for i, var in enumerate(self.variables):
            if var is not None:
                self.by_key[self.key(var)] = i
                self._take(var)
        for array in self.arrays():
            self._take(array)

    # --- Rows that missed steps -------------------------------------------------------

    def _new_counters(self, shape: Shape, like: Any = None) -> dict[str, Array]:
        """Return the counters of a variable of that shape, where `like` lies."""
        if not self.counts_rows or 0 in shape or not shape:
            return {}
        # The host's are never written unless a gradient is row-sparse: until then
        # zeros cost no memory.
        return {
            "steps": backends.zeros((2,), np.int64, like),
            "row_steps": backends.zeros(shape[:1], np.int64, like),
        }

    def behind(self) -> list[int]:
        """Return the indices of the variables with rows that miss steps."""
        return [index for index in range(len(self.counters)) if self._is_behind(index)]

    def _is_behind(self, index: int) -> bool:
        if not self.counters[index]:
            return False
        made, by_all = backends.as_numpy(self.counters[index]["steps"])
        if by_all == made:
            return False
        return bool((backends.as_numpy(self.counters[index]["row_steps"]) < made).any())

    def call_caught_up(self) -> None:
        """Say of every row that it misses no step."""
        for counters in self.counters:
            if counters:
                made, _ = backends.as_numpy(counters["steps"])
                backends.copy_into(counters["steps"], np.array([made, made]))

    # --- Weight decay -----------------------------------------------------------------

    def exclude(self, var: Array) -> int | None:
        """Exclude an array from weight decay; return its index if it is bound."""
        index = self.find(var)
        if index is None:
            self._to_exclude[self.key(var)] = backends.own_view(
                var
            )  # keeps the address taken
        else:
            self.is_excluded[index] = True
        return index

    # --- Saving -----------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return everything but the variables.

        ``"arrays"`` maps names to the live arrays, in order, or to copies of those on
        devices; all else is for JSON.
        """
        if self._to_exclude:
            unbound_exclusions(list(self._to_exclude.values()))
        arrays = {
            f"slot.{index}.{quote(name, safe='')}": backends.as_numpy(
                self._arrays[index][name]
            )
            for index, name in self._order
        }
        for index in range(len(self.specs)):
            for name, counter in self._counters_to_save(index).items():
                arrays[f"counter.{index}.{name}"] = counter
        return {
            "iterations": int(self.iterations),
            "skipped_steps": self.skipped_steps,
            "variables": [[list(shape), dtype.name] for shape, dtype in self.specs],
            "is_closed": self.is_closed,
            "counts_rows": self.counts_rows,
            "is_excluded": list(self.is_excluded),
            "arrays": arrays,
        }

    def _counters_to_save(self, index: int) -> dict[str, Array]:
        """Return counters, without those of rows where all have the same."""
        counters = self.counters[index]
        if not counters:
            return {}
        steps = backends.as_numpy(counters["steps"])
        if steps[0] == steps[1]:
            return {"steps": steps}
        return {"steps": steps, "row_steps": backends.as_numpy(counters["row_steps"])}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Slots:
        """Return slots that bind by position to the next variables.

        Raises ValueError for a state that no optimizer can have had.
        """
        check_state(state)
        self = cls(bool(state["counts_rows"]))
        self.iterations[()] = state["iterations"]
        self.skipped_steps = int(state["skipped_steps"])
        self.specs = [
            (tuple(shape), np.dtype(dtype)) for shape, dtype in state["variables"]
        ]
        self.variables = [None] * len(self.specs)
        self._arrays = [{} for _ in self.specs]
        self.counters = [self._new_counters(shape) for shape, _ in self.specs]
        self.is_excluded = [bool(value) for value in state["is_excluded"]]
        self.is_closed = bool(state["is_closed"])
        self.is_restored = bool(self.specs)
        for key, array in state["arrays"].items():
            kind, index, name = parts(key)
            if kind == "slot":
                self.add(index, name, _own_copy(array))
            else:
                self.counters[index][name] = _own_copy(array)
        return self


# --- Rules ---------------------------------------------------------------------------


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
    rules.integer("weights[0]", int(arrays[0]), 0, rules.MAX_ITERATIONS)
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
