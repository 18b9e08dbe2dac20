"""A method changes its estimator in one assignment, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

__all__ = ["on_a_draft"]

Estimator = TypeVar("Estimator")
Arguments = ParamSpec("Arguments")
Method = Callable[Concatenate[Estimator, Arguments], Estimator]


def on_a_draft(
    method: Callable[Concatenate[Estimator, Arguments], Any],
    copied: tuple[str, ...] = (),
) -> Method[Estimator, Arguments]:
    """Let `method` change a draft of the estimator, which the estimator then becomes.

    An error, an interrupt or a failed allocation leaves the estimator as it was. The
    draft shares the estimator's values except those of the attributes `copied`:
    `method` replaces a value, or copies it before it changes it in place.
    """

    @wraps(method)
    def call(
        self: Estimator, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Estimator:
        draft: Estimator = object.__new__(type(self))
        values = vars(self)
        own = {name: values[name] for name in copied if name in values}
        draft.__dict__ = values | deepcopy(own)
        method(draft, *args, **kwargs)
        self.__dict__ = draft.__dict__
        return self

    return call  # type: ignore[return-value]  # mypy names its first argument
