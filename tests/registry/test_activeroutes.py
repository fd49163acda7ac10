"""The active routes in memory: who holds which place, and which slot of the circuits is whose."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.registry.activeroutes import MOST_KINDS, ActiveRoutes, places_of, sorted_ids, spec_of
from proxyd.registry.configuration import RouteSpec
from proxyd.store.memory.circuits import CircuitBoard


@pytest.fixture
def active(tmp_path: Path) -> Iterator[ActiveRoutes]:
    circuits = CircuitBoard(str(tmp_path))
    yield ActiveRoutes(circuits)
    circuits.close()


def row(route_id: str, slot: int, service: str = "shop", path: str = "/") -> dict[str, Any]:
    return {"route_id": route_id, "slot": slot, "service_name": service, "instance_name": "i1", "domains": json.dumps(["a.test"]),
            "path": path, "backend_url": "http://127.0.0.1:9", "priority": 0, "options": "{}", "enabled": True, "updated_at": "then"}


def test_a_place_of_another_service_is_a_conflict_and_one_of_its_own_is_not(active: ActiveRoutes) -> None:
    active.put(row("r1", active.slot("r1")))
    claimed = {"r2": RouteSpec("r2", ("a.test",), "/", "http://127.0.0.1:9", 0).places("{}")}
    assert active.conflict("shop", claimed) is None
    problem = active.conflict("blog", claimed)
    assert problem is not None
    assert "a.test/ at priority 0 is held by service shop (instance i1, route r1)" in problem


def test_routes_that_ask_for_something_else_hold_places_of_their_own(active: ActiveRoutes) -> None:
    active.put(row("r1", active.slot("r1")))
    active.put({**row("r2", active.slot("r2"), "blog"), "options": '{"match_header": "X-Canary"}'})
    spec = RouteSpec("r3", ("a.test",), "/", "http://127.0.0.1:9", 0)
    problem = active.conflict("shop", {"r3": spec.places('{"match_header": "x-canary:  *"}')})
    assert problem is not None and "a.test/ (header x-canary) at priority 0 is held by service blog" in problem
    assert active.conflict("shop", {"r3": spec.places('{"match_header": "X-Canary: 1"}')}) is None
    many = {f"r{number}": spec.places(json.dumps({"match_cookie": f"c={number}"})) for number in range(MOST_KINDS)}
    assert active.conflict("shop", dict(list(many.items())[2:])) is None
    assert "that differ in their conditions" in (active.conflict("shop", many) or "")


def test_a_higher_priority_takes_the_traffic_of_those_whose_requests_it_takes(active: ActiveRoutes) -> None:
    active.put(row("r1", active.slot("r1")))
    canary = {**row("r2", active.slot("r2"), "canary"), "priority": 5, "options": '{"match_header": "X-Canary"}'}
    active.put(canary)
    assert active.overridden("canary", [canary]) == {} and active.overridden_now(9) == []
    other = {**row("r3", active.slot("r3"), "other"), "priority": 9}
    active.put(other)
    assert active.overridden("other", [other]) == {("r1", "a.test/"): "r3", ("r2", "a.test/ (header x-canary)"): "r3"}
    assert len(active.overridden_now(9)) == 2


def test_a_route_that_goes_or_moves_leaves_its_place(active: ActiveRoutes) -> None:
    active.put(row("r1", active.slot("r1")))
    active.put({**active.rows["r1"], "path": "/other"})
    assert (active.at(("a.test", "/", 0, "")), active.at(("a.test", "/other", 0, ""))) == ([], ["r1"])
    active.remove("r1")
    assert active.at(("a.test", "/other", 0, "")) == []
    assert active.rows == {}


ROWS = st.builds(
    lambda number, service, domains, path, priority, asked: {
        **row(f"r{number}", number, service, path), "domains": json.dumps(domains), "priority": priority, "options": asked},
    st.integers(1, 6), st.sampled_from(["shop", "blog"]), st.lists(st.sampled_from(["a.test", "b.test"]), min_size=1, max_size=2),
    st.sampled_from(["/", "/x"]), st.sampled_from([0, 5]), st.sampled_from(["{}", '{"match_header": "X-Canary"}']))


@given(st.lists(ROWS | st.integers(1, 6), max_size=25))
def test_places_are_those_that_a_search_through_all_rows_finds(steps: list[dict[str, Any] | int]) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(CircuitBoard(folder)) as circuits:
        active, other = ActiveRoutes(circuits), ActiveRoutes(circuits)
        for step in steps:
            if isinstance(step, int):
                active.remove(f"r{step}")
            else:
                active.put(step)
        other.load(list(active.rows.values()))
        for place in itertools.product(("a.test", "b.test"), ("/", "/x"), (0, 5), ("", "header x-canary")):
            holders = {route_id for route_id, item in active.rows.items() if place in places_of(item)}
            assert (set(active.at(place)), set(other.at(place))) == (holders, holders)
            for service in ("shop", "blog"):
                foreign = any(active.rows[route_id]["service_name"] != service for route_id in holders)
                assert bool(active.conflict(service, {"r9": [place]})) is foreign


def test_slots_that_come_free_are_given_out_again_lowest_first(active: ActiveRoutes) -> None:
    active.load([row("r1", 0), row("r2", 2)])
    assert [active.slot("r3"), active.slot("r4")] == [1, 3]
    active.remove("r2")
    assert active.slot("r5") == 2


def test_a_slot_taken_for_a_change_that_was_not_made_is_free_again(active: ActiveRoutes) -> None:
    active.put(row("r1", active.slot("r1")))
    moved = {**active.rows["r1"], "slot": active.slot("r1")}
    active.free_slots([moved, active.rows["r1"]])
    assert active.slot("r2") == moved["slot"]
    assert active.slot("r3") == moved["slot"] + 1


def test_only_rows_in_which_something_changes_are_changed(active: ActiveRoutes) -> None:
    for route_id in ("r1", "r2"):
        active.put(row(route_id, active.slot(route_id)))
    active.put({**active.rows["r2"], "enabled": False})
    changed = active.changed(["r1", "r2"], {"enabled": False})
    assert [item["route_id"] for item in changed] == ["r1"]
    assert changed[0]["updated_at"] != "then"
    assert active.rows["r1"]["enabled"] is True


def test_ids_sort_by_number_and_a_row_gives_its_declaration() -> None:
    assert sorted_ids(["r10", "r9", "r1"]) == ["r1", "r9", "r10"]
    assert spec_of(row("r1", 0)) == RouteSpec("r1", ("a.test",), "/", "http://127.0.0.1:9", 0)
