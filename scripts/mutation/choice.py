"""Which tests look at a module: the file that mirrors it first, then its room's, then every other that imports it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


def tests_for(root: Path, module: Path) -> list[Path]:
    """The test files for a module, whose path is relative to `root`, nearest first.

    A test file imports what its helpers below tests/ and the conftest.py files of its directories import, too."""
    package, inner = module.parts[0], module.with_suffix("").parts[1:]
    room = root / "tests" / Path(*inner[:-1])
    mirror = room / f"test_{inner[-1]}.py"
    name = ".".join((package, *inner)).removesuffix(".__init__")
    others = [path for path in sorted((root / "tests").rglob("test_*.py")) if path != mirror]
    beside = [path for path in others if path.is_relative_to(room) and room != root / "tests"]
    importing = [path for path in others if name in _imported(root, path)]
    return [
        *([mirror] if mirror.exists() else []),
        *(path for path in beside if path in importing),
        *(path for path in beside if path not in importing),
        *(path for path in importing if path not in beside)]


@cache
def _imported(root: Path, path: Path) -> frozenset[str]:
    """The dotted names that a test file imports, and its helpers for it."""
    found: set[str] = set()
    conftests = [directory / "conftest.py" for directory in path.parents if directory.is_relative_to(root / "tests")]
    waiting, seen = [path, *(file for file in conftests if file.exists())], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _imports(file):
            found.add(name)
            helper = root / Path(*name.split(".")).with_suffix(".py")
            if name.startswith("tests.") and helper.exists():
                waiting.append(helper)
    return frozenset(found)


def _imports(file: Path) -> set[str]:
    """The dotted names in the imports of a file. `from a import b` may mean the module a or the module a.b: both are given."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found
