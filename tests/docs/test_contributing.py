"""The pages for contributors name what is there."""

from __future__ import annotations

import re

import pytest

from tests.support.system import ROOT


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"(?:\.ci|proxyd|tests|scripts|docs|conf)/[\w./-]*\w|CHANGELOG\.md", text)
    missing = sorted({path for path in named if not (ROOT / path).exists()} - {"proxyd/", "tests/"})
    assert missing == [] and named


def test_pre_commit_runs_what_the_suite_runs() -> None:
    suite = (ROOT / "scripts/test").read_text(encoding="utf-8")
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert len(hooks) == 2 and all(hook in suite.splitlines() for hook in hooks)


def test_each_way_to_add_a_thing_has_five_steps() -> None:
    parts = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## Add ")[1:]
    assert [part.split("\n")[0] for part in parts] == ["a setting", "a route option", "a registry command", "a gate", "a counter"]
    assert all(len(re.findall(r"(?m)^\d\. ", part)) == 5 for part in parts)
