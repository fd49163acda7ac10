"""docs/http.md: every test it names exists, and every row of rules has one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/http.md").read_text(encoding="utf-8")


def functions() -> set[str]:
    """The names of all test functions."""
    return {node.name for path in (ROOT / "tests").rglob("test_*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    """Head and rows of each table."""
    for block in re.findall(r"(?:^\|.*\|\n)+", TEXT, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        yield head, rows


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", TEXT))
    assert len(named) > 70
    assert named - functions() == set()


def test_every_rule_names_a_test_that_holds_it() -> None:
    rules = [(head, row) for head, rows in tables() if head[-1].startswith("Held by") for row in rows]
    assert len(rules) > 60
    for head, row in rules:
        assert len(row) == len(head), row
        assert re.fullmatch(r"`test_[a-z0-9_]+`(?:, `test_[a-z0-9_]+`)*", row[-1]), row


def test_settings_and_options_that_are_named_exist() -> None:
    from proxyd.config.options import OPTIONS
    from proxyd.config.settings import SECTIONS, setting_declarations

    known = {key for section in SECTIONS for key in setting_declarations(section)} | set(OPTIONS)
    bounds = [row for head, rows in tables() if head[1:2] == ["Setting"] for row in rows]
    named = {name for row in bounds for name in re.findall(r"`([a-z_0-9]+)`", row[1])}
    assert len(named) > 10 and named <= known
