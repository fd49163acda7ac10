"""The route table: the matching rules, and that a table changed step by step is the one loaded at once."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from proxyd.http1 import RequestHead
from proxyd.proxy.route.table import Table
from proxyd.store.sql.snapshot import RouteRecord, Snapshot


def record(number: int, domain: str, path: str = "/", priority: int = 0) -> RouteRecord:
    return RouteRecord(f"r{number}", "s", "svc", "i", (domain,), path, f"http://127.0.0.1:{3000 + number}", priority, True,
                       number, 1, (), (), (), 0.0, "", 0.0, 0.0)


def loaded(*records: RouteRecord) -> Table:
    return Table.empty().with_changes(Snapshot(1, True, records, ()))


def matched(table: Table, host: str, path: str) -> list[str]:
    pool = table.match(host, path, RequestHead("GET", path, 11, [], []))
    return sorted(member.route_id for member in pool.members) if pool else []


def test_an_exact_host_beats_a_wildcard_of_one_label_which_beats_any() -> None:
    table = loaded(record(1, "a.x.de"), record(2, "*.x.de"), record(3, "*"))
    assert [matched(table, host, "/") for host in ("a.x.de", "b.x.de", "a.b.x.de", "x.de")] == [["r1"], ["r2"], ["r3"], ["r3"]]


def test_a_path_matches_whole_segments_only() -> None:
    table = loaded(record(1, "h", "/api"))
    assert [matched(table, "h", path) for path in ("/api", "/api/", "/api/x", "/apix", "/")] == [["r1"]] * 3 + [[], []]


def test_priority_comes_before_length() -> None:
    table = loaded(record(1, "h", "/a/b"), record(2, "h", "/a", 5), record(3, "h", "/"))
    assert [matched(table, "h", path) for path in ("/a/b", "/a", "/c")] == [["r2"], ["r2"], ["r3"]]


def test_among_routes_of_a_path_priority_comes_first_and_then_the_conditions() -> None:
    def route(number: int, options: dict[str, str], path: str = "/a", priority: int = 0) -> RouteRecord:
        return replace(record(number, "h", path, priority), options=tuple(options.items()))

    table = loaded(
        route(1, {}), route(2, {"match_header": "X-Version: 2"}), route(3, {"match_method": "POST", "match_header": "x-version:2"}),
        route(4, {"match_header": "X-Version:  2"}), route(5, {}, "/"), route(6, {"match_query": "debug"}, "/", 9),
        route(7, {"match_cookie": "only"}, "/a/b"))

    def found(target: str, *fields: tuple[str, str], method: str = "GET") -> list[str]:
        pool = table.match("h", target.partition("?")[0], RequestHead(method, target, 11, list(fields), []))
        return sorted(member.route_id for member in pool.members) if pool else []

    two = ("X-Version", "2")
    assert [found("/a"), found("/a", two), found("/a", two, method="POST"), found("/a", ("X-Version", "3"))] == [
        ["r1"], ["r2", "r4"], ["r3"], ["r1"]]
    assert [found("/a?debug=1", two), found("/b"), found("/b?debug")] == [["r6"], ["r5"], ["r6"]]
    assert [found("/a/b/c"), found("/a/b/c", ("Cookie", "x=1; only=")), found("/a/b/c", two)] == [["r1"], ["r7"], ["r2", "r4"]]
    assert loaded(route(1, {"match_method": "GET"})).match("h", "/a", RequestHead("PUT", "/a", 11, [], [])) is None


def test_a_route_whose_conditions_can_not_be_read_takes_nothing_and_one_with_another_mistake_serves() -> None:
    broken = replace(record(1, "h"), options=(("match_header", "X_Canary"),))
    other = replace(record(2, "h"), options=(("timeout", "soon"),))
    assert matched(loaded(broken, other), "h", "/") == ["r2"]
    assert matched(loaded(broken), "h", "/") == []


HOSTS, PATHS = ["a.x", "*.x", "*"], ["/", "/a", "/a/b", "/b"]
RECORDS = st.builds(record, st.integers(1, 8), st.sampled_from(HOSTS), st.sampled_from(PATHS), st.integers(0, 2))


def naive(records: list[RouteRecord], host: str, path: str) -> list[str]:
    for domain in (host, "*." + host.partition(".")[2], "*"):
        fit = [item for item in records if item.domains == (domain,)
               and (item.path == "/" or path == item.path or path.startswith(item.path + "/"))]
        if fit:
            best = max((item.priority, len(item.path)) for item in fit)
            return sorted(item.route_id for item in fit if (item.priority, len(item.path)) == best)
    return []


@given(st.lists(st.one_of(RECORDS, st.integers(1, 8)), max_size=25))
def test_changes_one_by_one_match_as_a_naive_search_and_a_full_load(steps: list[RouteRecord | int]) -> None:
    table = Table.empty()
    held: dict[str, RouteRecord] = {}
    for version, step in enumerate(steps, 1):
        if isinstance(step, int):
            held.pop(f"r{step}", None)
            table = table.with_changes(Snapshot(version, False, (), (f"r{step}",)))
        else:
            held[step.route_id] = step
            table = table.with_changes(Snapshot(version, False, (step,), ()))
    full = loaded(*held.values())
    for host in ("a.x", "b.x", "c"):
        for path in ("/", "/a", "/a/b", "/a/b/c", "/ab", "/b/"):
            expected = naive(list(held.values()), host, path)
            assert matched(table, host, path) == matched(full, host, path) == expected
