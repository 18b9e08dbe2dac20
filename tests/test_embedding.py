"""The pages of docs/embedding, followed by a stranger who has the wheel and no source.

A page's files are saved under their captions, its downloads beside them; then the
commands of each section run in that folder, and must print what the page shows.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from venvs import ROOT, create_venv, install, run

PAGES = ROOT / "docs" / "embedding"
# What pages ask pip for beside the wheel; here one environment has it all.
TOOLS = ("cython", "setuptools", "cffi")

INCLUDED = r"```\{literalinclude\} (\S+)\n(?::.*\n)*?:caption: (\S+)\n"
DOWNLOAD = r"\{download\}`(\S+) <(\S+)>`"
SECTION = r"^## (.*)$"
CONSOLE = r"```console\n(.*?)```"


@dataclass(frozen=True)
class Section:
    """The commands under one heading of a page, and what each must print."""

    page: Path
    title: str
    commands: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return f"{self.page.stem}: {self.title}"


def sections() -> list[Section]:
    """Return all sections that have commands."""
    found = []
    for page in sorted(PAGES.glob("*.md")):
        _, *parts = re.split(SECTION, page.read_text(), flags=re.MULTILINE)
        for title, text in zip(parts[::2], parts[1::2], strict=True):
            commands: list[tuple[str, str]] = []
            for block in re.findall(CONSOLE, text, re.DOTALL):
                for part in block.removeprefix("$ ").split("\n$ "):
                    command, _, output = part.partition("\n")
                    commands.append((command, output.strip()))
            if commands:
                found.append(Section(page, title, tuple(commands)))
    return found


SECTIONS = sections()


def save_files(page: Path, folder: Path) -> None:
    """Save what the page shows and offers, as a reader would."""
    text = page.read_text()
    files = [(name, path) for path, name in re.findall(INCLUDED, text)]
    for name, path in files + re.findall(DOWNLOAD, text):
        shutil.copy(page.parent / path, folder / name)


def skip_without_tools(section: Section) -> None:
    for command, _ in section.commands:
        for name in re.findall(r"(?:^|\$\()(\w[\w+-]*)", command):
            is_tool = name not in ("python", "export", "OMP_NUM_THREADS")
            if is_tool and shutil.which(name) is None:
                pytest.skip(f"needs {name}")


@pytest.fixture(scope="session")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the wheel and what the pages ask for."""
    return create_venv(tmp_path_factory.mktemp("embedding") / "venv", wheel, *TOOLS)


def follow_pip(command: str, wheel: Path, venv: Path) -> None:
    """Install what a page asks for, with this wheel in place of the released one."""
    begin = "python -m pip install rmsprop-fast"
    assert command.startswith(begin)
    try:
        install(venv, wheel, *command.removeprefix(begin).split())
    except AssertionError as error:
        if "No matching distribution found for numba" in str(error):
            pytest.skip("no Numba for this Python yet")
        raise


@pytest.mark.parametrize("section", SECTIONS, ids=str)
def test_following_the_page_prints_what_it_shows(
    section: Section, wheel: Path, venv: Path, tmp_path: Path
) -> None:
    skip_without_tools(section)
    save_files(section.page, tmp_path)
    path = f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}"
    exported = "true"
    for command, expected in section.commands:
        if " -m pip " in command:
            follow_pip(command, wheel, venv)
        elif command.startswith("export "):
            exported = command
        else:
            script = f"{exported}; {command}"
            printed = run("bash", "-ec", script, cwd=tmp_path, PATH=path)
            assert printed.strip() == expected


@pytest.mark.parametrize("door", ["c", "cffi", "cpp", "cython", "numba"])
def test_every_door_has_a_page_that_compares_with_the_facade(door: str) -> None:
    assert f"\n{door}\n" in (PAGES / "index.md").read_text().partition(":hidden:")[2]
    commands = [c for s in SECTIONS if s.page.stem == door for c in s.commands]
    agrees = re.compile("^bit for bit the .* of apply_gradients: True$", re.MULTILINE)
    assert any(agrees.search(output) for _, output in commands)


def test_every_example_is_on_a_page() -> None:
    used = set()
    for page in PAGES.glob("*.md"):
        text = page.read_text()
        paths = [path for path, _ in re.findall(INCLUDED, text)]
        paths += [path for _, path in re.findall(DOWNLOAD, text)]
        used |= {(page.parent / path).resolve() for path in paths}
    there = (ROOT / "docs" / "examples").rglob("*")
    assert {path for path in there if path.is_file()} == used
