"""The table of what is kept how long, against the settings that it names."""

from __future__ import annotations

import pytest

from proxyd.config.declare import declarations
from proxyd.config.sections import DatabaseSettings
from proxyd.docs import database as document
from proxyd.store.sql.observed import Worker
from proxyd.store.sql.retained import RETAINED, Retained


def test_the_settings_that_tables_name_are_those_declared() -> None:
    assert {kept.setting for kept in RETAINED} == {key for key in declarations(DatabaseSettings) if key.startswith("retain_")}


def test_a_table_that_is_newly_pruned_says_so_in_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "RETAINED", (
        *RETAINED, Retained(Worker, "retain_health", lambda before: Worker.heartbeat_at < before, "Lost ones are kept for {}.")))
    part = document.text().partition("\n## workers\n")[2].partition("\n## ")[0]
    assert "Lost ones are kept for `[database] retain_health`." in part
    row = document.text().partition("\n## How long rows are kept\n")[2].partition("| `retain_health` |")[2].splitlines()[0]
    assert row == " `2d` | [health_results](#health_results), [workers](#workers) |"
