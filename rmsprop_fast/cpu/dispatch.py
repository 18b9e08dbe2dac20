"""Choose the loops: the best instruction set that this machine and this build have.

Only the chosen module is imported: another's code may be an illegal instruction here.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

from rmsprop_fast.cpu import _platform, _spans

__all__ = ["available", "select"]


def available() -> list[str]:
    """Return the instruction sets that were built and that this machine runs."""
    return [
        isa
        for isa, runs in _platform.ISAS.items()
        if runs and importlib.util.find_spec(f"rmsprop_fast.cpu._loops_{isa}")
    ]


def select(isa: str | None = None) -> str:
    """Use the loops of `isa`, or of the best one, from the next step on.

    Parameters
    ----------
    isa : {"baseline", "avx2", "avx512"}, optional
        The best available one if omitted.

    Returns
    -------
    str
        The instruction set in use.

    Raises
    ------
    RuntimeError
        This machine or this build lacks `isa`.
    """
    choices = available()
    if isa is None:
        isa = choices[-1]
    if isa not in choices:
        raise RuntimeError(
            f"RMSPROP_FAST_ISA must be one of {', '.join(choices)} here, got {isa!r}"
        )
    loops = importlib.import_module(f"rmsprop_fast.cpu._loops_{isa}")
    _spans.use(loops.spans)
    return isa


ISA = select(os.environ.get("RMSPROP_FAST_ISA") or None)
