"""Learning-rate schedules: the learning rate as a function of the step.

The schedules of Keras (``tf.keras.optimizers.schedules``), computed in Python floats.
An optimizer whose `learning_rate` is a schedule calls it with its `iterations` before
every step.

A built-in schedule is called with one step, or with an array of steps. For an array it
returns an array of the same shape, which can be plotted. Steps may have a fraction.

A built-in schedule cannot change. Its arguments are attributes that can only be read.
Schedules with equal arguments are equal.

Examples
--------
>>> import numpy as np
>>> PolynomialDecay(1.0, decay_steps=4, end_learning_rate=0.0)(np.arange(5))
array([1.  , 0.75, 0.5 , 0.25, 0.  ])
"""

from __future__ import annotations

import copy
import math
import numbers
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, Self, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from rmsprop_fast import rules

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "LearningRateSchedule",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
    "deserialize",
    "serialize",
]


# --- Rules ---------------------------------------------------------------------------

_Rule: TypeAlias = Callable[[str, Any], Any]


def _checked_step(step: numbers.Real) -> float:
    """Return `step` as an int or a float; `iterations` is an int64: none is larger."""
    result = int(step) if isinstance(step, numbers.Integral) else float(step)
    if not 0 <= result < 2**63:
        raise ValueError(f"step must be in [0, 2**63), got {step!r}")
    return result


def _steps_array(step: Any) -> NDArray[Any]:
    """Return an array of integers or of float64."""
    steps = np.asarray(step)
    if steps.dtype.kind not in "iuf" and steps.size:
        raise TypeError(f"step must be a real number or an array of them, got {step!r}")
    return steps if steps.dtype.kind in "iu" else steps.astype(np.float64)


def _growth(name: str, value: Any) -> float:
    """Return a finite float >= 1."""
    result = rules.finite(name, value)
    if result < 1.0:
        raise ValueError(f"{name} must be >= 1, got {value!r}")
    return result


def _steps(rule: _Rule) -> _Rule:
    """Apply `rule`, but let an integer stay one: the config shows what was given."""

    def check(name: str, value: Any) -> float:
        result: float = rule(name, value)
        return int(value) if isinstance(value, numbers.Integral) else result

    return check


def _optional(rule: _Rule) -> _Rule:
    return lambda name, value: None if value is None else rule(name, value)


def _each(rule: _Rule) -> _Rule:
    """Apply `rule` to every element."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        try:
            elements = list(value)
        except TypeError:
            raise TypeError(f"{name} must be a sequence, got {value!r}") from None
        return tuple(rule(f"{name}[{i}]", x) for i, x in enumerate(elements))

    return check


# An argument means the same in every schedule, so one table serves them all.
_RULES: Mapping[str, _Rule] = {
    "initial_learning_rate": rules.at_least_zero,
    "end_learning_rate": rules.at_least_zero,
    "warmup_target": _optional(rules.at_least_zero),
    "values": _each(rules.at_least_zero),
    "decay_steps": _steps(rules.positive),
    "first_decay_steps": _steps(rules.positive),
    "warmup_steps": _steps(rules.at_least_zero),
    "boundaries": _each(_steps(rules.at_least_zero)),
    "decay_rate": rules.at_least_zero,
    "power": rules.at_least_zero,
    "t_mul": _growth,
    "m_mul": rules.at_least_zero,
    "alpha": rules.fraction,
    "staircase": rules.flag,
    "cycle": rules.flag,
    "name": _optional(rules.text),
}


# --- Bases ---------------------------------------------------------------------------


class LearningRateSchedule(ABC):
    """Compute the learning rate from the step; the base of every schedule.

    To write a schedule of your own, derive from this class and define ``__call__``.
    Define `get_config` too if the schedule will be saved. An optimizer calls it with
    one step, an int.

    See Also
    --------
    deserialize : Makes a schedule from its config, also one of your own.

    Examples
    --------
    >>> class Halving(LearningRateSchedule):
    ...     def __call__(self, step):
    ...         return 0.5**step
    >>> Halving()(3)
    0.125
    """

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the learning rate of one step.

        Parameters
        ----------
        step : int
            Number of steps made before this one, in [0, 2**63). The built-in schedules
            take floats, arrays and sequences of steps too.

        Returns
        -------
        float
            The learning rate, finite and >= 0. For an array of steps, a float64 array
            of its shape.

        Raises
        ------
        TypeError
            `step` is neither a real number nor an array of them.
        ValueError
            `step` is out of range, or the learning rate is too large for a float.
        """

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, ready for JSON.

        Returns
        -------
        dict
            A new dict, which `from_config` turns into an equal schedule.

        Raises
        ------
        NotImplementedError
            The class of a schedule of your own does not define it.
        """
        raise NotImplementedError(f"{type(self).__name__} must define get_config")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Make a schedule from what `get_config` returned.

        Parameters
        ----------
        config : dict
            The constructor's arguments by name; not changed.

        Returns
        -------
        LearningRateSchedule
            A new schedule of this class.

        Raises
        ------
        TypeError
            `config` is not a dict, lacks an argument or has an unknown one.
        """
        if not isinstance(config, dict):
            raise TypeError(f"config must be a dict, got {config!r}")
        return cls(**config)


@dataclass(frozen=True)
class _BuiltIn(LearningRateSchedule):
    """A schedule whose fields are the arguments of its constructor and its config."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = _RULES[field.name](field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)

    @overload
    def __call__(self, step: float) -> float: ...
    @overload
    def __call__(self, step: NDArray[Any] | Sequence[float]) -> NDArray[np.float64]: ...
    def __call__(self, step: Any) -> Any:
        if not isinstance(step, bool) and isinstance(step, numbers.Real):
            return self._checked_rate(_checked_step(step))
        steps = _steps_array(step)
        # In Python floats too, so that an array has the bits of its elements.
        rates = [self._checked_rate(_checked_step(s)) for s in steps.ravel().tolist()]
        return np.array(rates, np.float64).reshape(steps.shape)

    def _checked_rate(self, step: float) -> float:
        try:
            rate = self._rate(step)
        except OverflowError:
            rate = math.inf
        return rules.finite(f"learning rate at step {step}", rate)

    def get_config(self) -> dict[str, Any]:
        config = {field.name: getattr(self, field.name) for field in fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in config.items()}

    @abstractmethod
    def _rate(self, step: float) -> float:
        """Return the learning rate of a checked step."""


# --- Schedules -----------------------------------------------------------------------


@dataclass(frozen=True)
class ExponentialDecay(_BuiltIn):
    """Multiply the learning rate by `decay_rate` every `decay_steps` steps.

    Parameters
    ----------
    initial_learning_rate : float
        Learning rate at step 0, finite and >= 0.
    decay_steps : int or float
        Steps in which the rate decays once by `decay_rate`, finite and > 0.
    decay_rate : float
        Factor per `decay_steps` steps, finite and >= 0; above 1 the rate grows.
    staircase : bool, default False
        Decay at multiples of `decay_steps` only.
    name : str, optional
        Stored in the config; it has no effect.

    Raises
    ------
    TypeError
        An argument is of the wrong kind.
    ValueError
        An argument is out of range. When called: the rate grew too large for a
        float; too small a rate becomes 0.

    Notes
    -----
    ``initial_learning_rate * decay_rate**p`` with ``p = step / decay_steps``, rounded
    down if `staircase` (Keras, ``schedules.ExponentialDecay``).

    Examples
    --------
    >>> schedule = ExponentialDecay(0.1, decay_steps=1000, decay_rate=0.25)
    >>> schedule(0), schedule(500), schedule(1000)
    (0.1, 0.05, 0.025)
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str | None = None

    def _rate(self, step: float) -> float:
        p = step / self.decay_steps
        if self.staircase:
            p = math.floor(p)
        return self.initial_learning_rate * math.pow(self.decay_rate, p)


@dataclass(frozen=True)
class InverseTimeDecay(_BuiltIn):
    """Divide the learning rate by a number that grows linearly with the step.

    Parameters
    ----------
    initial_learning_rate : float
        Learning rate at step 0, finite and >= 0.
    decay_steps : int or float
        Steps in which the divisor grows by `decay_rate`, finite and > 0.
    decay_rate : float
        Growth of the divisor per `decay_steps` steps, finite and >= 0.
    staircase : bool, default False
        Decay at multiples of `decay_steps` only.
    name : str, optional
        Stored in the config; it has no effect.

    Raises
    ------
    TypeError
        An argument is of the wrong kind.
    ValueError
        An argument is out of range.

    Notes
    -----
    ``initial_learning_rate / (1 + decay_rate * p)`` with ``p = step / decay_steps``,
    rounded down if `staircase` (Keras, ``schedules.InverseTimeDecay``).

    Examples
    --------
    >>> schedule = InverseTimeDecay(0.5, decay_steps=100, decay_rate=1.0)
    >>> schedule(0), schedule(100), schedule(300)
    (0.5, 0.25, 0.125)
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str | None = None

    def _rate(self, step: float) -> float:
        p = step / self.decay_steps
        if self.staircase:
            p = math.floor(p)
        return self.initial_learning_rate / (1.0 + self.decay_rate * p)


@dataclass(frozen=True)
class PolynomialDecay(_BuiltIn):
    """Go from one learning rate to another along a polynomial.

    Parameters
    ----------
    initial_learning_rate : float
        Learning rate at step 0, finite and >= 0.
    decay_steps : int or float
        Steps until `end_learning_rate` is reached, finite and > 0.
    end_learning_rate : float, default 0.0001
        Learning rate from then on, finite and >= 0; above `initial_learning_rate`
        the schedule warms up.
    power : float, default 1.0
        Power of the polynomial, finite and >= 0.
    cycle : bool, default False
        Past `decay_steps`, stretch the decay to the next multiple of `decay_steps`
        instead of staying at `end_learning_rate`.
    name : str, optional
        Stored in the config; it has no effect.

    Raises
    ------
    TypeError
        An argument is of the wrong kind.
    ValueError
        An argument is out of range.

    Notes
    -----
    ``(initial_learning_rate - end_learning_rate) * (1 - p)**power +
    end_learning_rate`` with ``p = min(step / decay_steps, 1)``; if `cycle`,
    ``p = step / (decay_steps * max(1, ceil(step / decay_steps)))`` (Keras,
    ``schedules.PolynomialDecay``). A cycle therefore reaches `end_learning_rate` at
    each multiple of `decay_steps`, and starts again just after it, at ``p = 1/2``,
    then ``2/3``, ``3/4``...

    Examples
    --------
    >>> schedule = PolynomialDecay(1.0, decay_steps=100, end_learning_rate=0.5)
    >>> schedule(0), schedule(50), schedule(100), schedule(150)
    (1.0, 0.75, 0.5, 0.5)
    """

    initial_learning_rate: float
    decay_steps: float
    end_learning_rate: float = 0.0001
    power: float = 1.0
    cycle: bool = False
    name: str | None = None

    def _rate(self, step: float) -> float:
        cycles = max(1, math.ceil(step / self.decay_steps)) if self.cycle else 1
        p = min(step / (self.decay_steps * cycles), 1.0)
        drop = self.initial_learning_rate - self.end_learning_rate
        return drop * math.pow(1.0 - p, self.power) + self.end_learning_rate


@dataclass(frozen=True)
class PiecewiseConstantDecay(_BuiltIn):
    """Keep the learning rate constant between boundaries.

    Parameters
    ----------
    boundaries : sequence of int or float
        Last step of each value but the last, finite, >= 0, strictly increasing.
    values : sequence of float
        Learning rates, finite and >= 0; one element more than `boundaries`.
    name : str, optional
        Stored in the config; it has no effect.

    Raises
    ------
    TypeError
        An argument is of the wrong kind.
    ValueError
        An argument is out of range, or the lengths do not agree.

    Notes
    -----
    ``values[0]`` while ``step <= boundaries[0]``, ``values[1]`` while ``step <=
    boundaries[1]``, and so on; then ``values[-1]`` (Keras,
    ``schedules.PiecewiseConstantDecay``).

    Examples
    --------
    >>> schedule = PiecewiseConstantDecay([100, 200], [1.0, 0.5, 0.1])
    >>> schedule(100), schedule(101), schedule(201)
    (1.0, 0.5, 0.1)
    """

    boundaries: Sequence[float]
    values: Sequence[float]
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values must have {len(self.boundaries) + 1} elements, one more than "
                f"boundaries, got {len(self.values)}"
            )
        if any(low >= high for low, high in pairwise(self.boundaries)):
            raise ValueError(
                f"boundaries must be strictly increasing, got {list(self.boundaries)}"
            )

    def _rate(self, step: float) -> float:
        return self.values[bisect_left(self.boundaries, step)]


def _cosine(p: float) -> float:
    """Return half a cosine wave: 1 at p = 0, 0 at p = 1, both exactly."""
    return 0.5 * (1.0 + math.cos(math.pi * p))


@dataclass(frozen=True)
class CosineDecay(_BuiltIn):
    """Lower the learning rate along half a cosine wave; a warm-up may come first.

    Parameters
    ----------
    initial_learning_rate : float
        Learning rate at step 0, finite and >= 0.
    decay_steps : int or float
        Steps of the decay, not counting the warm-up, finite and > 0.
    alpha : float, default 0.0
        Learning rate after the decay, as a fraction in [0, 1] of that before it.
    name : str, optional
        Stored in the config; it has no effect.
    warmup_target : float, optional
        Learning rate after the warm-up, finite and >= 0. None means no warm-up,
        whatever `warmup_steps` says.
    warmup_steps : int or float, default 0
        Steps of the warm-up, finite and >= 0.

    Raises
    ------
    TypeError
        An argument is of the wrong kind.
    ValueError
        An argument is out of range.

    Notes
    -----
    ``peak * ((1 - alpha) * (1 + cos(pi * p)) / 2 + alpha)`` with
    ``p = min(step / decay_steps, 1)`` and ``peak = initial_learning_rate`` (Loshchilov
    & Hutter 2017, SGDR, eq. 5). With a warm-up, `step` counts from its end and
    ``peak = warmup_target``; before, the rate is a straight line from
    `initial_learning_rate` to `warmup_target` (Goyal et al. 2017, section 2.2). As in
    Keras, ``schedules.CosineDecay``.

    Examples
    --------
    >>> schedule = CosineDecay(0.0, 100, alpha=0.5, warmup_target=1.0, warmup_steps=10)
    >>> schedule(5), schedule(10), schedule(60), schedule(110)
    (0.5, 1.0, 0.75, 0.5)
    """

    initial_learning_rate: float
    decay_steps: float
    alpha: float = 0.0
    name: str | None = None
    warmup_target: float | None = None
    warmup_steps: float = 0

    def _rate(self, step: float) -> float:
        peak = self.initial_learning_rate
        past: float = step
        if self.warmup_target is not None:
            start, peak = peak, self.warmup_target
            if step < self.warmup_steps:
                return (peak - start) * (step / self.warmup_steps) + start
            past = step - self.warmup_steps
        p = min(past / self.decay_steps, 1.0)
        return peak * ((1.0 - self.alpha) * _cosine(p) + self.alpha)


@dataclass(frozen=True)
class CosineDecayRestarts(_BuiltIn):
    """Lower the learning rate along half a cosine wave, again and again.

    Parameters
    ----------
    initial_learning_rate : float
        Learning rate at step 0, finite and >= 0.
    first_decay_steps : int or float
        Steps of the first period, finite and > 0.
    t_mul : float, default 2.0
        Length of a period relative to the one before, finite and >= 1.
    m_mul : float, default 1.0
        Height of a period's wave relative to the one before, finite and >= 0.
    alpha : float, default 0.0
        Learning rate at the end of every period, as a fraction in [0, 1] of
        `initial_learning_rate`.
    name : str, optional
        Stored in the config; it has no effect.

    Raises
    ------
    TypeError
        An argument is of the wrong kind.
    ValueError
        An argument is out of range. When called: `m_mul` above 1 made the rate too
        large for a float.

    Notes
    -----
    ``initial_learning_rate * ((1 - alpha) * m_mul**i * (1 + cos(pi * p)) / 2 + alpha)``
    where `i` counts the restarts and `p` is the part of period `i` that is past
    (Loshchilov & Hutter 2017, SGDR, eq. 5; Keras, ``schedules.CosineDecayRestarts``).
    A restart has ``p = 0``. If a restart falls between two steps, the later step is the
    first one of the new period.

    Examples
    --------
    >>> schedule = CosineDecayRestarts(1.0, first_decay_steps=100, m_mul=0.5)
    >>> schedule(0), schedule(50), schedule(100), schedule(200), schedule(300)
    (1.0, 0.5, 0.5, 0.25, 0.25)
    """

    initial_learning_rate: float
    first_decay_steps: float
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0
    name: str | None = None

    def _rate(self, step: float) -> float:
        i, p = self._restarts(step)
        wave = math.pow(self.m_mul, i) * _cosine(p)
        return self.initial_learning_rate * ((1.0 - self.alpha) * wave + self.alpha)

    def _restarts(self, step: float) -> tuple[int, float]:
        """Return the number of restarts so far, and the part of the period past."""
        first, growth = self.first_decay_steps, self.t_mul - 1.0
        # log1p and expm1 stay accurate when t_mul is close to 1.
        log_t = math.log1p(growth)

        def start(i: int) -> float:
            return first * (math.expm1(i * log_t) / growth if growth else i)

        periods = step / first
        # At a restart the logarithm may fall on either side of its integer: take the
        # nearest one, then step back if it is yet to come. Rounding moves a start by
        # less than 1e-12 of itself, less than a step up to step 1e12.
        i = round(math.log1p(periods * growth) / log_t if growth else periods)
        if start(i) > step and not math.isclose(start(i), step, rel_tol=1e-12):
            i -= 1
        return i, (step - start(i)) / (first * math.pow(self.t_mul, i))


# --- Serialisation -------------------------------------------------------------------

BUILT_INS: Mapping[str, type[LearningRateSchedule]] = {
    cls.__name__: cls
    for cls in (
        CosineDecay,
        CosineDecayRestarts,
        ExponentialDecay,
        InverseTimeDecay,
        PiecewiseConstantDecay,
        PolynomialDecay,
    )
}


def serialize(learning_rate_schedule: LearningRateSchedule) -> dict[str, Any]:
    """Return a schedule's class name and config, ready for JSON.

    Parameters
    ----------
    learning_rate_schedule : LearningRateSchedule
        Not changed.

    Returns
    -------
    dict
        ``{"class_name": ..., "config": ...}``, for `deserialize`.

    Raises
    ------
    TypeError
        `learning_rate_schedule` is not a `LearningRateSchedule`.
    NotImplementedError
        It does not define `get_config`.

    Examples
    --------
    >>> serialize(PiecewiseConstantDecay([100], [1.0, 0.5]))["class_name"]
    'PiecewiseConstantDecay'
    """
    if not isinstance(learning_rate_schedule, LearningRateSchedule):
        raise TypeError(
            "learning_rate_schedule must be a LearningRateSchedule, got "
            f"{learning_rate_schedule!r}"
        )
    return {
        "class_name": type(learning_rate_schedule).__name__,
        "config": learning_rate_schedule.get_config(),
    }


def deserialize(
    config: dict[str, Any],
    custom_objects: Mapping[str, type[LearningRateSchedule]] | None = None,
) -> LearningRateSchedule:
    """Make a schedule from what `serialize` returned.

    Parameters
    ----------
    config : dict
        ``{"class_name": ..., "config": ...}``; further keys, which Keras 3 writes,
        are ignored. Not changed.
    custom_objects : dict of str to class, optional
        Schedules of your own by class name; they come before the built-in ones.

    Returns
    -------
    LearningRateSchedule
        A new schedule.

    Raises
    ------
    TypeError
        `config` or its parts are of the wrong kind, or the schedule's config does not
        fit its class.
    ValueError
        `config` lacks a key, or its class name is unknown.

    Examples
    --------
    >>> deserialize({"class_name": "CosineDecay",
    ...              "config": {"initial_learning_rate": 0.5, "decay_steps": 10}})(5)
    0.25
    """
    if not isinstance(config, dict):
        raise TypeError(f"config must be a dict, got {config!r}")
    if not {"class_name", "config"} <= config.keys():
        raise ValueError(
            f"config must have the keys 'class_name' and 'config', got {list(config)}"
        )
    name = rules.text("class_name", config["class_name"])
    known: dict[str, Any] = {**BUILT_INS, **(custom_objects or {})}
    if name not in known:
        raise ValueError(f"Unknown decay: {name}")
    cls = known[name]
    if not (isinstance(cls, type) and issubclass(cls, LearningRateSchedule)):
        raise TypeError(
            f"custom_objects[{name!r}] must be a LearningRateSchedule class, "
            f"got {cls!r}"
        )
    # The caller's from_config may remove what it reads: give it a copy.
    return cls.from_config(copy.deepcopy(config["config"]))
