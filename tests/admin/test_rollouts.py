"""Rollouts by the admin API, in one master without traffic."""

from __future__ import annotations

from typing import Any

from proxyd.store.sql.models import Route
from proxyd.store.sql.query import tuples
from tests.admin.harness import Master, add_route, add_session, second_instance
from tests.support.waiting import wait_for

ROLLOUT = "/api/v1/services/shop/rollout"


def shares(master: Master) -> dict[str, float | None]:
    return dict(master.run(lambda: master.store.read(lambda: list(tuples(Route.select(Route.route_id, Route.rollout_share))))))


def shown(master: Master) -> Any:
    return master.get(ROLLOUT).json()


def test_it_is_begun_shown_and_aborted_and_only_one_goes_on(master: Master) -> None:
    assert master.get(ROLLOUT).status_code == 404
    second_instance(master)
    assert master.act("POST", ROLLOUT, {"to": "v2"}).status_code == 200
    found = shown(master)
    assert (found["state"], found["share"], found["step"]) == ("running", 5.0, 0)
    assert (found["steps"], found["every_seconds"]) == ([5, 25, 50, 100], 120)
    assert 100 < found["step_remaining_seconds"] <= 120 and found["started_by"].startswith("admin token")
    assert shares(master) == {"r1": None, "r9": 5.0}
    assert master.get("/api/v1/routes/r9").json()["rollout_share"] == 5.0
    assert master.act("POST", ROLLOUT, {"to": "a"}).status_code == 409
    assert master.act("POST", f"{ROLLOUT}/clear").status_code == 409
    assert master.act("DELETE", ROLLOUT).status_code == 200
    assert (shown(master)["state"], shares(master)) == ("aborted", {"r1": None, "r9": 0.0})
    assert master.act("DELETE", ROLLOUT).status_code == 409
    assert master.act("POST", f"{ROLLOUT}/clear").status_code == 200
    assert shares(master) == {"r1": None, "r9": None}
    assert [event for event, _, _ in master.done()] == ["rollout_changed"] * 2


def test_who_stood_aside_before_stands_aside_after_it_went_back(master: Master) -> None:
    second_instance(master)
    assert master.act("POST", ROLLOUT, {"to": "v2", "steps": "100", "every": 0.1}).status_code == 200
    wait_for(lambda: shown(master)["state"] == "completed")
    assert shares(master) == {"r1": 0.0, "r9": None}
    second_instance_again(master)
    assert master.act("POST", ROLLOUT, {"to": "v3", "steps": "50,100", "every": 3600}).status_code == 200
    assert shares(master) == {"r1": 0.0, "r9": None, "r10": 50.0}
    assert master.act("DELETE", ROLLOUT).status_code == 200
    assert shares(master) == {"r1": 0.0, "r9": None, "r10": 0.0}


def second_instance_again(master: Master) -> None:
    def fill() -> None:
        add_session("s10", instance_name="v3")
        add_route(10, "s10", instance_name="v3")

    master.write(fill)
    master.load()


def test_what_opens_its_circuit_ends_it_and_what_can_not_be_rolled_out_is_refused(master: Master) -> None:
    assert "no active route" in master.act("POST", ROLLOUT, {"to": "v2"}).json()["detail"]
    assert "no other instance" in master.act("POST", ROLLOUT, {"to": "a"}).json()["detail"]
    second_instance(master)
    refused = master.act("POST", ROLLOUT, {"to": "v2", "steps": "50,10"})
    assert (refused.status_code, refused.json()["detail"][:6]) == (400, "steps:")
    assert master.act("POST", ROLLOUT, {"to": "v2"}).status_code == 200
    master.run(lambda: master.circuits.move(9, 9, "failures", 1.0))
    wait_for(lambda: shown(master)["state"] == "rolled_back")
    assert "circuit of its route r9 is open" in shown(master)["why"] and shares(master) == {"r1": None, "r9": 0.0}
    assert "is not fit" in master.act("POST", ROLLOUT, {"to": "v2"}).json()["detail"]
