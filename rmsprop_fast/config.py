"""What this build is and what it uses here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rmsprop_fast import threads
from rmsprop_fast.cpu import _platform, dispatch

__all__ = ["get_include", "show_config"]


def get_include() -> str:
    """Return the folder to add to a C compiler's include path.

    Returns
    -------
    str
        ``#include <rmsprop_fast/rmsprop.h>`` then finds the formula.
    """
    return str(Path(__file__).parent / "include")


def show_config(
    mode: Literal["stdout", "dicts"] = "stdout",
) -> dict[str, Any] | None:
    """Print what this build is and what it uses on this machine.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Print, or return a dict instead, as `numpy.show_config` does.

    Returns
    -------
    dict or None
        The instruction set in use and those available, OpenMP (its version's date, or
        None when the loops are serial), the threads of a large step, the compiler.

    Raises
    ------
    ValueError
        Another mode.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = {
        "isa": dispatch.ISA,
        "available isas": dispatch.available(),
        "openmp": _platform.OPENMP or None,
        "threads": threads.count(),
        "compiler": _platform.COMPILER,
    }
    if mode == "dicts":
        return config
    if not _platform.OPENMP:
        config["openmp"] = "none: the loops are serial"
    for name, value in config.items():
        print(f"{name:>15}: {value}")
    return None
