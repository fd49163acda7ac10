"""docs/proxyctl.md: each command is in it, and each example can be typed."""

from __future__ import annotations

import shlex

import pytest

from proxyd.ctl.parser import build, grammar
from proxyd.docs import document
from proxyd.docs.proxyctl import EXAMPLES


def test_every_command_and_action_has_an_example() -> None:
    assert set(EXAMPLES) == set(grammar()[1])


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_of_its_command_and_is_understood(name: str) -> None:
    words = shlex.split(EXAMPLES[name].replace('"$(', "").replace(')"', "").partition(" | ")[0].partition(" && ")[0])
    given = build().parse_args(words[words.index("proxyctl") + 1:])
    assert [given.name, getattr(given, "action", "")][:1 + name.count(" ")] == name.split()


def test_every_option_of_a_command_is_in_its_part() -> None:
    text = document("proxyctl")
    for name, parser in grammar(common=False)[1].items():
        part = text.partition(f"# {name}\n")[2].partition("\n##")[0]
        assert " ".join(parser.format_usage().split()[1:]) in " ".join(part.split()), name


def test_the_document_is_the_same_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = document("proxyctl")
    monkeypatch.setenv("COLUMNS", "40")
    assert document("proxyctl") == whole
