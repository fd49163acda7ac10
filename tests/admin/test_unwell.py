"""What is unwell, as the API, the metrics and /readyz?verbose say it: one definition, from the rows and the shared memory."""

from __future__ import annotations

from typing import Any

import pytest

from proxyd.admin import views
from proxyd.base.findings import KINDS
from proxyd.base.text import rfc3339
from proxyd.store.sql import wellness
from proxyd.store.sql.models import Route, Session
from proxyd.store.sql.observed import HealthStatus
from tests.admin.harness import Master, add_health, add_route, add_session, add_traffic, open_circuit
from tests.support.waiting import wait_for


@pytest.fixture
def well(master: Master) -> Master:
    """A master with a worker, of which nothing is unwell."""
    master.add_worker(master.board.version)
    assert kinds(master) == []
    return master


def findings(master: Master) -> list[dict[str, Any]]:
    master.run(master.server._context.wellness.forget)
    found: list[dict[str, Any]] = master.get("/api/v1/status").json()["findings"]
    return found


def kinds(master: Master) -> list[str]:
    return [one["kind"] for one in findings(master)]


def lose(session_id: str = "s7", at: str = "2026-01-31T12:00:00.000Z") -> None:
    Session.update(state="disconnected", disconnected_at=at).where(Session.session_id == session_id).execute()
    Route.update(enabled=False).where(Route.session == session_id).execute()


def test_a_service_that_lost_its_session_is_out_of_service(well: Master) -> None:
    well.write(lose)
    found, = findings(well)
    assert (found["kind"], found["severity"], found["since"]) == ("out_of_service", "critical", "2026-01-31T12:00:00.000Z")
    assert "shop (shop.example/) is out of service" in found["what"] and "lost its connection" in found["why"] and found["todo"]
    status = well.get("/api/v1/status").json()
    assert (status["state"], status["unwell"], len(status["problems"])) == ("unwell", 1, 1)
    ready = well.get("/readyz?verbose").json()
    assert ready["ready"] and ready["state"] == "unwell" and ready["findings"] == status["findings"]
    assert "findings" not in well.get("/readyz").json()
    assert 'proxyd_unwell{kind="out_of_service",severity="critical"} 1.0' in well.get("/metrics").text


@pytest.mark.parametrize(("status", "kind"), [("down", "out_of_service"), ("degraded", "degraded"), ("unknown", "starting")])
def test_the_health_of_the_only_member_decides(well: Master, status: str, kind: str) -> None:
    well.write(lambda: HealthStatus.update(status=status, reason="connection refused").execute())
    found, = findings(well)
    assert found["kind"] == kind
    state = well.get("/api/v1/status").json()
    assert state["state"] == ("starting" if kind == "starting" else "unwell")
    assert (state["problems"] == []) is (kind == "starting")


def test_open_circuits_are_told_and_the_oldest_of_a_kind_comes_first(well: Master) -> None:
    def more() -> None:
        for number in (2, 3):
            add_session(f"s{number}", f"other{number}")
            add_route(number, f"s{number}", f"other{number}", domains=f'["o{number}.example"]')
        add_health("r3", "down", since="2026-01-01T00:00:00.000Z")

    well.write(more)
    open_circuit(well, 2)
    assert [(one["kind"], one["service"]) for one in findings(well)] == [("out_of_service", "other3"), ("out_of_service", "other2")]
    assert [one["route_id"] for one in well.get("/api/v1/routes?unwell=1").json()["routes"]] == ["r3", "r2"]
    assert [one["route_id"] for one in well.get("/api/v1/routes?order=worst&limit=2&offset=1").json()["routes"]] == ["r2", "r1"]


def test_a_member_that_is_down_beside_one_that_serves_is_a_warning(well: Master) -> None:
    def more() -> None:
        add_session("s8")
        add_route(2, "s8")
        add_health("r2", "down")

    well.write(more)
    found, = findings(well)
    assert (found["kind"], found["severity"], found["route_ids"]) == ("member_down", "warning", ["r2"])


def test_a_member_is_known_by_any_of_its_names(well: Master) -> None:
    def more() -> None:
        for number in (2, 3):
            add_session(f"s{number}", f"other{number}")
        add_route(2, "s2", "other2", domains='["first.example", "shop.example"]')
        add_route(3, "s3", "other3", domains='["example", "shop.example.test"]', path="/shop.example")

    well.write(more)
    well.write(lose)
    found, = findings(well)
    assert (found["kind"], found["route_ids"]) == ("member_down", ["r1"])
    well.write(lambda: Route.update(domains='["first.example", "www.shop.example"]').where(Route.route_id == "r2").execute())
    found, = findings(well)
    assert (found["kind"], found["route_ids"]) == ("out_of_service", ["r1"])


def test_members_are_named_the_oldest_first(well: Master) -> None:
    def more() -> None:
        for number in (10, 2):
            add_session(f"s{number}", "shop", "disconnected", f"i{number}")
            add_route(number, f"s{number}", instance_name=f"i{number}", enabled=False)

    well.write(more)
    well.write(lose)
    found, = findings(well)
    assert found["route_ids"] == ["r1", "r2", "r10"] and found["subject"] == "r1 r2 r10"


@pytest.mark.parametrize("at_once", [1, 500])
def test_unwell_routes_lead_the_list_on_whatever_page(well: Master, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    def more() -> None:
        add_session("s8", "zoo")
        for number in range(2, 8):
            add_route(number, "s8", "zoo", domains=f'["z{number}.example"]')
        for number in (4, 6):
            add_health(f"r{number}", "down", since=f"2026-01-0{8 - number}T00:00:00.000Z")

    well.write(more)
    monkeypatch.setattr(views, "_CHUNK", at_once)

    def listed(query: str) -> tuple[list[str], str]:
        well.run(well.server._context.wellness.forget)
        answer = well.get(f"/api/v1/routes?order=worst&{query}")
        return [one["route_id"] for one in answer.json()["routes"]], answer.headers["X-Total-Count"]

    whole = ["r6", "r4", "r1", "r2", "r3", "r5", "r7"]
    for limit in (1, 2, 3, 10):
        assert [listed(f"limit={limit}&offset={offset}") for offset in range(8)] == [
            (whole[offset:offset + limit], "7") for offset in range(8)]
    assert listed("unwell=1&limit=1&offset=1") == (["r4"], "2")
    assert listed("q=z4") == (["r4"], "1") and listed("q=z5") == (["r5"], "1") and listed("q=z5&unwell=1") == ([], "0")


def test_a_route_that_fails_every_request_is_unwell_though_its_check_passes(well: Master) -> None:
    def more() -> None:
        add_session("s8", "till")
        add_route(2, "s8", "till", domains='["till.example"]')
        add_health("r2")
        add_traffic("r2", {500: 5, 502: 1}, {200: 6})

    well.write(more)
    found, = findings(well)
    assert (found["kind"], found["service"]) == ("failing", "till") and "6 requests" in found["why"]
    well.write(lambda: add_traffic("r2", {200: 1}, {200: 1}))
    assert kinds(well) == []


@pytest.mark.parametrize("planned", [
    {"maintenance_since": rfc3339(0)}, {"hold_until": rfc3339(4e9)}, {"drain_started_at": rfc3339(0), "drain_seconds": 1.0}],
    ids=["maintenance", "hold", "drain"])
def test_what_is_planned_is_no_error(well: Master, planned: dict[str, Any]) -> None:
    well.write(lambda: Route.update(**planned).execute())
    well.write(lambda: HealthStatus.update(status="down").execute())
    well.write(lambda: add_traffic("r1", {503: 20}, {200: 20}))
    assert kinds(well) == []


def test_without_workers_everything_is_out(master: Master) -> None:
    found, = findings(master)
    assert (found["kind"], found["what"]) == ("no_worker", "no worker is running")
    first = found["since"]
    assert findings(master)[0]["since"] == first, "it began when it was seen first"


def test_a_worker_without_a_sign_of_life_is_told(well: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    # This worker has given one, when it began.
    monkeypatch.setattr(wellness, "_STALE_SECONDS", 0.05)
    wait_for(lambda: kinds(well) == ["worker_stale"], 5, "the stale worker")
    assert f"worker {well._workers[0].pid}" in findings(well)[0]["what"]


def test_ended_certificates_and_lost_files_are_told_critical_first(well: Master) -> None:
    well.problems.append("the file proxyd.board was deleted")
    well.write(lambda: HealthStatus.update(status="degraded").execute())
    well.health_alive = False
    assert kinds(well) == ["health_checker", "problem", "degraded"]


def test_each_kind_says_what_to_do() -> None:
    assert all(kind.todo.endswith(".") for kind in KINDS)
