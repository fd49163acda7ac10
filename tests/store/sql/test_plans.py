"""No view reads a table of history as a whole: sums are asked for by their span, rows by when they were."""

from __future__ import annotations

import re

import pytest

from proxyd.docs.database import sample
from proxyd.store.sql.retained import RETAINED
from proxyd.store.sql.views import VIEWS

#: Tables that grow with time. Those that grow with what was ever declared (endpoints, routes) are small beside them.
HISTORY = {kept.model._meta.table_name for kept in RETAINED} - {
    "services", "endpoints", "route_history", "sessions", "hosts", "route_stats", "route_latency", "route_status_codes",
    "service_stats", "service_latency", "service_status_codes", "unknown_hosts"}
#: What is asked for with a span of time, and the column that has it. The others say themselves how far back they look.
BY_TIME = {"v_events": "at", "v_checks": "checked_at", "v_traffic": "minute", "v_traffic_by_hour": "hour",
           "v_latency_by_hour": "hour",
           "v_health_by_minute": "minute", "v_health_by_hour": "hour", "v_health_by_day": "day", "v_traffic_by_day": "day",
           "v_incidents": "started_at",
           "v_down_at": "until", "v_deploys": "at", "v_maintenance": "started_at",
           "v_certificate_history": "at", "v_websockets": "opened_at"}
#: The first hundred of an index; and all that is kept where that is little: one row for each rollout.
SMALL = {"v_slowest", "v_rollouts"}


def scanned(sql: str, text: str) -> set[str]:
    """The tables that a statement reads as a whole. `text`: where their short names are explained."""
    names = {short: table for table, short in re.findall(r"(?:FROM|JOIN) (\w+) (\w+)", text)}
    with sample() as connection:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
    found = [step.split()[1] for step in steps if step.startswith("SCAN ")]
    return {names.get(short, short) for short in found}


@pytest.mark.parametrize("name", sorted(VIEWS.keys() - SMALL))
def test_no_view_scans_a_table_of_history(name: str) -> None:
    where = f" WHERE {BY_TIME[name]} >= '2026-03-02T07:00:00.000Z'" if name in BY_TIME else ""
    assert not scanned(f"SELECT * FROM {name}{where}", VIEWS[name]) & HISTORY


def test_the_slowest_requests_are_found_by_an_index_and_not_by_a_sort() -> None:
    with sample() as connection:
        steps = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN SELECT * FROM v_slowest")]
    assert "SCAN s USING INDEX slow_requests_total_ms" in steps and not any("TEMP B-TREE" in step for step in steps)


@pytest.mark.parametrize("name", ["v_uptime", "v_uptime_services"])
def test_uptime_of_one_service_is_found_by_its_keys(name: str) -> None:
    with sample() as connection:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN SELECT * FROM {name} WHERE service_name = 'shop'")]
    assert sum("(service_name=?" in step for step in steps) >= 5 and {step for step in steps if "SCAN" in step} <= {"SCAN d"}, steps


def test_what_was_down_at_an_instant_is_found_by_the_end_of_each_outage_however_the_instant_is_given() -> None:
    with sample() as connection:
        for asked in ("v_down_at d WHERE '2026-03-01T22:12' BETWEEN d.since AND d.until", "v_down_at d WHERE ? BETWEEN d.since AND d.until",
                      "v_down_at d WHERE (SELECT hour_ago FROM v_now) BETWEEN d.since AND d.until",
                      "v_now n JOIN v_down_at d ON n.hour_ago BETWEEN d.since AND d.until",
                      "events e JOIN v_down_at d ON e.at BETWEEN d.since AND d.until WHERE e.id = 1"):
            steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN SELECT d.* FROM {asked}", ("2026",) * asked.count("?"))]
            assert sum("ended_at>?" in step for step in steps) == 2, (asked, steps)
            assert not {step.split()[1] for step in steps if step.startswith("SCAN")} & {"i", "w", "e"}, (asked, steps)


def test_a_scan_would_be_seen() -> None:
    assert scanned("SELECT * FROM v_traffic", VIEWS["v_traffic"]) & HISTORY == {"route_minutes"}
