"""httpbin behind the proxy, asked with the requests library, against the same httpbin asked directly: the same answers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth, HTTPDigestAuth
from urllib3.filepost import encode_multipart_formdata

from tests.edge.conftest import make_route
from tests.support.system import System
from tests.support.waiting import free_port, listens, wait_for

#: Fields that a proxy must change (Date is the moment's), and what it adds to what the backend sees.
OURS = {"date", "connection", "via", "x-request-id", "transfer-encoding", "content-length"}
ADDED = {"X-Forwarded-Host", "Forwarded"}
HOST = "http://bin.test"


class At(HTTPAdapter):
    """Sends every request to one port of this machine, whatever its host: what a resolver would do."""

    def __init__(self, port: int) -> None:
        self._port = port
        super().__init__()

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        return self.poolmanager.connection_from_host("127.0.0.1", self._port, "http")

    def add_headers(self, request: requests.PreparedRequest, **kwargs: Any) -> None:
        request.headers["Host"] = str(request.url).split("/")[2]


def session(port: int) -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    # For this connection alone, so a backend behind a proxy never sees it.
    del made.headers["Connection"]
    made.mount("http://", At(port))
    return made


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an httpbin."""
    port = free_port()
    directory = tmp_path_factory.mktemp("httpbin")
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}", "-k", "gthread", "--threads", "8", "--no-control-socket",
             "httpbin:app"],
            cwd=directory, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: listens(port), 20, "httpbin")
    yield port
    process.send_signal(signal.SIGINT)
    process.wait(10)


@pytest.fixture(scope="module")
def proxied(edge: System, direct: int) -> int:
    """The port of the proxy before it."""
    make_route(edge, f"http://127.0.0.1:{direct}", domain="bin.test")
    return edge.proxy_port


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory, direct: int) -> Iterator[int]:
    """The port of a proxy before it that compresses."""
    running = System(tmp_path_factory.mktemp("compressing"), workers=1)
    make_route(running, f"http://127.0.0.1:{direct}", domain="bin.test", compression=True)
    yield running.proxy_port
    running.stop()


@dataclass(frozen=True)
class Ask:
    """One call of `requests.Session.request`."""

    path: str
    method: str = "GET"
    more: Callable[[], dict[str, Any]] = dict
    #: Whether body, ETag and Last-Modified are others each time.
    random: bool = False


def ask(path: str, method: str = "GET", random: bool = False, **more: Any) -> Ask:
    return Ask(path, method, lambda: dict(more), random)


def pieces() -> Iterator[bytes]:
    for number in range(5):
        yield b"piece %d " % number * (number * 1000)


def form() -> dict[str, Any]:
    """A form with files, whose boundary is the same each time."""
    body, kind = encode_multipart_formdata(
        {"one": ("ü.txt", b"in a file" * 5000, "text/plain"), "two": ("b.bin", bytes(range(256))), "c": "d"}, "boundary")
    return {"data": body, "headers": {"Content-Type": kind}}


ASKS = [
    ask("/get?a=1&a=2&b=%C3%BC&c=a%2Fb%20d"), ask("/headers", headers={"X-One": "1", "x-two": "zwei", "Accept": "a/b, c/d;q=0.5"}),
    ask("/ip"), ask("/user-agent"), ask("/anything/a%2Fb/../c;d=e?f"), ask("/anything", "PUT", data="grüße".encode()),
    ask("/html"), ask("/json"), ask("/xml"), ask("/robots.txt"), ask("/deny"), ask("/encoding/utf8"), ask("/links/10/0"),
    ask("/base64/aGVsbG8="), ask("/image", headers={"Accept": "image/webp"}), ask("/image/png"), ask("/image/jpeg"), ask("/image/svg"),
    ask("/uuid", random=True), ask("/no/such/page"),
    ask("/get", "HEAD"), ask("/image/png", "HEAD"), ask("/get", "OPTIONS"), ask("/get", "POST"),
    ask("/post", "POST", data={"a": "1", "b": ["2", "3"]}), ask("/post", "POST", json={"a": [1, None, "ü"]}),
    ask("/post", "POST", data=b""), ask("/post", "POST", data=bytes(range(256)) * 300), Ask("/post", "POST", form),
    ask("/delete", "DELETE"), ask("/delete", "DELETE", json={"a": 1}), ask("/patch", "PATCH", data="x" * 70_000),
    # Chunked, since a generator has no length.
    Ask("/post", "POST", lambda: {"data": pieces()}), Ask("/put", "PUT", lambda: {"data": pieces()}),
    Ask("/anything", "POST", lambda: {"data": iter([b"one", b"", b"two"])}),
    *(ask(f"/status/{status}") for status in (200, 201, 202, 204, 304, 400, 401, 402, 406, 418, 429, 500, 502, 503, 504)),
    ask("/status/204", "POST"), ask("/status/204", "HEAD"), ask("/status/404", "HEAD"), ask("/status/500", "DELETE"),
    ask("/redirect/4"), ask("/relative-redirect/3"), ask("/absolute-redirect/3"), ask("/redirect/2", allow_redirects=False),
    *(ask(f"/redirect-to?url=/anything&status_code={status}", "POST", data={"a": "b"}) for status in (301, 302, 303, 307, 308)),
    ask(f"/redirect-to?url={HOST}/get%3Fx%3D1"),
    ask("/cookies", cookies={"a": "b", "c": "d"}), ask("/cookies/set?a=b&c=d"), ask("/cookies/set/e/f"),
    ask("/basic-auth/user/secret", auth=HTTPBasicAuth("user", "secret")),
    ask("/basic-auth/user/secret", auth=HTTPBasicAuth("user", "wrong")), ask("/hidden-basic-auth/user/secret"),
    Ask("/digest-auth/auth/user/secret", "GET", lambda: {"auth": HTTPDigestAuth("user", "secret")}),
    ask("/bearer", headers={"Authorization": "Bearer abc"}), ask("/bearer"),
    ask("/gzip"), ask("/deflate"), ask("/brotli"), ask("/gzip", headers={"Accept-Encoding": "identity"}),
    ask("/stream/30"), ask("/stream-bytes/70000?seed=1&chunk_size=777"), ask("/bytes/70000?seed=1"), ask("/bytes/0"),
    *(ask("/range/4000?chunk_size=100", headers={"Range": value}) for value in (
        "bytes=0-99", "bytes=100-", "bytes=-50", "bytes=0-3999", "bytes=3990-5000", "bytes=5000-", "bytes=99-1", "nonsense")),
    ask("/range/4000"), ask("/range/4000", "HEAD"),
    ask("/etag/abc"), ask("/etag/abc", headers={"If-None-Match": '"abc"'}), ask("/etag/abc", headers={"If-Match": '"x"'}),
    ask("/etag/abc", headers={"If-None-Match": '"x", W/"abc"'}), ask("/cache", random=True), ask("/cache/60"),
    ask("/cache", headers={"If-Modified-Since": "Sat, 29 Oct 1994 19:43:31 GMT"}),
    ask("/response-headers?X-A=b&X-A=c&Content-Type=text/plain%3B+charset%3DUTF-8"),
    ask("/response-headers?Set-Cookie=a%3Db%3B+Path%3D/&Set-Cookie=c%3Dd"),
    ask("/drip?numbytes=20&duration=0.05&delay=0&code=202"), ask("/delay/0.1"),
]


@dataclass
class Told:
    """What the library says about an answer."""

    status: int
    reason: str
    url: str
    headers: dict[str, str]
    body: Any
    cookies: dict[str, str]
    history: list[tuple[int, str]]


def _seen(body: bytes) -> Any:
    """A body; where it tells the request's headers, without those that we add."""
    try:
        told = [json.loads(line) for line in (body.splitlines() if body.startswith(b"{\"url\"") else [body])]
        for one in told:
            one["headers"] = {name: value for name, value in one["headers"].items() if name not in ADDED}
    except (ValueError, KeyError, TypeError):
        return body
    return told


def outcome(port: int, what: Ask) -> Told:
    with session(port) as asking:
        response = asking.request(what.method, HOST + what.path, timeout=20, **what.more())
        headers = {name.lower(): value for name, value in response.headers.items() if name.lower() not in OURS}
        if headers.get("www-authenticate", "").startswith("Digest"):
            del headers["www-authenticate"]
        if what.random:
            headers = {name: value for name, value in headers.items() if name not in ("etag", "last-modified")}
        cookies = {name: value for name, value in asking.cookies.items() if name not in ("fake", "stale_after", "last_nonce")}
        return Told(response.status_code, response.reason, str(response.url), headers, "" if what.random else _seen(response.content),
                    cookies, [(earlier.status_code, str(earlier.url)) for earlier in response.history])


def _coded(told: Told) -> Told:
    """Without what compression changes: the coding, and that it is one of several."""
    told.headers = {name: value.removeprefix("W/") for name, value in told.headers.items()
                    if name not in ("content-encoding", "vary", "accept-ranges")}
    return told


@pytest.mark.parametrize("what", ASKS, ids=[f"{what.method} {what.path}" for what in ASKS])
def test_the_same_answer_as_directly(what: Ask, direct: int, proxied: int) -> None:
    assert outcome(proxied, what) == outcome(direct, what)


@pytest.mark.parametrize("what", ASKS, ids=[f"{what.method} {what.path}" for what in ASKS])
def test_the_same_answer_as_directly_though_compressed_on_the_way(what: Ask, direct: int, compressed: int) -> None:
    assert _coded(outcome(compressed, what)) == _coded(outcome(direct, what))


def test_some_answers_are_compressed_on_the_way(compressed: int, direct: int) -> None:
    for port, coding in ((compressed, "br"), (direct, None)):
        with session(port) as asking:
            assert asking.get(f"{HOST}/html", timeout=20).headers.get("Content-Encoding") == coding


def test_a_session_keeps_cookies_and_its_connection_over_many_requests(direct: int, proxied: int) -> None:
    seen = []
    for port in (direct, proxied):
        with session(port) as asking:
            asking.get(f"{HOST}/cookies/set?a=1&b=2", timeout=20)
            asking.get(f"{HOST}/cookies/delete?a", timeout=20)
            asking.post(f"{HOST}/post", data=pieces(), timeout=20)
            answers = [asking.get(f"{HOST}/cookies", timeout=20).json() for _ in range(3)]
            adapter = asking.get_adapter(HOST)
            assert isinstance(adapter, At)
            (pool,) = adapter.poolmanager.pools._container.values()
            seen.append((answers, dict(asking.cookies), pool.num_connections))
    assert seen[0][:2] == seen[1][:2] == ([{"cookies": {"b": "2"}}] * 3, {"b": "2"})
    assert seen[1][2] == 1


def test_a_stream_arrives_as_it_is_made(direct: int, proxied: int, compressed: int) -> None:
    for port in (direct, proxied, compressed):
        with session(port) as asking, asking.get(f"{HOST}/drip?numbytes=4&duration=1&delay=0", stream=True, timeout=20) as response:
            arrived = [time.monotonic() for _ in response.iter_content(1)]
            assert len(arrived) == 4
            assert arrived[-1] - arrived[0] > 0.2, "held back until it was whole"
