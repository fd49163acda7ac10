"""docs/http.md names codes and settings that exist; docs/http-tests.md names a test that exists for every rule."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from proxyd.base.reasons import REASONS
from proxyd.config.options import OPTIONS
from proxyd.config.settings import SECTIONS, setting_declarations

ROOT = Path(__file__).resolve().parents[2]
RULES = (ROOT / "docs/http.md").read_text(encoding="utf-8")
TESTS = (ROOT / "docs/http-tests.md").read_text(encoding="utf-8")


def functions() -> set[str]:
    """The names of all test functions."""
    return {node.name for path in (ROOT / "tests").rglob("test_*.py") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def tables(text: str) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Head and rows of each table."""
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        yield head, rows


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_[a-z0-9_]+)`", TESTS))
    assert len(named) > 70
    assert named - functions() == set()


def test_every_rule_names_a_test_that_holds_it() -> None:
    rules = [(head, row) for head, rows in tables(TESTS) for row in rows]
    assert len(rules) > 60
    for head, row in rules:
        assert head[-1].startswith("Held by") and len(row) == len(head), row
        assert re.fullmatch(r"`test_[a-z0-9_]+`(?:, `test_[a-z0-9_]+`)*", row[-1]), row


def test_the_index_of_tests_has_the_sections_of_the_rules() -> None:
    assert re.findall(r"(?m)^## (.*)$", TESTS) == re.findall(r"(?m)^## (.*)$", RULES)


def test_codes_that_the_rules_name_exist_with_that_status() -> None:
    one_reading, bounds = (RULES.partition(f"\n## {name}\n")[2].partition("\n## ")[0] for name in ("One reading", "Bounds"))
    answers = [row[-1] for text in (one_reading, bounds) for _, rows in tables(text) for row in rows]
    # "400 `a`, `b` or `c`": one status for the codes up to the next.
    told = [(int(status), code) for answer in answers for status, codes in re.findall(r"\b(\d{3}) ((?:(?:, | or )?`[a-z_0-9]+`)+)", answer)
            for code in re.findall(r"`([a-z_0-9]+)`", codes)]
    assert len(told) > 40
    for status, code in told:
        # A backend's answer that breaks a rule is 502 under the code of that rule.
        assert REASONS[code].status == status or status == 502, code


def test_settings_and_options_that_are_named_exist() -> None:
    known = {key for section in SECTIONS for key in setting_declarations(section)} | set(OPTIONS)
    bounds = [row for head, rows in tables(RULES) if head[1:2] == ["Setting"] for row in rows]
    named = {name for row in bounds for name in re.findall(r"`([a-z_0-9]+)`", row[1])}
    assert len(named) > 10 and named <= known
