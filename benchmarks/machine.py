"""What a figure belongs to: machine, compiler, instruction set, threads, versions."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.harness import Effort, RefusedError
from benchmarks.limits import compiler
from rmsprop_fast import show_config

__all__ = ["describe", "headline"]

LIBRARIES = ("rmsprop-fast", "numpy", "torch", "numba", "jax", "optax")
LIBRARIES += ("tensorflow", "keras", "cupy-cuda13x", "cupy-cuda12x")


def describe(effort: Effort) -> dict[str, Any]:
    """Return what JSON keeps about this run."""
    config = show_config("dicts")
    assert config is not None
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "caches": caches(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        "isa": config["isa"],
        "threads": effort.n_threads,
        "compiler": config["compiler"],
        "limit_compiler": limit_compiler(),
        "quick": effort.quick,
        "date": datetime.date.today().isoformat(),
        "versions": {"python": platform.python_version(), **versions()},
    }


def headline(machine: dict[str, Any]) -> str:
    """Return the machine in one line."""
    return (
        f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, "
        f"{', '.join(machine['caches'])}, {machine['memory_bytes'] / 2**30:.0f} GiB; "
        f"{machine['isa']}, {machine['compiler']}; {machine['date']}"
    )


def cpu_model() -> str:
    """Return the processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def caches() -> list[str]:
    """Return the data caches of the first core, as Linux describes them."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return found


def limit_compiler() -> str | None:
    """Return the first line of the C compiler's version."""
    try:
        words = [compiler(), "--version"]
    except RefusedError:
        return None
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def versions() -> dict[str, str]:
    """Return the versions of this package and of the peers that are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
