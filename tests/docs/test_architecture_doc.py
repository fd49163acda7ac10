"""docs/architecture.md names modules and shared files that are there; README leads to every page."""

from __future__ import annotations

import re

from proxyd.store.memory.shared import FILES
from tests.support.system import ROOT

TEXT = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_every_module_that_is_named_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", TEXT))
    assert len(named) > 20
    assert {name for name in named if not (ROOT / "proxyd" / name).exists() and not (ROOT / name).exists()} == set()


def test_every_shared_file_is_named_where_developers_and_operators_look() -> None:
    operations = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    assert {name for name in FILES if name not in TEXT or f"`{name}`" not in operations} == set()


def test_readme_leads_to_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w./-]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    pages = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} | {"CONTRIBUTING.md", "SECURITY.md"}
    assert pages - linked == set()
