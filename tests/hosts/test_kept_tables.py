"""Every host keeps the last table on its own disk: one that is started while nobody can read the database serves by it."""

from __future__ import annotations

from proxyd.store.sql import kept
from tests.hosts.conftest import MakeHost, database, serves
from tests.hosts.test_applies import reached
from tests.support.backends import Backend
from tests.support.postgres import Postgres
from tests.support.system import System
from tests.support.waiting import wait_for


def kept_version(host: System) -> int:
    """The config version of the host's kept table; 0 while it has none."""
    found = kept.read(str(host.directory / kept.NAME))
    return found.snapshot.version if found is not None else 0


def test_a_host_that_never_led_starts_by_the_last_table_while_the_database_is_away(
        new_host: MakeHost, postgres: Postgres, backend: Backend) -> None:
    first, second = new_host("web1"), new_host("web2")
    wait_for(lambda: reached(postgres, first, "web2"), 10, "the report of the second host")
    client = first.client("shop")
    client.route("stays.test", backend.url)
    removed = client.route("shop.test", backend.url)
    current = int(postgres.sql("SELECT value FROM counters WHERE name = 'config_version'", database(first)))
    wait_for(lambda: kept_version(second) == current, 10, "the kept table of the second host")
    client.ok(f"ROUTE_REMOVE|SID|{removed}")
    client.route("late.test", backend.url)
    wait_for(lambda: kept_version(second) > current, 10, "the next kept table")
    second.kill()
    postgres.stop()
    try:
        second.start(lambda: serves(second))
        assert [second.get("/", name).status for name in ("stays.test", "late.test", "shop.test")] == [200, 200, 404]
    finally:
        postgres.start()
    wait_for(second.ready, 30, "a ready host")
