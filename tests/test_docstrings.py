"""Every public name is documented as numpydoc wants it: parameters, returns, shape."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from numpydoc.validate import validate

import rmsprop_fast
from rmsprop_fast import estimators, gradients, kernels, schedules

SETTINGS = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
CHECKS = set(SETTINGS["tool"]["numpydoc_validation"]["checks"])


def members(cls: type) -> dict[str, object]:
    """Return what the class holds itself, or inherits from a base of this package."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if base is cls or base.__module__.startswith("rmsprop_fast.estimators"):
            found |= vars(base)
    return found


def public_names() -> Iterator[str]:
    """Yield the public functions, classes, methods and properties."""
    for module in (rmsprop_fast, estimators, gradients, schedules):
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.isclass(value) and not inspect.isfunction(value):
                continue
            yield f"{module.__name__}.{name}"
            if inspect.isclass(value):
                for member, held in members(value).items():
                    is_data = held is None or isinstance(held, (int, float))
                    if not member.startswith("_") and not is_data:
                        yield f"{module.__name__}.{name}.{member}"
    for name in kernels.__all__:
        if name.islower() and callable(getattr(kernels, name)):  # Cython's functions
            yield f"rmsprop_fast.kernels.{name}"


@pytest.mark.parametrize("name", list(public_names()))
def test_docstring_is_complete(name: str) -> None:
    errors = validate(name)["errors"]
    assert not [(code, text) for code, text in errors if code in CHECKS]
