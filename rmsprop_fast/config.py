"""What this build contains, and what it uses on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rmsprop_fast import threads
from rmsprop_fast.cpu import _platform, dispatch

__all__ = ["get_include", "show_config"]


def get_include() -> str:
    """Return the folder that a C compiler needs in its include path.

    Returns
    -------
    str
        With it, ``#include <rmsprop_fast/rmsprop.h>`` finds the formula.
    """
    return str(Path(__file__).parent / "include")


def show_config(
    mode: Literal["stdout", "dicts"] = "stdout",
) -> dict[str, Any] | None:
    """Print what this build contains and what it uses on this machine.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        "stdout" prints. "dicts" returns a dict and prints nothing, as
        `numpy.show_config` does.

    Returns
    -------
    dict or None
        The instruction set in use and those available, OpenMP (the date of its version,
        or None when the loops are serial), the threads of a large step, the compiler.

    Raises
    ------
    ValueError
        `mode` is something else.
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
