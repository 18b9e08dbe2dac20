"""No circle of imports in the package and in the benchmarks, wherever they stand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SUFFIXES = (".py", ".pyx", ".pxd", ".pxi")

# `from a.b cimport c, d`, `from a.b import (c,`, `cimport a.b as x`, `include "a.pxi"`.
CYTHON = re.compile(
    r"^\s*(?:from\s+(?P<base>[\w.]+)\s+c?import\s+(?P<names>\([^)]*\)|[^#\n]*)"
    r"|c?import\s+(?P<modules>[\w., ]+)"
    r'|include\s+"(?P<included>[^"]+)")',
    re.MULTILINE,
)

Graph = dict[str, set[str]]


def read(package: Path) -> dict[str, list[Path]]:
    """Return the files of each module of a package: a .pyx and its .pxd are one."""
    files: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*")):
        if path.suffix in SUFFIXES:
            parts = path.relative_to(package.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            files.setdefault(name, []).append(path)
    return files


def python_imports(text: str) -> Iterator[str]:
    """Yield what is imported anywhere: in functions, for type checkers, by name."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
            "import_module"
        ):
            name = node.args[0]
            if isinstance(name, ast.Constant):
                yield name.value


def cython_imports(text: str) -> Iterator[str]:
    for found in CYTHON.finditer(text):
        if found["base"]:
            names = found["names"].strip("()").replace("\n", " ").split(",")
            words = [name.split() for name in names]
            yield from (f"{found['base']}.{word[0]}" for word in words if word)
        elif found["modules"]:
            names = found["modules"].split(",")
            yield from (name.split()[0] for name in names if name.split())
        else:
            yield found["included"].removesuffix(".pxi").replace("/", ".")


def graph(package: Path) -> Graph:
    """Return which modules of a package each of its modules imports.

    A name is the longest module it begins with. To import a module runs its package's
    ``__init__`` too; that is no edge, or everything would be one circle.
    """
    files = read(package)
    edges: Graph = {name: set() for name in files}
    for module, paths in files.items():
        for path in paths:
            imports = python_imports if path.suffix == ".py" else cython_imports
            for name in imports(path.read_text()):
                while name and name not in files:
                    name = name.rpartition(".")[0]
                if name and name != module:
                    edges[module].add(name)
    return edges


def circles(edges: Graph) -> list[list[str]]:
    """Return the sets of modules that can reach each other (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = low[module] = len(order)
        stack.append(module)
        for other in sorted(edges[module]):
            if other not in order:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], order[other])
        if low[module] == order[module]:
            start = stack.index(module)
            component = sorted(stack[start:])
            del stack[start:]
            if len(component) > 1:
                found.append(component)

    for module in sorted(edges):
        if module not in order:
            visit(module)
    return found


@pytest.mark.parametrize("name", ["rmsprop_fast", "benchmarks"])
def test_no_module_imports_itself_by_way_of_others(name: str) -> None:
    package = ROOT / name
    if not list(package.glob("*.py")):
        pytest.skip("the checkout's sources are not here")
    edges = graph(package)
    assert sum(map(len, edges.values())) > 20, "imports were found at all"
    assert circles(edges) == []


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("a.py", "def f():\n    from made.b import g\n"),
        ("a.py", "if TYPE_CHECKING:\n    import made.b\n"),
        ("a.py", "import_module('made.b')\n"),
        ("a.py", "from made import b\n"),
        ("a.pyx", "from made.b cimport (\n    g,\n    h as i,\n)\n"),
        ("a.pyx", "from made cimport other, b as c  # why\n"),
        ("a.pxd", "cimport made.b as c\n"),
        ("a.pyx", 'include "made/b.pxi"\n'),
    ],
)
def test_a_circle_is_found_wherever_its_imports_stand(tmp_path, a, b) -> None:
    package = tmp_path / "made"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / a).write_text(b)
    (package / "b.py").write_text("import made.c\n")
    (package / "c.py").write_text("from made.a import x\n")
    assert circles(graph(package)) == [["made.a", "made.b", "made.c"]]
    (package / "c.py").write_text("import math\n")
    assert circles(graph(package)) == []
