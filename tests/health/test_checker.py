"""The checker on a real database, real backends and the circuits in shared memory; in-process, as the master runs it."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxyd.config.sections import HealthSettings
from proxyd.events.bus import Event, EventBus
from proxyd.health.checker import Checker
from proxyd.health.circuitwatch import CircuitWatch
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import CLOSED, HALF_OPEN, OPEN
from proxyd.store.sql import identity, migrations
from proxyd.store.sql.database import Store
from proxyd.store.sql.models import Route, RouteRemoval, Session, StoredCounter
from proxyd.store.sql.observed import HealthStatus
from proxyd.store.sql.query import rows_of
from proxyd.store.sql.snapshot import counter
from proxyd.store.sql.upsert import upsert
from tests.support.backends import Backend
from tests.support.waiting import free_port, patience, wait_for

FAST: dict[str, Any] = {"health_check_path": "/healthz", "health_check_interval": "100ms", "health_check_timeout": "3s"}
NOW = "2026-01-01T00:00:00.000Z"


def wait_until(condition: Callable[[], Any], seconds: float = 3.0) -> Any:
    """The first true value; other greenlets of this process run meanwhile."""
    return wait_for(condition, seconds, pause=0.01, sleep=gevent.sleep)


class Running:
    """A checker and what is around it. `put` and `remove` change the routes as CONFIG_APPLY does."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.path = directory / "proxyd.db"
        self.store = Store(f"sqlite:///{self.path}", 0.5)
        self.store.open()
        migrations.migrate(self.store)
        self.circuits = CircuitBoard(str(directory))
        self.bus = EventBus(self.store)
        self.bus.start()
        self.events: list[Event] = []
        self.bus.subscribe(self.events.append)
        self.checker = Checker(HealthSettings(**settings), self.store, self.bus, self.circuits)
        self.watch = CircuitWatch(self.store, self.bus, self.circuits)
        self.watch.start()
        self.checker.start()
        self.checker.changed(0)

    def put(self, number: int, backend: str, since: str | None = None, enabled: bool = True, **options: str) -> None:
        """Add or change route r<number>; `since`: when its maintenance began."""
        def write() -> int:
            Session.insert(session_id="s", **_session()).on_conflict_ignore().execute()
            version = _next_version()
            row = {
                "route_id": f"r{number}", "session": "s", "service_name": "svc", "instance_name": "i", "domains": '["h"]', "path": "/",
                "backend_url": backend, "priority": 0, "enabled": enabled, "maintenance_since": since,
                "options": json.dumps(options), "slot": number,
                "version": version, "created_at": NOW, "updated_at": NOW}
            upsert(Route, [row])
            identity.came([row], "test")
            return version

        self.circuits.claim(number, number)
        self.checker.changed(self.store.call(write))

    def remove(self, number: int) -> None:
        """Take route r<number> away."""
        def write() -> int:
            version = _next_version()
            Route.delete().where(Route.route_id == f"r{number}").execute()
            self.circuits.retire(number, number)
            upsert(RouteRemoval, [{"route_id": f"r{number}", "version": version}])
            return version

        self.checker.changed(self.store.call(write))

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()

    def status(self, number: int = 1) -> str:
        rows = self.sql(f"SELECT status FROM health_status WHERE route_id = 'r{number}'")
        return rows[0][0] if rows else ""

    def reasons(self) -> list[str]:
        return [item.reason for item in self.circuits.transitions(0)]

    def health_events(self) -> list[tuple[str, str]]:
        return [(event.data["previous"], event.data["status"]) for event in self.events if event.type == "backend_health_changed"]

    def stop(self) -> None:
        self.checker.stop()
        self.watch.stop()
        self.bus.stop()
        self.store.close()
        self.circuits.close()


def _session() -> dict[str, Any]:
    columns = {name: field for name, field in Session._meta.fields.items() if name != "session_id"}
    return {name: _filler(field) for name, field in columns.items() if not field.null and field.default is None}


def _filler(field: Any) -> Any:
    return 0 if field.field_type in ("INT", "FLOAT", "BOOL") else NOW


def _next_version() -> int:
    row = StoredCounter.get_or_none(StoredCounter.name == "config_version")
    version = (row.value if row else 0) + 1
    upsert(StoredCounter, [{"name": "config_version", "value": version}])
    return version


@pytest.fixture
def new_running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Make checkers, one after the other or one alone, over the same database."""
    made: list[Running] = []

    def make(**settings: Any) -> Running:
        while made:
            made.pop().stop()
        made.append(Running(tmp_path, **settings))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def running(new_running: Callable[..., Running]) -> Running:
    return new_running()


class Counted(Backend):
    """A backend that counts its health checks."""

    health_checks = 0

    def _answer(self, handler: Any) -> None:
        self.health_checks += handler.path == "/healthz"
        super()._answer(handler)


@pytest.fixture
def counted() -> Iterator[Counted]:
    """A backend that counts its health checks."""
    backend = Counted()
    yield backend
    backend.stop()


def test_the_first_check_comes_within_a_second(running: Running, counted: Counted) -> None:
    running.put(1, counted.url, **{**FAST, "health_check_interval": "1h"})
    begun = time.monotonic()
    wait_until(lambda: running.status() == "healthy")
    assert time.monotonic() - begun < patience(2.5)
    assert counted.health_checks == 1
    assert running.sql("SELECT route_id, ok, status_code, error FROM health_results") == [("r1", 1, 200, None)]


def test_without_a_declared_check_nobody_is_asked(running: Running, counted: Counted) -> None:
    running.put(1, counted.url)
    running.put(2, counted.url, **FAST)
    wait_until(lambda: running.status(2) == "healthy")
    assert running.status(1) == ""
    assert counted.requests == []


def test_the_default_check_is_for_routes_that_declare_none(new_running: Callable[..., Running], counted: Counted) -> None:
    running = new_running(default_check=True, default_path="/healthz")
    running.put(1, counted.url)
    wait_until(lambda: running.status() == "healthy")


def test_routes_with_the_same_target_and_settings_share_one_check(running: Running, counted: Counted) -> None:
    slow = {**FAST, "health_check_interval": "1h"}
    running.put(1, counted.url, **slow)
    running.put(2, counted.url, **slow)
    wait_until(lambda: running.status(1) == running.status(2) == "healthy")
    assert counted.health_checks == 1
    running.put(3, counted.url, **slow)
    wait_until(lambda: running.status(3) == "healthy")
    assert counted.health_checks == 1
    running.put(4, counted.url, **{**slow, "health_fall": "9"})
    wait_until(lambda: running.status(4) == "healthy")
    assert counted.health_checks == 2


def test_a_route_that_joins_a_down_check_is_closed_to_traffic_at_once(running: Running) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    slow = {**FAST, "health_fall": "1", "health_check_interval": "1h"}
    running.put(1, gone, **slow)
    wait_until(lambda: running.status(1) == "down")
    running.put(2, gone, **slow)
    wait_until(lambda: running.circuits.state(2, 2) == OPEN, 2.0)


def test_a_removed_route_is_checked_no_more_and_has_no_status(running: Running, counted: Counted) -> None:
    running.put(1, counted.url, **FAST)
    running.put(2, counted.url, **FAST)
    wait_until(lambda: running.status(1) and running.status(2))
    running.remove(1)
    wait_until(lambda: not running.status(1))
    assert running.status(2) == "healthy"
    running.remove(2)
    wait_until(lambda: not running.status(2))
    gevent.sleep(0.3)
    seen = counted.health_checks
    gevent.sleep(0.4)
    assert counted.health_checks == seen


def test_taking_the_check_away_gives_the_circuit_back(running: Running) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    running.put(1, gone, **FAST)
    wait_until(lambda: running.circuits.state(1, 1) == OPEN)
    running.put(1, gone)
    wait_until(lambda: running.circuits.state(1, 1) == CLOSED)
    wait_until(lambda: not running.status(1))
    assert running.reasons() == ["health_down", "check_removed"]


def test_other_thresholds_or_intervals_forget_nothing_but_another_address_does(running: Running, new_backend: Any) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    running.put(1, gone, **FAST)
    wait_until(lambda: running.status() == "down")
    running.put(1, gone, **{**FAST, "health_check_interval": "200ms"})
    gevent.sleep(0.3)
    assert running.status() == "down"
    assert running.health_events() == [("unknown", "down")]
    running.put(1, new_backend().url, **{**FAST, "health_rise": "50"})
    wait_until(lambda: running.status() == "healthy")
    assert running.health_events() == [("unknown", "down"), ("unknown", "healthy")]


def test_down_opens_the_circuit_and_lasting_health_closes_it_without_any_request(running: Running, backend: Backend) -> None:
    running.put(1, backend.url, **FAST)
    wait_until(lambda: running.status() == "healthy")
    backend.health = 500
    wait_until(lambda: running.circuits.state(1, 1) == OPEN)
    assert running.circuits.read(1, 1).by_health
    backend.health = 200
    wait_until(lambda: running.circuits.state(1, 1) == HALF_OPEN)
    wait_until(lambda: running.circuits.state(1, 1) == CLOSED)
    assert running.reasons() == ["health_down", "health_recovered", "health_checks_passed"]
    assert running.health_events() == [("unknown", "healthy"), ("healthy", "down"), ("down", "healthy")]


def test_a_circuit_that_users_failures_opened_is_half_opened_by_a_check_after_its_time(running: Running, backend: Backend) -> None:
    running.put(1, backend.url, **FAST)
    wait_until(lambda: running.status() == "healthy")
    with running.circuits.changing(1, 1) as circuit:
        circuit.turn(OPEN, "failures", time.time())
        circuit.next_attempt = time.time() + 2.0
    gevent.sleep(0.3)
    assert running.circuits.state(1, 1) == OPEN
    wait_until(lambda: running.circuits.state(1, 1) == CLOSED, 6.0)
    assert running.reasons() == ["failures", "health_check_passed", "health_checks_passed"]


def test_a_trial_of_a_worker_that_died_does_not_hold_the_circuit_half_open(running: Running, backend: Backend) -> None:
    running.put(1, backend.url, **FAST, connect_timeout="100ms", timeout="100ms")
    wait_until(lambda: running.status() == "healthy")
    now = time.time()
    with running.circuits.changing(1, 1) as circuit:
        circuit.turn(HALF_OPEN, "timeout", now - 60.0)
        circuit.begin_trial(os.getpid(), now - 4.5)
    wait_until(lambda: running.circuits.state(1, 1) == CLOSED)
    # Checks pass all the while. A busy machine may come late to the end of the trial, but none comes early.
    assert time.time() - now > 0.5


def test_with_the_link_off_health_leaves_circuits_alone(new_running: Callable[..., Running], backend: Backend) -> None:
    linked = new_running()
    linked.put(1, backend.url, **FAST)
    backend.health = 500
    wait_until(lambda: linked.circuits.state(1, 1) == OPEN)
    running = new_running(drive_circuits=False)
    wait_until(lambda: running.circuits.state(1, 1) == CLOSED)
    wait_until(lambda: running.sql("SELECT checks FROM health_status")[0][0] > 5)
    assert running.status() == "down"
    assert running.circuits.state(1, 1) == CLOSED


def test_a_new_master_goes_on_where_the_last_one_stood(new_running: Callable[..., Running]) -> None:
    gone = f"http://127.0.0.1:{free_port()}"
    running = new_running()
    running.put(1, gone, **FAST)
    running.put(2, gone, **FAST)
    wait_until(lambda: running.status(1) == running.status(2) == "down")
    since = running.sql("SELECT since FROM health_status WHERE route_id = 'r1'")
    running.store.call(lambda: Route.update(options="{}").where(Route.route_id == "r2").execute())
    running = new_running()
    wait_until(lambda: not running.status(2))
    gevent.sleep(0.3)
    assert running.status(1) == "down"
    assert running.sql("SELECT since FROM health_status WHERE route_id = 'r1'") == since
    assert running.events == [] or running.health_events() == []


def test_a_locked_database_stalls_no_check_and_loses_nothing(running: Running, counted: Counted) -> None:
    running.put(1, counted.url, **FAST)
    wait_until(lambda: running.status() == "healthy")
    with contextlib.closing(sqlite3.connect(running.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        before = counted.health_checks
        counted.health = 503
        begun = time.monotonic()
        wait_until(lambda: ("healthy", "down") in running.health_events())
        assert running.circuits.state(1, 1) == OPEN
        wait_until(lambda: any(event.type == "circuit_state_changed" for event in running.events), 2.0)
        gevent.sleep(max(0.0, 1.2 - (time.monotonic() - begun)))
        assert running.status() == "healthy"
        wait_until(lambda: counted.health_checks - before >= 8)
        wait_until(lambda: running.checker.numbers()["lag"] < 0.2)
        other.execute("ROLLBACK")
    wait_until(lambda: running.status() == "down", 2.0)
    made = counted.health_checks
    wait_until(lambda: running.sql("SELECT SUM(checks) FROM health_results")[0][0] >= made)
    times = [row[0] for row in running.sql("SELECT checked_at FROM health_results ORDER BY id")]
    assert times == sorted(times)


def test_of_what_waits_the_oldest_history_goes_first_and_the_current_state_never(
        new_running: Callable[..., Running], counted: Counted) -> None:
    running = new_running(queue=5)
    running.put(1, counted.url, **{**FAST, "health_check_interval": "30ms"})
    wait_until(lambda: running.status() == "healthy")
    with contextlib.closing(sqlite3.connect(running.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        counted.health = 503
        wait_until(lambda: running.checker.numbers()["dropped"] > 10)
        other.execute("ROLLBACK")
    wait_until(lambda: running.status() == "down")
    newest = running.sql("SELECT ok FROM health_results ORDER BY id DESC LIMIT 1")
    assert newest == [(0,)]


def test_circuit_rows_of_a_lost_shared_memory_are_put_right(new_running: Callable[..., Running], backend: Backend) -> None:
    running = new_running()
    running.put(1, backend.url)
    running.circuits.move(1, 1, "failures", time.time())
    wait_until(lambda: running.sql("SELECT state FROM circuits") == [("open",)])
    running.circuits.renew(1, 1)
    running = new_running()
    wait_until(lambda: running.sql("SELECT state FROM circuits") == [("closed",)])
    assert running.sql("SELECT failures, opened_at FROM circuits") == [(0, None)]


# -- maintenance, lost sessions and other backends


def test_a_service_that_restarts_in_its_maintenance_opens_no_circuit_and_is_back_with_one_good_check(
        running: Running, backend: Backend) -> None:
    slow = {**FAST, "health_rise": "50"}
    running.put(1, backend.url, **slow)
    wait_until(lambda: running.status() == "healthy")
    running.put(1, backend.url, since=NOW, **slow)
    backend.health = 503
    wait_until(lambda: running.status() == "down")
    assert running.circuits.state(1, 1) == CLOSED
    backend.health = 200
    gevent.sleep(0.3)
    assert running.status() == "down"
    running.put(1, backend.url, **slow)
    wait_until(lambda: running.status() == "healthy", 2.5)
    assert running.reasons() == []


def test_checks_that_fail_in_maintenance_are_no_downtime(running: Running, counted: Counted) -> None:
    running.put(1, counted.url, **FAST)
    wait_until(lambda: running.status() == "healthy")
    running.put(1, counted.url, NOW, **FAST)
    wait_until(lambda: running.sql("SELECT in_maintenance FROM v_uptime_24h")[0][0])
    counted.health = 503
    wait_until(lambda: running.status() == "down")
    counted.health = 200
    wait_until(lambda: running.status() == "healthy")
    running.put(1, counted.url, **FAST)
    before = running.sql("SELECT good FROM v_uptime_24h")[0][0]
    wait_until(lambda: running.sql("SELECT good FROM v_uptime_24h")[0][0] > before)
    uptime, checks, good = running.sql("SELECT uptime_percent, checks, good FROM v_uptime_24h")[0]
    assert uptime == 100.0 and checks == good
    assert running.sql("SELECT COUNT(*) > 0 FROM v_checks WHERE ok = 'no' AND planned = 'yes'") == [(1,)]
    assert running.sql("SELECT COUNT(*) FROM v_incidents WHERE planned = 'no'") == [(0,)]
    wait_until(lambda: running.sql("SELECT SUM(bad), SUM(in_maintenance) > 3 FROM v_health_by_hour") == [(0, 1)])


def test_a_service_that_is_not_back_after_its_maintenance_opens_the_circuit_at_once(running: Running, backend: Backend) -> None:
    running.put(1, backend.url, enabled=False, **FAST)
    backend.health = 503
    wait_until(lambda: running.status() == "down")
    assert running.circuits.state(1, 1) == CLOSED
    running.put(1, backend.url, **{**FAST, "weight": "50"})
    wait_until(lambda: running.circuits.state(1, 1) == OPEN, 2.0)


def test_a_circuit_that_was_open_before_the_maintenance_half_opens_after_one_good_check(running: Running, backend: Backend) -> None:
    slow = {**FAST, "health_check_interval": "1h", "health_fall": "1"}
    backend.health = 503
    running.put(1, backend.url, **slow)
    wait_until(lambda: running.circuits.state(1, 1) == OPEN)
    running.put(1, backend.url, since=NOW, **slow)
    gevent.sleep(0.3)
    backend.health = 200
    running.put(1, backend.url, **slow)
    wait_until(lambda: running.circuits.state(1, 1) == HALF_OPEN, 2.5)
    assert running.reasons() == ["health_down", "health_recovered"]


def test_a_route_that_joins_a_healthy_check_is_not_held_open_by_its_last_one(running: Running, backend: Backend) -> None:
    slow = {**FAST, "health_check_interval": "1h", "health_fall": "1"}
    running.put(1, backend.url, **slow)
    wait_until(lambda: running.status(1) == "healthy")
    running.put(2, backend.url, **{**slow, "health_check_path": "/status/500"})
    wait_until(lambda: running.circuits.state(2, 2) == OPEN)
    running.put(2, backend.url, **slow)
    wait_until(lambda: running.circuits.state(2, 2) == HALF_OPEN, 2.0)


# -- what a new master knows


def test_a_degraded_target_is_degraded_under_a_new_master_too(new_running: Callable[..., Running], backend: Backend) -> None:
    running = new_running()
    for number in (1, 2):
        running.put(number, backend.url, **FAST)
    wait_until(lambda: running.status(1) == running.status(2) == "healthy")
    running.checker.stop()
    left = {"status": "degraded", "success_rate_percent": 80.0, "checks": 500, "since": NOW}
    running.store.call(lambda: HealthStatus.update(left).execute())
    running = new_running()
    rows = wait_until(lambda: running.sql("SELECT status, since, success_rate_percent < 82 FROM health_status WHERE checks > 500"))
    assert set(rows) == {("degraded", NOW, 1)}
    wait_until(lambda: len(running.sql("SELECT 1 FROM health_status WHERE checks > 502")) == 2)
    assert running.health_events() == []


def test_a_route_that_cant_be_read_keeps_nobody_elses_from_being_checked(running: Running, backend: Backend) -> None:
    running.put(1, "http://127.0.0.1:99999", **FAST)
    running.put(2, backend.url, **{**FAST, "health_rise": "many"})
    running.store.call(lambda: Route.update(options="{").where(Route.route_id == "r2").execute())
    running.checker.changed(0)
    gevent.sleep(0.7)
    assert running.checker.alive()
    running.put(2, backend.url, **FAST)
    wait_until(lambda: running.status(2) == "healthy")


def test_a_connection_is_kept_between_checks_where_the_route_asks_for_it(running: Running, raw_backend: Callable[..., Any]) -> None:
    asked = []

    def serve(sock: Any) -> None:
        while data := sock.recv(65536):
            asked.append(data)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if len(asked) == 5:
                return

    backend = raw_backend(serve)
    running.put(1, backend.url, health_check_keepalive="true", **FAST)
    wait_until(lambda: len(asked) >= 8)
    assert backend.connections == 2
    assert b"Connection: keep-alive" in asked[0]
    assert running.health_events() == [("unknown", "healthy")]
    running.remove(1)
    wait_until(lambda: not running.status(1))


def test_every_failure_counted_shows_in_the_rows_before_anything_opens(running: Running, backend: Backend) -> None:
    running.put(1, backend.url)
    with running.circuits.changing(1, 1) as circuit:
        circuit.failures, circuit.last_failure = 2, time.time()
    wait_until(lambda: running.sql("SELECT state, failures, reason FROM v_circuits") == [("closed", 2, "")])
    running.remove(1)
    wait_until(lambda: running.circuits.busy() == [])


def test_outages_become_incidents_and_uptime_over_a_redeploy_and_a_restart_of_the_master(new_running: Callable[..., Running],
                                                                                         backend: Backend) -> None:
    running = new_running()
    running.put(1, backend.url, **FAST)
    wait_until(lambda: running.status() == "healthy")
    told = "SELECT kind, ended_how, failed_requests, planned FROM v_incidents ORDER BY kind, incident_id"
    # Nobody listens there.
    running.put(1, f"http://127.0.0.1:{free_port()}", **FAST)
    wait_until(lambda: running.sql(told) == [("endpoint", "goes on", 0, "no"), ("service", "goes on", 0, "no")], 6)
    # The views round to seconds.
    wait_until(lambda: running.sql("SELECT SUM(down_seconds) >= 1 FROM health_minutes") == [(1,)], 6)
    running = new_running()
    running.put(2, backend.url, **FAST)
    running.remove(1)
    wait_until(lambda: running.sql(told) == [("endpoint", "recovered", 0, "no"), ("service", "recovered", 0, "no")], 6)
    assert running.sql("SELECT COUNT(*) FROM incidents WHERE cause LIKE '%checks in a row failed%' AND ended_at > started_at") == [(2,)]
    found = wait_until(lambda: running.sql(
        "SELECT endpoint_id, SUM(up_seconds) > 0, SUM(down_seconds) > 0, SUM(good) > 0, SUM(bad) >= 3, MIN(min_ms) > 0, "
        "MAX(avg_ms) BETWEEN MIN(min_ms) AND MAX(max_ms) FROM v_health_by_minute "
        "GROUP BY endpoint_id HAVING SUM(down_seconds) > 0 AND SUM(up_seconds) > 0"), 6)
    assert found == [(1, 1, 1, 1, 1, 1, 1)]
    wait_until(lambda: running.sql(
        "SELECT COUNT(DISTINCT period) FROM v_uptime WHERE service_name = 'svc' AND uptime_percent < 100") == [(5,)], 6)


def test_all_routes_come_from_the_registry_at_first_and_changes_from_the_database(
        running: Running, counted: Counted, tmp_path: Path) -> None:
    running.put(1, counted.url, **FAST)
    running.checker.stop()
    version, (row,) = running.store.read(lambda: (counter("config_version"), rows_of(Route)))
    (tmp_path / "leads").mkdir()
    circuits = CircuitBoard(str(tmp_path / "leads"))
    # A route that only the registry has tells where they come from.
    told = [row, {**row, "route_id": "r7", "slot": 7}, {**row, "route_id": "r8", "slot": 8, "options": "{}"}]
    running.checker = Checker(HealthSettings(), running.store, running.bus, circuits, rows=lambda: (version, told))
    running.checker.start()
    running.checker.changed(version)
    try:
        wait_until(lambda: all((running.checker.current(name) or {}).get("status") == "healthy" for name in ("r1", "r7")), 10)
        assert running.checker.current("r8") is None
        running.put(2, counted.url, **FAST)
        running.remove(1)
        wait_until(lambda: running.checker.current("r2") and not running.checker.current("r1"), 10)
        assert running.checker.current("r7")
    finally:
        running.checker.stop()
        circuits.close()


def test_a_host_that_checks_for_itself_drives_its_own_circuits_and_writes_nothing(
        running: Running, counted: Counted, tmp_path: Path) -> None:
    # `[health] from = each`: the checker of the host that leads writes, those of the others do not.
    (tmp_path / "other").mkdir()
    circuits = CircuitBoard(str(tmp_path / "other"), "web2")
    other = Checker(HealthSettings(from_="each"), running.store, running.bus, circuits, keeps=False)
    other.start()
    counted.health = 503
    running.checker.stop()
    running.put(1, counted.url, **FAST)
    circuits.claim(1, 1)
    other.changed(1)
    try:
        wait_until(lambda: circuits.read(1, 1).by_health, 10)
        assert running.sql("SELECT route_id FROM health_results UNION SELECT route_id FROM health_status") == []
        counted.health = 200
        wait_until(lambda: not circuits.read(1, 1).by_health, 10)
    finally:
        other.stop()
        circuits.close()
