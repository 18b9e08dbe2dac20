"""A method changes its estimator in one assignment, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import wraps
from typing import Any, TypeVar, cast

__all__ = ["on_a_draft"]

Method = TypeVar("Method", bound=Callable[..., Any])


def on_a_draft(method: Method, copied: tuple[str, ...] = ()) -> Method:
    """Let `method` change a draft of the estimator, which the estimator then becomes.

    An error, an interrupt or a failed allocation leaves the estimator as it was. The
    draft shares the estimator's values except those of the attributes `copied`:
    `method` replaces a value, or copies it before it changes it in place.
    """

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        draft = object.__new__(type(self))
        values = vars(self)
        own = {name: values[name] for name in copied if name in values}
        draft.__dict__ = values | deepcopy(own)
        method(draft, *args, **kwargs)
        self.__dict__ = draft.__dict__
        return self

    return cast(Method, call)
