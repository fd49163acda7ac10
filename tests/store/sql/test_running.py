"""Sums that run on: whatever comes late or is missing, each row has what all earlier ones add up to. Older rows get it by a migration,
which goes on after a kill."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import psycopg2
import pytest

from proxyd.health.outages import ServiceSums, Sums
from proxyd.store.sql import incidents, longsteps, migrations, running
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.models import Endpoint, RouteHistory, SchemaVersion, Service
from proxyd.store.sql.rollups import HealthMinute
from tests.support.postgres import Postgres
from tests.support.waiting import wait_for


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{Path(tmp_path_factory.mktemp('running'))}/p.db"
    made: Postgres = request.getfixturevalue("postgres")
    return made.new_database()


@pytest.fixture
def store(server: str) -> Iterator[Store]:
    opened = Store(server)
    opened.open()
    migrations.migrate(opened)
    opened.call(_begin)
    yield opened
    opened.close()


def _begin() -> None:
    for kind in running.KINDS:
        for model, _ in kind.tables:
            model.delete().execute()
    HealthMinute.delete().execute()
    if Endpoint.get_or_none(Endpoint.endpoint_id == 1) is None:
        Service.insert(service_id=1, service_name="shop", first_seen="2020").execute()
        for number in (1, 2):
            Endpoint.insert(endpoint_id=number, service=1, service_name="shop", instance_name=f"i{number}", domain="shop.test", path="/",
                            first_seen="2020-01-01T00:00:00.000Z").execute()
            RouteHistory.insert(route_id=f"r{number}", endpoint=number, session_id="s1", backend_url="b", added_at="2020",
                                added_by="").execute()


def write(store: Store, at: str, one: float, two: float = 0.0) -> None:
    """A batch at an instant of 2026-03-01: seconds up of the first endpoint and the service, and of the second one if there are."""
    sums = [Sums("r1", one, 1.0, 0.5, int(one), 1)] + ([Sums("r2", two)] if two else [])
    store.call(incidents.write, [], sums, f"2026-03-{at}:00.000Z", [ServiceSums(("service", "shop", "", "shop.test", "/"), one)])


def is_right(store: Store) -> int:
    """Whether every row has what the earlier rows of its key add up to. Returns the number of rows."""
    count = 0
    for kind in running.KINDS:
        for model, column in kind.tables:
            names = ", ".join((*kind.key, *(f"{running.before(name)}, {name}" for name in kind.sums)))
            so_far: dict[tuple[Any, ...], list[float]] = {}
            for row in store.read(lambda names=names, model=model, column=column: database.execute_sql(
                    f"SELECT {names} FROM {model._meta.table_name} ORDER BY {column}").fetchall()):
                key, values = row[:len(kind.key)], row[len(kind.key):]
                known = so_far.setdefault(key, [0.0] * len(kind.sums))
                assert list(values[::2]) == pytest.approx(known), (model, row)
                so_far[key] = [old + new for old, new in zip(known, values[1::2], strict=True)]
                count += 1
    return count


def test_the_shortest_the_longest_and_the_average_check_of_each_span(store: Store) -> None:
    def batch(*took: float) -> None:
        sums = Sums("r1", up_seconds=1.0)
        for seconds in took:
            sums.passed(seconds)
        store.call(incidents.write, [], [sums], "2026-03-01T10:00:30.000Z")

    # Without a good check there is no time; what comes later may be shorter or longer, and be of two routes of the endpoint.
    for took in ((), (0.004, 0.002), (), (0.0015, 0.0905)):
        batch(*took)
    one, other = Sums("r1", bad=1), Sums("r1")
    other.passed(0.002)
    store.call(incidents.write, [], [one, other], "2026-03-01T10:01:00.000Z")
    for span, times in (("minute", [(4, 1.5, 24.5, 90.5), (1, 2.0, 2.0, 2.0)]), ("hour", [(5, 1.5, 20.0, 90.5)]),
                        ("day", [(5, 1.5, 20.0, 90.5)])):
        rows = store.read(lambda span=span: database.execute_sql(
            f"SELECT good, min_ms, avg_ms, max_ms FROM v_health_by_{span} WHERE {span} >= '2026-03-01' ORDER BY {span}").fetchall())
        assert [tuple(map(float, row)) for row in rows] == times, span


#: With a gap, with an endpoint that comes later, and a clock that is set back, which adds to an hour that is there and one that is not.
STORY = (("01T10:00", 10), ("01T10:30", 20), ("01T11:00", 30, 7), ("01T15:00", 40, 8), ("02T09:00", 50), ("01T11:10", 5),
         ("01T12:00", 6, 3), ("02T09:30", 1), ("02T10:00", 2, 4))


def test_every_row_has_what_the_earlier_ones_add_up_to(store: Store) -> None:
    for batch in STORY:
        write(store, *batch)
    # Hours and days of two endpoints and a service.
    assert is_right(store) == (6 + 4) + (2 + 2) + 6 + 2


def test_older_rows_are_reckoned_by_a_migration_that_goes_on_where_it_was_cut_off(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch in STORY:
        write(store, *batch)

    def older() -> None:
        for kind in running.KINDS:
            for model, _ in kind.tables:
                model.update({getattr(model, running.before(name)): None for name in kind.sums}).execute()
        SchemaVersion.delete().where(SchemaVersion.version >= migrations.RUNNING_SUMS).execute()

    store.call(older)
    monkeypatch.setattr(running.Reckoning, "rows", 1)
    cut = running.Reckoning()
    for _ in range(3):
        assert store.call(cut.piece)
    with pytest.raises(AssertionError):
        is_right(store)
    rest = running.Reckoning()
    monkeypatch.setitem(migrations.PIECES, migrations.RUNNING_SUMS, lambda: rest)
    assert migrations.migrate(store) == (migrations.RUNNING_SUMS - 1, migrations.NEWEST)
    assert is_right(store) == 22 and rest.done + cut.done == 22 and cut.done >= 3


def test_uptime_is_the_same_as_the_sum_of_the_rows(store: Store) -> None:
    now = store.read(lambda: database.execute_sql("SELECT now, day_ago, week_ago FROM v_now").fetchone())
    for at in (now[2], now[1], now[0]):
        store.call(incidents.write, [], [Sums("r1", 100.0, 20.0, 3.0, 9, 2)], at,
                   [ServiceSums(("service", "shop", "", "shop.test", "/"), 5.0)])
    rows = store.read(lambda: database.execute_sql(
        "SELECT period, up_seconds, down_seconds, maintenance_seconds, good, bad FROM v_uptime ORDER BY up_seconds, period").fetchall())
    assert [tuple(row) for row in rows] == [(name, 100 * n, 20 * n, 3 * n, 9 * n, 2 * n)
                                            for name, n in (("24h", 2), ("1y", 3), ("30d", 3), ("7d", 3), ("90d", 3))]
    assert store.read(lambda: database.execute_sql("SELECT up_seconds FROM v_uptime_services WHERE period = '24h'").fetchall()) == [(10,)]


def test_a_server_finds_both_rows_of_a_period_by_the_key(postgres: Postgres) -> None:
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    store = Store(url)
    store.open()
    migrations.migrate(store)
    store.close()
    postgres.sql("INSERT INTO services SELECT n, 'svc' || n, '2020' FROM generate_series(1, 100) n; "
                 "INSERT INTO endpoints SELECT n, n, 'svc' || n, 'i', n || '.test', '/', '2020' FROM generate_series(1, 100) n; "
                 "INSERT INTO service_hours SELECT 'svc' || n, n || '.test', '/', "
                 "to_char(now() - k * interval '1 hour', 'YYYY-MM-DD\"T\"HH24:00:00.000\"Z\"'), 1, 0, 0, 0, 0, 0 "
                 "FROM generate_series(1, 100) n, generate_series(1, 300) k; ANALYZE", name)
    plan = postgres.sql("EXPLAIN SELECT * FROM v_uptime_services WHERE period = '24h'", name)
    assert "Join Filter" not in plan and "Index Scan Backward using service_hours_pkey" in plan and plan.count("(hour >= ") == 1, plan
    assert set(re.findall(r"Seq Scan on (\w+)", plan)) == {"endpoints"}, plan
    # Where `v_now` is joined, the server knows the instant when it plans.
    plan = postgres.sql("EXPLAIN SELECT h.* FROM v_now n JOIN service_hours h ON h.hour >= n.hour_ago", name)
    assert "Seq Scan" not in plan and "(hour >= " in plan, plan
    # Of one service, those rows alone.
    plan = postgres.sql("EXPLAIN SELECT * FROM v_uptime_services WHERE period = '24h' AND service_name = 'svc7'", name)
    assert re.search(r"Seq Scan on endpoints .*\n *Filter: \(service_name = 'svc7'::text\)", plan) and plan.count("Filter") == 1, plan


#: A slow request.
SLOW = ("INSERT INTO slow_requests (route_id, at, level, method, url, status_code, total_ms, queue_ms, connect_ms, first_byte_ms, body_ms, "
        "request_id, upstream) VALUES ('r1', '2026', 'w', 'GET', 'u', 200, 1, 0, 0, 0, 0, 'q', 'b')")


def test_an_index_on_a_server_is_made_beside_writers_and_one_that_was_cut_off_is_made_anew(postgres: Postgres) -> None:
    url = postgres.new_database()
    name = url.rpartition("/")[2]
    store = Store(url)
    store.open()
    migrations.migrate(store)
    index, on = migrations.INDEXES[24]
    postgres.sql(f"UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = '{index}'::regclass", name)
    other = psycopg2.connect(url)
    # A transaction that has written, and is not over yet.
    other.cursor().execute(SLOW)
    made = gevent.spawn(longsteps.index, store, index, on)
    waiting = f"SELECT COUNT(*) FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%INDEX%' AND wait_event_type = 'Lock'"

    def waits() -> bool:
        gevent.sleep(0.02)
        return postgres.sql(waiting, name) == "1"

    wait_for(waits, 10, "the index waits for the open transaction")
    postgres.sql(SLOW, name)
    other.commit()
    other.close()
    made.get(timeout=20)
    assert postgres.sql(f"SELECT indisvalid FROM pg_index WHERE indexrelid = '{index}'::regclass", name) == "t"
    store.close()
