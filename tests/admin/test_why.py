"""Why a request would be answered as it would, without sending it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from proxyd.admin.why import _GATES
from proxyd.base.text import rfc3339
from proxyd.proxy.gates import GATES
from proxyd.store.sql.models import Route
from tests.admin.harness import Master, add_route, open_circuit


def why(master: Master, url: str = "http://shop.example/cart", **more: str) -> dict[str, Any]:
    answer = master.get("/api/v1/why", params={"url": url, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {step["name"]: step["verdict"] for step in found["steps"]}


def test_every_gate_is_told_of() -> None:
    assert list(_GATES) == [gate.__name__ for gate in GATES]


def test_a_sound_route_names_its_only_member(master: Master) -> None:
    found = why(master)
    assert (found["domain"], found["route_path"], found["chosen"], found["status"]) == ("shop.example", "/", "r1", None)
    assert set(verdicts(found).values()) == {"passes"} and list(verdicts(found)) == ["route", *_GATES, "member"]
    assert found["members"][0]["usable"] and found["members"][0]["backend"] == "http://127.0.0.1:3001"


@pytest.mark.parametrize(("url", "code"), [
    ("http://other.example/", "unknown_host"), ("http://api.example/none", "no_route"), ("https://SHOP.example.:8443//a/../b", None),
    ("shop.example", None), ("http://x.wild.example/", None)])
def test_the_route_is_found_as_workers_find_it(master: Master, url: str, code: str | None) -> None:
    def more() -> None:
        add_route(2, domains='["api.example"]', path="/v1")
        add_route(3, domains='["*.wild.example"]')

    master.write(more)
    found = why(master, url)
    assert found["code"] == code and found["status"] == (None if code is None else 404)
    if code == "no_route":
        assert "api.example/v1" in found["steps"][0]["detail"]


def test_maintenance_refuses_where_no_member_is_in_service(master: Master) -> None:
    master.write(lambda: Route.update(maintenance_since=rfc3339(1)).execute())
    found = why(master)
    assert (found["status"], found["code"], found["chosen"]) == (503, "maintenance", None)
    master.write(lambda: add_route(2))
    assert why(master)["chosen"] == "r2"


def test_a_lost_session_an_open_circuit_and_a_hold_are_named(master: Master) -> None:
    open_circuit(master, 1)
    found = why(master)
    assert found["chosen"] == "r1" and found["members"][0]["why"] == "its circuit is open: a request would be a trial"
    master.circuits.move(1, 1, "health_down", time.time())
    found = why(master)
    assert (found["status"], found["code"]) == (503, "upstream_down") and "until its health check passes" in found["members"][0]["why"]
    master.write(lambda: add_route(2, enabled=False))
    assert "lost its connection" in why(master)["members"][1]["why"]
    master.write(lambda: add_route(3, hold_until=rfc3339(4e9), domains='["held.example"]'))
    found = why(master, "http://held.example")
    assert (verdicts(found)["member"], found["status"], found["chosen"]) == ("waits", None, None)


def test_rate_limits_are_read_and_not_counted(master: Master) -> None:
    master.write(lambda: Route.update(rate_limits="[[1, 60.0]]").execute())
    for _ in range(3):
        found = why(master, client="203.0.113.7")
        (said,) = (step["detail"] for step in found["steps"] if step["name"] == "rate_limit")
        assert "1 of 1 requests in 60 s are left for 203.0.113.7" in said
        assert found["chosen"] == "r1"


@pytest.mark.parametrize("url", ["", "http://", "ftp://shop.example/", "http://[::1/"])
def test_what_is_no_url_is_refused(master: Master, url: str) -> None:
    assert master.get("/api/v1/why", params={"url": url}).status_code == 400
