"""The route options: one declaration each, from which checks and defaults follow."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.base.text import format_duration, format_size, format_status_set
from proxyd.config.options import DEFAULT_OPTIONS, OPTIONS, parse_option, route_options

PACKAGE = Path(__file__).resolve().parents[2] / "proxyd"
#: Options by kind, for the round trips.
DURATIONS = [key for key, option in OPTIONS.items() if option.kind.name.startswith("duration")]
SIZES = [key for key, option in OPTIONS.items() if option.kind.name == "size"]
STATUSES = [key for key, option in OPTIONS.items() if option.kind.name == "status codes"]


@pytest.mark.parametrize("key", OPTIONS)
def test_every_default_written_as_text_gives_the_default(key: str) -> None:
    option = OPTIONS[key]
    assert parse_option(key, option.default) == getattr(DEFAULT_OPTIONS, key)
    assert option.help.endswith(".")


def test_no_module_writes_an_options_default_a_second_time() -> None:
    # A default that is said again is the old one as soon as the declaration changes: ROUTE_STATUS had one of its own.
    repeated = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}" for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and len(node.args) == 2
        and isinstance(node.args[0], ast.Constant) and node.args[0].value in OPTIONS and isinstance(node.args[1], ast.Constant)]
    assert repeated == []


def test_an_unknown_option_is_refused_with_the_closest_names() -> None:
    with pytest.raises(ValueError, match=r'unknown option "timout" \(did you mean timeout'):
        parse_option("timout", "1s")


@pytest.mark.parametrize(("key", "value", "expected"), [
    ("timeout", "0", "duration above zero"), ("timeout", "fast", "timeout: .*duration"),
    ("weight", "1001", "between 0 and 1000"),
    ("weight", "-1", "between"), ("retry", "maybe", "yes or no"), ("balance", "least_con", "did you mean least_conn"),
    ("retry_on", "refused", "neither one of"),
    ("strip_prefix", "api", "is not a path"), ("strip_prefix", "/a b", "is not a path"),
    ("health_expected_status", "700", "status code"), ("max_body_size", "1x", "size"),
    ("sticky_cookie", "x" * 65, "64 at most"),
    ("health_check_interval", "9ms", "shorter than 10ms"),
    ("health_check_path", "/a\nb", "not a path"), ("health_check_path", "healthz", "like /healthz"),
    ("health_check_path", "tcp://db", "tcp://host:port"),
    ("health_check_path", "tcp://db:0", "port 0"), ("health_check_path", "tcp://db:1/x", "tcp://host:port"),
    ("health_check_path", "/gesund?wie=ü", "not a path"), ("health_check_path", "/a b", "not a path"),
    ("compression_algorithms", "gzip,lzma", "lzma"),
    ("circuit_threshold", "0", "between 1"),
])
def test_a_bad_value_is_refused_by_key_value_and_expectation(key: str, value: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected) as caught:
        parse_option(key, value)
    assert str(caught.value).startswith(f"{key}: ")


@given(st.sampled_from(DURATIONS), st.integers(1, 10**12))
def test_every_duration_option_reads_back_what_was_written(key: str, micro: int) -> None:
    micro += 10_000 * (key == "health_check_interval")  # its least
    assert parse_option(key, format_duration(micro / 1e6)) == pytest.approx(micro / 1e6)


@given(st.sampled_from(SIZES), st.integers(0, 1 << 40))
def test_every_size_option_reads_back_what_was_written(key: str, size: int) -> None:
    assert parse_option(key, format_size(size)) == size


@given(st.sampled_from(STATUSES), st.frozensets(st.integers(100, 599), min_size=1))
def test_every_status_option_reads_back_what_was_written(key: str, codes: frozenset[int]) -> None:
    assert parse_option(key, format_status_set(codes)) == codes


@given(st.sampled_from(sorted(OPTIONS)), st.text(max_size=30))
def test_any_text_gives_a_value_or_a_sentence(key: str, value: str) -> None:
    try:
        parse_option(key, value)
    except ValueError as error:
        assert str(error).startswith(f"{key}: ")


def test_zero_and_off_turn_off_what_may_be_off() -> None:
    assert parse_option("total_timeout", "off") == parse_option("slow_start", "0") == 0.0


def test_a_prefix_to_strip_is_a_path_the_routes_own_or_none() -> None:
    assert [parse_option("strip_prefix", value) for value in ("/api/", "true", "off", "")] == ["/api", "true", "", ""]


def test_causes_and_statuses_mix_in_retry_on() -> None:
    assert parse_option("retry_on", "Reset, 502 503-504,5xx") == ("reset", "502", "503-504", "5xx")


def test_a_route_has_what_it_set_and_the_defaults_for_the_rest() -> None:
    options = route_options((("timeout", "5s"), ("retry", "yes")))
    assert (options.timeout, options.retry, options.weight) == (5.0, True, DEFAULT_OPTIONS.weight)
    assert route_options((("timeout", "5s"), ("retry", "yes"))) is options
    assert route_options(()) == DEFAULT_OPTIONS
    with pytest.raises(ValueError, match="weight"):
        route_options((("timeout", "5s"), ("weight", "x")))
