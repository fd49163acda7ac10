"""Incidents from the standing of routes: when they begin, how they end, and which are planned; and the time up and down."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from proxyd.base import clock
from proxyd.health.outages import Outages
from proxyd.health.thresholds import DOWN, HEALTHY, UNKNOWN
from proxyd.store.sql.snapshot import RouteRecord


def route(number: int, instance: str = "i1", maintenance: float = 0.0, drain: float = 0.0, path: str = "/") -> RouteRecord:
    return RouteRecord(f"r{number}", "s1", "shop", instance, ("shop.test", "www.shop.test"), path, "http://b:1", 0, True, number, 1, (), (),
                       (), maintenance, "", drain, 0.0)


def down(outages: Outages, *numbers: int, now: float = 1000.0) -> None:
    for number in numbers:
        outages.judged(f"r{number}", False, DOWN, "3 checks in a row failed: refused", now, 0.001)
    outages.settle(now)


def up(outages: Outages, number: int, now: float = 1000.0) -> None:
    outages.judged(f"r{number}", True, HEALTHY, "checks pass", now, 0.001)
    outages.settle(now)


def told(outages: Outages) -> list[tuple[str, str, bool, str | None]]:
    """Kind, instance, whether planned, and how it ended, of all incidents."""
    rows: list[dict[str, Any]] = sorted(outages.changed.values(), key=lambda row: (row["kind"], row["incident_id"]))
    return [(row["kind"], row["instance_name"], row["planned"], row["ended_how"]) for row in rows]


@pytest.fixture
def pair() -> Outages:
    """Two instances of a service that are up."""
    outages = Outages()
    for number, instance in ((1, "i1"), (2, "i2")):
        outages.take(route(number, instance), UNKNOWN, "", 0.0)
        up(outages, number)
    assert not outages.changed
    return outages


def test_an_outage_of_one_replica_is_no_outage_of_the_service(pair: Outages) -> None:
    down(pair, 1)
    assert told(pair) == [("endpoint", "i1", False, None)]
    down(pair, 2)
    assert told(pair) == [("endpoint", "i1", False, None), ("endpoint", "i2", False, None), ("service", "", False, None)]
    up(pair, 1)
    assert told(pair)[0][3] == "recovered" and told(pair)[1][3] is None and told(pair)[2][3] == "recovered"


def test_the_first_failed_check_and_the_cause_are_told(pair: Outages) -> None:
    pair.judged("r1", False, HEALTHY, "a check failed: refused", 990.0, 0.001)
    pair.judged("r1", False, HEALTHY, "a check failed: refused", 995.0, 0.001)
    down(pair, 1)
    row, = pair.changed.values()
    assert row["first_failed_at"] < row["started_at"] and row["cause"] == "3 checks in a row failed: refused" and row["route_id"] == "r1"


def test_a_route_that_is_removed_while_down_ends_its_outage(pair: Outages) -> None:
    down(pair, 1)
    pair.gone("r1")
    pair.settle(1001.0)
    assert told(pair) == [("endpoint", "i1", False, "removed")]


def test_a_redeploy_ends_an_outage_only_when_the_new_route_is_up(pair: Outages) -> None:
    down(pair, 1)
    pair.gone("r1")
    pair.take(route(3), UNKNOWN, "", 0.0)
    pair.settle(1001.0)
    assert told(pair) == [("endpoint", "i1", False, None)]
    up(pair, 3)
    assert told(pair) == [("endpoint", "i1", False, "recovered")]


@pytest.mark.parametrize("planned", [route(1, maintenance=1.0), route(1, drain=1.0)], ids=["maintenance", "drain"])
def test_an_outage_in_maintenance_or_after_a_drain_is_planned(planned: RouteRecord) -> None:
    outages = Outages()
    outages.take(planned, HEALTHY, "", 0.0)
    down(outages, 1)
    assert told(outages) == [("endpoint", "i1", True, None), ("service", "", True, None)]
    outages.take(route(1), DOWN, "still down", 0.0)
    outages.settle(1001.0)
    assert told(outages) == [("endpoint", "i1", True, "maintenance"), ("service", "", True, "maintenance")]
    # Another change before the next check tells nothing either.
    outages.take(route(1), DOWN, "still down", 0.0)
    # Maintenance is over, and it is still down: from here it is not planned.
    assert outages.judged("r1", False, DOWN, "still down", 1002.0, 0.001)
    outages.settle(1002.0)
    assert told(outages)[:2] == [("endpoint", "i1", True, "maintenance"), ("endpoint", "i1", False, None)]
    begun = next(row for row in outages.changed.values() if row["kind"] == "endpoint" and not row["planned"])
    assert begun["first_failed_at"] == begun["started_at"]


def test_a_service_that_is_back_from_its_maintenance_had_no_outage() -> None:
    outages = Outages()
    outages.take(route(1, maintenance=1.0), HEALTHY, "", 0.0)
    down(outages, 1)
    outages.take(route(1), DOWN, "still down", 0.0)
    outages.settle(1001.0)
    up(outages, 1, 1002.0)
    assert told(outages) == [("endpoint", "i1", True, "maintenance"), ("service", "", True, "maintenance")]
    down(outages, 1, now=1003.0)
    assert told(outages)[1] == ("endpoint", "i1", False, None)


def test_maintenance_ends_an_outage(pair: Outages) -> None:
    down(pair, 1)
    pair.take(route(1, maintenance=1.0), DOWN, "", 0.0)
    pair.settle(1001.0)
    assert told(pair) == [("endpoint", "i1", False, "maintenance"), ("endpoint", "i1", True, None)]


def test_what_the_last_master_left_goes_on_or_ends() -> None:
    row = {"incident_id": 7, "kind": "endpoint", "service_name": "shop", "instance_name": "i1", "domain": "shop.test", "path": "/",
           "route_id": "r1", "planned": 0, "started_at": "", "first_failed_at": "", "ended_at": None, "ended_how": None, "cause": ""}
    for status, ended in ((DOWN, None), (HEALTHY, "recovered"), (None, "removed")):
        outages = Outages()
        outages.resume(8, [dict(row)])
        if status is not None:
            outages.take(route(1), status, "", 0.0)
        outages.settle(1000.0)
        assert outages.next_id == (9 if status == DOWN else 8)  # the service's own begins here
        assert outages.changed.get(7, {}).get("ended_how") == ended


def test_time_is_up_down_in_maintenance_or_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("proxyd.base.clock.now", lambda: now)
    outages = Outages()
    outages.take(route(1), UNKNOWN, "", 0.0)
    outages.sums(now)
    # Not checked yet: unknown.
    now = 1001.0
    assert not outages.sums(now)
    up(outages, 1, now)
    now = 1011.0
    down(outages, 1, now=now)
    now = 1014.0
    outages.take(route(1, maintenance=1.0), DOWN, "", 0.0)
    now = 1034.0
    found, = outages.sums(now)
    assert (found.up_seconds, found.down_seconds, found.maintenance_seconds, found.good, found.bad) == (10.0, 3.0, 20.0, 1, 1)
    # What is checked in maintenance is neither good nor bad, and how long it takes is not looked at.
    down(outages, 1, now=now)
    up(outages, 1, now)
    found, = outages.sums(now)
    assert (found.good, found.bad, found.in_maintenance, found.response_us_max) == (0, 0, 2, None)
    assert outages.is_planned("r1") and not outages.is_planned("r2")
    now = 1036.75
    assert [item.maintenance_seconds for item in outages.sums(now)] == [2.0]
    assert [item.maintenance_seconds for item in outages.sums(now, last=True)] == [0.75]
    # The process was stopped for a day: that is not known.
    now += 86400
    assert not outages.sums(now)


def test_many_routes_that_are_taken_up_at_once_cost_each_its_own_time_alone() -> None:
    """At a start all of them change: what each change costs must not grow with how many there are."""
    outages = Outages()
    outages.sums(clock.now())
    begun = time.process_time()
    for number in range(6000):
        outages.take(replace(route(number), domains=(f"d{number}.test",)), HEALTHY, "checks pass", 0.0)
    assert time.process_time() - begun < 2
    assert len(outages.sums(clock.now() + 1)) == 6000


def test_a_service_is_up_while_one_of_its_instances_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("proxyd.base.clock.now", lambda: now)
    outages = Outages()
    for number, instance in ((1, "i1"), (2, "i2")):
        outages.take(route(number, instance), HEALTHY, "checks pass", 0.0)
    now = 1010.0
    down(outages, 1, now=now)
    now = 1030.0
    down(outages, 2, now=now)
    now = 1035.0
    up(outages, 1, now)
    now = 1040.0
    outages.gone("r2")
    now = 1042.0
    outages.take(route(1, "i1", maintenance=1.0), HEALTHY, "checks pass", 0.0)
    now = 1049.0
    found, = outages.service_sums(now)
    assert found.key == ("service", "shop", "", "shop.test", "/")
    assert (found.up_seconds, found.down_seconds, found.maintenance_seconds) == (37.0, 5.0, 7.0)
    assert not outages.service_sums(now)
