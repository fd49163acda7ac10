"""The dashboards over the history: every panel's SQL runs as Grafana sends it, on both engines, and gives times that Grafana reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxyd.docs.database import sample
from proxyd.docs.grafana import FROM, PANELS, TO, text
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.migrations import migrate
from tests.support.postgres import Postgres

CONF = Path(__file__).resolve().parents[2] / "conf/grafana"


def sent(sql: str) -> str:
    """A query with the span that Grafana puts in."""
    found = sql.replace(FROM, "2026-02-27T08:00:00.000Z").replace(TO, "2026-03-02T08:00:00.000Z")
    assert "$" not in found
    return found


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_the_dashboard_has_every_panel_with_its_query_and_none_over_another(engine: str) -> None:
    board = json.loads((CONF / f"history-{engine}.json").read_text(encoding="utf-8"))
    assert board == json.loads(text(engine))
    key = "queryText" if engine == "sqlite" else "rawSql"
    assert [panel["targets"][0][key] for panel in board["panels"]] == [panel.sql for panel in PANELS]
    cells = [(x, y) for place in (panel["gridPos"] for panel in board["panels"]) for x in range(place["x"], place["x"] + place["w"])
             for y in range(place["y"], place["y"] + place["h"])]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24


def test_every_query_finds_rows_on_the_sample_and_times_are_seconds() -> None:
    with sample() as connection:
        for panel in PANELS:
            cursor = connection.execute(sent(panel.sql))
            names, rows = [column[0] for column in cursor.description], cursor.fetchall()
            assert rows, panel.title
            if panel.kind == "timeseries":
                assert names[:2] == ["time", "metric"] and all(1_700_000_000 < row[0] < 1_800_000_000 for row in rows)


def test_every_query_runs_on_postgresql(postgres: Postgres) -> None:
    store = Store(postgres.new_database())
    store.open()
    try:
        migrate(store)
        for panel in PANELS:
            store.read(lambda panel=panel: database.execute_sql(sent(panel.sql)).fetchall())
    finally:
        store.close()
