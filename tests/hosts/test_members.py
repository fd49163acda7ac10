"""Which hosts there are: names, workers of each, and what is left of a host that died."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

from tests.hosts.conftest import MakeHost, database
from tests.support.backends import Backend
from tests.support.postgres import Postgres
from tests.support.system import System
from tests.support.waiting import patience, wait_for


def test_what_a_dead_hosts_workers_had_open_is_gone_within_five_seconds(
        new_host: MakeHost, postgres: Postgres, new_backend: Callable[..., Backend]) -> None:
    backend = new_backend("slow")
    first, second = new_host("web1"), new_host("web2")
    client = first.client("shop")
    route_id = client.route("shop.test", backend.url)
    wait_for(lambda: second.get("/", "shop.test").status == 200, 5, "the route on the other host")
    for host in (first, second):
        threading.Thread(target=ask, args=(host,), daemon=True).start()

    def in_flight() -> int:
        found: int = client.json(f"ROUTE_STATUS|SID|{route_id}")["in_flight"]
        return found

    def workers() -> str:
        return postgres.sql("SELECT host FROM workers ORDER BY host", database(first))

    wait_for(lambda: in_flight() == 2, 5, "the requests of both hosts")
    assert workers() == "web1\nweb2"
    second.kill()
    began = time.monotonic()
    wait_for(lambda: in_flight() == 1 and workers() == "web1", 5, "the end of what the dead host had")
    assert time.monotonic() - began < patience(5)


def ask(host: System) -> None:
    with contextlib.suppress(OSError):
        host.get("/until-freed", "shop.test", timeout=60)


def test_a_second_host_of_one_name_is_refused_and_told(new_host: MakeHost, backend: Backend) -> None:
    first = new_host("web1")
    client = first.client("shop")
    client.route("shop.test", backend.url)
    double = new_host("web1", start=False)
    double.start(lambda: "is called web1: give each a [hosts] name of its own" in double.log())
    assert client.command(f"PING|{client.session_id}") == "PONG"
    client.apply()
    # It takes the name when that is free.
    first.kill()
    wait_for(lambda: double.master_pid() and double.ready(), 10, "the lead of the one that waited")


def test_a_master_that_is_older_than_the_database_follows_and_does_not_lead(new_host: MakeHost, postgres: Postgres) -> None:
    first = new_host("web1")
    postgres.sql("INSERT INTO schema_version VALUES (9999, 'of a newer proxyd', 'now')", database(first))
    second = new_host("web2")
    first.kill()
    wait_for(lambda: "this host follows, and can't lead: the database has schema version 9999" in second.log(), 10, "the reason")
    # It waits, and its workers serve.
    assert second.get("/", "unknown.test").status == 404
    assert "starting it again" not in second.log()
    postgres.sql("DELETE FROM schema_version WHERE version = 9999", database(first))
    wait_for(lambda: second.master_pid() and second.ready(), 10, "the lead")


def test_a_master_that_leads_no_more_refuses_nothing_but_ends_the_connection(
        new_host: MakeHost, postgres: Postgres, backend: Backend) -> None:
    """ERROR would be taken for a word of the registry on what was asked, a RECONNECT for example."""
    host = new_host("web1")
    client, away = host.client("shop"), host.client("away")
    client.route("shop.test", backend.url)
    away.close()
    late = host.connect()
    postgres.sql("UPDATE leadership SET term = term + 1, host = 'web2'", database(host))
    # By the next look, at the latest, it ends by itself: SHUTDOWN is what it says then.
    assert client.command("OPTIONS_SET|SID|ALL|timeout|7s") in ("", "SHUTDOWN")
    assert late.command(f"RECONNECT|{away.session_id}") in ("", "SHUTDOWN")
    wait_for(lambda: postgres.sql("SELECT host FROM leadership", database(host)) == "web1" and host.ready(), 15, "the next lead")
    for session_id in (client.session_id, away.session_id):
        assert host.connect().command(f"RECONNECT|{session_id}") == "OK"
    assert host.get("/", "shop.test").status == 200
