"""A counter is declared once: a line in a copy of the table is enough for SQL, the answers, the metrics and the documents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.scratch import Scratch

_COUNT = """
import json, sys, time
from proxyd.admin.metrics import Process, Readings, render
from proxyd.admin.schemas import SCHEMAS
from proxyd.docs import document
from proxyd.proxy.record.stats import Stats
from proxyd.registry.commands.live import _shown
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.observed import RouteStats
from proxyd.store.sql.query import dicts
from proxyd.store.sql.traffic import route_stats

store = Store("sqlite:///" + sys.argv[1])
store.open()
migrate(store)
stats = Stats()
for number in (2, 5):
    stats.of("r1").puffs += number
    batch = stats.take(1700000000.0)
    stats.give_back(batch)
    store.call(stats.take(1700000000.0).write)
left = stats.take(1700000000.0)
found = store.read(route_stats, ["r1", "r2"])
sums = {row["route_id"]: row for row in store.read(lambda: dicts(RouteStats.select()))}
text, _ = render(Readings(sums={("shop", "a.test"): sums["r1"]}), Process(0.0, 1, [], [], 0), "", 0.0)
print(json.dumps({
    "left": left is not None, "columns": {column.name: column.data_type for column in store.read(database.get_columns, "route_stats")},
    "read": [found[route]["puffs"] for route in ("r1", "r2")], "shown": _shown(found["r1"])["puffs"], "metrics": text.decode(),
    "documents": [name for name in ("database", "metrics", "protocol") if "puffs" in document(name)],
    "api": sorted(name for name in ("Stats", "Route") if "puffs" in json.dumps(SCHEMAS[name]))}))
store.close()
"""
_PUFFS = '    Counter("puffs", "Puffs of smoke", "proxyd_puffs_total", shown=True),'


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path / "scratch")


def test_a_line_in_the_table_is_a_counter_everywhere(scratch: Scratch, tmp_path: Path) -> None:
    scratch.insert("proxyd/base/counters.py", '    Counter("slow_warnings"', _PUFFS)
    found = json.loads(scratch.run(_COUNT, str(tmp_path / "new.db")))
    assert found["left"] is False
    assert found["read"] == [7, 0] and found["shown"] == 7
    assert "# HELP proxyd_puffs_total Puffs of smoke.\n" in found["metrics"]
    assert 'proxyd_puffs_total{domain="a.test",service="shop"} 7.0\n' in found["metrics"]
    assert found["documents"] == ["database", "metrics", "protocol"] and found["api"] == ["Route", "Stats"]


def test_an_older_database_gets_the_column(scratch: Scratch, tmp_path: Path) -> None:
    path = str(tmp_path / "older.db")
    make = """
import sys
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.observed import RouteStats
store = Store("sqlite:///" + sys.argv[1])
store.open()
migrate(store)
store.call(lambda: RouteStats.create(route_id="r1", requests=3, updated_at=""))
store.close()
"""
    scratch.run(make, path)
    scratch.insert("proxyd/base/counters.py", '    Counter("slow_warnings"', _PUFFS)
    found = json.loads(scratch.run(_COUNT, path))
    assert found["read"] == [7, 0] and found["columns"]["puffs"] == "INTEGER"


def test_a_counter_that_is_not_declared_can_not_be_counted(scratch: Scratch) -> None:
    script = """
from proxyd.proxy.record.stats import RouteCounters
try:
    RouteCounters().puffs = 1
except AttributeError as error:
    print(error)
"""
    assert "puffs" in scratch.run(script)
