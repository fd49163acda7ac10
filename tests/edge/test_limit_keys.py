"""Rate limits by something else than the address (rate_limit_key), over real sockets."""

from __future__ import annotations

import pytest

from tests.edge.conftest import Secure, make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.system import System


def limited(system: System, url: str, name: str, key: str, requests: int = 2, domain: str = "") -> str:
    client = system.client(name, name)
    client.route(domain or f"{name}.test", url, apply=False)
    client.ok(f"RATELIMIT_SET|SID|ALL|{requests}|1h")
    client.ok(f"OPTIONS_SET|SID|ALL|rate_limit_key|{key}")
    client.apply()
    return domain or f"{name}.test"


def statuses(system: System, host: str, *requests: tuple[str, ...]) -> list[int]:
    """The status of each request: its path, and its fields."""
    with Wire(system.proxy_port) as wire:
        return [wire.send(get(host, path, *fields)).response().status for path, *fields in requests]


def test_a_field_counts_each_of_its_values_and_what_has_none_by_address(edge: System, recorder: Recorder) -> None:
    host = limited(edge, recorder.url, "keyfield", "header:X-Api-Key")
    one, two, none = ("/", "x-api-key: one"), ("/", "X-API-KEY: two"), ("/",)
    assert statuses(edge, host, one, one, one, two, two, two, none, none, none) == [200, 200, 429] * 3


def test_a_cookie_counts_among_others(edge: System, recorder: Recorder) -> None:
    host = limited(edge, recorder.url, "keycookie", "cookie:sid")
    first, second = ("/", "Cookie: a=1; sid=x; b=2"), ("/", "Cookie: xsid=x; sid=y")
    assert statuses(edge, host, first, first, first, second, second, second) == [200, 200, 429] * 2


def test_a_part_of_the_path_counts_alone_and_with_others(edge: System, recorder: Recorder) -> None:
    host = limited(edge, recorder.url, "keypath", "path:1 + header:X-Key")
    found = statuses(edge, host, ("/a/1",), ("/a/2",), ("/a",), ("/b",), ("/a/3?x", "X-Key: k"), ("/a/./4",))
    assert found == [200, 200, 429, 200, 200, 429]


def test_the_refusal_names_the_key_and_the_row_has_the_address(edge: System, recorder: Recorder) -> None:
    host = limited(edge, recorder.url, "keytold", "header:X-Secret", 1)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/", "X-Secret: hidden")).response()
        answer = wire.send(get(host, "/", "X-Secret: hidden")).response()
    assert (answer.status, b"1 requests in 3600 s with this key" in answer.body) == (429, True)
    step = next(step for step in edge.admin(f"/api/v1/why?url=http://{host}/").json()["steps"] if step["name"] == "rate_limit")
    assert "counted by header:x-secret" in step["detail"]


def test_the_same_over_http_2(secure: Secure, recorder: Recorder) -> None:
    host = limited(secure.system, recorder.url, "keytwo", "header:x-key", 1, "keytwo.two.test")
    client = secure.client(host)
    found = [client.ask("GET", "/", headers=[("x-key", value)]).status for value in ("a", "a", "b")]
    client.close()
    assert found == [200, 429, 200]


@pytest.mark.parametrize("key", ["user name", "header:", "header:a b", "header:x_y", "path:0", "path:9", "path:x", "address:1", "cookie:",
                                 "", "address + address", "user:bob"])
def test_what_is_no_key_is_refused(edge: System, key: str) -> None:
    client = edge.client("badkey", "badkey")
    client.route("badkey.test", "http://127.0.0.1:9", apply=False)
    assert client.command(f"OPTIONS_SET|SID|ALL|rate_limit_key|{key}").startswith("ERROR|rate_limit_key: ")


def test_a_star_at_the_end_of_a_path_means_what_is_below_it(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url, path="/api/*")
    assert statuses(edge, host, ("/api/x/y",), ("/api",), ("/api/",), ("/apix",)) == [200, 200, 200, 404]
