"""Which room may import which: one table, the same that docs/architecture.md draws. Type-only imports count, since they
are what a reader follows."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: From top to bottom. A room imports only rooms in rows below its own; rooms of one row never import each other.
ROWS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("docs",),
    ("ctl", "wsgi"),
    ("server",),
    ("admin", "sites", "chores", "certs"),
    ("registry", "health", "proxy.handler"),
    ("proxy.runtime",),
    ("proxy.client",),
    ("proxy.gates",),
    ("proxy.route",),
    ("proxy.upstream",),
    ("proxy.record",),
    ("proxy.core",),
    ("client", "events"),
    ("store.sql",),
    ("store.memory",),
    ("net", "http1", "http2"),
    ("config",),
    ("base",),
    ("",),
)


def module_name(path: Path) -> str:
    """The module's name below proxyd, of a path below the repository; "" for the package itself."""
    parts = path.relative_to(ROOT / "proxyd").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((ROOT / "proxyd").rglob("*.py")) if "." not in path.stem}


def imports_of(tree: ast.AST, modules: frozenset[str]) -> set[str]:
    """The modules below proxyd that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module is not None:
            base = node.module
            names = [f"{base}.{alias.name}" if f"{base}.{alias.name}".removeprefix("proxyd.") in modules else base for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found.update(name.removeprefix("proxyd").lstrip(".") for name in names if name.split(".")[0] == "proxyd")
    return found


@cache
def graph_of_proxyd() -> dict[str, set[str]]:
    """What each module imports. Read when it is asked for: each process of a run over several collects this file."""
    return {name: imports_of(ast.parse(path.read_text(encoding="utf-8")), frozenset(MODULES)) - {name} for name, path in MODULES.items()}


def row_and_room(module: str) -> tuple[int, str]:
    """Where the table has a module: the room with the longest name that covers it. Raises LookupError for none."""
    candidates = [
        (len(room), row, room) for row, rooms in enumerate(ROWS) for room in rooms
        if module == room or (room and module.startswith(f"{room}."))
    ]
    if not candidates:
        raise LookupError(f"{module} is in no room of the table")
    _, row, room = max(candidates)
    return row, room


def upward(graph: dict[str, set[str]]) -> list[str]:
    """The imports that break the table."""
    wrong = []
    for module, imported in sorted(graph.items()):
        if module in PACKAGES_WITHOUT_CODE:
            continue
        row, room = row_and_room(module)
        for other in sorted(imported):
            if other in PACKAGES_WITHOUT_CODE:
                continue
            other_row, other_room = row_and_room(other)
            if other_room != room and other_row <= row:
                wrong.append(f"proxyd.{module} imports proxyd.{other}, which does not stand below it")
    return wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle (strongly connected components, Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for other in graph.get(module, ()):
            if other not in index:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], index[other])
        if low[module] == index[module]:
            group = []
            while True:
                member = stack.pop()
                group.append(member)
                if member == module:
                    break
            if len(group) > 1:
                found.append(sorted(group))

    for module in graph:
        if module not in index:
            visit(module)
    return found


#: Packages that only hold rooms of the table; there is nothing in them to import.
PACKAGES_WITHOUT_CODE = frozenset(("proxy", "store"))


def test_every_import_points_down() -> None:
    assert upward(graph_of_proxyd()) == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(graph_of_proxyd()) == []


def test_the_architecture_page_draws_the_same_rows() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = text.split("## Modules", 1)[1].split("```")[1]
    drawn = [tuple(line.split("|")[0].split()) for line in block.splitlines() if "|" in line]
    assert drawn == [row for row in ROWS if row != ("",)]


def test_nothing_is_loose_at_the_top() -> None:
    assert {name for name in MODULES if "." not in name and MODULES[name].name != "__init__.py"} == {"__main__", "wsgi"}


@pytest.mark.parametrize("room", sorted({name for name in MODULES if MODULES[name].name == "__init__.py" and name}))
def test_every_room_says_what_lives_there(room: str) -> None:
    text = ast.get_docstring(ast.parse(MODULES[room].read_text(encoding="utf-8")))
    assert text is not None, f"proxyd/{room.replace('.', '/')}/__init__.py has no docstring"
    if room not in ("store", "registry.commands"):  # a shelf of two rooms; one topic a file
        assert "Begin with" in text, "where to begin reading"
        assert "May import" in text or "Nobody imports" in text, "what it may import"


def test_an_arrow_that_runs_up_and_a_circle_are_found() -> None:
    # The two checks above pass on an empty graph too, so each is shown a fault.
    assert upward({"base.text": {"config.settings"}}) == ["proxyd.base.text imports proxyd.config.settings, which does not stand below it"]
    assert upward({"registry.server": {"health.checker"}}) != []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_type_only_and_late_imports_count() -> None:
    source = "if TYPE_CHECKING:\n    from proxyd.config import settings\ndef late():\n    import proxyd.base.text\n"
    assert imports_of(ast.parse(source), frozenset(("config.settings", "base.text"))) == {"config.settings", "base.text"}
