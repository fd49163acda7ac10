"""Paths that could get round a rule: what is matched is what the backend gets, and what it might read as another route is refused."""

from __future__ import annotations

import pytest

from tests.edge.conftest import make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.system import System

#: Each leads to /admin for some backend, by a route of / or by itself.
ROUND = ["//admin", "/foo/..//admin", "/./admin", "/%61dmin", "/foo/%2e%2e/admin", "/foo/..//./admin"]
AMBIGUOUS = ["/admin%2fx", "/admin;x", "/foo/..;/admin", "/admin%5cx", "/foo%2f..%2fadmin", "/admin%3bx", "/foo\\..\\admin",
             "/admin;%2f..%2ffoo", "/admin%2f..;x/foo", "/admin%2f../foo", "/x%2f..%2fadmin%2f..%5cy", "/admin\\..\\foo"]
CLEAR = ["/foo%2fbar", "/foo;x=1/bar", "/a%5cb", "/adminx%2fy"]


@pytest.fixture(scope="module")
def guarded(edge: System, recorder: Recorder) -> str:
    """A domain whose /admin is in maintenance, and whose / is not."""
    host = "guarded.paths.test"
    client = edge.client("guarded-paths")
    client.route(host, recorder.url, apply=False)
    admin = client.route(host, recorder.url, path="/admin")
    assert client.command(f"MAINT_ENTER|SID|{admin}|") == "ACK"
    assert client.line().startswith("MAINT_OK")
    return host


def ask(edge: System, host: str, target: str) -> tuple[int, str]:
    with Wire(edge.proxy_port) as wire:
        answer = wire.send(get(host, target)).response()
    return answer.status, answer.get("X-Proxyd-Reason") or ""


@pytest.mark.parametrize("target", ROUND)
def test_a_path_spelled_otherwise_meets_its_own_rule(edge: System, recorder: Recorder, guarded: str, target: str) -> None:
    recorder.forget()
    assert ask(edge, guarded, target) == (503, "maintenance")
    assert recorder.requests() == []


@pytest.mark.parametrize("target", AMBIGUOUS)
def test_a_path_that_may_be_read_as_another_routes_is_refused(edge: System, recorder: Recorder, guarded: str, target: str) -> None:
    recorder.forget()
    assert ask(edge, guarded, target) == (400, "ambiguous_path")
    assert recorder.requests() == []


@pytest.mark.parametrize("target", CLEAR)
def test_one_that_leads_to_the_same_route_either_way_is_passed_on_as_it_came(
        edge: System, recorder: Recorder, guarded: str, target: str) -> None:
    recorder.forget()
    assert ask(edge, guarded, target)[0] == 200
    assert recorder.requests()[0].line.split()[1] == target


@pytest.mark.parametrize(("target", "arrives"), [
    ("/admin/../foo", "/foo"), ("/a//b?c=//d", "/a/b?c=//d"), ("/a/./b", "/a/b"), ("/a%2fb//c", "/a%2Fb/c"), ("/a%c3%a9", "/a%c3%a9")])
def test_what_was_matched_is_what_the_backend_gets(edge: System, recorder: Recorder, target: str, arrives: str) -> None:
    host = make_route(edge, recorder.url)
    recorder.forget()
    assert ask(edge, host, target)[0] == 200
    assert recorder.requests()[0].line.split()[1] == arrives


def test_options_keep_the_raw_form_and_let_the_ambiguous_pass(edge: System, recorder: Recorder) -> None:
    client = edge.client("raw-paths")
    plain = client.route("raw.paths.test", recorder.url, apply=False)
    client.route("raw.paths.test", recorder.url, path="/admin", apply=False)
    client.options(plain, raw_path="true", ambiguous_path="pass")
    for target in ("/a//b/../c", "/foo/..;/admin"):
        recorder.forget()
        assert ask(edge, "raw.paths.test", target)[0] == 200
        assert recorder.requests()[0].line.split()[1] == target


#: A prefix that is stripped from a route of the whole host, and a backend below a path of its own.
OUT = ["/..%2fadmin", "/%2e%2e%2fadmin", "/..;/admin", "/x/..%5c..\\admin", "/x%2f..%2f..%2fadmin", "/a;%2f..%2f../../..%2fadmin"]
WITHIN = ["/x/..%2fy", "/x;a/y", "/x%2f..%2fy", "/..x%2fy"]


@pytest.mark.parametrize(("base", "prefix", "options"), [
    ("/base", "", {}), ("/base", "/strip", {"strip_prefix": "/strip"}), ("", "/strip", {"strip_prefix": "/strip"}),
    ("", "/old", {"rewrite": "/old -> /new"}), ("/base", "", {"raw_path": "true"}), ("/base", "", {"rewrite": r"~ /q/(.*) -> /\1"})],
    ids=["base", "base and prefix", "prefix", "instead", "raw", "expression"])
def test_no_reading_leads_out_of_where_the_backend_is(edge: System, recorder: Recorder, base: str, prefix: str,
                                                      options: dict[str, str]) -> None:
    host = make_route(edge, recorder.url + base, **options)
    for target in OUT:
        recorder.forget()
        assert (target, *ask(edge, host, prefix + target)) == (target, 400, "ambiguous_path")
        assert recorder.requests() == []
    for target in WITHIN:
        assert (target, *ask(edge, host, prefix + target)) == (target, 200, "")


def test_an_option_lets_them_out(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, f"{recorder.url}/base", ambiguous_path="pass")
    recorder.forget()
    assert ask(edge, host, "/..%2fadmin")[0] == 200
    assert recorder.requests()[0].line.split()[1] == "/base/..%2Fadmin"
