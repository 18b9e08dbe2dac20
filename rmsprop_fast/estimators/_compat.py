"""What differs between the versions of scikit-learn we support."""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["CallbackSupportMixin", "with_callbacks"]

Method = TypeVar("Method")

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # before 1.9 nobody can set a callback

    class _NoContext:
        """The context of a fit without callbacks."""

        def subcontext(self, **_: Any) -> _NoContext:
            return self

        def call_on_fit_task_begin(self, **_: Any) -> None:
            pass

        def call_on_fit_task_end(self, **_: Any) -> bool:
            return False

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """The part of scikit-learn's mixin that `fit` calls."""

        def _init_callback_context(self, **_: Any) -> _NoContext:
            return _NoContext()

    def with_callbacks(method: Method) -> Method:
        """Return the method: there is nothing to tear down."""
        return method
