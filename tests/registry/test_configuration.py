"""What a session has declared, and what a route gets of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.registry.configuration import (
    RouteSpec,
    SettingTexts,
    Staged,
    by_target,
    check,
    check_options,
    differences,
    effective,
    merged_routes,
    merged_settings,
)
from proxyd.registry.fields import SCOPES

R1 = RouteSpec("r1", ("a.example",), "/", "http://127.0.0.1:1", 0)
R2 = RouteSpec("r2", ("b.example", "*.b.example"), "/api", "https://b:2", 5)
KEYS = st.tuples(st.sampled_from(SCOPES[1:]), st.sampled_from(["ALL", "r1", "r2"]), st.sampled_from(["x", "y"]))
SETTINGS = st.dictionaries(KEYS, st.sampled_from(["1", "2"]))
STAGED = st.dictionaries(KEYS, st.sampled_from(["1", "2", None]))


def options_of(settings: SettingTexts, route_id: str = "r1") -> dict[str, str]:
    found: dict[str, str] = json.loads(effective(by_target(settings), route_id).options)
    return found


def test_a_route_survives_its_text() -> None:
    assert RouteSpec.from_json("r2", R2.to_json()) == R2
    assert R2.places("{}") == [("b.example", "/api", 5, ""), ("*.b.example", "/api", 5, "")]
    assert R2.places('{"match_method": "POST,GET"}')[0] == ("b.example", "/api", 5, "method GET or POST")


def test_staged_routes_are_added_changed_and_removed_over_the_active_ones() -> None:
    changed = RouteSpec("r1", ("a.example",), "/new", "http://127.0.0.1:1", 0)
    active = {"r1": R1}
    assert merged_routes(active, {("routes", "r2", ""): R2.to_json()}) == {"r1": R1, "r2": R2}
    assert merged_routes(active, {("routes", "r1", ""): changed.to_json()}) == {"r1": changed}
    assert merged_routes(active, {("routes", "r1", ""): None}) == {}
    assert active == {"r1": R1}


def test_settings_of_routes_that_go_go_with_them() -> None:
    settings: SettingTexts = {("options", "r1", "timeout"): "5s", ("options", "ALL", "timeout"): "6s"}
    assert merged_settings(settings, {}, []) == {("options", "ALL", "timeout"): "6s"}
    assert merged_settings({}, {("options", "r9", "timeout"): "5s"}, ["r1"]) == {}


@given(SETTINGS, STAGED)
def test_merging_is_what_the_staged_copy_says_and_else_what_was(settings: SettingTexts, staged: Staged) -> None:
    merged = merged_settings(settings, staged, ["r1", "r2"])
    for key in settings.keys() | staged.keys():
        assert merged.get(key) == staged.get(key, settings.get(key))


@given(SETTINGS, STAGED)
def test_the_differences_lead_from_what_is_to_what_would_be(settings: SettingTexts, staged: Staged) -> None:
    merged = merged_settings(settings, staged, ["r1", "r2"])
    told = differences(settings, {}, staged)
    assert list(told) == list(SCOPES)
    for scope in SCOPES[1:]:
        before = {key: value for key, value in settings.items() if key[0] == scope}
        after = {key: value for key, value in merged.items() if key[0] == scope}
        assert told[scope] == {"added": len(after.keys() - before.keys()), "removed": len(before.keys() - after.keys()),
                               "modified": sum(before[key] != after[key] for key in before.keys() & after.keys())}


@given(SETTINGS, STAGED)
def test_after_applying_there_is_no_difference(settings: SettingTexts, staged: Staged) -> None:
    told = differences(merged_settings(settings, staged, ["r1", "r2"]), {}, staged)
    assert all(told[scope] == {"added": 0, "removed": 0, "modified": 0} for scope in SCOPES[1:])


def test_route_differences_are_ids_in_the_order_of_their_numbers() -> None:
    staged: Staged = {("routes", f"r{number}", ""): R1.to_json() for number in (10, 9, 2)}
    staged[("routes", "r1", "")] = None
    told = differences({}, {"r1": R1, "r2": R2}, staged)
    assert told["routes"] == {"added": ["r9", "r10"], "removed": ["r1"], "modified": ["r2"]}


def test_a_routes_own_setting_beats_the_one_for_all() -> None:
    settings: SettingTexts = {("options", "ALL", "timeout"): "5s", ("options", "r1", "timeout"): "7s", ("headers", "ALL", "X-A"): "all",
                          ("headers", "r1", "X-A"): "own", ("headers", "ALL", "X-B"): "b", ("request_headers", "ALL", "X-A"): "r",
                          ("request_headers", "r1", "X-A"): "s", ("ratelimit", "ALL", "limit"): "[[1,1.0]]",
                          ("ratelimit", "r1", "limit"): "[[2,1.0]]"}
    index = by_target(settings)
    own, other = effective(index, "r1"), effective(index, "r2")
    assert [json.loads(has.request_headers) for has in (own, other)] == [{"X-A": "s"}, {"X-A": "r"}]
    assert (json.loads(own.options), json.loads(own.headers), own.rate_limits) == (
        {"timeout": "7s"}, {"X-A": "own", "X-B": "b"}, "[[2,1.0]]")
    assert (json.loads(other.options), json.loads(other.headers), other.rate_limits) == (
        {"timeout": "5s"}, {"X-A": "all", "X-B": "b"}, "[[1,1.0]]")


def test_health_and_circuit_breaker_become_options_over_plain_ones_of_the_same_target() -> None:
    health = json.dumps({"health_check_path": "/h"})
    assert options_of({("options", "r1", "health_check_path"): "/o", ("health", "r1", "check"): health}) == {"health_check_path": "/h"}
    assert options_of({("options", "r1", "health_check_path"): "/o", ("health", "ALL", "check"): health}) == {"health_check_path": "/o"}


def test_a_route_without_settings_gets_none() -> None:
    has = effective(by_target({}), "r1")
    assert (has.options, has.headers, has.request_headers, has.rate_limits) == ("{}", "{}", "{}", "[]")


@given(SETTINGS)
def test_the_text_of_what_a_route_gets_does_not_depend_on_the_order_of_declaring(settings: SettingTexts) -> None:
    plain = {key: value for key, value in settings.items() if key[0] in ("options", "headers")}
    backwards = dict(reversed(plain.items()))
    assert effective(by_target(plain), "r1") == effective(by_target(backwards), "r1")


@pytest.mark.parametrize(("options", "problem"), [
    ({}, None),
    ({"slow_warning": "2s", "slow_critical": "1s"}, "slow_critical (1s) is below slow_warning (2s)"),
    ({"slow_warning": "1s", "slow_critical": "2s"}, None),
    ({"retry": "true", "retry_initial_delay": "2s", "retry_max_delay": "1s"}, "retry_max_delay is below retry_initial_delay"),
])
def test_options_that_contradict_each_other_are_found(options: dict[str, str], problem: str | None) -> None:
    assert check_options(options) == problem


def test_a_problem_names_the_route() -> None:
    index = by_target({("options", "r2", "slow_warning"): "2s", ("options", "r2", "slow_critical"): "1s"})
    assert check(["r1", "r2"], index) == "route r2: slow_critical (1s) is below slow_warning (2s)"
    assert check(["r1"], index) is None
