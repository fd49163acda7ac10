"""Live state over hosts: what is declared takes effect on all of them at the same time, and what is shown is of all of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.hosts.conftest import Elsewhere, database, making
from tests.hosts.test_applies import reached
from tests.support.backends import Backend
from tests.support.postgres import Postgres
from tests.support.registry import RegistryClient
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, listens, patience, wait_for

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def pair(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, System]]:
    """Two hosts that know of each other; the first one leads, the clocks of the second one are others."""
    with making(postgres, tmp_path_factory.mktemp("pair")) as make:
        folder = tmp_path_factory.mktemp("token")
        (folder / "token").write_text(TOKEN)
        first, second = (make(name, start=False, kind=kind, admin__token_file=folder / "token", hosts__drain_delay="500ms")
                         for name, kind in (("web1", System), ("web2", Elsewhere)))
        for host in (first, second):
            host.settings["hosts__admin"] = f"127.0.0.1:{host.admin_port}"
            host.start()
        wait_for(lambda: reached(postgres, first, "web2"), 10, "the report of the second host")
        yield first, second


def proxyctl(host: System, *arguments: str) -> tuple[int, str]:
    """The exit code of a command at the host's admin HTTP, and what it printed."""
    done = subprocess.run([sys.executable, "-m", "proxyd.ctl.main", *arguments, "--admin", f"127.0.0.1:{host.admin_port}"],
                          env=host.environment, cwd=host.directory, capture_output=True, text=True, check=False)
    return done.returncode, (done.stdout + done.stderr).strip()


class Front:
    """HAProxy as conf/hosts has it, before two hosts: but for its own and their addresses, and the PROXY protocol, which is for others."""

    def __init__(self, directory: Path, hosts: tuple[System, System]) -> None:
        self.port, registry = free_port(), free_port()
        text = (ROOT / "conf" / "hosts" / "haproxy.cfg").read_text()
        # The part for TLS goes by the checks of the other one.
        parts = re.split(r"(?m)^(?=(?:frontend|backend) )", text)
        text = "".join(part for part in parts if "traffic_tls" not in part.partition("\n")[0])
        for old, new in ((" send-proxy-v2", ""), ("inter 1s", "inter 100ms"),
                         ("bind :80", f"bind 127.0.0.1:{self.port}"), ("bind :8181", f"bind 127.0.0.1:{registry}"),
                         *((f"10.0.0.{number}{port}", f"127.0.0.1{own}") for number, host in zip((11, 12), hosts, strict=True)
                           for port, own in ((":80 ", f":{host.proxy_port} "), (" port 8282", f" port {host.admin_port}"),
                                             (":8181", f":{host.registry_port}")))):
            assert old in text, f"conf/hosts/haproxy.cfg has no {old}"
            text = text.replace(old, new)
        (directory / "haproxy.cfg").write_text(text)
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(directory / "haproxy.cfg")], stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL)
        self.statuses: Counter[int] = Counter()
        self._over = threading.Event()
        wait_for(lambda: listens(self.port), 10, "the front")
        self._asking = threading.Thread(target=self._ask, daemon=True)

    def begin(self) -> None:
        """Ask again and again, and count what is answered."""
        self._asking.start()

    def get(self, name: str) -> int:
        """The status of a request on a connection of its own."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)) as connection:
            connection.request("GET", "/", headers={"Host": name})
            return connection.getresponse().status

    def _ask(self) -> None:
        while not self._over.wait(0.05):
            for name in ("stays.test", "moves.test"):
                self.statuses[self.get(name)] += 1

    def stop(self) -> None:
        """Ask no more, and end."""
        self._over.set()
        if self._asking.is_alive():
            self._asking.join(20)
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def front(pair: tuple[System, System], tmp_path: Path) -> Iterator[Front]:
    """HAProxy before both hosts."""
    if shutil.which("haproxy") is None:
        pytest.skip("no haproxy here")
    made = Front(tmp_path, pair)
    yield made
    made.stop()


def timed(host: System, name: str) -> tuple[int, float]:
    """The status of a request, and how long it took in seconds."""
    began = time.monotonic()
    return host.get("/", name).status, time.monotonic() - began


def next_event(client: RegistryClient, type_: str) -> dict[str, Any]:
    while not (line := client.line()).startswith(f"EVENT|{type_}|"):
        assert line, "the registry ended the connection"
    found: dict[str, Any] = json.loads(line.split("|", 2)[2])
    return found


def test_holds_drains_and_maintenance_go_by_one_clock_on_hosts_whose_clocks_differ(
        pair: tuple[System, System], backend: Backend) -> None:
    first, second = pair
    client = first.client("shop")
    client.route("short.test", backend.url)
    # Both hosts let requests wait until somebody lets them go on.
    held = first.client("held")
    route = held.route("wait.test", backend.url)
    assert held.command(f"TRAFFIC_HOLD|SID|{route}|60s").startswith("HOLD_OK")
    with ThreadPoolExecutor(2) as threads:
        waits = [threads.submit(timed, host, "wait.test") for host in (first, second)]
        wait_for(lambda: held.json(f"ROUTE_STATUS|SID|{route}")["queued"] == 2, 10, "both requests in the queues")
        held.ok(f"TRAFFIC_RELEASE|SID|{route}")
        assert [wait.result()[0] for wait in waits] == [200, 200]
    # A hold ends on both at its time.
    assert held.command(f"TRAFFIC_HOLD|SID|{route}|4s").startswith("HOLD_OK")
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda host: timed(host, "wait.test"), (first, second)))
    assert [status for status, _ in found] == [200, 200]
    assert all(1.0 < seconds < patience(6) for _, seconds in found), found
    # A drain of a minute has only just begun on a host that is two minutes ahead.
    assert client.command("DRAIN_START|SID|60s").startswith("DRAIN_OK")
    for host in (first, second):
        assert sum(host.get("/", "short.test").status == 200 for _ in range(20)) > 8
    client.ok("DRAIN_CANCEL|SID")


def test_a_drain_is_completed_when_no_host_has_a_request_under_way(pair: tuple[System, System], backend: Backend) -> None:
    first, second = pair
    client = first.client("drained")
    client.route("drained.test", backend.url)
    client.ok("SUBSCRIBE|SID|drain_progress")
    assert client.command("DRAIN_START|SID|3s").startswith("DRAIN_OK")

    def ask() -> None:
        # A drain refuses ever more of the requests, from its beginning on.
        while not backend.freed.is_set() and second.get("/until-freed", "drained.test", timeout=60).status != 200:
            pass

    # It comes before the end, and its host has yet to say so.
    threading.Thread(target=ask, daemon=True).start()
    assert next_event(client, "drain_completed")["in_flight"] == 1
    backend.freed.set()
    assert next_event(client, "drain_completed")["in_flight"] == 0


def test_the_admin_http_of_any_host_reads_and_has_the_leader_do_what_changes_something(
        pair: tuple[System, System], backend: Backend) -> None:
    first, second = pair
    client = first.client("asked")
    route = client.route("asked.test", backend.url)
    wait_for(lambda: second.get("/", "asked.test").status == 200, 10, "the route")
    wait_for(lambda: second.admin(f"/api/v1/routes/{route}").json()["stats"]["requests"], 10, "the request in the sums")
    assert first.admin(f"/api/v1/routes/{route}").json()["stats"]["requests"] == 1
    assert second.admin("/readyz").status == 200
    told = b'proxyd_requests_total{code="200",domain="asked.test",service="asked"} 1.0'
    wait_for(lambda: told in second.admin("/metrics").body, 10, "the request in the metrics")
    shown = ("name", "leads", "lives", "behind")
    wait_for(lambda: [tuple(one[key] for key in shown) for one in second.admin("/api/v1/hosts").json()["hosts"]] == [
        ("web1", True, True, 0), ("web2", False, True, 0)], 10, "the hosts as the one that follows sees them")
    path = f"/api/v1/routes/{route}/maintenance"
    assert second.admin(path, "POST", b"{}").status == 401
    token = f"Bearer {TOKEN}"
    assert second.admin(path, "POST", b"{}", Authorization=token).json() == {"done": f"route {route} in maintenance"}
    assert [host.get("/", "asked.test").status for host in pair] == [503, 503]
    event = wait_for(lambda: next(iter(second.admin("/api/v1/events?type=maintenance_changed").json()["events"]), None))
    assert event["actor"] == "admin token from 127.0.0.1 for host web2: admin token from 127.0.0.1"
    # Whom the leader refuses is told why.
    refused = second.admin("/api/v1/routes/r999/maintenance", "DELETE", Authorization=token)
    assert (refused.status, refused.json()["code"]) == (404, "no_such_route")
    # proxyctl need not know who leads.
    assert proxyctl(second, "maint", "exit", route) == (0, f"{route}: maintenance lifted")
    assert [host.get("/", "asked.test").status for host in pair] == [200, 200]


def test_each_host_has_circuits_of_its_own_which_are_shown_and_reset_together(
        pair: tuple[System, System], postgres: Postgres, backend: Backend) -> None:
    first, second = pair
    client = first.client("broken")
    route = client.route("broken.test", backend.url, apply=False)
    client.ok(f"CIRCUIT_BREAKER_SET|SID|{route}|1|60s|1")
    client.apply()
    client.ok("SUBSCRIBE|SID|circuit_state_changed")
    backend.failing = 503
    assert second.get("/", "broken.test").status == 503
    event = next_event(client, "circuit_state_changed")
    assert (event["route_id"], event["to"], event["host"]) == (route, "open", "web2")
    backend.failing = 0
    assert (first.get("/", "broken.test").status, second.get("/", "broken.test").headers["X-Proxyd-Reason"]) == (200, "circuit_open")

    def elsewhere(answer: dict[str, Any]) -> list[tuple[str, str]]:
        return [(one["host"], one["state"]) for one in answer.get("hosts", [])]

    shown: Callable[[], dict[str, Any]] = lambda: first.admin(f"/api/v1/routes/{route}").json()["circuit"]  # noqa: E731
    wait_for(lambda: elsewhere(shown()) == [("web2", "open")], 5, "the circuit of the other host")
    assert shown()["state"] == "closed"
    assert elsewhere(client.json(f"CIRCUIT_BREAKER_STATUS|SID|{route}")) == [("web2", "open")]
    assert elsewhere(client.json(f"ROUTE_STATUS|SID|{route}")["circuit"]) == [("web2", "open")]
    assert postgres.sql(f"SELECT host, state FROM v_circuits WHERE route_id = '{route}'", database(first)) == "web2|open"
    wait_for(lambda: "its circuit is open on web2" in first.admin("/api/v1/status").text, 10, "the finding")
    client.ok(f"CIRCUIT_BREAKER_RESET|SID|{route}")
    assert second.get("/", "broken.test").status == 200


def test_what_the_leader_finds_down_gets_no_request_from_any_host(pair: tuple[System, System], backend: Backend) -> None:
    first, second = pair
    client = first.client("checked")
    route = client.route("checked.test", backend.url, apply=False)
    client.ok(f"HEALTH_SET|SID|{route}|/health|200ms|1s")
    client.apply()
    assert second.get("/", "checked.test").status == 200
    backend.failing = 503
    wait_for(lambda: '"status":"down"' in first.admin(f"/api/v1/routes/{route}").text, 10, "the end of its health")
    wait_for(lambda: second.get("/page", "checked.test").headers["X-Proxyd-Reason"] == "upstream_down", 10, "the open circuit")
    backend.failing = 0
    wait_for(lambda: second.get("/page", "checked.test").status == 200, 10, "its return")


def test_a_host_is_drained_for_an_upgrade_and_serves_again(
        pair: tuple[System, System], postgres: Postgres, backend: Backend, front: Front) -> None:
    first, second = pair
    stays, moves = first.client("stays"), RegistryClient(second.registry_port).register("moves")
    for client, name in ((stays, "stays.test"), (moves, "moves.test")):
        client.ok(f"CIRCUIT_BREAKER_SET|SID|{client.route(name, backend.url, apply=False)}|1|60s|1")
        client.apply()
    rows: Callable[[], dict[str, Any]] = lambda: {one["name"]: one for one in second.admin("/api/v1/hosts").json()["hosts"]}  # noqa: E731
    wait_for(lambda: rows()["web2"]["connections"] == 1, 10, "the connection that is passed on")
    front.begin()
    # One that follows: its clients are told to use another host, and traffic does not notice.
    assert proxyctl(first, "host", "drain", "web2", "--timeout", "30s") == (
        0, "web2 is drained: /readyz fails there\nweb2 may be upgraded; after that: proxyctl host undrain web2")
    assert moves.line() == "SHUTDOWN" and moves.line() == ""
    again = first.connect()
    assert again.command(f"RECONNECT|{moves.session_id}") == "OK"
    refused = second.admin("/readyz")
    assert refused.status == 503 and "this host is drained since" in refused.text
    assert proxyctl(first, "host", "drain", "web1")[0] == 1

    def asked(host: System) -> int:
        return host.access_log().count("moves.test")

    def is_left_alone() -> bool:
        before, there = asked(second), asked(first)
        wait_for(lambda: asked(first) > there + 8, 10, "requests by the front")
        return asked(second) == before

    wait_for(is_left_alone, 15, "a front that has noticed")
    assert proxyctl(second, "host", "undrain", "web2") == (0, "host web2 serves again")
    # The one that leads hands the lead over at once, and does not take it back.
    code, told = proxyctl(second, "host", "drain", "web1", "--timeout", "60s")
    assert code == 0, told
    wait_for(lambda: second.admin("/readyz").status == 200, 10, "the end of the drain")
    wait_for(lambda: second.master_pid() and second.ready(), 10, "the lead of the other host")
    assert (rows()["web1"]["leads"], rows()["web2"]["leads"]) == (False, True)
    for name in ("stays.test", "moves.test"):
        assert [host.get("/", name).status for host in pair] == [200, 200]
    assert set(front.statuses) == {200}, front.statuses
    assert proxyctl(first, "host", "undrain", "web1") == (0, "host web1 serves again")
    # What was open on a host that is gone is nobody's concern.
    rows_of_first: Callable[[], str] = lambda: postgres.sql(  # noqa: E731
        "SELECT state FROM circuits WHERE host = 'web1' AND state = 'open'", database(first))
    backend.failing = 503
    assert first.get("/", "stays.test").status == 503
    wait_for(rows_of_first, 10, "the circuit of the other host")
    first.kill()
    wait_for(lambda: not rows_of_first(), 10, "the end of the dead host's circuits")
