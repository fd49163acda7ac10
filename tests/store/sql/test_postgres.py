"""The database on a PostgreSQL server: types that hold what is counted, and what happens when the server restarts, hangs or is slow."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from peewee import BooleanField, chunked

from proxyd.docs import samples
from proxyd.docs.database import queries, reading_role
from proxyd.docs.database import sample as samples_database
from proxyd.docs.database_notes import QUERIES
from proxyd.store.sql import migrations, views
from proxyd.store.sql.changes import RegistryChange, write
from proxyd.store.sql.database import Store, StoreBusy, StoreError, database
from proxyd.store.sql.leadership import Leadership, LeadLost
from proxyd.store.sql.lifesign import LifeSign
from proxyd.store.sql.membership import LEASE, Membership, NameTaken
from proxyd.store.sql.migrations import NEWEST, migrate
from proxyd.store.sql.models import Host, SchemaVersion, StoredCounter, StoredTable
from proxyd.store.sql.observed import HealthResult
from proxyd.store.sql.readonly import HIDDEN
from proxyd.store.sql.traffic import Traffic, TrafficBatch, route_stats
from proxyd.store.sql.viewparts import POSTGRES
from proxyd.store.sql.views import VIEWS
from proxyd.store.sql.words import COMMITTED, reached_by
from tests.store.sql.test_plans import BY_TIME, HISTORY, SMALL
from tests.support.postgres import Postgres
from tests.support.waiting import patience, wait_for

ROOT = Path(__file__).resolve().parents[3]
NOW = "2026-01-31T23:59:59.125Z"
BIG = 3_000_000_000


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.new_database()


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url, busy_timeout=3.0)
    opened.open()
    migrate(opened)
    yield opened
    opened.close()


def counted(requests: int, sent: int, latency: float) -> TrafficBatch:
    sums: dict[str, float] = {"requests": requests, "bytes_sent": sent, "latency_ms_sum": latency}
    return TrafficBatch(("web1", "b1", 1), NOW, {"r1": Traffic(sums, {200: requests}, {40: requests})})


def answers(store: Store) -> bool:
    """Whether the database can be read."""
    try:
        return store.read(migrations.current_version) == NEWEST
    except StoreError:
        return False


def types(postgres: Postgres, url: str) -> set[str]:
    """The data types of all columns of tables."""
    name = url.rpartition("/")[2]
    return set(postgres.sql("SELECT DISTINCT c.data_type FROM information_schema.columns c JOIN pg_tables t ON t.tablename = c.table_name"
                            " WHERE t.schemaname = 'public'", name).split())


def test_counters_ids_and_sums_have_64_bits(store: Store, postgres: Postgres, url: str) -> None:
    assert types(postgres, url) == {"text", "bigint", "boolean", "double", "precision"}
    for _ in range(2):
        store.call(counted(BIG, BIG, float(BIG)).write)
    found = store.read(route_stats, ["r1"])["r1"]
    assert (found["requests"], found["bytes_sent"], found["status_codes"]) == (2 * BIG, 2 * BIG, {"200": 2 * BIG})
    # A float of 32 bits would stop growing here.
    store.call(counted(1, 0, 1.0).write)
    name = url.rpartition("/")[2]
    assert postgres.sql("SELECT latency_ms_sum FROM route_stats", name) == str(2 * BIG + 1)
    assert postgres.sql("SELECT bytes_sent FROM route_minutes", name) == str(2 * BIG)
    postgres.sql(f"SELECT setval('health_results_id_seq', {BIG})", name)
    made: Any = store.call(HealthResult.create, route_id="r1", checked_at=NOW, ok=True)
    assert made.id == BIG + 1


def test_a_database_of_32_bits_is_widened_with_what_is_in_it(postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = url.rpartition("/")[2]
    store = Store(url, busy_timeout=3.0)
    store.open()
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:4])
        older.setattr(migrations, "NEWEST", 4)
        older.setattr(views, "VIEWS", {})
        migrate(store)
    store.call(database.create_tables, migrations.V12 + migrations.V20)
    # The types that the first versions made.
    postgres.sql("ALTER TABLE route_stats ALTER COLUMN bytes_sent TYPE INTEGER, ALTER COLUMN latency_ms_sum TYPE REAL", name)
    postgres.sql("ALTER TABLE health_results ALTER COLUMN id TYPE INTEGER; ALTER SEQUENCE health_results_id_seq AS INTEGER", name)
    store.call(counted(5, 7, 2.5).write)
    assert migrate(store) == (4, NEWEST)
    assert types(postgres, url) == {"text", "bigint", "boolean", "double", "precision"}
    store.call(counted(1, BIG, 1.0).write)
    assert postgres.sql("SELECT bytes_sent FROM route_stats", name) == str(BIG + 7)
    postgres.sql(f"SELECT setval('health_results_id_seq', {BIG})", name)
    store.close()


def test_every_view_can_be_read_and_none_has_to_scan_a_table_of_history(store: Store) -> None:
    def explained(sql: str) -> str:
        # An empty table is scanned whatever indexes it has, unless the server is told that this costs much.
        database.execute_sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off")
        return "\n".join(row[0] for row in database.execute_sql(f"EXPLAIN {sql}").fetchall())

    for name in VIEWS:
        assert len(store.read(lambda name=name: database.execute_sql(f"SELECT * FROM {name}").fetchall())) == (name == "v_now")
        where = f" WHERE {BY_TIME[name]} >= '{NOW}'" if name in BY_TIME else ""
        plan = store.read(explained, f"SELECT * FROM {name}{where}")
        assert name in SMALL or not set(re.findall(r"Seq Scan on (\w+)", plan)) & HISTORY, plan
    now = store.read(explained, "SELECT * FROM v_down_at WHERE (SELECT now FROM v_now) BETWEEN since AND until")
    assert now.count("ended_at >= ") == 2, now


def test_the_role_of_the_document_reads_all_but_secrets_and_goes_on_to_when_a_view_changes(
        store: Store, postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = url.rpartition("/")[2]
    postgres.sql(f"DROP ROLE IF EXISTS {name}_reader; {reading_role(f'{name}_reader')}", name)
    oids = postgres.sql("SELECT oid FROM pg_class WHERE relkind = 'v' AND relname LIKE 'v\\_%'", name)
    assert migrate(store) == (NEWEST, NEWEST)
    # What is as it was is left alone: whoever reads it is not kept waiting, and what else is made of it stays.
    assert postgres.sql("SELECT oid FROM pg_class WHERE relkind = 'v' AND relname LIKE 'v\\_%'", name) == oids
    monkeypatch.setitem(views.VIEWS, "v_unwell", "SELECT u.rank, u.what FROM unwell u")
    migrate(store)
    with psycopg2.connect(url.replace("//proxyd@", f"//{name}_reader@")) as reader, reader.cursor() as cursor:
        cursor.execute("SHOW jit")
        assert cursor.fetchall() == [("off",)]
        for statement in (*(sql for _, _, sql in QUERIES if "v_unwell" not in sql), "SELECT what FROM v_unwell",
                          *(f"SELECT * FROM {view}" for view in VIEWS)):
            cursor.execute(statement)
        for table, column in HIDDEN:
            cursor.execute("SAVEPOINT one")
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                cursor.execute(f"SELECT {column} FROM {table}")
            cursor.execute("ROLLBACK TO one")


def test_a_server_that_restarts_is_connected_to_again(store: Store, postgres: Postgres) -> None:
    store.call(StoredCounter.create, name="before", value=1)
    postgres.stop()
    with pytest.raises(StoreError):
        store.read(StoredCounter.get_by_id, "before")
    began = time.monotonic()
    for _ in range(20):
        # Who asks while it is away is told at once: the waits do not add up.
        with pytest.raises(StoreError):
            store.call(StoredCounter.create, name="lost", value=1)
    assert time.monotonic() - began < patience(5)
    postgres.start()

    def back() -> bool:
        try:
            return bool(store.call(StoredCounter.create, name="after", value=2))
        except StoreError:
            return False

    wait_for(back, 10, "a connection to the server that is back")
    assert store.read(lambda: {row.name for row in StoredCounter.select()}) >= {"before", "after"}
    assert not store.read(lambda: StoredCounter.get_or_none(name="lost"))


def test_a_connection_that_the_server_ends_is_replaced_before_anybody_hears_of_it(store: Store, postgres: Postgres, url: str) -> None:
    name = url.rpartition("/")[2]
    end_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    postgres.sql(end_all)
    assert store.read(migrations.current_version) == NEWEST
    postgres.sql(end_all)
    store.call(StoredCounter.create, name="after", value=1)
    runs = []

    def ended_within(times: int) -> int:
        runs.append(times)
        StoredCounter.create(name=f"within{times}", value=1)
        if len(runs) <= times:
            postgres.sql(end_all)
        return StoredCounter.select().where(StoredCounter.name.startswith("within")).count()

    # What was not committed is done again, whole: nothing twice, and nothing half.
    assert store.call(ended_within, 1) == 1 and runs == [1, 1]
    runs.clear()
    # A server that ends the new one as well is not asked for ever.
    with pytest.raises(StoreError, match=r"^the database postgresql://\S+ failed: [^\n\t]+$"):
        store.call(ended_within, 2)
    assert runs == [2, 2]
    wait_for(lambda: answers(store), 5, "another connection")
    assert not store.read(lambda: StoredCounter.get_or_none(name="within2"))


def test_a_process_that_was_stopped_in_a_transaction_for_longer_than_the_server_waits_does_it_again(store: Store, url: str) -> None:
    other = Store(url, busy_timeout=0.5)
    other.open()
    runs = []

    def slow() -> None:
        StoredCounter.create(name="slow", value=1)
        runs.append(1)
        if len(runs) == 1:
            time.sleep(0.8)

    try:
        other.call(slow)
        assert len(runs) == 2 and store.read(StoredCounter.get_by_id, "slow").value == 1
    finally:
        other.close()


def test_a_server_that_hangs_keeps_nobody_longer_than_the_busy_timeout(store: Store, postgres: Postgres) -> None:
    postgres.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(StoreError, match="does not answer"):
            store.call(StoredCounter.create, name="hung", value=1)
        assert time.monotonic() - began < patience(6)
    finally:
        postgres.thaw()
    wait_for(lambda: answers(store), 10, "an answer of the server that goes on")


def test_a_lock_that_another_holds_is_waited_for_as_long_as_told(store: Store, url: str) -> None:
    import gevent
    import psycopg2

    other: Any = psycopg2.connect(url)
    try:
        other.cursor().execute("LOCK TABLE counters IN EXCLUSIVE MODE")
        waiting = gevent.spawn(store.call, StoredCounter.create, name="waits", value=1)
        # Who only reads does not wait for that: by the same connection, a worker follows the routes.
        began = time.monotonic()
        for _ in range(3):
            store.read(StoredCounter.select().count)
        assert time.monotonic() - began < patience(1.5) and not waiting.ready()
        with pytest.raises(StoreBusy):
            waiting.get()
        other.rollback()
        store.call(StoredCounter.create, name="waits", value=2)
    finally:
        other.close()


def test_a_transaction_that_its_client_left_open_is_ended(store: Store, postgres: Postgres, url: str) -> None:
    """A worker that is stopped in a transaction must not keep a lock for as long as it is stopped."""
    from proxyd.store.sql.database import connect

    other = connect(url, 1.0)
    other.connect()
    other.execute_sql("BEGIN")  # type: ignore[no-untyped-call]
    other.execute_sql("LOCK TABLE counters IN EXCLUSIVE MODE")  # type: ignore[no-untyped-call]

    def written() -> bool:
        try:
            return bool(store.call(StoredCounter.create, name="free", value=1))
        except StoreBusy:
            return False

    wait_for(written, 6, "the lock of the idle transaction")


def test_a_read_sees_one_state_from_beginning_to_end(store: Store, postgres: Postgres, url: str) -> None:
    store.call(StoredCounter.create, name="n", value=1)

    def twice() -> tuple[int, int]:
        first = StoredCounter.get_by_id("n").value
        postgres.sql("UPDATE counters SET value = 2 WHERE name = 'n'", url.rpartition("/")[2])
        return first, StoredCounter.get_by_id("n").value

    assert store.read(twice) == (1, 1)


def test_a_database_that_is_not_there_and_a_wrong_password_are_told(postgres: Postgres) -> None:
    nowhere = Store(f"postgresql://proxyd@127.0.0.1:{postgres.port}/nowhere", busy_timeout=3.0)
    with pytest.raises(StoreError, match='database "nowhere" does not exist'):
        nowhere.open()
    nowhere.close()


def test_the_server_looks_after_a_client_that_is_silent(store: Store) -> None:
    """Else it kept the name of a host that was cut off for as long as its own settings say: two hours."""
    assert store.read(lambda: database.execute_sql("SHOW tcp_keepalives_idle").fetchone()) == ("5",)


def test_of_several_hosts_the_first_that_answers_is_used(postgres: Postgres, url: str) -> None:
    hosts = url.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1") + "?target_session_attrs=read-write"
    store = Store(hosts, busy_timeout=3.0)
    store.open()
    migrate(store)
    assert store.read(migrations.current_version) == NEWEST
    store.close()


# -- who leads


@pytest.fixture
def leads(url: str) -> Iterator[Callable[[str], tuple[Store, Leadership]]]:
    made: list[tuple[Store, Membership]] = []

    def make(host: str) -> tuple[Store, Leadership]:
        store = Store(url, busy_timeout=3.0)
        store.open()
        migrate(store)
        member = Membership(store, host)
        made.append((store, member))
        return store, Leadership(store, member)

    yield make
    for store, member in made:
        member.close()
        store.close()


def test_one_leads_and_the_next_when_its_connection_ends(leads: Callable[[str], tuple[Store, Leadership]]) -> None:
    (_, first), (_, second) = leads("a"), leads("b")
    assert first.take() and first.take()
    first.begin(NOW)
    assert not second.take()
    assert second.holder() == f"process {os.getpid()} of host a, since {NOW}"
    first.keep()
    first._member.close()
    assert wait_for(second.take, 5, "the lead")
    second.begin(NOW)
    assert (first.term, second.term) == (1, 2)


def test_a_leader_that_was_overtaken_writes_nothing_and_knows_it_without_another_answer(
        leads: Callable[[str], tuple[Store, Leadership]], monkeypatch: pytest.MonkeyPatch) -> None:
    (old_store, old), (new_store, new) = leads("a"), leads("b")
    assert old.take()
    old.begin(NOW)
    old_store.call(StoredCounter.create, name="before", value=1)
    # Its connection is gone, and it has not noticed yet.
    old._member.drop()
    assert wait_for(new.take, 5, "the lead")
    new.begin(NOW)
    with pytest.raises(StoreError, match="does not lead any more: b does"):
        old_store.call(StoredCounter.create, name="late", value=1)
    with monkeypatch.context() as patched, pytest.raises(LeadLost, match="host b"):
        patched.setattr(old._member, "look", silent)
        old.keep()
    new_store.call(StoredCounter.create, name="after", value=1)
    assert new_store.read(lambda: {row.name for row in StoredCounter.select()}) >= {"before", "after"}
    assert new_store.read(lambda: StoredCounter.get_or_none(name="late")) is None


def test_a_leader_that_gives_no_sign_of_life_is_deposed(leads: Callable[[str], tuple[Store, Leadership]], url: str) -> None:
    """As one that is stopped, or cut off: its connection is there, and the server knows no better."""
    import psycopg2

    (old_store, old), (_, new) = leads("a"), leads("b")
    assert old.take()
    old.begin(NOW)
    assert not new.take()
    began = time.monotonic()
    # What it was writing goes with it: the server would wait for it, and the next one for the server.
    other: Any = psycopg2.connect(url)
    other.cursor().execute("SELECT term FROM leadership WHERE id = 1 FOR SHARE")
    while not new.take():
        assert time.monotonic() - began < patience(LEASE + 2)
        time.sleep(0.1)
    assert time.monotonic() - began > LEASE - 0.5
    took = time.monotonic()
    new.begin(NOW)
    assert time.monotonic() - took < patience(0.5)
    other.close()
    with pytest.raises(StoreError, match="does not lead any more: b does"):
        old_store.call(StoredCounter.create, name="late", value=1)
    with pytest.raises(LeadLost):
        wait_for(lambda: keeps(old), 5, "the lost lead")


def test_a_leader_with_a_sign_of_life_stays(leads: Callable[[str], tuple[Store, Leadership]]) -> None:
    (_, old), (_, new) = leads("a"), leads("b")
    assert old.take()
    old.begin(NOW)
    began = time.monotonic()
    while time.monotonic() - began < LEASE + 1:
        old.keep()
        assert not new.take()
        time.sleep(0.2)


def test_a_leader_that_is_busy_gives_a_sign_of_life_but_not_one_that_hangs(
        leads: Callable[[str], tuple[Store, Leadership]], url: str, postgres: Postgres) -> None:
    (_, old), (_, new) = leads("a"), leads("b")
    assert old.take()
    old.begin(NOW)
    sign = LifeSign(old._member, longest_turn=patience(3))
    sign.start()
    # Another look of the leader's is due all the time.
    looked = time.monotonic()
    while time.monotonic() - looked < LEASE * 1.5:
        assert not new.take()
        time.sleep(0.1)

    def beat() -> str:
        """The event loop is this thread's: it does not turn meanwhile."""
        return postgres.sql("SELECT beat FROM hosts WHERE name = 'a'", url.rpartition("/")[2])

    def stands_still() -> bool:
        before = beat()
        time.sleep(1.5)
        return beat() == before

    first = beat()
    wait_for(lambda: beat() != first, 3, "a sign of life")
    wait_for(stands_still, 20, "the end of the signs of life")
    sign.stop()


def test_a_second_host_of_one_name_is_refused(leads: Callable[[str], tuple[Store, Leadership]]) -> None:
    (_, one), (_, other) = leads("a"), leads("a")
    assert one.take()
    with pytest.raises(NameTaken, match="another host of the database .* is called a"):
        other.take()
    one._member.close()
    assert wait_for(lambda: takes(other), 5, "the name")


def test_a_commit_and_what_a_host_has_reached_are_told_at_once(leads: Callable[[str], tuple[Store, Leadership]]) -> None:
    (store, leader), (_, other) = leads("a"), leads("b")
    assert leader.take()
    assert not other.take()
    other._member.news(0)
    version = store.call(write, RegistryChange(removed=["r1"]))
    began = time.monotonic()
    assert other._member.news(30) == [(COMMITTED, str(version))]
    assert other._member.version() == version
    other._member.report(version)
    heard: list[tuple[str, int]] = []
    while not heard:
        heard = reached_by(leader._member.news(30))
    assert heard == [("b", version)]
    assert time.monotonic() - began < patience(20)
    assert store.read(lambda: Host.get_by_id("b").config_version) == version


def silent(*args: Any, **named: Any) -> bool:
    raise StoreError("no answer")


def keeps(lead: Leadership) -> bool:
    try:
        lead.keep()
    except StoreError:
        return False
    return True


def takes(lead: Leadership) -> bool:
    try:
        return lead.take()
    except NameTaken:
        return False


def test_a_leader_whose_server_restarts_leads_on_in_the_same_term(leads: Callable[[str], tuple[Store, Leadership]],
                                                                  postgres: Postgres) -> None:
    store, lead = leads("a")
    assert lead.take()
    lead.begin(NOW)
    postgres.stop()
    with pytest.raises(StoreError):
        lead.keep()
    postgres.start()
    wait_for(lambda: keeps(lead), 10, "the lead again")
    store.call(StoredCounter.create, name="after", value=1)
    assert lead.term == 1


# -- what people ask


def test_documented_queries_find_the_same_as_on_sqlite(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The document's sample, put into a server that thinks it is the sample's day."""
    day = f"TIMESTAMPTZ '{samples.NOW:%Y-%m-%dT%H:%M:%SZ}'"
    with samples_database() as sqlite:
        monkeypatch.setattr(views, "POSTGRES", {name: value.replace("now()", day) for name, value in POSTGRES.items()})
        store = Store(url, busy_timeout=20.0)
        store.open()
        migrate(store)
        for model in migrations.TABLES:
            rows = as_dicts(sqlite.execute(f"SELECT * FROM {model._meta.table_name}"))
            booleans = {name for name, field in model._meta.columns.items() if isinstance(field, BooleanField)}
            plain = [{name: bool(value) if name in booleans else value for name, value in row.items()} for row in rows]
            if plain and model is not SchemaVersion:
                store.call(copy, model, plain)
        documented = queries((ROOT / "docs/database.md").read_text(encoding="utf-8"))
        for sql in [*documented, *(f"SELECT * FROM {name}" for name in views.VIEWS)]:
            found = store.read(lambda sql=sql: as_dicts(database.execute_sql(sql.replace("%", "%%"))))
            assert comparable(found) == comparable(as_dicts(sqlite.execute(sql))), sql
        store.close()


def copy(model: type[StoredTable], rows: list[dict[str, Any]]) -> None:
    names = ", ".join(rows[0])
    model.delete().execute()
    for piece in chunked(rows, 1000):
        places = ", ".join([f"({', '.join(['%s'] * len(piece[0]))})"] * len(piece))
        values = tuple(value for row in piece for value in row.values())
        database.execute_sql(f"INSERT INTO {model._meta.table_name} ({names}) VALUES {places}", values)


def as_dicts(cursor: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def comparable(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Rows with numbers as such, whatever type an engine gives them; in any order of those that are alike."""
    def plain(value: Any) -> Any:
        return round(float(value), 6) if isinstance(value, int | float | Decimal) else value

    return sorted((tuple((name, plain(value)) for name, value in row.items()) for row in rows), key=repr)
