"""`proxyd db export` and `proxyd db report`, over a database with sample rows and over a server."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from argparse import Namespace
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxyd.cli.dbtool import run
from proxyd.cli.main import main
from proxyd.config.sections import DatabaseSettings
from proxyd.config.settings import Settings
from proxyd.docs.samples import fill
from proxyd.store.sql.columnkinds import Kind, kinds_of
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.observed import EventRow, HealthResult
from proxyd.store.sql.views import VIEWS
from tests.support.postgres import Postgres

#: The types that views have, by their numbers in PostgreSQL.
TYPES = {20: "integer", 25: "text", 701: "real", 1700: "real"}


@pytest.fixture
def filled(store: Store) -> Iterator[Store]:
    """A database with the sample of docs/database.md."""
    assert store.path is not None
    with closing(sqlite3.connect(store.path)) as connection:
        fill(connection)
    yield store


def db(url: str, action: str, name: str = "", **given: str) -> int:
    options = {"format": "", "since": "", "until": "", "output": "", "month": "", **given}
    return run(Settings(database=DatabaseSettings(url=url, busy_timeout=1.0)), action, Namespace(name=name, **options))


def test_rows_of_a_span_come_as_csv(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert db(filled.url, "export", "health_results", since="2026-03-02T07:50", until="2026-03-02T07:52") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["checked_at"][:16] for row in rows} == {"2026-03-02T07:50", "2026-03-02T07:51"} and len(rows) == 6
    assert {row["route_id"]: (row["ok"], row["status_code"]) for row in rows} == {"r1": ("1", "200"), "r2": ("1", "200"), "r3": ("0", "")}


def test_sql_brings_the_same_rows_back(filled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "events.sql"
    assert db(filled.url, "export", "events", format="sql", output=str(output)) == 0
    assert capsys.readouterr().out.endswith(f"rows of events are in {output}\n")
    assert filled.path is not None
    with closing(sqlite3.connect(filled.path)) as source, closing(sqlite3.connect(":memory:")) as copy:
        copy.execute(source.execute("SELECT sql FROM sqlite_master WHERE name = 'events'").fetchone()[0])
        copy.executescript(output.read_text())
        assert copy.execute("SELECT * FROM events").fetchall() == source.execute("SELECT * FROM events").fetchall()


def test_what_is_secret_is_not_exported(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert db(filled.url, "export", "sessions") == 0
    head = capsys.readouterr().out.splitlines()[0]
    assert "session_id" in head and "secret_hash" not in head


@pytest.mark.parametrize(("name", "given", "told"), [
    ("nothing", {}, "there is no table or view nothing; there are: schema_version, "),
    ("counters", {"since": "2026"}, "counters has no column that says when"),
    ("events", {"since": "yesterday"}, "--since: 'yesterday' is no instant like 2026-11"),
    ("events", {"until": "2026-13"}, "--until: '2026-13' is no instant"),
    ("events", {"since": "2026-11-02 03:12", "until": "2026-11-02T03:12Z"}, "--until (2026-11-02T03:12) is not after --since"),
    ("events", {"format": "xml"}, "usage: proxyd db export TABLE [--format csv|sql|parquet]"),
    ("events", {"format": "parquet"}, "--output FILE"),
    ("events", {"output": "/nowhere/at/all"}, "can't write /nowhere/at/all: No such file or directory"),
])
def test_what_can_not_be_exported_is_told(filled: Store, capsys: pytest.CaptureFixture[str], name: str, given: dict[str, str],
                                          told: str) -> None:
    assert db(filled.url, "export", name, **given) == 1
    assert told in capsys.readouterr().err


def test_parquet_has_numbers_as_numbers(filled: Store, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    output = str(tmp_path / "health.parquet")
    assert db(filled.url, "export", "health_results", format="parquet", output=output) == 0
    table = parquet.read_table(output)
    types = [str(table.schema.field(name).type) for name in ("id", "ok", "response_time_ms", "error")]
    assert types == ["int64", "bool", "double", "string"]
    assert table.num_rows == 3 * 1440 and table.column("ok").to_pylist().count(False) == 27


@pytest.mark.parametrize(("view", "types"), [
    ("v_incidents", {"incident_id": "int64", "planned": "string", "started_at": "timestamp[ms, tz=UTC]", "seconds": "int64",
                     "started_at_epoch": "int64", "failed_requests": "int64", "endpoint_id": "int64"}),
    ("v_down_at", {"since": "timestamp[ms, tz=UTC]", "until": "timestamp[ms, tz=UTC]", "window_id": "int64"}),
    ("v_slo", {"target_percent": "double", "limit_ms": "double", "requests": "int64", "burn_1h": "double", "left_percent": "double"}),
    ("v_health_by_hour", {"hour": "timestamp[ms, tz=UTC]", "down_seconds": "int64", "avg_ms": "double"})])
def test_parquet_has_the_numbers_and_instants_of_views_as_such(filled: Store, tmp_path: Path, view: str, types: dict[str, str]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra parquet)")
    output = str(tmp_path / "view.parquet")
    assert db(filled.url, "export", view, format="parquet", output=output) == 0
    table = parquet.read_table(output)
    assert {name: str(table.schema.field(name).type) for name in types} == types and table.num_rows
    if view == "v_incidents":
        first = min(table.column("started_at").to_pylist())
        assert first.isoformat() == "2026-03-01T22:10:10+00:00" and first.timestamp() in table.column("started_at_epoch").to_pylist()
    if view == "v_down_at":
        assert max(table.column("until").to_pylist()).year == 9999


def test_parquet_tells_which_column_has_what_is_none(filled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra parquet)")
    filled.call(EventRow.update(at="soon").execute)
    assert db(filled.url, "export", "events", format="parquet", output=str(tmp_path / "e.parquet")) == 1
    assert "at has a value that is no instant: " in capsys.readouterr().err


def test_a_server_exports_the_same(postgres: Postgres, capsys: pytest.CaptureFixture[str]) -> None:
    url = postgres.new_database()
    before = database.obj
    store = Store(url, busy_timeout=1.0)
    store.open()
    try:
        migrate(store)
        store.call(HealthResult.create, route_id="r1", checked_at="2026-01-31T23:59:59.125Z", ok=True, response_time_ms=2.5)
        store.call(EventRow.create, at="2026-01-31T23:59:59.125Z", type="it's", detail="100 %")
        for view in VIEWS:
            found = store.read(lambda view=view: database.execute_sql(f"SELECT * FROM {view} LIMIT 0").description)
            assert [TYPES[item.type_code] for item in found] == [
                "text" if kind is Kind.INSTANT else kind.value for kind in kinds_of(view, [item.name for item in found])], view
    finally:
        store.close()
        database.initialize(before)
    assert db(url, "export", "health_results", since="2026") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("1,r1,2026-01-31T23:59:59.125Z,1,,2.5,,1,")
    assert db(url, "export", "events", format="sql") == 0
    assert "'it''s', NULL, NULL, '', '100 %');" in capsys.readouterr().out
    database.initialize(before)


def test_a_month_of_a_service_is_reported(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert db(filled.url, "report", "search", month="2026-03", format="json") == 0
    found = json.loads(capsys.readouterr().out)
    place = next(row for row in found["endpoints"] if row["place"] == "shop.example.com/search")
    assert (place["requests"], place["errors"], place["down_seconds"]) == (8700, 540, 1510)
    assert 98 < place["uptime_percent"] < 99.9 and 200 < place["p50_ms"] < place["p95_ms"] < place["p99_ms"]
    assert [row["kind"] for row in found["incidents"]] == ["endpoint", "service"] * 3
    assert [(row["place"], row["down_seconds"]) for row in found["places"]] == [("shop.example.com/search", 1510)]
    objective, = found["objectives"]
    assert (objective["objective"], objective["requests"], objective["spent"], objective["budget"]) == ("availability", 8700, 540, 87)
    assert not objective["met"]
    assert db(filled.url, "report", "search", month="2026-03") == 0
    text = capsys.readouterr().out
    assert "shop.example.com/search: objective 99 % without an error missed: 540 of 8700 requests were bad, 87 may be" in text
    assert "shop.example.com/search" in text and "goes on" in text and text.count("recovered") == 4
    assert ("2026-03-01T21:38:47  search-1 2.3.1 to 2.4.0: 1 added, 1 changed (search/search-1@10.0.0.21:51422)\n"
            "2026-03-01T21:40:03  search-1 2.4.0: 1 changed") in text and "\nMaintenance\n\nnone\n" in text
    assert found["deploys"] == len(found["last_deploys"]) == 2 and found["maintenance"] == []
    assert db(filled.url, "report", "search", month="2026-03", format="html") == 0
    page = capsys.readouterr().out
    assert "<td>8700</td>" in page and page.count("<h2>") == 3
    assert db(filled.url, "report", "shop", month="2026-03") == 0
    # What was sent, in units that one reads.
    assert "733.0 MiB" in capsys.readouterr().out
    assert db(filled.url, "report", "shop", month="2026-03") == 0
    assert ("2026-03-02T06:00:00  to 2026-03-02T06:20:00  shop-2 shop.example.com/: upgrade of the database (admin token from 127.0.0.1)"
            ) in capsys.readouterr().out
    assert db(filled.url, "report", "search", month="2025-03", format="json") == 1
    assert "there was no service search in 2025-03 yet" in capsys.readouterr().err
    assert db(filled.url, "report", "nobody", month="2026-03") == 1 and db(filled.url, "report", "search", month="march") == 1
    assert "is no month like 2026-11" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [
    (("export",), "TABLE"), (("check", "--month", "2026-11"), "unrecognized arguments: --month"), (("report", "shop"), "--month"),
    (("report", "shop", "--month", "2026-11", "--format", "csv"), "invalid choice: 'csv'"), ((), "ACTION")])
def test_what_an_action_does_not_take_is_refused(words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["db", *words])
    assert ended.value.code == 2 and said in capsys.readouterr().err
