"""Metrics that a document or a file in conf/ names are declared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxyd.admin.families import FAMILIES
from proxyd.docs.metrics import text

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {name for family in FAMILIES.values() for name in (family.name, *family.samples)}
FILES = [path for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "conf").rglob("*")])
         if path.is_file() and "proxyd_" in path.read_text(encoding="utf-8")]


def unknown(written: str) -> set[str]:
    """The names in a text that are no metric."""
    return {name for name in re.findall(r"\bproxyd_[a-z0-9_]+", written) if name not in KNOWN}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_metric_that_is_named_is_declared(path: Path) -> None:
    assert unknown(path.read_text(encoding="utf-8")) == set()


def test_a_name_that_is_not_declared_is_noticed() -> None:
    assert unknown("ask for `rate(proxyd_requests_total[5m])` or `proxyd_smoke_total`") == {"proxyd_smoke_total"}


def test_every_metric_is_in_the_document() -> None:
    assert [name for name in FAMILIES if f"| `{name}` |" not in text()] == []
