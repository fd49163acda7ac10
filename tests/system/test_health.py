"""Health checks over a whole system: what a service declares is checked, shown everywhere, and decides where traffic goes."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxyd import __version__
from proxyd.store.sql.views import VIEWS
from tests.support.backends import Backend
from tests.support.events import Listener, listener
from tests.support.pinned import Pinned
from tests.support.system import System
from tests.support.waiting import patience, wait_for

INTERVAL, FALL, RISE = 0.5, 3, 2
BOUND = FALL * INTERVAL + 1.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Four workers for all tests here; each has a service of its own."""
    running = System(tmp_path_factory.mktemp("health"), workers=4)
    yield running
    running.stop()


def checked(system: System, name: str, backend: Backend, path: str = "/healthz", instance: str = "i1",
            interval: float = INTERVAL) -> tuple[Listener, str]:
    """A service at `name`.test with a health check, and its route once it is healthy."""
    client = listener(system, name, instance)
    route_id = client.route(f"{name}.test", backend.url, apply=False)
    # No check may time out because the backend, a part of this process, gets no turn for a moment.
    assert client.command(f"HEALTH_SET|SID|{route_id}|{path}|{int(interval * 1000)}ms|3s") == "HEALTH_OK"
    client.apply()
    wait_for(lambda: health(client, route_id)["status"] == "healthy", 5, "a healthy route")
    return client, route_id


def health(client: Listener, route_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.json(f"ROUTE_STATUS|SID|{route_id}")["health"]
    return found


def metrics(system: System) -> dict[tuple[str, str, str], float]:
    """The samples of /metrics by name, domain and state or status."""
    families = text_string_to_metric_families(system.admin("/metrics").text)
    return {(sample.name, sample.labels.get("domain", ""), sample.labels.get("state", sample.labels.get("status", ""))): sample.value
            for family in families for sample in family.samples}


def views(system: System, client: Listener, route_id: str, pinned: Pinned, host: str) -> dict[str, Any]:
    """What everybody says of a route: health and circuit, by who says it."""
    status = client.json(f"ROUTE_STATUS|SID|{route_id}")
    circuit = client.json(f"CIRCUIT_BREAKER_STATUS|SID|{route_id}")
    shown = metrics(system)
    changes = client.of("backend_health_changed", route_id)
    circuits = client.of("circuit_state_changed", route_id)
    return {
        "event": (changes[-1]["status"], circuits[-1]["state"] if circuits else "closed", changes[-1]["healthy"]),
        "ROUTE_STATUS": (status["health"]["status"], status["circuit"]["state"], status["healthy"]),
        "CIRCUIT_BREAKER_STATUS": (status["health"]["status"], circuit["state"], circuit["healthy"]),
        "v_routes": (*system.sql("SELECT health, circuit FROM v_routes WHERE route_id = ?", route_id)[0], status["healthy"]),
        "v_health_now, v_circuits": (*system.sql(
            "SELECT h.status, c.state FROM v_health_now h JOIN v_circuits c USING (route_id) WHERE route_id = ?", route_id)[0],
            status["healthy"]),
        "metrics": (next(name for name in ("unknown", "healthy", "degraded", "down") if shown["proxyd_health_status", host, name]),
                    next(name for name in ("closed", "open", "half_open") if shown["proxyd_circuit_state", host, name]),
                    bool(shown["proxyd_health_up", host, ""])),
        "traffic": [(answer.status, answer.headers["X-Proxyd-Reason"]) for answer in pinned.each(host)],
    }


def agreed(found: dict[str, Any], state: tuple[str, str, bool], traffic: tuple[int, str | None]) -> bool:
    return set(found.pop("traffic")) == {traffic} and set(found.values()) == {state}


def test_event_status_sql_metrics_and_traffic_agree_when_a_backend_stops_and_when_it_returns(system: System, backend: Backend) -> None:
    client, route_id = checked(system, "agree", backend)
    pinned = Pinned(system)
    assert agreed(views(system, client, route_id, pinned, "agree.test"), ("healthy", "closed", True), (200, None))
    last: dict[str, Any] = {}

    def all_say(state: tuple[str, str, bool], traffic: tuple[int, str | None]) -> Callable[[], bool]:
        def look() -> bool:
            last.clear()
            last.update(views(system, client, route_id, pinned, "agree.test"))
            return agreed(dict(last), state, traffic)
        return look

    backend.stop()
    wait_for(all_say(("down", "open", False), (503, "upstream_down")), BOUND, f"agreement ({last})")
    told = client.of("backend_health_changed", route_id)[-1]
    assert told["previous"] in ("healthy", "degraded") and told["reason"].startswith("3 checks in a row failed: Connection refused"), told
    assert health(client, route_id)["last_error"] == "Connection refused"
    assert health(client, route_id)["consecutive_failures"] >= FALL
    backend.start()
    wait_for(all_say(("healthy", "closed", True), (200, None)), BOUND, f"agreement ({last})")
    assert [reason for _, _, reason in client.circuit_changes(route_id)] == ["health_down", "health_recovered", "trial_succeeded"]
    lags = [arrived - _seconds(data["at"]) for arrived, kind, data in client.events if kind.endswith("_changed")]
    # One of them may have been held up by a machine that was busy.
    assert sorted(lags)[-2] < patience(0.2) and max(lags) < patience(2.0), lags
    pinned.close()


def _seconds(at: str) -> float:
    from proxyd.base.text import parse_rfc3339
    return parse_rfc3339(at)


def test_no_user_fails_while_one_of_two_replicas_stops_and_returns(system: System, new_backend: Callable[..., Backend]) -> None:
    backends = [new_backend("one"), new_backend("two")]
    found = [checked(system, "pair", backend, instance=f"i{number}") for number, backend in enumerate(backends)]
    for client, route_id in found:
        # What is under way when a backend dies goes to the other one; that later requests do is the circuit's doing.
        client.options(route_id, retry="true", circuit_breaker="false")
    answers: list[tuple[int, str | None]] = []
    ending = threading.Event()

    def load() -> None:
        while not ending.is_set():
            answer = system.get("/", "pair.test")
            answers.append((answer.status, answer.headers["X-Backend"]))

    loader = threading.Thread(target=load)
    loader.start()
    client, route_id = found[0]
    backends[0].stop()
    client.wait_for_change(1, "circuit_state_changed", route_id, BOUND)
    mark = len(answers) + 1
    wait_for(lambda: len(answers) > mark + 20)
    assert {name for _, name in answers[mark:]} == {"two"}
    backends[0].start()
    wait_for(lambda: answers[-1][1] == "one", BOUND + 5.0)
    ending.set()
    loader.join()
    assert {status for status, _ in answers} == {200}


# -- who is checked, and when


class Asked:
    """What a backend was asked by the checker."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def of(self, path: str) -> list[dict[str, str]]:
        return [headers for _, _, headers, _ in self.backend.seen(path) if headers["User-Agent"] == f"proxyd-health/{__version__}"]


def test_a_check_begins_with_its_apply_follows_updates_and_ends_with_its_route(
        system: System, new_backend: Callable[..., Backend]) -> None:
    first, second = Asked(new_backend("first")), Asked(new_backend("second"))
    client = listener(system, "follows")
    route_id = client.route("follows.test", first.backend.url, apply=False)
    client.ok(f"HEALTH_SET|SID|{route_id}|/check?a=b|100ms|1s")
    time.sleep(0.3)
    assert first.of("/check") == []
    client.apply()
    wait_for(lambda: first.of("/check"), 1.0, "the first check within a second")
    assert first.of("/check")[0]["Connection"] == "close"
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{second.backend.url}")
    client.ok(f"HEALTH_SET|SID|{route_id}|/other|100ms|1s")
    assert client.command("CONFIG_ROLLBACK|SID") == "OK"
    count = len(first.of("/check"))
    wait_for(lambda: len(first.of("/check")) > count + 2)
    assert second.backend.requests == []
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{second.backend.url}")
    client.apply()
    wait_for(lambda: second.of("/check"), 3.0)
    client.ok(f"HEALTH_SET|SID|{route_id}|/other|100ms|1s")
    client.apply()
    wait_for(lambda: second.of("/other"), 3.0)
    # Not before: a check that was under way when the first one was left may have been noted late.
    count = len(first.of("/check"))
    client.ok(f"HEALTH_SET|SID|{route_id}||100ms|1s")
    client.apply()
    wait_for(lambda: system.sql("SELECT 1 FROM health_status WHERE route_id = ?", route_id) == [], 5.0)
    client.ok(f"HEALTH_SET|SID|{route_id}|/other|100ms|1s")
    client.apply()
    wait_for(lambda: system.sql("SELECT 1 FROM health_status WHERE route_id = ?", route_id) == [(1,)], 3.0)
    client.ok(f"ROUTE_REMOVE|SID|{route_id}")
    client.apply()
    wait_for(lambda: system.sql("SELECT 1 FROM health_status WHERE route_id = ?", route_id) == [], 5.0)
    # One that was under way comes to its end.
    time.sleep(0.5)
    asked = len(second.of("/other"))
    time.sleep(0.4)
    assert (len(first.of("/check")), len(second.of("/other"))) == (count, asked)


@pytest.mark.parametrize("how", ["CLIENT_SHUTDOWN", "REGISTER"])
def test_the_end_of_a_session_ends_its_checks(system: System, backend: Backend, how: str) -> None:
    client, route_id = checked(system, f"ends-{how.lower()}", backend, "/status/200", interval=0.1)
    if how == "REGISTER":
        # The old routes serve until the first apply of the new session.
        system.client(f"ends-{how.lower()}").route(f"ends-{how.lower()}.test", backend.url)
    else:
        assert client.command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"
    wait_for(lambda: system.sql("SELECT 1 FROM health_status WHERE route_id = ?", route_id) == [], 5.0)
    asked = len(backend.requests)
    time.sleep(0.4)
    assert len(backend.requests) <= asked + 1


def test_options_and_site_files_declare_checks_as_health_set_does(system: System, backend: Backend) -> None:
    client = listener(system, "options")
    route_id = client.route("options.test", backend.url, apply=False)
    client.options("ALL", health_check_path="/status/418", health_check_interval="100ms", health_check_timeout="1s",
                   health_expected_status="200, 4xx", health_rise=1, health_fall=2)
    sites = system.directory / "sites"
    sites.mkdir(exist_ok=True)
    (sites / "static.ini").write_text(
        f"[route r]\ndomains = static.test\nbackends = {backend.url}\n[options]\nhealth_check_path = /status/503\n"
        "health_check_interval = 100ms\nhealth_expected_status = 503\nhealth_expected_body = backend /status/503\n")
    wait_for(lambda: health(client, route_id)["status"] == "healthy", 3)
    wait_for(lambda: system.sql("SELECT status FROM v_health_now WHERE service_name = 'static'") == [("healthy",)], 3)
    client.options("ALL", health_expected_body="never said")
    wait_for(lambda: health(client, route_id)["status"] == "down", 3)
    assert '"never said" is not in the first' in health(client, route_id)["last_error"]
    client.options("ALL", health_check_path="tcp://", health_expected_body="")
    wait_for(lambda: health(client, route_id)["status"] == "healthy", 3)
    (sites / "static.ini").unlink()
    wait_for(lambda: system.sql("SELECT status FROM v_health_now WHERE service_name = 'static'") == [], 3)


@pytest.mark.parametrize("path", ["healthz", "tcp://db", "tcp://:1", "http://a/b", "/a b", "/ü", "#"])
def test_a_check_that_cant_be_made_is_refused_when_it_is_staged(system: System, path: str) -> None:
    client = system.client("refused")
    route_id = client.route("refused.test", "http://127.0.0.1:1", apply=False)
    answer = client.command(f"HEALTH_SET|SID|{route_id}|{path}|1s|1s")
    assert answer.startswith("ERROR|path: "), answer
    assert client.command(f"OPTIONS_SET|SID|{route_id}|health_check_path|{path}").startswith("ERROR|health_check_path: ")


# -- services that come back


def test_after_maintenance_traffic_flows_at_once_though_the_check_was_down(system: System, backend: Backend) -> None:
    client, route_id = checked(system, "deploy", backend, interval=0.2)
    client.options(route_id, health_rise=100)
    for line in (f"MAINT_ENTER|SID|{route_id}|", f"MAINT_EXIT|SID|{route_id}"):
        assert client.command(line) == "ACK"
        assert client.line() == f"MAINT_OK|{route_id}"
        if "ENTER" in line:
            backend.health = 500
            wait_for(lambda: health(client, route_id)["status"] == "down", 3)
            backend.health = 200
    assert {system.get("/", "deploy.test").status for _ in range(20)} == {200}
    wait_for(lambda: health(client, route_id)["status"] == "healthy", 3.0)
    assert client.circuit_changes(route_id) == []


def test_after_a_reconnect_traffic_flows_at_once_though_the_check_was_down(system: System, backend: Backend) -> None:
    client, route_id = checked(system, "restart", backend, interval=0.2)
    client.options(route_id, health_rise=100)
    client.close()
    backend.stop()
    wait_for(lambda: system.sql("SELECT health, enabled FROM v_routes WHERE route_id = ?", route_id) == [("down", "no")], 3)
    backend.start()
    again = system.connect()
    again.session_id = client.session_id
    assert again.command("RECONNECT|SID") == "OK"
    assert {system.get("/", "restart.test").status for _ in range(20)} == {200}
    wait_for(lambda: system.sql("SELECT health, circuit FROM v_routes WHERE route_id = ?", route_id) == [("healthy", "closed")], 3.0)


# -- the database


def test_a_locked_database_delays_rows_and_nothing_else(system: System, backend: Backend) -> None:
    client, route_id = checked(system, "locked", backend, interval=0.2)
    with contextlib.closing(sqlite3.connect(system.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        backend.health = 503
        client.wait_for_change(1, "circuit_state_changed", route_id)
        for _ in range(5):
            begun = time.monotonic()
            told = client.json(f"ROUTE_STATUS|SID|{route_id}")
            assert (told["health"]["status"], told["circuit"]["state"], told["healthy"]) == ("down", "open", False)
            assert time.monotonic() - begun < patience(2.0)
        assert system.get("/", "locked.test").headers["X-Proxyd-Reason"] == "upstream_down"
        other.execute("ROLLBACK")
    wait_for(lambda: health(client, route_id)["status"] == "down", 3)
    count = len(client.of("backend_health_changed", route_id)) + len(client.of("circuit_state_changed", route_id))
    wait_for(lambda: system.sql("SELECT COUNT(*) FROM events WHERE route_id = ? AND type LIKE '%_changed'", route_id) == [(count,)], 3)
    wait_for(lambda: system.sql("SELECT COUNT(*) FROM health_results WHERE route_id = ? AND ok = 0", route_id)[0][0] >= FALL, 3)


def test_views_are_read_by_the_command_line_tool_while_everything_runs(system: System, backend: Backend) -> None:
    tool = shutil.which("sqlite3")
    if tool is None:
        pytest.skip("the sqlite3 command line tool is not installed")
    client, route_id = checked(system, "viewed", backend, interval=0.05)
    client.options(route_id, slow_warning="1ms")
    ending = threading.Event()

    def load() -> None:
        while not ending.is_set():
            system.get("/slow?s=0.01", "viewed.test")
            backend.health = 503 if backend.health == 200 and len(client.events) < 20 else 200
            time.sleep(0.2)

    loader = threading.Thread(target=load)
    loader.start()
    found: dict[str, list[dict[str, Any]]] = {}
    about_it = set(VIEWS) - {"v_now", "v_deploys", "v_errors", "v_down_at", "v_maintenance", "v_certificates",
                             "v_certificate_history", "v_rollouts", "v_slo", "v_unknown_hosts", "v_unwell",
                             "v_websockets", "v_unused"}
    try:
        def read_all() -> bool:
            for name in VIEWS:
                run = subprocess.run([tool, "-readonly", "-json", system.database, f"SELECT * FROM {name}"],
                                     capture_output=True, text=True, timeout=10, check=True)
                assert run.stderr == ""
                found[name] = json.loads(run.stdout or "[]")
            return all(any(route_id == row.get("route_id") or row.get("service_name") == "viewed" for row in found[name])
                       for name in about_it)

        wait_for(read_all)
    finally:
        ending.set()
        loader.join()


def test_what_a_killed_worker_had_open_counts_no_longer_than_a_second(system: System, backend: Backend) -> None:
    client = system.client("killed")
    route_id = client.route("killed.test", backend.url)
    pinned = Pinned(system)
    victim = pinned.pids[0]
    with contextlib.suppress(OSError):
        pinned.send(victim, "killed.test", "/slow?s=3")
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["in_flight"] == 1, 2)
    pinned.kill(victim, signal.SIGKILL)
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["in_flight"] == 0, 1.5)
    pinned.close()
    wait_for(lambda: victim not in system.worker_pids() and system.ready(), 10)
