"""`[health] from = each`: every host checks for itself and moves circuits of its own. What tables and API show is what the leader finds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hosts.conftest import MakeHost, database
from tests.hosts.test_applies import reached
from tests.hosts.test_live_state import next_event
from tests.support.backends import Backend
from tests.support.dns import NameServer
from tests.support.postgres import Postgres
from tests.support.system import System
from tests.support.waiting import wait_for

_NAME = ("app.test", "A")
#: Where the backend is, and where nobody is.
_THERE, _NOWHERE = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def ways() -> Iterator[tuple[NameServer, NameServer]]:
    """A name server for each host: so they reach a backend by different ways."""
    servers = NameServer(), NameServer()
    yield servers
    for server in servers:
        server.close()


def lead(way: NameServer, address: str) -> None:
    """Have a host look for the backend there from now on."""
    way.zone[_NAME] = 0, [address]


def answers(host: System) -> str:
    """The status that a host answers, and the reason where it is not the backend's."""
    found = host.get("/page", "shop.test")
    return f"{found.status} {found.headers.get('X-Proxyd-Reason', '')}".strip()


def test_each_host_checks_by_its_own_way_and_opens_its_own_circuits(
        new_host: MakeHost, postgres: Postgres, backend: Backend, ways: tuple[NameServer, NameServer]) -> None:
    for way in ways:
        lead(way, _THERE)
    first, second = (new_host(name, health__from="each", dns__servers=f"127.0.0.1:{way.address[1]}")
                     for name, way in zip(("web1", "web2"), ways, strict=True))
    wait_for(lambda: reached(postgres, first, "web2"), 10, "the report of the second host")
    client = first.client("shop")
    route = client.route("shop.test", f"http://app.test:{backend.port}", apply=False)
    client.ok(f"HEALTH_SET|SID|{route}|/health|200ms|1s")
    client.ok("SUBSCRIBE|SID|backend_health_changed")
    client.send("CONFIG_APPLY|SID")
    # The first check may be over before all workers have the route.
    assert next(line for line in iter(client.line, "") if not line.startswith("EVENT|")) == "OK"

    def shown() -> str:
        return postgres.sql(f"SELECT status FROM health_status WHERE route_id = '{route}'", database(first))

    wait_for(lambda: (answers(first), answers(second), shown()) == ("200", "200", "healthy"), 10, "a checked route on both hosts")
    wait_for(lambda: len([path for _, path, _, _ in backend.requests if path == "/health"]) > 4, 5, "checks")
    # It can't be reached from the second host alone: no request there has to find that out.
    lead(ways[1], _NOWHERE)
    wait_for(lambda: answers(second) == "503 upstream_down", 10, "the open circuit of the second host")
    assert (answers(first), shown()) == ("200", "healthy")
    while (event := next_event(client, "backend_health_changed"))["healthy"]:
        pass
    assert (event["route_id"], event["host"]) == (route, "web2")
    wait_for(lambda: postgres.sql(f"SELECT host, state FROM v_circuits WHERE route_id = '{route}' AND state <> 'closed'",
                                  database(first)) == "web2|open", 5, "the row of the second host's circuit")
    lead(ways[1], _THERE)
    wait_for(lambda: answers(second) == "200", 10, "the way of the second host")
    # And from the leader's host alone: that is what is shown, and the second host serves.
    lead(ways[0], _NOWHERE)
    wait_for(lambda: answers(first) == "503 upstream_down", 10, "the open circuit of the leader's host")
    wait_for(lambda: shown() == "down", 5, "what the leader has found in the table")
    for host in (first, second):
        assert host.admin(f"/api/v1/routes/{route}").json()["health"]["status"] == "down"
    assert answers(second) == "200"
    # A host that begins to lead goes on with what it has found itself.
    lead(ways[1], _THERE)
    first.kill()
    wait_for(lambda: second.master_pid() and second.ready(), 15, "the lead of the second host")
    assert answers(second) == "200"
    wait_for(lambda: shown() == "healthy", 10, "what the new leader finds")
    assert answers(second) == "200"
