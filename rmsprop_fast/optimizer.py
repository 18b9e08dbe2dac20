"""Optimizer: Keras's optimizer API over arrays that the caller owns."""

from __future__ import annotations

import copy
import math
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from os import PathLike
from typing import Any, Self

import numpy as np

from rmsprop_fast import (
    backends,
    checkpoint,
    gradients,
    rules,
    schedules,
    slots,
    step_rules,
    threads,
)
from rmsprop_fast.cpu._step import NOT_FINITE, REFUSED, Step, clipped
from rmsprop_fast.gpu.scalar import DeviceScalar
from rmsprop_fast.gradients import ValueAndGrad
from rmsprop_fast.indexed_slices import IndexedSlices
from rmsprop_fast.schedules import LearningRateSchedule
from rmsprop_fast.slots import Slots, initial

__all__ = ["Optimizer"]

Array = Any  # numpy.ndarray or cupy.ndarray
Gradient = Array | IndexedSlices | None
GradsAndVars = Iterable[tuple[Gradient, Array]]
Hyperparameter = float | Callable[[], float]
Loss = Callable[[], tuple[Any, Any]] | ValueAndGrad


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
        A name for `get_config` and for errors of `set_weights`; the class's if omitted.
    num_threads : int, optional
        The size of the thread team, taken literally. If omitted: OMP_NUM_THREADS, or
        what the machine allows. Small steps stay on one thread either way.
    **kwargs : float or None
        `clipnorm` bounds the norm of each gradient, `global_clipnorm` that of all
        gradients of a call together, `clipvalue` the magnitude of each element; norms
        come first, and the two norms exclude each other. `lr` is Keras's old word for
        `learning_rate`. `decay`, a number or a callable, divides the learning rate by
        ``1 + decay*iterations``.

        `weight_decay` takes the part ``learning_rate * weight_decay`` off each variable
        at each step, apart from its gradient; where that is row-sparse, off the rows in
        `indices`. ``catch_up=True`` makes row-sparse steps equal dense ones, see
        `catch_up`. `check_finite` refuses a step with a gradient that is not finite if
        True, and leaves it out if ``"skip"``.

    Attributes
    ----------
    last_loss : object
        The value that the loss of the last `minimize`, `get_gradients` or `get_updates`
        returned; None before.

    Raises
    ------
    TypeError
        An unknown keyword, or a value of the wrong kind.
    ValueError
        A value outside its range, both norms, or weight decay with `catch_up`.
    """

    # Those that a step with a zero gradient uses, beside the variant.
    _idle_hyper: tuple[str, ...] = ()
    _ranges: dict[str, Callable[[str, Any], float]] = {
        "learning_rate": rules.at_least_zero,
        "decay": rules.at_least_zero,
    }

    def __init__(
        self, name: str | None = None, *, num_threads: int | None = None, **kwargs: Any
    ) -> None:
        rules.known_keywords(
            kwargs,
            ("clipnorm", "clipvalue", "global_clipnorm", "lr", "decay")
            + ("weight_decay", "catch_up", "check_finite"),
        )
        self._name = rules.text("name", name or type(self).__name__)
        self._hyper: dict[str, Any] = {}
        self._flags: dict[str, bool] = {}
        self._clip: dict[str, float | None] = dict.fromkeys(
            ("clipvalue", "clipnorm", "global_clipnorm")
        )
        self._bounds = (math.inf, math.inf, math.inf)
        self.num_threads = num_threads
        self.last_loss: Any = None
        self._catches_up = rules.flag("catch_up", kwargs.get("catch_up", False))
        self.decay = kwargs.get("decay", 0.0)
        self.weight_decay = kwargs.get("weight_decay")
        self.check_finite = kwargs.get("check_finite", False)
        for clip in ("clipnorm", "clipvalue", "global_clipnorm"):
            self._set_clip(clip, kwargs.get(clip))
        self._own(Slots(self._catches_up))

    def _own(self, slots: Slots) -> None:
        """Take over a state and start afresh around it."""
        self._lock = threading.RLock()
        threads.renew_lock_in_child(self)
        self._slots = slots
        self._silent: set[frozenset[Any]] = set()
        self._mirror()

    def _mirror(self, devices: Any = None) -> None:
        """Build the compiled step's picture of the slots; `devices` are taken over."""
        slots = self._slots
        self._devices: Any = None
        self._step: Any = Step(
            slots.by_key, slots.extents, slots.iterations, self._silent
        )
        if devices or isinstance(self._hyper.get("learning_rate"), DeviceScalar):
            self._use_devices(devices)
        if not slots.is_restored:
            self._bind_step(range(len(slots.variables)))

    def _bind_step(self, indices: Iterable[int]) -> None:
        for index in indices:
            var = self._slots.variables[index]
            assert var is not None  # only a restored state has none, and binds all
            if backends.is_on_device(var):
                self._use_devices()
            counters = self._slots.counters[index]
            self._step.bind(
                index,
                var,
                self._slots.get(index, "rms"),
                self._slots.get(index, "momentum"),
                self._slots.get(index, "mg"),
                counters.get("steps"),
                counters.get("row_steps"),
                not self._slots.is_excluded[index],
            )

    def _use_devices(self, devices: Any = None) -> None:
        """From now on a step looks for arrays on devices, too."""
        from rmsprop_fast.gpu.step import DeviceStep

        if not isinstance(self._step, DeviceStep):
            self._devices = DeviceStep(self._step, self._slots, self._silent, devices)
            self._step = self._devices

    def check(self) -> None:
        """Wait for the devices, and raise what steps there have found.

        A step on a device is launched and not waited for. What was wrong with it comes
        to light in the next call that looks, such as `apply_gradients`, or here. So
        does that `check_finite` has left it out: `iterations` and `skipped_steps` are
        exact after this. Without variables on devices there is nothing to wait for.

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
        Whatever reads or replaces state waits, too, and raises what it finds before it
        does anything: `get_weights`, `set_weights`, `save`, pickling, `forget`, setting
        `iterations`, and with ``catch_up=True`` setting what missed steps depend on.
        """
        with self._lock:
            if self._devices is not None:
                self._devices.check()

    # --- Hyperparameters --------------------------------------------------------------

    def _set_hyper(self, name: str, value: Any) -> None:
        if name != "learning_rate" and isinstance(value, LearningRateSchedule):
            rules.no_schedule(name, value)
        if name == "learning_rate" and backends.is_on_device(value):
            value = DeviceScalar(name, value)
            self._use_devices()
        elif not callable(value):
            value = self._ranges[name](name, value)
        if self._catches_up and name in self._idle_hyper:
            rules.no_callable_with_catch_up(name, value)
            self._set_idle(self._hyper, name, value)
        else:
            self._hyper[name] = value

    def _set_idle(self, target: dict[str, Any], name: str, value: Any) -> None:
        """Set what missed steps depend on; those up to now were at the old value."""
        if name not in target:  # the constructor's
            target[name] = value
            return
        with self._lock:  # no step comes between the two
            self.check()  # on a device that has found something nothing would catch up
            self.catch_up()
            target[name] = value

    def _get_hyper(self, name: str) -> float:
        """Return the number that the next step would use, before decay."""
        value: Any = self._hyper[name]
        if type(value) is float or type(value) is DeviceScalar:
            return value  # type: ignore[return-value]  # it stands for a number
        if isinstance(value, LearningRateSchedule):
            return self._ranges[name](f"{name}(step)", value(self.iterations))
        return self._ranges[name](f"{name}()", value())

    @property
    def learning_rate(self) -> float | LearningRateSchedule:
        """The learning rate, in units of `var` per step.

        A schedule comes as itself, and so does a 0-d CuPy array.
        """
        value = self._hyper["learning_rate"]
        if isinstance(value, LearningRateSchedule):
            return value
        if isinstance(value, DeviceScalar):
            return value.array  # type: ignore[no-any-return]  # a 0-d CuPy array
        return self._get_hyper("learning_rate")

    @learning_rate.setter
    def learning_rate(self, value: Hyperparameter | LearningRateSchedule) -> None:
        self._set_hyper("learning_rate", value)

    @property
    def lr(self) -> float | LearningRateSchedule:
        """Keras's old word for `learning_rate`."""
        return self.learning_rate

    @lr.setter
    def lr(self, value: Hyperparameter | LearningRateSchedule) -> None:
        self.learning_rate = value

    @property
    def decay(self) -> float:
        """The learning rate is divided by ``1 + decay*iterations``; 0 is off."""
        return self._get_hyper("decay")

    @decay.setter
    def decay(self, value: Hyperparameter) -> None:
        self._set_hyper("decay", value)

    def _learning_rate_now(self) -> Any:
        """Return the learning rate of the next step, schedule and decay included."""
        rate = self._get_hyper("learning_rate")
        decay = self._get_hyper("decay")
        return rate / (1.0 + decay * self.iterations) if decay else rate

    def _set_clip(self, name: str, value: Any) -> None:
        if value is not None:
            value = rules.at_least_zero(name, value)
        clip = {**self._clip, name: value}
        rules.one_norm(clip["clipnorm"], clip["global_clipnorm"])
        self._clip = clip
        # The compiled step's order; a bound of infinity is never reached.
        self._bounds = (
            math.inf if clip["clipvalue"] is None else clip["clipvalue"],
            math.inf if clip["clipnorm"] is None else clip["clipnorm"],
            math.inf if clip["global_clipnorm"] is None else clip["global_clipnorm"],
        )

    @property
    def clipvalue(self) -> float | None:
        """Bound on the magnitude of each gradient element, or None."""
        return self._clip["clipvalue"]

    @clipvalue.setter
    def clipvalue(self, value: float | None) -> None:
        self._set_clip("clipvalue", value)

    @property
    def clipnorm(self) -> float | None:
        """Bound on the norm of each gradient, or None."""
        return self._clip["clipnorm"]

    @clipnorm.setter
    def clipnorm(self, value: float | None) -> None:
        self._set_clip("clipnorm", value)

    @property
    def global_clipnorm(self) -> float | None:
        """Bound on the norm of all gradients of a call together, or None."""
        return self._clip["global_clipnorm"]

    @global_clipnorm.setter
    def global_clipnorm(self, value: float | None) -> None:
        self._set_clip("global_clipnorm", value)

    @property
    def weight_decay(self) -> float | None:
        """What part of a variable a step takes off, per unit of the learning rate."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, value: float | None) -> None:
        if value is not None:
            value = rules.at_least_zero("weight_decay", value)
        if self._catches_up:
            rules.no_weight_decay_with_catch_up(value)
        self._weight_decay = value

    @property
    def check_finite(self) -> bool | str:
        """What becomes of a step whose gradients are not finite: True, False, "skip".

        True refuses it, ``"skip"`` leaves it out, False does not look.
        """
        return self._check_finite

    @check_finite.setter
    def check_finite(self, value: bool | str) -> None:
        self._check_finite = rules.finiteness("check_finite", value)

    @property
    def num_threads(self) -> int | None:
        """The size of the thread team, or None: what the machine allows."""
        return self._num_threads

    @num_threads.setter
    def num_threads(self, value: int | None) -> None:
        if value is not None:
            value = rules.integer("num_threads", value, 1, rules.MAX_THREADS)
        self._num_threads = value

    @property
    def iterations(self) -> int:
        """How many steps were made; schedules and decay begin at 0.

        Without waiting for devices, see `check`; setting it waits.
        """
        self._see_skipped()
        return int(self._slots.iterations)

    @iterations.setter
    def iterations(self, value: int) -> None:
        value = rules.integer("iterations", value, 0, rules.MAX_ITERATIONS)
        with self._lock:
            self.check()
            self._slots.iterations[()] = value

    @property
    def skipped_steps(self) -> int:
        """How many steps ``check_finite="skip"`` has left out, see `check`."""
        self._see_skipped()
        return self._slots.skipped_steps

    def _see_skipped(self) -> None:
        """Count the steps that devices have left out, as far as they have come."""
        if self._devices is not None:
            with self._lock:
                self._devices.see_skipped()

    # --- What a subclass adds ---------------------------------------------------------

    def _scalars(self) -> tuple[int, Any, float, float, float]:
        """Return the next step's variant, learning rate, rho, momentum and epsilon."""
        raise NotImplementedError(f"{type(self).__name__} has no update of its own")

    def _idle_scalars(self) -> tuple[int, float, float]:
        """Return the variant, rho and momentum of a step with a zero gradient."""
        raise NotImplementedError(f"{type(self).__name__} has no update of its own")

    def _slots_for(self, variant: int) -> list[str]:
        """Return the names of the slots that a variant needs, in order of creation."""
        raise NotImplementedError(f"{type(self).__name__} has no update of its own")

    # --- Steps ------------------------------------------------------------------------

    def apply_gradients(self, grads_and_vars: GradsAndVars, name: None = None) -> int:
        """Update variables in place from their gradients: one step.

        Parameters
        ----------
        grads_and_vars : iterable of (gradient, variable) pairs
            A variable is a writable float32 or float64 ndarray of any layout, or a
            C-contiguous CuPy array; it is read and written. Its gradient is an array of
            the same kind, shape and dtype or `IndexedSlices`; it is only read. A
            gradient of None leaves its variable alone. The same variable twice is
            updated twice, in the order given.
        name : None
            Keras's name scope, which arrays do not have.

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
        slots and `iterations` are what they were. So they are after a step that
        ``check_finite="skip"`` leaves out; it counts in `skipped_steps` instead. Rows
        and elements of a gradient on a device are checked there, without waiting: a
        later call raises what was found, and takes back the count of a step that was
        left out, see `check`.
        """
        rules.left_at_default("name", name)
        return self._apply(grads_and_vars, 1.0)

    def _apply(self, grads_and_vars: GradsAndVars, factor: float) -> int:
        """Run one step on gradients that `factor` multiplies before clipping."""
        pairs = list(step_rules.iterator("grads_and_vars", grads_and_vars))
        # Callables and schedules run here, before the lock is taken.
        scalars = self._scalars()
        options = (self._weight_decay or 0.0, self._check_finite)
        with self._lock:
            if self._catches_up:  # rows caught up when these were set: none is older
                _, rate, *_, epsilon = scalars
                variant, rho, momentum = self._idle_scalars()
                scalars = variant, rate, rho, momentum, epsilon
            done = self._step.update(
                *(pairs, *scalars, *self._bounds, factor, self._num_threads),
                *(False, *options),
            )
            if done == REFUSED:
                pairs = self._admit(pairs, self._slots_for(scalars[0]))
                done = self._step.update(
                    *(pairs, *scalars, *self._bounds, factor, self._num_threads),
                    *(True, *options),
                )
            if done == NOT_FINITE:
                done = self._skip(pairs)
            if done < 0:
                raise RuntimeError("an array of this step changed while it was checked")
        return int(done)

    def _skip(self, pairs: list[Any]) -> int:
        """Raise for, or leave out, a step whose gradients are not finite."""
        if self._check_finite != "skip":
            step_rules.nonfinite(pairs)
            return NOT_FINITE  # they are by now
        self._slots.skipped_steps += 1
        return self.iterations

    def _admit(self, pairs: list[Any], slot_names: list[str]) -> list[Any]:
        """Find the broken rule and raise, or bind what is new; return clean pairs."""
        pairs = step_rules.pairs(pairs)
        to_bind, missing = step_rules.step(pairs, self._slots)
        arrays = [var for grad, var in pairs if grad is not None]
        self._check_norm_place(arrays)
        if self._check_finite is not False:
            step_rules.one_place("check_finite", False, arrays)
        rate = self._hyper.get("learning_rate")
        if isinstance(rate, DeviceScalar):
            step_rules.rate_place(rate.array, arrays)
        if self._check_finite is True:
            step_rules.nonfinite(pairs)  # an error must not leave slots behind
        if missing:
            self._warn_of_missing(missing)
        self._bind_step(self._slots.bind(to_bind, slot_names))
        return pairs

    def _check_norm_place(self, arrays: list[Array]) -> None:
        """Refuse a norm of gradients in several places: one would have to wait."""
        if self._clip["global_clipnorm"] is not None:
            step_rules.one_place("global_clipnorm", None, arrays)

    def _warn_of_missing(self, missing: list[Array]) -> None:
        key = frozenset(
            (backends.address(var), var.shape, var.strides) for var in missing
        )
        if key in self._silent:
            return
        shapes = ", ".join(str(var.shape) for var in missing)
        warnings.warn(
            f"Gradients do not exist for {len(missing)} variable"
            f"{'s' * (len(missing) > 1)} of shape {shapes}, left alone",
            UserWarning,
            stacklevel=5,
        )
        self._silent.add(key)

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
        variant = self._scalars()[0]
        with self._lock:
            new = step_rules.variables("var_list", var_list, self._slots)
            self._bind_step(self._slots.bind(new, self._slots_for(variant)))
            self._slots.is_closed = True
            self._silent.clear()  # who was not bound is now a stranger
            if self._devices is not None:
                self._devices.compile(variant)

    def forget(self, var: Array) -> None:
        """Let go of a variable and its slots, and of what its rows have missed.

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
            self.check()
            self._slots.forget(self._index(var))
            self._mirror(self._devices and self._devices.devices)

    def _index(self, var: Any) -> int:
        index = self._slots.find(var)
        if index is None:
            slots.unknown_variable(var)
        bound = self._slots.variables[index]
        if bound is not None:
            rules.same_array("", var, bound)
        return index

    def exclude_from_weight_decay(
        self, var_list: Iterable[Array] | None = None, var_names: None = None
    ) -> None:
        """Let weight decay pass over some variables from the next step on.

        Parameters
        ----------
        var_list : list of ndarray
            Variables, or arrays that will become some; neither read nor written. None
            is an empty list.
        var_names : None
            Keras's patterns of names, which arrays do not have.

        Raises
        ------
        TypeError, ValueError
            An array that cannot be a variable of this optimizer, see `build`;
            `var_names` is not None.
        """
        with self._lock:
            arrays = step_rules.to_exclude(
                [] if var_list is None else var_list, var_names, self._slots
            )
            indices = [self._slots.exclude(var) for var in arrays]
            self._bind_step(index for index in indices if index is not None)

    def catch_up(self, var: Array | None = None, rows: Array | None = None) -> None:
        r"""Make up for the steps that rows have missed, with ``catch_up=True``.

        A row that is not in the `indices` of a row-sparse gradient has a gradient of
        zero, by which a dense step decays its slots and, with momentum, moves it. The
        optimizer counts such steps and applies them together, in closed form, before
        the row's next update; and here.

        Parameters
        ----------
        var : ndarray, optional
            A variable this optimizer has updated or been built with; written, and so
            are its slots. Every variable if omitted.
        rows : ndarray of any integer type, shape (n,), optional
            Row numbers of `var`, in any order and number, where `var` lies. Every row
            if omitted.

        Raises
        ------
        KeyError
            `var` is unknown.
        TypeError
            `rows` holds no integers, or lies elsewhere than `var`.
        IndexError
            A row out of range; for a variable on a device, later: see `check`.
        FloatingPointError
            From a step on a device before this call, as in `check`.
        ValueError
            The optimizer was made without ``catch_up=True``, or is restored, has rows
            that miss steps, and is not bound yet; `rows` without `var`.

        Notes
        -----
        With momentum a row moves in every step. So before a loss reads the rows of a
        batch, they must be caught up; without momentum only slots decay, and nothing
        needs to be done. After k missed steps, with :math:`\beta` the momentum:

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
            slots.counted_rows(self._slots)
            if var is None:
                indices = list(range(len(self._slots.variables)))
            else:
                indices = [self._index(var)]
                rules.variable("", var)
            if rows is not None:
                rows = step_rules.rows(rows, var)
            if self._slots.is_restored:
                return  # no row is behind
            done = self._step.catch_up(
                indices, rows, *self._idle_scalars(), self._num_threads
            )
            if not done:
                assert rows is not None  # else there is nothing out of range
                assert var is not None
                step_rules.row_out_of_range(rows, var)

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
        name: None = None,
    ) -> int:
        """Evaluate a loss and its gradients once and apply them: one step.

        Parameters
        ----------
        loss : callable
            Takes no argument and returns ``(value, grads)``; `grads` holds a gradient
            for every variable, None for those that do not matter. Or one that
            `rmsprop_fast.gradients` made of a function of the variables.
        var_list : list of ndarray, ndarray, or callable
            The variables; a callable that returns them is called after a `loss` that
            takes no argument.
        grad_loss : float, optional
            Multiplies the gradients before they are clipped.
        name : None
            Keras's name scope, which arrays do not have.

        Returns
        -------
        int
            The new count of `iterations`. The loss's value is `last_loss`.

        Raises
        ------
        TypeError, ValueError, IndexError
            As `apply_gradients`; `loss` is not callable or returns something else.
        """
        rules.left_at_default("name", name)
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
        if any(map(backends.is_on_device, arrays)):
            with self._lock:
                self._use_devices()
                new = self._devices.clipped(
                    arrays, *self._bounds, 1.0, self._num_threads
                )
        else:
            new = clipped(arrays, *self._bounds, 1.0, self._num_threads)
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
            The new count of `iterations`, alone in a list as Keras's update operation.

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
            The slot's first values, of `var`'s shape; a callable gets (shape, dtype). A
            writable `numpy.memmap` of that shape and dtype is used as it is, so that
            the slot lives in its file; any other array is copied.

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
        with self._lock:
            step_rules.bindable(var, self._slots)
            index = self._slots.find(var)
            slot = None if index is None else self._slots.get(index, slot_name)
            if slot is not None:
                return slot
            slot = backends.place(initial(initializer, var.shape, var.dtype), var)
            step_rules.new_slot(slot, var, self._slots)
            self._slots.bind([var], [])
            index = self._index(var)
            self._slots.add(index, slot_name, slot)
            self._bind_step([index])
        return slot

    def add_weight(
        self,
        name: str,
        shape: Sequence[int],
        dtype: Any = None,
        initializer: Any = "zeros",
        trainable: None = None,
        synchronization: None = None,
        aggregation: None = None,
    ) -> Array:
        """Return a new array that belongs to the caller; it is not in `weights`.

        Parameters
        ----------
        name : str
            Keras's name of the weight; arrays have none.
        shape : sequence of int
            Its shape.
        dtype : dtype, optional
            float32 (if omitted) or float64.
        initializer : {"zeros", "ones"}, callable or ndarray, optional
            As in `add_slot`.
        trainable, synchronization, aggregation : None
            Keras's, without a meaning for arrays.

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
        rules.left_at_default("trainable", trainable)
        rules.left_at_default("synchronization", synchronization)
        rules.left_at_default("aggregation", aggregation)
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
        slot = self._slots.get(self._index(var), slot_name)
        if slot is None:
            slots.unknown_slot(slot_name, self._slots)
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
            order of the variables; what is on devices, copied to the host.

        Raises
        ------
        ValueError
            Rows miss steps, see `catch_up`: a list of weights cannot say which.
        """
        with self._lock:
            self.check()
            slots.no_row_is_behind("get_weights", self._slots)
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
            As `get_weights` returns them. Without the first, as Keras 1 wrote them,
            iterations become 0. With ``catch_up=True`` no row misses a step then.

        Raises
        ------
        TypeError, ValueError
            The number, a shape or a kind of dtype does not match; nothing was copied.
        """
        with self._lock:
            self.check()
            new = slots.weights(self._name, weights, self.weights)
            # Copies first: an array of the caller's may be one of the live ones.
            for slot, array in zip(self.weights, [a.copy() for a in new], strict=True):
                backends.copy_into(slot, array)
            self._slots.call_caught_up()

    # --- Configuration ----------------------------------------------------------------

    def get_config(self) -> dict[str, Any]:
        """Return what rebuilds this optimizer, without its state.

        Returns
        -------
        dict
            JSON-able. Callables are evaluated; a schedule is a dict.
        """
        config = self._arguments()
        for name in self._hyper:
            value = getattr(self, name)
            if isinstance(value, LearningRateSchedule):
                value = schedules.serialize(value)
            elif backends.is_on_device(value):
                value = float(value.get())
            config[name] = value
        return config

    def _arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments as they are, those that are not None."""
        arguments = {
            "name": self._name,
            "clipnorm": self.clipnorm,
            "clipvalue": self.clipvalue,
            "global_clipnorm": self.global_clipnorm,
            **{name: self._hyper[name] for name in self._ranges if name in self._hyper},
            **self._flags,
            "weight_decay": self._weight_decay,
            "catch_up": self._catches_up or None,
            "check_finite": self._check_finite or None,
            "num_threads": self._num_threads,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> Self:
        """Return a new optimizer from a configuration.

        Parameters
        ----------
        config : dict
            As `get_config` returns it; not changed. Missing keys take their defaults.
        custom_objects : dict of str to type, optional
            Schedules of the caller's by class name.

        Returns
        -------
        Optimizer
            Of the class that this is called on, without state.

        Raises
        ------
        TypeError, ValueError
            An unknown key, or a value that breaks its rule.
        """
        config = dict(config)
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
            The file, by convention ``*.npz``; nothing is appended. One that exists is
            replaced, keeping its permissions; a symbolic link is followed.
        var_list : list of ndarray, optional
            Variables whose values are stored too, so that they and the state are of one
            step; only read. If omitted, the file holds none.

        Raises
        ------
        TypeError
            `path` is no path; `var_list` holds what cannot be a variable; a
            configuration is not ready for JSON.
        ValueError
            `path` is no regular file.
        OSError
            The file cannot be written; what was there before is still there. Only if
            the disk fails after the renaming, `path` is the new file.

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
        """Return what steps have made: named ``"arrays"``, all else ready for JSON."""
        self.check()
        return self._slots.state()

    def _restore(self, state: dict[str, Any]) -> None:
        """Start afresh from what `_state` returned."""
        restored = Slots.from_state(state)
        if restored.counts_rows != self._catches_up:
            raise ValueError(
                f"counts_rows must be what catch_up is, {self._catches_up}, "
                f"got {restored.counts_rows}"
            )
        self._own(restored)

    def __getstate__(self) -> dict[str, Any]:
        rebuilt = ("_lock", "_step", "_devices", "_silent", "_slots")
        with self._lock:
            attributes = {k: v for k, v in self.__dict__.items() if k not in rebuilt}
            return {"attributes": attributes, "state": self._state()}

    def __setstate__(self, pickled: dict[str, Any]) -> None:
        self.__dict__.update(pickled["attributes"])
        self._restore(pickled["state"])

    def __copy__(self) -> Self:
        """Return a deep copy: two optimizers must not step on one state."""
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        fields = ", ".join(f"{k}={v!r}" for k, v in self._arguments().items())
        return f"{type(self).__name__}({fields})"
