"""A service may connect to any host: one that does not lead passes the connection on to the one that does."""

from __future__ import annotations

import os
import signal
import socket
import time

from proxyd.base.processes import runs
from proxyd.registry.state import MOVE
from tests.hosts.conftest import MakeHost, database
from tests.hosts.test_applies import master_of
from tests.support.backends import Backend
from tests.support.postgres import Postgres
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import listens, wait_for


def passed_on(new_host: MakeHost, backend: Backend) -> tuple[System, System, RegistryClient]:
    """The host that leads, another one, and a service with a route that came by that one."""
    settings = {"registry__proxy_protocol_from": "127.0.0.1"}
    first, second = new_host("web1", **settings), new_host("web2", **settings)
    wait_for(lambda: listens(second.registry_port), what="the relay")
    client = RegistryClient(second.registry_port).register("shop")
    client.route("shop.test", backend.url)
    return first, second, client


def test_any_host_takes_registry_connections_and_the_one_that_leads_next_takes_them_itself(
        new_host: MakeHost, postgres: Postgres, backend: Backend) -> None:
    settings = {"registry__proxy_protocol_from": "127.0.0.1", "registry__max_failed_logins": 5}
    first, second = new_host("web1", **settings), new_host("web2", **settings)
    wait_for(lambda: listens(second.registry_port), what="the relay")
    assert postgres.sql("SELECT registry FROM hosts ORDER BY name", database(first)) == (
        f"127.0.0.1:{first.registry_port}\n127.0.0.1:{second.registry_port}")
    client = RegistryClient(second.registry_port).register("shop")
    client.route("shop.test", backend.url)
    session = client.session_id
    assert [host.get("/", "shop.test").status for host in (first, second)] == [200, 200]
    # An event comes back by it, and a half-closed client still gets its answers.
    client.ok("SUBSCRIBE|SID|maintenance_changed")
    client.send("MAINT_ENTER|SID|ALL|")
    assert "EVENT|" in "".join(client.line() for _ in range(2))
    client.send("MAINT_EXIT|SID|ALL")
    assert "EVENT|" in "".join(client.line() for _ in range(2))
    other = direct(first.registry_port).register("other")
    other.route("other.test", backend.url)
    other.send("SESSION_INFO|SID")
    other.socket.shutdown(socket.SHUT_WR)
    assert other.line().startswith("SESSION_OK|") and other.line() == ""
    # A host that is cut off, or stopped, keeps nobody connected.
    gone, left = (RegistryClient(second.registry_port).register(name) for name in ("gone", "left"))
    gone.route("gone.test", backend.url)
    left.route("left.test", backend.url)
    # Who leaves takes its routes along at once. Whose host is gone has a moment to come back by another one.
    left.close()
    wait_for(lambda: first.get("/", "left.test").headers["X-Proxyd-Reason"] == "route_disabled", 3, "the end of its traffic")
    os.kill(stopped := master_of(second), signal.SIGSTOP)
    try:
        wait_for(lambda: postgres.sql("SELECT state FROM sessions WHERE service_name = 'gone'", database(first)) == "disconnected", 10,
                 "the end of its session")
        assert first.get("/", "gone.test").status == 200
    finally:
        os.kill(stopped, signal.SIGCONT)
    gone.close()
    client = RegistryClient(second.registry_port)
    assert wait_for(lambda: client.command(f"RECONNECT|{session}") == "OK", 10, "the relay")
    client.session_id = session
    # The leader's end ends what was passed on, and the client comes back to the same address.
    first.kill()
    assert wait_for(lambda: client.line() == "" or None)
    wait_for(lambda: second.master_pid() and second.ready(), what="the lead of the other host")
    again = direct(second.registry_port)
    assert again.command(f"RECONNECT|{client.session_id}") == "OK"
    again.session_id = client.session_id
    again.apply()
    assert second.get("/", "shop.test").status == 200


def test_a_service_that_came_back_in_time_keeps_its_traffic_though_the_leader_had_no_turn_meanwhile(
        new_host: MakeHost, postgres: Postgres, backend: Backend) -> None:
    first, second, client = passed_on(new_host, backend)
    version = postgres.sql("SELECT version FROM routes", database(first))
    leader, other = master_of(first), master_of(second)
    again = direct(first.registry_port)
    # The host that has passed the connection on is gone; then nobody leads, and no other host can.
    os.kill(other, signal.SIGSTOP)
    try:
        wait_for(lambda: postgres.sql("SELECT state FROM sessions", database(first)) == "disconnected", 10, "the loss of the connection")
        lost = time.monotonic()
        os.kill(leader, signal.SIGSTOP)
        try:
            again.send(f"RECONNECT|{client.session_id}")
            wait_for(lambda: time.monotonic() - lost > MOVE + 0.5, 10)
        finally:
            os.kill(leader, signal.SIGCONT)
        assert again.line() == "OK"
        # Its route was not even touched.
        assert postgres.sql("SELECT version FROM routes", database(first)) == version
    finally:
        os.kill(other, signal.SIGCONT)


def test_a_service_keeps_its_traffic_where_another_process_took_the_place_of_the_one_that_had_passed_it_on(
        new_host: MakeHost, postgres: Postgres, backend: Backend) -> None:
    first, second, client = passed_on(new_host, backend)
    leader, other = master_of(first), master_of(second)
    # When the leader looks, connections are passed on again already, but not this one.
    os.kill(leader, signal.SIGSTOP)
    try:
        os.kill(other, signal.SIGKILL)
        wait_for(lambda: not runs(other) and listens(second.registry_port), 10, "the next process", pause=0.005)
    finally:
        os.kill(leader, signal.SIGCONT)
    wait_for(lambda: postgres.sql("SELECT state FROM sessions", database(first)) == "disconnected", 10, "the loss of the connection")
    assert postgres.sql("SELECT enabled FROM routes", database(first)) == "t"
    assert direct(first.registry_port).command(f"RECONNECT|{client.session_id}") == "OK"


def direct(port: int) -> RegistryClient:
    """A client of the leader itself, from an address whose connections begin with no header."""
    made = RegistryClient.__new__(RegistryClient)
    made.socket = socket.create_connection(("127.0.0.1", port), timeout=15, source_address=("127.0.0.2", 0))
    made._file = made.socket.makefile("rb")
    made.session_id = ""
    return made
