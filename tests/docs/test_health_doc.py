"""docs/health.md says what the code does: names, statuses, options, outputs, bounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.metrics import Process, ProxydCollector
from proxyd.admin.readings import Readings
from proxyd.base.histogram import bounds
from proxyd.config.options import OPTIONS
from proxyd.config.settings import SECTIONS, setting_declarations
from proxyd.docs.database import output, sample
from proxyd.events.types import SUBSCRIBABLE
from proxyd.health.thresholds import STATUSES
from proxyd.registry import commands
from proxyd.registry.protocol import COMMANDS
from proxyd.store.memory.transitions import BY_REQUEST, STATE_NAMES, TRANSITIONS
from proxyd.store.sql.views import VIEWS

#: Views that are about something else than health; docs/database.md has them.
OTHERS = {"v_errors", "v_unknown_hosts", "v_slo", "v_unwell", "v_uptime_services", "v_slowest_endpoints", "v_incidents",
          "v_uptime", "v_unused", "v_traffic_by_hour", "v_traffic_by_day", "v_health_by_minute", "v_health_by_hour",
          "v_health_by_day", "v_latency_by_hour", "v_endpoints", "v_route_history", "v_traffic", "v_now", "v_events", "v_deploys",
          "v_maintenance", "v_certificates", "v_certificate_history", "v_down_at", "v_rollouts", "v_websockets"}

assert commands.__all__, "importing the handlers fills the command table"
TEXT = (Path(__file__).resolve().parents[2] / "docs/health.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text below a heading, down to the next one of its kind or a higher one."""
    level = heading.count("#")
    found = re.search(rf"^{re.escape(heading)}\n(.*?)(?=^#{{1,{level}}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The rows of the first table in a text, without its head."""
    found = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert found is not None
    lines = found[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_transitions_of_the_document_are_those_of_the_code() -> None:
    written = {reason.strip("`"): (before, after, cause) for reason, before, after, cause in rows(section("### The state machine"))}
    assert written == {
        reason: (", ".join(STATE_NAMES[state] for state in rule.before), STATE_NAMES[rule.after], rule.cause)
        for reason, rule in TRANSITIONS.items()}


def test_the_chart_has_every_state_and_every_change_between_two_states() -> None:
    chart = re.search(r"```\n(.*?)```", section("### The state machine"), re.DOTALL)
    assert chart is not None
    words = re.findall(r"[a-z_]{2,}", chart[1])
    assert set(words) == set(STATE_NAMES) | set(TRANSITIONS)
    # A name stands once for each place that it leads to from another state; closed and half_open share an arrow's end.
    ways = {reason: sum(before != rule.after for before in rule.before) for reason, rule in TRANSITIONS.items()}
    assert {reason: words.count(reason) for reason in TRANSITIONS} == ways


def test_what_requests_change_is_named_in_the_table() -> None:
    assert len(set(BY_REQUEST.values())) == len(BY_REQUEST)
    for (before, after), reason in BY_REQUEST.items():
        assert (TRANSITIONS[reason].before, TRANSITIONS[reason].after) == ((before,), after)


def test_health_drives_circuits_by_transitions_that_exist() -> None:
    table = rows(section("### How health drives circuits"))
    assert [row[0] for row in table] == ["`down`", "a good check, not `down` any more"]
    named = {name for row in table for cell in row[1:] for name in re.findall(r"`(\w+)`", cell)} - {"circuit_timeout"}
    assert named == {reason for reason in TRANSITIONS if reason.startswith("health_")}


def test_the_statuses_of_the_document_are_those_of_the_code() -> None:
    assert tuple(row[0].strip("`") for row in rows(section("### Status"))) == STATUSES


@pytest.mark.parametrize(("heading", "prefixes"), [("### Who is checked", ("health_",)), ("## Circuits", ("circuit_", "max_ejected_"))])
def test_every_option_is_there_with_its_default(heading: str, prefixes: tuple[str, ...]) -> None:
    written = {key.strip("`"): default.strip("`") for key, default, _ in rows(section(heading))}
    assert written == {key: item.default for key, item in OPTIONS.items() if key.startswith(prefixes)}


def test_every_setting_of_the_checker_is_named_and_no_other() -> None:
    listed = section("### Who is checked").split("`[health]` in")[1]
    named = set(re.findall(r"\[health\]\s+(\w+)", TEXT)) | set(re.findall(r"`(\w+)`", listed))
    assert set(setting_declarations("health")) == named
    for name, key in re.findall(r"`\[(\w+)\]\s+(\w+)", TEXT):
        assert key in setting_declarations(name) and name in SECTIONS, f"[{name}] {key}"


def test_every_name_in_code_type_is_one_that_exists() -> None:
    shown = {told.family.name for told in ProxydCollector(Readings(), Process(0.0, 0, [], [], 0)).collect()}
    assert set(re.findall(r"`(proxyd_\w+)`", TEXT)) <= shown
    assert {word for word in re.findall(r"\b[A-Z]+_[A-Z_]+\b", TEXT) if "_VERIFY_" not in word} <= set(COMMANDS)
    events = set(re.findall(r"^EVENT\|(\w+)\|", TEXT, re.MULTILINE))
    assert events == {"backend_health_changed", "circuit_state_changed"} < set(SUBSCRIBABLE)
    assert set(re.findall(r"`(/api\S+|/metrics)`", TEXT)) <= {endpoint.path for endpoint in ENDPOINTS}


def test_each_query_gives_the_output_behind_it_and_every_view_has_one() -> None:
    pairs = re.findall(r"```sql\n(.*?)```\n\n```\n(.*?)```", TEXT, re.DOTALL)
    assert {re.findall(r"\bv_\w+", sql)[0] for sql, _ in pairs if "v_" in sql} == set(VIEWS) - OTHERS
    with sample() as connection:
        for sql, written in pairs:
            assert written == output(connection, sql.strip().rstrip(";")) + "\n", sql


def test_percentiles_are_within_the_bound_that_is_written() -> None:
    written = re.search(r"within ([\d.]+) % of the true value", " ".join(TEXT.split()))
    assert written is not None
    worst = max((high - low) / 2 / low for low, high in map(bounds, range(16, 1000)))
    assert worst <= float(written[1]) / 100 < worst * 1.1
