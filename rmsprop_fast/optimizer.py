"""Optimizer: the methods of a Keras optimizer, for arrays that the caller owns."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, Self

import numpy as np

from rmsprop_fast import (
    backends,
    checkpoint,
    gradients,
    hyperparameters,
    rules,
    schedules,
    step_rules,
    threads,
)
from rmsprop_fast import slots as state_rules
from rmsprop_fast._exclusive import Exclusive
from rmsprop_fast.cpu._step import NOT_FINITE, REFUSED, Step, StepArguments
from rmsprop_fast.cpu._step import assign as assign_on_host
from rmsprop_fast.cpu._step import clipped as clipped_on_host
from rmsprop_fast.gpu.scalar import DeviceScalar
from rmsprop_fast.gradients import ValueAndGrad
from rmsprop_fast.hyperparameters import Hyperparameter, LearningRate, Option
from rmsprop_fast.indexed_slices import IndexedSlices
from rmsprop_fast.schedules import LearningRateSchedule
from rmsprop_fast.slots import Slots, initial

__all__ = ["Optimizer"]

Array = Any  # numpy.ndarray or cupy.ndarray
Gradient = Array | IndexedSlices | None
GradsAndVars = Iterable[tuple[Gradient, Array]]
Loss = Callable[[], tuple[Any, Any]] | ValueAndGrad

# The keywords that **kwargs may contain, as in Keras, and their defaults.
KEYWORDS: Mapping[str, Any] = {
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "lr": None,
    "decay": 0.0,
    "weight_decay": None,
    "catch_up": False,
    "check_finite": False,
}


def _listed(var_list: Any) -> Any:
    """Return variables given by a callable, or as one array, as a list of them."""
    if callable(var_list):
        var_list = var_list()
    return [var_list] if backends.is_array(var_list) else var_list


@checkpoint.register
class Optimizer:
    """What every optimizer of this package does; use a subclass such as `RMSprop`.

    Parameters
    ----------
    name : str, optional
        A name for `get_config` and for errors of `set_weights`. If omitted: the name of
        the class.
    num_threads : int, optional
        The number of threads of a large step. If omitted: OMP_NUM_THREADS, or as many
        as the machine allows. Small steps stay on one thread in both cases.
    **kwargs : float or None
        `clipnorm` limits the norm of each gradient. `global_clipnorm` limits the norm
        of all gradients of a call together. `clipvalue` limits the absolute value of
        each element. Norms are applied first. Only one of the two norms may be given.
        `lr` is another name for `learning_rate`, from Keras. `decay`, a number or a
        callable, divides the learning rate by ``1 + decay*iterations``.

        With `weight_decay` each step first multiplies each variable by ``1 -
        learning_rate * weight_decay``; a row-sparse step does this only to the rows in
        `indices`. With ``catch_up=True`` row-sparse steps have the result of dense
        steps, see `catch_up`. `check_finite` decides what happens when a gradient is
        not finite: True raises an error, ``"skip"`` skips the step, False (the default)
        does not check.

    Attributes
    ----------
    last_loss : object
        The loss that the last `minimize`, `get_gradients` or `get_updates` computed;
        None before the first.

    Raises
    ------
    TypeError
        An unknown keyword, or a value of the wrong kind.
    ValueError
        A value outside its range, both norms, or weight decay with `catch_up`.
    """

    clipnorm = Option(
        rules.at_least_zero, "Bound on the norm of each gradient, or None."
    )
    clipvalue = Option(
        rules.at_least_zero, "Bound on the magnitude of each gradient element, or None."
    )
    global_clipnorm = Option(
        rules.at_least_zero,
        "Bound on the norm of all gradients of a call together, or None.",
    )
    learning_rate = LearningRate(
        rules.at_least_zero,
        """The learning rate, in units of `var` per step.

        A schedule is returned as it is, and so is a 0-d CuPy array.
        """,
    )
    decay = Hyperparameter(
        rules.at_least_zero,
        "The learning rate is divided by ``1 + decay*iterations``; 0 is off.",
    )
    weight_decay = Option(
        rules.at_least_zero,
        "A step multiplies variables by ``1 - learning_rate*weight_decay``, or None.",
    )
    check_finite = Option(
        hyperparameters.finiteness,
        """What happens to a step whose gradients are not finite: True, False, "skip".

        True raises an error, ``"skip"`` skips the step, False does not check.
        """,
        is_optional=False,
    )
    num_threads = Option(
        hyperparameters.n_threads,
        "The number of threads of a large step, or None: what the machine allows.",
    )

    @property
    def lr(self) -> Any:
        """Another name for `learning_rate`, from Keras."""
        return self.learning_rate

    @lr.setter
    def lr(self, value: Any) -> None:
        self.learning_rate = value

    # By name, those of the bases first; a step with a schedule asks for them.
    _options: ClassVar[dict[str, Option[Any]]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._options = hyperparameters.options_of(cls)

    def __init__(
        self, name: str | None = None, *, num_threads: int | None = None, **kwargs: Any
    ) -> None:
        rules.known_keywords(kwargs, KEYWORDS)
        self._name = rules.text("name", name or type(self).__name__)
        self._values: dict[str, Any] = {}
        self._catches_up = rules.flag("catch_up", kwargs.get("catch_up", False))
        self.last_loss: Any = None
        self._own(Slots(self._catches_up))
        self.num_threads = num_threads
        for option in KEYWORDS:
            if option not in ("lr", "catch_up"):
                setattr(self, option, kwargs.get(option, KEYWORDS[option]))

    def _own(self, slots: Slots) -> None:
        """Take a state over, and create what a step needs beside it."""
        self._lock = Exclusive()
        threads.renew_lock_in_child(self)
        self._slots = slots
        self._step: Any = Step()
        self._devices: Any = None
        # A dict of hyperparameters, and the argument of a step that was made from it.
        # Below: a dict of hyperparameters that has no callable.
        self._prepared: tuple[Any, Any] = (None, None)
        self._uncalled: Any = None
        if isinstance(self._values.get("learning_rate"), DeviceScalar):
            self._use_devices()

    def _use_devices(self) -> None:
        """From now on a step looks for arrays on devices, too."""
        if self._devices is None:
            from rmsprop_fast.gpu.step import DeviceStep

            self._devices = self._step.devices = DeviceStep(self._step)

    def synchronize(self) -> None:
        """Wait for the devices, and raise the errors that steps there have found.

        A call of `apply_gradients` launches a step on a device and does not wait for
        it. When the step finds an error there, a later call raises it: `synchronize`,
        or the next `apply_gradients` that notices it. After `synchronize`, `iterations`
        and `skipped_steps` are exact, also when ``check_finite="skip"`` has skipped
        steps. Without variables on devices, `synchronize` does nothing.

        Raises
        ------
        IndexError
            A row was out of range. That step, and those after it, changed nothing on
            its device, and are no longer counted.
        FloatingPointError
            The same for an element of a gradient that was not finite, with
            ``check_finite=True``.

        Notes
        -----
        Methods that read or replace state also wait, and raise these errors before they
        do anything: `get_weights`, `set_weights`, `save`, pickling, `forget`, setting
        `iterations`, and, with ``catch_up=True``, setting `rho`, `momentum` or
        `centered`.
        """
        with self._lock:
            self._synchronize()

    def check(self) -> None:
        """Do the same as `synchronize`; the older name.

        Raises
        ------
        IndexError, FloatingPointError
            As `synchronize`.
        """
        self.synchronize()

    def _synchronize(self) -> None:
        if self._devices is not None:
            self._devices.synchronize(self._slots)

    # --- Hyperparameters --------------------------------------------------------------

    def _set_value(self, option: Option[Any], value: Any) -> None:
        """Take a checked value over; the dict of all values is replaced as a whole."""
        name = option.name
        values = {**self._values, name: value}
        hyperparameters.one_norm(values.get("clipnorm"), values.get("global_clipnorm"))
        if isinstance(value, DeviceScalar):
            self._use_devices()
        if self._catches_up:
            self._refuse_with_catch_up(option, value)
        if self._catches_up and option.decays_missed_rows and name in self._values:
            with self._lock:  # no step comes between the two
                # A device that has found an error would not let rows catch up.
                self._synchronize()
                self._catch_up(None, None)
                self._values = {**self._values, name: value}
        else:  # nothing is called between reading and writing: no setter gets lost
            self._values = {**self._values, name: value}

    def _refuse_with_catch_up(self, option: Option[Any], value: Any) -> None:
        if option.decays_missed_rows and callable(value):
            raise ValueError(
                f"{option.name} must be a number with catch_up=True, got {value!r}"
            )
        if option.name == "weight_decay" and value:
            raise ValueError(
                f"weight_decay must be None or 0 with catch_up=True, got {value!r}"
            )

    def _called(self) -> dict[str, Any]:
        """Return what hyperparameters that are callables or schedules say now.

        Callables are the caller's code: they run before the lock is taken.
        """
        values = self._values
        if self._uncalled is values:
            return {}
        options = self._options
        called = {
            name: options[name].number(value, lambda: self.iterations)
            for name, value in values.items()
            if callable(value)
        }
        if not called:
            self._uncalled = values
        return called

    def _arguments(self, called: dict[str, Any], factor: float = 1.0) -> StepArguments:
        """Return the argument of a step: everything but the arrays. Under the lock."""
        values = self._values
        arguments: StepArguments
        made_from, arguments = self._prepared
        if made_from is not values or called:
            numbers = {**values, **called}
            arguments = StepArguments(
                self._variant(numbers),
                clipvalue=numbers["clipvalue"],
                clipnorm=numbers["clipnorm"],
                global_clipnorm=numbers["global_clipnorm"],
                weight_decay=numbers["weight_decay"] or 0.0,
                check_finite=numbers["check_finite"],
                num_threads=numbers["num_threads"],
                **self._scalars(numbers),
            )
            arguments.set_learning_rate(numbers["learning_rate"], numbers["decay"])
            self._prepared = (None if called else values, arguments)
        arguments.begin(self._slots.iterations, factor)
        return arguments

    @property
    def iterations(self) -> int:
        """How many steps were made; schedules and decay begin at 0.

        Reading it does not wait for devices, see `synchronize`; setting it does.
        """
        self._see_skipped()
        return int(self._slots.iterations.item())

    @iterations.setter
    def iterations(self, value: int) -> None:
        value = rules.integer("iterations", value, 0, rules.MAX_ITERATIONS)
        with self._lock:
            self._synchronize()
            self._slots.iterations[()] = value

    @property
    def skipped_steps(self) -> int:
        """How many steps ``check_finite="skip"`` has skipped, see `synchronize`."""
        self._see_skipped()
        return self._slots.skipped_steps

    def _see_skipped(self) -> None:
        """Count the steps that devices are known to have skipped."""
        if self._devices is not None:
            with self._lock:
                self._devices.see_skipped(self._slots)

    # --- What a subclass adds ---------------------------------------------------------

    def _variant(self, numbers: Mapping[str, Any]) -> int:
        """Return the variant of the update, as the header numbers it."""
        raise NotImplementedError(f"{type(self).__name__} has no update of its own")

    def _scalars(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """Return the other scalars of the update by name."""
        raise NotImplementedError(f"{type(self).__name__} has no update of its own")

    def _slots_for(self, variant: int) -> list[str]:
        """Return the names of the slots that a variant needs, in order of creation."""
        raise NotImplementedError(f"{type(self).__name__} has no update of its own")

    # --- Steps ------------------------------------------------------------------------

    def apply_gradients(
        self, grads_and_vars: GradsAndVars, name: str | None = None
    ) -> int:
        """Update variables in place from their gradients: one step.

        Parameters
        ----------
        grads_and_vars : iterable of (gradient, variable) pairs
            A variable is a writable float32 or float64 ndarray of any layout, or a
            C-contiguous CuPy array; it is read and written. Its gradient is an array of
            the same kind, shape and dtype or `IndexedSlices`; it is only read. The
            gradient of a 0-d variable may be a NumPy scalar of its dtype. A gradient of
            None leaves its variable alone. A variable that occurs twice is updated
            twice, in the order given.
        name : str, optional
            The name scope of Keras; any value is accepted. It has no effect.

        Returns
        -------
        int
            The new count of `iterations`.

        Raises
        ------
        TypeError
            Malformed pairs; arrays of the wrong kind or dtype.
        ValueError
            No gradient at all; wrong shapes; read-only variables; arrays that overlap;
            variables other than those given to `build`.
        IndexError
            A row out of range.
        FloatingPointError
            An element of a gradient is not finite, and `check_finite` is True.

        Warns
        -----
        UserWarning
            Some gradients are None; once for each set of variables.

        Notes
        -----
        Everything is checked before anything is changed: after an error, variables,
        slots and `iterations` are as they were before the call. The same is true after
        a step that ``check_finite="skip"`` skips; `skipped_steps` counts it. The device
        checks the row numbers and elements of gradients there, and this call does not
        wait for it: a later call raises the error, and `iterations` no longer counts
        the step, see `synchronize`.
        """
        return self._apply(grads_and_vars, 1.0)

    def _apply(self, grads_and_vars: GradsAndVars, factor: float) -> int:
        """Run one step on gradients that `factor` multiplies before clipping."""
        pairs = step_rules.as_list("grads_and_vars", grads_and_vars)
        called = self._called()
        with self._lock:
            arguments = self._arguments(called, factor)
            done = self._update(pairs, arguments)
            if done == REFUSED:
                pairs = self._bind_new(pairs, self._slots_for(arguments.variant))
                arguments.overlaps_checked = True
                done = self._update(pairs, arguments)
            if done == NOT_FINITE:
                done = self._skip(pairs)
            if done < 0:
                raise RuntimeError("an array of this step changed while it was checked")
        return int(done)

    def _update(self, pairs: list[Any], arguments: StepArguments) -> int:
        if self._devices is not None:
            self._devices.raise_found(self._slots)
        return int(self._step.update(self._slots, pairs, arguments))

    def _skip(self, pairs: list[Any]) -> int:
        """Raise an error for a step whose gradients are not finite, or skip it."""
        if self._values["check_finite"] != "skip":
            step_rules.nonfinite(pairs)
            return NOT_FINITE  # another thread has made them finite since
        self._slots.skipped_steps += 1
        return int(self._slots.iterations.item())

    def _bind_new(self, pairs: list[Any], slot_names: list[str]) -> list[Any]:
        """Find the broken rule and raise, or bind what is new; return clean pairs."""
        pairs = step_rules.pairs(pairs)
        to_bind, missing = step_rules.step(pairs, self._slots)
        arrays = [var for grad, var in pairs if grad is not None]
        self._check_norm_place(arrays)
        if self._values["check_finite"] is not False:
            step_rules.one_place("check_finite", False, arrays)
        rate = self._values["learning_rate"]
        if isinstance(rate, DeviceScalar):
            step_rules.rate_place(rate.array, arrays)
        if self._values["check_finite"] is True:
            step_rules.nonfinite(pairs)  # an error must not leave slots behind
        if missing:
            self._warn_of_missing(missing)
        self._bind(to_bind, slot_names)
        return pairs

    def _bind(
        self, new: Sequence[Array], slot_names: Sequence[str], **given: Any
    ) -> None:
        if any(map(backends.is_on_device, new)):
            self._use_devices()
        self._slots.bind(new, slot_names, **given)

    def _check_norm_place(self, arrays: list[Array]) -> None:
        """Refuse a norm of gradients in several places: one would have to wait."""
        if self._values["global_clipnorm"] is not None:
            step_rules.one_place("global_clipnorm", None, arrays)

    def _warn_of_missing(self, missing: list[Array]) -> None:
        key = frozenset(
            (backends.address(var), var.shape, var.strides) for var in missing
        )
        if key in self._slots.warned_missing:
            return
        shapes = ", ".join(str(var.shape) for var in missing)
        warnings.warn(
            f"Gradients do not exist for {len(missing)} variable"
            f"{'s' * (len(missing) > 1)} of shape {shapes}, left alone",
            UserWarning,
            stacklevel=5,
        )
        self._slots.warned_missing.add(key)

    def build(self, var_list: Iterable[Array]) -> None:
        """Create all slots for `var_list` now, and accept no other variables later.

        Parameters
        ----------
        var_list : list of ndarray
            As in `apply_gradients`; neither read nor written. For a restored optimizer
            the same number, shapes and dtypes as before, in the same order.

        Raises
        ------
        TypeError, ValueError
            As `apply_gradients`.
        """
        called = self._called()
        with self._lock:
            variant = self._variant({**self._values, **called})
            new = step_rules.variables("var_list", var_list, self._slots)
            self._bind(new, self._slots_for(variant), closes=True)
            if self._devices is not None:
                self._devices.compile(self._slots, variant)

    def forget(self, var: Array) -> None:
        """Remove a variable, its slots and its counts of steps from this optimizer.

        Parameters
        ----------
        var : ndarray
            A variable this optimizer has updated or been built with; not touched.

        Raises
        ------
        KeyError
            `var` is unknown.
        ValueError
            `var` is the memory of a variable in another shape.
        """
        with self._lock:
            self._synchronize()
            self._slots = self._slots.without(self._index(var))
            self._step.follow(self._slots)  # lets go of the variable

    def _index(self, var: Any) -> int:
        index = self._slots.find(var)
        resized = self._slots.resized(var)
        if resized is not None:  # its shape, and perhaps its address, is another now
            bound = self._slots[resized].var
            if getattr(bound, "base", None) is var:
                return resized
        if index is None:
            state_rules.unknown_variable(var)
        known = self._slots[index].var
        if known is not None:
            rules.same_array("", var, known)
        return index

    def exclude_from_weight_decay(
        self,
        var_list: Iterable[Array] | None = None,
        var_names: Iterable[str] | None = None,
    ) -> None:
        """Exclude some variables from weight decay, from the next step on.

        Parameters
        ----------
        var_list : list of ndarray
            Variables, or arrays that will become some; neither read nor written. None
            is an empty list.
        var_names : None
            Patterns of names in Keras. Arrays have no names: a pattern is refused.

        Raises
        ------
        TypeError, ValueError
            An array that cannot be a variable of this optimizer, see `build`;
            `var_names` is not None.
        """
        rules.no_names("var_names", var_names)
        with self._lock:
            arrays = step_rules.to_exclude(
                [] if var_list is None else var_list, self._slots
            )
            self._slots.exclude(arrays)

    def catch_up(self, var: Array | None = None, rows: Any = None) -> None:
        r"""Apply the steps that rows have missed, with ``catch_up=True``.

        A row misses a step when it is not in the `indices` of the row-sparse gradient.
        In a dense step its gradient would be zero: its slots decay and, with momentum,
        the row moves. The optimizer counts the missed steps and applies them together,
        in closed form. It does this before the next update of the row, and when you
        call this method.

        Parameters
        ----------
        var : ndarray, optional
            A variable this optimizer has updated or been built with; written, and so
            are its slots. Every variable if omitted.
        rows : array_like of integers, shape (n,), optional
            Row numbers of `var`, in any order and number; an array is on the device of
            `var`. Every row if omitted.

        Raises
        ------
        KeyError
            `var` is unknown.
        TypeError
            `rows` are not integers, or are on another device than `var`.
        IndexError
            A row out of range; for a variable on a device, later: see `synchronize`.
        FloatingPointError
            From a step on a device before this call, as in `synchronize`.
        ValueError
            The optimizer was made without ``catch_up=True``; a restored optimizer has
            rows that miss steps and no variables yet; `rows` is given without `var`.

        Notes
        -----
        With momentum a row moves in every step. So call `catch_up` for the rows of a
        batch before the loss reads them. Without momentum only slots decay, and you
        need not call it. After k missed steps, with :math:`\beta` the momentum:

        .. math::

            \mathrm{rms} &\leftarrow \rho^k \, \mathrm{rms} \\
            \mathrm{mg} &\leftarrow \rho^k \, \mathrm{mg}
                \quad \text{if centered} \\
            \mathrm{var} &\leftarrow \mathrm{var}
                - (\beta + \beta^2 + \cdots + \beta^k) \, \mathrm{mom}
                \quad \text{with momentum} \\
            \mathrm{mom} &\leftarrow \beta^k \, \mathrm{mom}
                \quad \text{with momentum}

        Examples
        --------
        >>> import numpy as np
        >>> from rmsprop_fast import IndexedSlices, RMSprop
        >>> table = np.zeros((3, 1))
        >>> opt = RMSprop(rho=0.5, catch_up=True)
        >>> for row in (0, 1, 1):
        ...     grad = IndexedSlices(np.ones((1, 1)), np.array([row]))
        ...     step = opt.apply_gradients([(grad, table)])
        >>> opt.get_slot(table, "rms").ravel()  # row 0 misses two steps
        array([0.5 , 0.75, 0.  ])
        >>> opt.catch_up()
        >>> opt.get_slot(table, "rms").ravel()
        array([0.125, 0.75 , 0.   ])
        """
        with self._lock:
            self._catch_up(var, rows)

    def _catch_up(self, var: Any, rows: Any) -> None:
        slots = self._slots
        state_rules.counted_rows(slots)
        for bound in slots:
            step_rules.not_resized("", bound.var, slots)
        if var is None:
            indices = list(range(len(slots)))
        else:
            indices = [self._index(var)]
            rules.variable("", var)
        if rows is not None:
            rows = step_rules.rows(rows, var)
        if slots.is_restored:
            return  # no row is behind
        if self._devices is not None:
            self._devices.raise_found(slots)
        # The hyperparameters that missed steps use are never callables.
        done = self._step.catch_up(slots, indices, rows, self._arguments_of_missed())
        if not done:
            step_rules.row_out_of_range(rows, var)

    def _arguments_of_missed(self) -> StepArguments:
        """Return the argument of steps with a gradient of zero: no learning rate."""
        numbers = {**self._values, **dict.fromkeys(("learning_rate", "epsilon"), 0.0)}
        return StepArguments(
            self._variant(numbers),
            num_threads=numbers["num_threads"],
            **self._scalars(numbers),
        )

    # --- Losses -----------------------------------------------------------------------

    def _gradients(
        self, loss: Loss, var_list: Any
    ) -> tuple[Any, list[Gradient], list[Array]]:
        """Call `loss`; return its value, its gradients and the list of variables."""
        if isinstance(loss, ValueAndGrad):
            variables = gradients.loss_variables(_listed(var_list))
            return *loss(*variables), variables
        value, grads = gradients.loss_result(gradients.loss(loss)())
        var_list = _listed(var_list)  # after the loss, as Keras does
        if backends.is_array(grads) or isinstance(grads, IndexedSlices):
            grads = [grads]
        return value, *gradients.matched(grads, var_list)

    def minimize(
        self,
        loss: Loss,
        var_list: Any,
        grad_loss: float | None = None,
        name: str | None = None,
    ) -> int:
        """Evaluate a loss and its gradients once and apply them: one step.

        Parameters
        ----------
        loss : callable
            Takes no argument and returns ``(value, grads)``. `grads` is a list with a
            gradient for every variable, or None for a variable that must not change.
            Or a loss that `rmsprop_fast.gradients` made of a function of the variables.
        var_list : list of ndarray, ndarray, or callable
            The variables; a callable that returns them is called after a `loss` that
            takes no argument.
        grad_loss : float, optional
            Multiplies the gradients before they are clipped.
        name : str, optional
            The name scope of Keras; any value is accepted. It has no effect.

        Returns
        -------
        int
            The new count of `iterations`. `last_loss` has the value of the loss.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `apply_gradients`; `loss` is not callable or returns something else.
        """
        factor = 1.0 if grad_loss is None else rules.finite("grad_loss", grad_loss)
        value, grads, var_list = self._gradients(loss, var_list)
        done = self._apply(zip(grads, var_list, strict=True), factor)
        self.last_loss = value
        return done

    def get_gradients(self, loss: Loss, params: Any) -> list[Array | IndexedSlices]:
        """Evaluate a loss and return its gradients, clipped.

        Parameters
        ----------
        loss : callable
            As for `minimize`.
        params : list of ndarray, ndarray, or callable
            The variables, not touched.

        Returns
        -------
        list of ndarray and IndexedSlices
            New arrays.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `minimize`; a gradient is None.
        """
        value, grads, params = self._gradients(loss, params)
        arrays = gradients.gradients(grads, params)
        self._check_norm_place(arrays)
        called = self._called()
        with self._lock:
            arguments = self._arguments(called)
            if any(map(backends.is_on_device, arrays)):
                self._use_devices()
                new = self._devices.clipped(arrays, arguments)
            else:
                new = clipped_on_host(arrays, arguments)
        self.last_loss = value
        return [
            IndexedSlices(array, grad.indices.copy(), grad.dense_shape)
            if isinstance(grad, IndexedSlices)
            else array
            for array, grad in zip(new, grads, strict=True)
        ]

    def get_updates(self, loss: Loss, params: Any) -> list[int]:
        """Evaluate a loss and its gradients once and apply them: one step.

        Parameters
        ----------
        loss : callable
            As for `minimize`.
        params : list of ndarray, ndarray, or callable
            The variables, updated in place.

        Returns
        -------
        list of int
            The new count of `iterations`, in a list because Keras returns a list.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `minimize`; a gradient is None.
        """
        value, grads, params = self._gradients(loss, params)
        gradients.gradients(grads, params)
        done = self._apply(zip(grads, params, strict=True), 1.0)
        self.last_loss = value
        return [done]

    # --- State ------------------------------------------------------------------------

    def add_slot(self, var: Array, slot_name: str, initializer: Any = "zeros") -> Array:
        """Return a slot of `var`, created if it does not exist yet.

        Parameters
        ----------
        var : ndarray
            Bound by this call if it was not; neither read nor written.
        slot_name : str
            ``"rms"``, ``"momentum"`` and ``"mg"`` are the ones that steps use.
        initializer : {"zeros", "ones"}, callable or ndarray, optional
            The first values of the slot, in the shape of `var`; a callable gets (shape,
            dtype). A writable `numpy.memmap` of that shape and dtype becomes the slot,
            so that its file contains the slot. Any other array is copied.

        Returns
        -------
        ndarray, shape and dtype of `var`
            The live state.

        Raises
        ------
        TypeError, ValueError
            `var` cannot be bound, see `apply_gradients`; `initializer` does not fit.
        """
        rules.text("slot_name", slot_name)
        rules.variable("", var)
        slot = None
        if callable(initializer):  # the caller's code runs before the lock is taken
            slot = initial(initializer, var.shape, var.dtype)
        with self._lock:
            step_rules.bindable(var, self._slots)
            index = self._slots.find(var)
            if index is None or slot_name not in self._slots[index].slots:
                if slot is None:
                    slot = initial(initializer, var.shape, var.dtype)
                slot = backends.place(slot, var)
                step_rules.new_slot(slot, var, self._slots)
                self._bind([var], [], given=(slot_name, slot))
        return self.get_slot(var, slot_name)

    def add_weight(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any = None,
        initializer: Any = "zeros",
        trainable: Any = None,
        synchronization: Any = None,
        aggregation: Any = None,
        **kwargs: Any,
    ) -> Array:
        """Return a new array that belongs to the caller; it is not in `weights`.

        Parameters
        ----------
        name : str
            The name of the weight in Keras. It has no effect.
        shape : sequence of int
            Its shape.
        dtype : dtype, optional
            float32 (if omitted) or float64.
        initializer : {"zeros", "ones"}, callable or ndarray, optional
            As in `add_slot`.
        trainable, synchronization, aggregation, **kwargs : object, optional
            Arguments of Keras. They have no effect.

        Returns
        -------
        ndarray
            C-contiguous, of that shape and dtype.

        Raises
        ------
        TypeError, ValueError
            An argument breaks its rule.
        """
        rules.text("name", name)
        return initial(
            initializer,
            rules.shape("shape", shape) or (),
            rules.slot_dtype("dtype", np.float32 if dtype is None else dtype),
        )

    def get_slot(self, var: Array, slot_name: str) -> Array:
        """Return the slot array kept for `var`.

        Parameters
        ----------
        var : ndarray
            A variable this optimizer has updated or been built with.
        slot_name : {"rms", "momentum", "mg"}
            Or a name given to `add_slot`.

        Returns
        -------
        ndarray, shape and dtype of `var`
            The live state, not a copy. Unit of "rms": (loss per unit of `var`) squared.

        Raises
        ------
        KeyError
            `var` is unknown, or this optimizer keeps no such slot.
        ValueError
            `var` is the memory of a variable in another shape.
        """
        slot = self._slots[self._index(var)].slots.get(slot_name)
        if slot is None:
            state_rules.unknown_slot(slot_name, self._slots)
        return slot

    def get_slot_names(self) -> list[str]:
        """Return the names of the slots that exist, in order of creation.

        Returns
        -------
        list of str
            Empty before the first step or `build`.
        """
        return self._slots.names()

    @property
    def weights(self) -> list[Array]:
        """The live state: iterations (0-d int64), then the slots, oldest first."""
        return [self._slots.iterations, *self._slots.arrays()]

    def variables(self) -> list[Array]:
        """Return `weights`.

        Returns
        -------
        list of ndarray
            The live state, not copies.
        """
        return self.weights

    def get_weights(self) -> list[Array]:
        """Return copies of `weights`.

        Returns
        -------
        list of numpy.ndarray
            Iterations (0-d int64), then every rms, every momentum and every mg in the
            order of the variables. Arrays on devices are copied to the host.

        Raises
        ------
        ValueError
            Rows miss steps, see `catch_up`: a list of weights cannot say which.
        """
        with self._lock:
            self._synchronize()
            state_rules.no_row_is_behind("get_weights", self._slots)
            return [
                array.get()
                if backends.is_on_device(array)
                else np.array(array, subok=False)
                for array in self.weights
            ]

    def set_weights(self, weights: Sequence[Array]) -> None:
        """Copy arrays into the state.

        Parameters
        ----------
        weights : list of ndarray
            As `get_weights` returns them. If the first is absent, as in lists of Keras
            1, `iterations` becomes 0. With ``catch_up=True``, no row misses a step
            afterwards.

        Raises
        ------
        TypeError, ValueError
            The number, a shape or a kind of dtype does not match; nothing was copied.
        """
        with self._lock:
            self._synchronize()
            new = state_rules.weights(self._name, weights, self.weights)
            # Copies first: an array of the caller may be one of the live ones.
            weights = self.weights
            copies = [
                array.astype(old.dtype) for array, old in zip(new, weights, strict=True)
            ]
            pairs = [*zip(weights, copies, strict=True), *self._slots.caught_up()]
            # The host's arrays in one call: an interrupt comes before or after it.
            on_host = []
            for target, source in pairs:
                if backends.is_on_device(target):
                    backends.copy_into(target, source)
                else:
                    on_host.append((target, source))
            assign_on_host(on_host)

    # --- Configuration ----------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds this optimizer, without its state.

        Returns
        -------
        dict
            JSON-able. Callables are evaluated; a schedule is a dict.
        """
        options, config = self._options, self._settings()
        for name in options.keys() & config.keys():
            value = getattr(self, name)
            if isinstance(value, LearningRateSchedule):
                value = schedules.serialize(value)
            elif backends.is_on_device(value):
                value = float(value.get())
            config[name] = value
        return config

    def _settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor that are set, without those off."""
        values = {
            name: self._values[name] for name in self._options if name in self._values
        }
        settings = {
            "name": self._name,
            **values,
            "catch_up": self._catches_up or None,
            "check_finite": values.get("check_finite") or None,
        }
        return {name: value for name, value in settings.items() if value is not None}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Return a new optimizer from a configuration.

        Parameters
        ----------
        config : dict
            As `get_config` returns it; not changed. Missing keys take their defaults.
            A configuration of Keras 2 or 3 may have keys for options that do not exist
            here, if these options are off, such as ``use_ema=False``.
        custom_objects : dict of str to type, optional
            Schedules of your own by class name.

        Returns
        -------
        Optimizer
            Of the class that this is called on, without state.

        Raises
        ------
        TypeError, ValueError
            An unknown key, or a value that breaks its rule.
        """
        config = hyperparameters.without_neutral_keys(config)
        if "lr" in config:
            config["learning_rate"] = config.pop("lr")
        if isinstance(config.get("learning_rate"), dict):
            config["learning_rate"] = schedules.deserialize(
                config["learning_rate"], custom_objects
            )
        return cls(**config)

    # --- Saving -----------------------------------------------------------------------

    def save(self, path: str | PathLike[str], var_list: Any = None) -> None:
        """Write configuration and state to one file, whole or not at all.

        Parameters
        ----------
        path : str or os.PathLike
            The file, usually ``*.npz``; no suffix is appended. An existing file is
            replaced and keeps its permissions. A symbolic link is followed.
        var_list : list of ndarray, optional
            Variables whose values are stored too, so that they and the state are of one
            step; only read. If omitted, the file holds none.

        Raises
        ------
        TypeError
            `path` is no path; an element of `var_list` cannot be a variable; JSON
            cannot hold the configuration.
        ValueError
            `path` is no regular file.
        OSError
            The file cannot be written; the old file is still there. If the disk fails
            after the renaming, `path` is the new file.

        See Also
        --------
        rmsprop_fast.load : Reads the file.

        Notes
        -----
        The file is written under another name in the same folder, synchronised with the
        disk, and renamed: whenever the process or the machine stops, `path` is the old
        file or the new one. A process that is killed may leave a file ``.*.tmp``.

        No callable is called. For a hyperparameter that is a callable, and for a
        schedule without `get_config`, the file keeps a description; give the object to
        `rmsprop_fast.load` again. `last_loss` is not stored.

        Configuration and state are of one moment: steps in other threads wait while the
        state is written. A `get_config` that a subclass defines is called after that.
        If other code writes a variable meanwhile, its saved values may be of several
        moments.
        """
        checkpoint.save(self, path, var_list)

    def _state(self) -> dict[str, Any]:
        """Return the state: arrays under ``"arrays"``, and values ready for JSON."""
        self._synchronize()
        return self._slots.to_save()

    def _restore(self, state: dict[str, Any]) -> None:
        """Replace the whole state with one that `_state` returned."""
        restored = Slots.from_saved(state)
        if restored.counts_rows != self._catches_up:
            raise ValueError(
                f"counts_rows must be what catch_up is, {self._catches_up}, "
                f"got {restored.counts_rows}"
            )
        self._own(restored)

    def __getstate__(self) -> dict[str, Any]:
        rebuilt = ("_lock", "_step", "_devices", "_prepared", "_uncalled", "_slots")
        with self._lock:
            attributes = {k: v for k, v in self.__dict__.items() if k not in rebuilt}
            state = self._state()
            # Copies, which pickle and copy read after the lock is released.
            arrays = {name: array.copy() for name, array in state["arrays"].items()}
        return {"attributes": attributes, "state": {**state, "arrays": arrays}}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__.update(pickled["attributes"])
        self._restore(pickled["state"])

    def __copy__(self) -> Self:
        """Return a deep copy: two optimizers must not step on one state."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in self._settings().items())
        return f"{type(self).__name__}({fields})"


Optimizer._options = hyperparameters.options_of(Optimizer)
