"""docs/http.md: every test it names exists, every row of rules has one, and every reason code is explained."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/http.md").read_text(encoding="utf-8")
#: Calls that give a refusal its code, and the place of the code among their arguments.
CODED = {"ProtocolError": 1, "UpstreamError": 2, "Refusal": 1, "ResponseCut": 0, "_answer": 2, "respond": 2}


def functions() -> set[str]:
    """The names of all test functions."""
    return {node.name for path in (ROOT / "tests").rglob("test_*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    """Head and rows of each table."""
    for block in re.findall(r"(?:^\|.*\|\n)+", TEXT, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        yield head, rows


def codes() -> set[str]:
    """The reason codes in the source, as far as they are written as constants."""
    found = set()
    for directory in ("http1", "proxy"):
        for path in (ROOT / "proxyd" / directory).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if not isinstance(node, ast.Call):
                    continue
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in CODED and len(node.args) > CODED[name]:
                    argument = node.args[CODED[name]]
                    found |= {part.value for part in ast.walk(argument) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return {code for code in found if re.fullmatch(r"[a-z][a-z0-9_]*[a-z0-9]", code)}


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


@pytest.mark.parametrize("code", sorted(codes()))
def test_every_reason_is_explained(code: str) -> None:
    reasons = TEXT.partition("\n## Reasons\n")[2]
    assert f"`{code}`" in reasons


def test_settings_and_options_that_are_named_exist() -> None:
    from proxyd.config.options import OPTIONS
    from proxyd.config.settings import SECTIONS, setting_declarations

    known = {key for section in SECTIONS for key in setting_declarations(section)} | set(OPTIONS)
    bounds = [row for head, rows in tables() if head[1:2] == ["Setting"] for row in rows]
    named = {name for row in bounds for name in re.findall(r"`([a-z_0-9]+)`", row[1])}
    assert len(named) > 10 and named <= known
