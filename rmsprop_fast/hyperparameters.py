"""Hyperparameters: one descriptor for each, with its rule and its docstring.

An optimizer keeps the values in one dict. A setter replaces the whole dict, so a step
that reads the dict once gets values that belong together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, overload

from rmsprop_fast import backends, rules
from rmsprop_fast.gpu.scalar import DeviceScalar
from rmsprop_fast.schedules import LearningRateSchedule

__all__ = ["Hyperparameter", "LearningRate", "Option", "options_of"]

T = TypeVar("T")
Rule = Callable[[str, Any], T]


class Owner(Protocol):
    """The attributes of an optimizer that a descriptor uses."""

    _values: dict[str, Any]

    def _set_value(self, option: Option[Any], value: Any) -> None: ...

    @property
    def iterations(self) -> int: ...


class Option(Generic[T]):
    """An argument of the constructor that can be set later; the next step uses it.

    Parameters
    ----------
    rule : callable
        Gets the name and a value; returns the checked value or raises.
    doc : str
        The docstring of the attribute.
    is_optional : bool, default True
        Whether None may be given. None means off.
    decays_missed_rows : bool, default False
        Whether a step with a gradient of zero depends on this option. With
        ``catch_up=True`` the missed steps of all rows are applied before it changes.
    """

    name: str

    def __init__(
        self,
        rule: Rule[T],
        doc: str,
        *,
        is_optional: bool = True,
        decays_missed_rows: bool = False,
    ) -> None:
        self.rule = rule
        self.__doc__ = doc
        self.is_optional = is_optional
        self.decays_missed_rows = decays_missed_rows

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, owner: None, kind: type) -> Option[T]: ...
    @overload
    def __get__(self, owner: Owner, kind: type) -> T: ...
    def __get__(self, owner: Owner | None, kind: type) -> Option[T] | T:
        return self if owner is None else self.shown(owner)

    def __set__(self, owner: Owner, value: Any) -> None:
        owner._set_value(self, self.checked(value))

    def checked(self, value: Any) -> Any:
        """Return a value that may be set."""
        if value is None and self.is_optional:
            return None
        return self.rule(self.name, value)

    def shown(self, owner: Owner) -> Any:
        """Return the value of the attribute."""
        return owner._values[self.name]

    def number(self, value: Any, step: Callable[[], int]) -> Any:
        """Return the value that a step uses, from the value that was set."""
        return value


class Hyperparameter(Option[float]):
    """A number, or a callable without arguments that returns one.

    Parameters
    ----------
    rule, doc, decays_missed_rows
        As for `Option`.
    default : float, optional
        The value that None means. Without it, None is refused.
    """

    def __init__(
        self,
        rule: Rule[float],
        doc: str,
        *,
        default: float | None = None,
        decays_missed_rows: bool = False,
    ) -> None:
        super().__init__(
            rule, doc, is_optional=False, decays_missed_rows=decays_missed_rows
        )
        self.default = default

    def checked(self, value: Any) -> Any:
        if value is None and self.default is not None:
            return self.default
        if isinstance(value, LearningRateSchedule):
            self.refuse_schedule(value)
        return value if callable(value) else self.rule(self.name, value)

    def refuse_schedule(self, value: Any) -> None:
        """Raise for a schedule: only the learning rate may be one."""
        raise TypeError(
            f"{self.name} must be a real number or a callable without arguments, "
            f"got {value!r}"
        )

    def number(self, value: Any, step: Callable[[], int]) -> Any:
        """Return the number of this step; callables are called.

        Parameters
        ----------
        value : float, callable or schedule
            As it was set.
        step : callable
            Returns the number of the step, for a schedule.
        """
        if isinstance(value, LearningRateSchedule):
            return self.rule(f"{self.name}(step)", value(step()))
        return self.rule(f"{self.name}()", value()) if callable(value) else value

    def shown(self, owner: Owner) -> Any:
        return self.number(owner._values[self.name], lambda: owner.iterations)


class LearningRate(Hyperparameter):
    """The learning rate: also a schedule, or a 0-d CuPy array."""

    def checked(self, value: Any) -> Any:
        if backends.is_on_device(value):
            return DeviceScalar(self.name, value)
        return super().checked(value)

    def refuse_schedule(self, value: Any) -> None:
        """Accept it."""

    def shown(self, owner: Owner) -> Any:
        value = owner._values[self.name]
        if isinstance(value, LearningRateSchedule):
            return value
        return value.array if isinstance(value, DeviceScalar) else super().shown(owner)


def options_of(cls: type) -> dict[str, Option[Any]]:
    """Return the options of an optimizer class by name, those of its bases first."""
    return {
        name: value
        for base in reversed(cls.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, Option)
    }


# Keys of a Keras configuration for options that do not exist here. Each function says
# whether the option is off. When use_ema is off, its settings may have any value.
_NEUTRAL: dict[str, Callable[[dict[str, Any]], bool]] = {
    "use_ema": lambda config: not config["use_ema"],
    "ema_momentum": lambda config: not config.get("use_ema"),
    "ema_overwrite_frequency": lambda config: not config.get("use_ema"),
    "jit_compile": lambda config: True,
    "is_legacy_optimizer": lambda config: True,
    "loss_scale_factor": lambda config: config["loss_scale_factor"] in (None, 1),
    "gradient_accumulation_steps": (
        lambda config: config["gradient_accumulation_steps"] in (None, 1)
    ),
}


def without_neutral_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration without keys of Keras that change nothing."""
    if not isinstance(config, dict):
        raise TypeError(f"config must be a dict, got {config!r}")
    for key, is_neutral in _NEUTRAL.items():
        if key in config and not is_neutral(config):
            raise ValueError(f"config: {key} is not supported, got {config[key]!r}")
    return {key: value for key, value in config.items() if key not in _NEUTRAL}


# --- Rules ---------------------------------------------------------------------------


def finiteness(name: str, value: Any) -> bool | str:
    """Return what `check_finite` may be."""
    return value if value == "skip" and isinstance(value, str) else _bool(name, value)


def _bool(name: str, value: Any) -> bool:
    try:
        return rules.flag(name, value)
    except TypeError:
        raise TypeError(f"{name} must be a bool or 'skip', got {value!r}") from None


def n_threads(name: str, value: Any) -> int:
    """Return how many threads a step may use."""
    return rules.integer(name, value, 1, rules.MAX_THREADS)


def one_norm(clipnorm: float | None, global_clipnorm: float | None) -> None:
    """Refuse both norms at once."""
    if clipnorm is not None and global_clipnorm is not None:
        raise ValueError(
            "global_clipnorm must be None when clipnorm is given, "
            f"got clipnorm={clipnorm!r} and global_clipnorm={global_clipnorm!r}"
        )
