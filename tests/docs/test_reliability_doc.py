"""docs/reliability.md promises what the chaos suite checks, by the same names."""

from __future__ import annotations

import re
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.invariants import INVARIANTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def table(heading: str) -> list[tuple[str, str]]:
    """The first two cells of the rows of the table below a heading, without its head."""
    part = PAGE.partition(f"{heading}\n")[2].split("\n#")[0]
    rows = re.findall(r"(?m)^\| `(\w+)` \| (.*) \|$", part)
    assert rows, heading
    return rows


def test_each_promise_is_an_invariant_and_each_invariant_is_promised() -> None:
    promised = [name for name, _ in table("### To clients") + table("### To services and operators")]
    assert promised == list(INVARIANTS)


def test_the_page_says_where_each_is_checked_and_the_checker_is_there() -> None:
    checked = [(name, rest.partition(" | ")[0]) for name, rest in table("## How it is tested")]
    assert checked == [(name, f"`{each.module}`: `{each.function}`") for name, each in INVARIANTS.items()]
    for each in INVARIANTS.values():
        source = (ROOT / "tests" / "chaos" / each.module).read_text(encoding="utf-8")
        assert f"def {each.function.rpartition('.')[2]}(" in source, each.name
        assert f'"{each.name}"' in source, f"{each.module} never finds a breach of {each.name}"


def test_the_tests_that_the_page_names_are_there() -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    for module, function in named:
        assert f"\ndef {function}(" in (ROOT / "tests" / module).read_text(encoding="utf-8"), f"{module}::{function}"


def test_the_page_has_every_fault() -> None:
    assert table("## The faults") == [(each.name, each.help) for each in FAULTS.values()]
