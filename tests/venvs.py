"""The package as users get it: a wheel, installed in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# What the build reads. Nothing built here before may find its way into a wheel.
SOURCES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
BUILT = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")

# setuptools reads this file too: compile on all cores.
PARALLEL = f"[build_ext]\nparallel = {os.cpu_count()}\n"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a program outside the source tree; return its output, fail with it.

    Nothing of this Python's settings reaches the program.
    """
    own = {name: value for name, value in os.environ.items() if "PYTHON" not in name}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**own, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
    )
    if done.returncode != 0:
        raise AssertionError(
            f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout}"
        )
    return done.stdout


def build_wheel(folder: Path) -> Path:
    """Build a wheel below `folder` from a copy of the sources."""
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        shutil.copy2(ROOT / name, source)
    shutil.copytree(ROOT / "rmsprop_fast", source / "rmsprop_fast", ignore=BUILT)
    (folder / "parallel.cfg").write_text(PARALLEL)
    run(
        *(sys.executable, "-m", "build", "--wheel", "--no-isolation"),
        *("--outdir", folder / "dist", source),
        cwd=folder,
        DIST_EXTRA_CONFIG=str(folder / "parallel.cfg"),
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


def create_venv(folder: Path, *requirements: str | Path) -> Path:
    """Create an environment in `folder`, install there, and return `folder`."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    run(
        *(python(folder), "-m", "pip", "install", "--quiet"),
        *("--disable-pip-version-check", *requirements),
        cwd=folder.parent,
    )
    return folder


def python(venv: Path) -> Path:
    """Return an environment's interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
