"""Matching with made-up routes and requests, against the rules of the design written down once more, slowly and plainly."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.base.paths import normalize_host, normalize_path
from proxyd.base.urls import normalize_domain, normalize_route_path
from proxyd.http1 import RequestHead
from proxyd.proxy.route.table import Table
from proxyd.store.sql.snapshot import RouteRecord, Snapshot
from tests.base.strategies import NUMBERS
from tests.proxy.build import record

# -- the rules once more


def plain_host(raw: str) -> str:
    """The name in a Host value: no port, no dot behind, lower case."""
    name = raw[: raw.index("]") + 1] if raw.startswith("[") else re.sub(r":[0-9]*$", "", raw)
    return name.rstrip(".").lower() if not name.startswith("[") else name.lower()


def plain_path(target: str) -> str:
    """The path of a target by RFC 3986: 6.2.2.2 for escapes, and the very steps of 5.2.4 for dot segments."""
    rest = re.sub("%[0-9A-Fa-f]{2}", lambda found: unquote(found[0]) if unquote(found[0], "latin-1") in UNRESERVED else found[0].upper(),
                  target.split("?")[0])
    rest = re.sub("/+", "/", rest)
    out = ""
    while rest:
        if rest.startswith("/./"):
            rest = rest[2:]
        elif rest == "/.":
            rest = "/"
        elif rest.startswith("/../"):
            rest, out = rest[3:], out.rpartition("/")[0]
        elif rest == "/..":
            rest, out = "/", out.rpartition("/")[0]
        else:
            end = rest.find("/", 1)
            end = len(rest) if end < 0 else end
            out, rest = out + rest[:end], rest[end:]
    return out


UNRESERVED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


def covers(route_path: str, path: str) -> bool:
    """Whether a path lies below a route's: the same segments first."""
    wanted = [] if route_path == "/" else route_path.split("/")[1:]
    return path.split("/")[1:][: len(wanted)] == wanted


def expected(routes: list[RouteRecord], host: str, path: str) -> set[str]:
    """The ids of the pool: the most specific domain with a route for the path, then the priority, then the longest path."""
    parent = "*." + host.partition(".")[2] if "." in host.strip(".") and not host.startswith("[") else None
    for domain in (host, parent, "*"):
        fitting = [route for route in routes if domain in route.domains and covers(route.path, path)]
        if fitting:
            best = max((route.priority, len(route.path)) for route in fitting)
            return {route.route_id for route in fitting if (route.priority, len(route.path)) == best}
    return set()


# -- made-up routes and requests

LABELS = st.sampled_from(["a", "b", "A", "xn--bcher-kva", "1"])
NAMES = st.lists(LABELS, min_size=1, max_size=3).map(".".join).filter(lambda name: not NUMBERS.fullmatch(name))
ADDRESSES = st.sampled_from(["127.0.0.1", "[::1]", "[2001:DB8::a]"])
#: Few, so that routes meet on one.
DOMAINS = st.one_of(st.sampled_from(["a", "a.b", "*.b", "*"]), NAMES, NAMES.map("*.{}".format), ADDRESSES).map(normalize_domain)
HOSTS = st.builds("{}{}{}".format, NAMES, st.sampled_from(["", "."]), st.sampled_from(["", ":80", ":8443"]))
HOSTS = st.one_of(HOSTS, st.builds("{}{}".format, ADDRESSES, st.sampled_from(["", ":80"])))
SEGMENTS = st.sampled_from(["a", "b", "A", "ab", "%61", "%41", "a%2Fb", "a%2fb", ".", "..", "%2e", "%2E%2e", "", "a.", ".a", "...", "~",
                            "%7E", "a;b", "%"])
PATHS = st.lists(SEGMENTS, max_size=5).map(lambda parts: "/" + "/".join(parts))
TARGETS = st.builds("{}{}".format, PATHS, st.sampled_from(["", "?", "?/../a", "?x=%61"]))
ROUTE_PATHS = st.one_of(st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/a%2fb", "/b"]), PATHS)
ROUTES = st.builds(
    lambda number, domains, path, priority: record(
        number, domains=tuple(dict.fromkeys(domains)), path=normalize_route_path(path), priority=priority),
    st.integers(1, 9), st.lists(DOMAINS, min_size=1, max_size=3), ROUTE_PATHS, st.integers(0, 1))
#: Routes come, change and go; a number alone stands for one that goes.
STEPS = st.lists(st.one_of(ROUTES, st.integers(1, 9)), max_size=14)


def found(table: Table, host: str, target: str) -> set[str]:
    """The ids of the pool that the proxy finds for a request."""
    pool = table.match(normalize_host(host), normalize_path(target), RequestHead("GET", target, 11, [], []))
    return {member.route_id for member in pool.members} if pool is not None else set()


@settings(max_examples=150, deadline=None)
@given(STEPS, st.lists(st.tuples(HOSTS, TARGETS), min_size=1, max_size=8))
def test_every_request_finds_the_pool_that_the_rules_say(steps: list[RouteRecord | int], asked: list[tuple[str, str]]) -> None:
    table = Table.empty()
    held: dict[str, RouteRecord] = {}
    for version, step in enumerate(steps, 1):
        if isinstance(step, int):
            held.pop(f"r{step}", None)
            table = table.with_changes(Snapshot(version, False, (), (f"r{step}",)))
        else:
            held[step.route_id] = step
            table = table.with_changes(Snapshot(version, False, (step,), ()))
    routes = list(held.values())
    full = Table.empty().with_changes(Snapshot(1, True, tuple(routes), ()))
    # What the routes themselves name is asked for, too, or most questions would find nothing.
    named = [(domain.replace("*", "b"), route.path + below) for route in routes for domain in route.domains for below in ("", "/x", "x")]
    for host, target in asked + named:
        wanted = expected(routes, plain_host(host), plain_path(target))
        assert found(table, host, target) == found(full, host, target) == wanted, (host, target)
        name = plain_host(host)
        domains = {domain for route in routes for domain in route.domains}
        assert table.knows_host(normalize_host(host)) is bool(domains & {name, "*", "*." + name.partition(".")[2]})


NESTED = ["/", "/a", "/a/b", "/a/b/c", "/a/bc", "/b"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NESTED), st.integers(0, 2)), min_size=1, max_size=8))
def test_on_one_host_priority_comes_first_and_length_second(made: list[tuple[str, int]]) -> None:
    routes = [record(number, domains=("h",), path=path, priority=priority) for number, (path, priority) in enumerate(made, 1)]
    table = Table.empty().with_changes(Snapshot(1, True, tuple(routes), ()))
    for path in (*NESTED, "/a/b/c/d", "/a/bcd"):
        assert found(table, "h", path) == expected(routes, "h", path), path


@settings(max_examples=250, deadline=None)
@given(TARGETS)
def test_a_path_in_normal_form_stays_as_it_is_and_never_climbs(target: str) -> None:
    path = normalize_path(target)
    assert path == plain_path(target)
    assert path.startswith("/")
    assert not {".", ".."} & set(path.split("/"))
    assert normalize_path(path) == path


@settings(max_examples=150, deadline=None)
@given(PATHS)
def test_a_route_covers_its_own_path_however_it_is_spelled(path: str) -> None:
    route_path = normalize_route_path(path)
    assert normalize_route_path(route_path) == route_path
    assert covers(route_path, normalize_path(path))


@settings(max_examples=150, deadline=None)
@given(HOSTS)
def test_a_host_in_normal_form_stays_as_it_is(host: str) -> None:
    assert normalize_host(host) == plain_host(host)
    assert normalize_host(normalize_host(host)) == normalize_host(host)


@pytest.mark.parametrize("host", ["[::1]", "[0:0:0:0:0:0:0:1]:80", "[0000::0001]"])
def test_an_ipv6_address_is_the_same_however_it_is_written(host: str) -> None:
    assert normalize_host(host) == normalize_domain("::1") == "[::1]"
