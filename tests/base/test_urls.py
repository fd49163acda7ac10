"""Backend urls, and domains and paths of routes: each comes to one form, in which requests are matched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.base.urls import normalize_domain, normalize_route_path, parse_backend, parse_web_url
from tests.base.strategies import NAME, PATH


@pytest.mark.parametrize(("url", "scheme", "host", "port", "path", "websocket", "authority"), [
    ("http://127.0.0.1:3000", "http", "127.0.0.1", 3000, "", False, "127.0.0.1:3000"),
    ("https://App.Example.com/v1/", "https", "app.example.com", 443, "/v1", False, "app.example.com"),
    ("ws://[::1]:80/s", "http", "::1", 80, "/s", True, "[::1]"),
    ("wss://h:8443", "https", "h", 8443, "", True, "h:8443"),
    ("unix:/run/app.sock", "http", "/run/app.sock", 0, "", False, "localhost"),
    ("unix:///run/App.sock:/v1/", "http", "/run/App.sock", 0, "/v1", False, "localhost"),
    ("http://unix:/run/app.sock", "http", "/run/app.sock", 0, "", False, "localhost"),
    ("ws://unix:/run/app.sock:/x", "http", "/run/app.sock", 0, "/x", True, "localhost"),
])
def test_a_backend_url_is_taken_apart(url: str, scheme: str, host: str, port: int, path: str, websocket: bool,
                                      authority: str) -> None:
    backend = parse_backend(url)
    assert (backend.scheme, backend.host, backend.port, backend.path, backend.websocket, backend.authority) == (
        scheme, host, port, path, websocket, authority)


@pytest.mark.parametrize("url", [
    "", "127.0.0.1:3000", "ftp://h", "http://", "http://:80", "http://h:0", "http://h:99999", "http://h:x", "http://u:p@h",
    "http://h/?q", "http://h/#f", "http://h/a b", "http://h\r\nX: y", "http://-h-", "http://h/" + "a" * 2048, "http://[::1",
    "http://ex ample", "http://h/\x7f", "http://a..b", "http://[::1]evil.test/", "http://a..", "http://.", "http://[v1.a]", "http://0x7f.1",
    "http://[::1%lo]", "http://[::1%25lo]:80", "http://127.1", "http://2130706433", "http://0x7f000001", "http://127.0.0.1.",
    "http://127.0.0.01", "http://256.0.0.1", "http://1.0x2.3.4", "http://h:", "http://h:80:80", "http://[::1", "http://::1", "http://[]",
    "http://[127.0.0.1]", "http://a%2eb", "http://a\\@b", "http://a,b", "http://[::1]:x", "http://h:+80", "http://h:٨٠", "http:///x",
    "unix:run/app.sock", "unix:/run/../app.sock", "https://unix:/run/app.sock", "unix:/run/app.sock:x", "unix:/run//app.sock",
    "http:h", "http:/h", "http://h?x", "http://h/?", "http://h#",
])
def test_a_backend_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match='^"'):
        parse_backend(url)


@pytest.mark.parametrize("url", ["http://a.", "http://web_1:80", "http://1a.2", "HTTP://H", "http://[::FFFF:1.2.3.4]:1/x"])
def test_a_backend_url_that_looks_odd_is_taken(url: str) -> None:
    assert parse_backend(url).host


@pytest.mark.parametrize("url", ["", "https://hooks.example/services/x?y=z#f", "http://u:p@h/x", "http://[::1]:8/"])
def test_a_web_url_is_kept_as_it_is(url: str) -> None:
    assert parse_web_url(f" {url} ") == url


@pytest.mark.parametrize("url", ["h/x", "ftp://h", "http://", "http://[::1]x/", "http://0x7f.1/", "http://h/a b", "http://u:secret@"])
def test_a_web_url_that_is_none_is_refused_and_its_secret_not_told(url: str) -> None:
    with pytest.raises(ValueError, match="url|host") as refused:
        parse_web_url(url)
    assert "secret" not in str(refused.value)


@given(st.sampled_from(["http", "https", "ws", "wss"]), NAME, st.integers(1, 65535), st.sampled_from(["", "/a", "/a/b%20c"]))
def test_a_backend_put_together_again_is_the_same(scheme: str, name: str, port: int, path: str) -> None:
    backend = parse_backend(f"{scheme}://{name}:{port}{path}")
    assert (backend.host, backend.port, backend.path) == (name, port, path)
    assert parse_backend(f"{backend.scheme}://{backend.authority}{backend.path}/").authority == backend.authority


@pytest.mark.parametrize(("written", "normal"), [
    ("App.Example.COM.", "app.example.com"), ("*", "*"), ("*.Example.com", "*.example.com"), ("bücher.de", "xn--bcher-kva.de"),
    ("*.bücher.de", "*.xn--bcher-kva.de"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[0:0::1]", "[::1]"),
    ("_dmarc.x", "_dmarc.x"), ("1and1.com", "1and1.com"), ("127.0.0.1.", "127.0.0.1"), ("0x.a", "0x.a"),
])
def test_a_domain_is_brought_to_the_form_that_is_matched(written: str, normal: str) -> None:
    assert normalize_domain(written) == normal
    assert normalize_domain(normal) == normal


@pytest.mark.parametrize("written", [
    "", ".", "*.", "a..b", "a.*.b", "*x.com", "a b", "a/b", "a:80", "-a.b", "a-.b", "*.127.0.0.1", "x" * 64 + ".de",
    "a." * 127 + "com", "a\nb", "http://a", "::1%x y", "::1%lo", "[::1%lo]", "[::1", "::1]", "[[::1]]", "a..", "127.0.0.1..",
    "0x7f.1", "127.1", "010.0.0.1", "*.1", "*.[::1]", "１２７.1", "[a.b]", "[127.0.0.1]",
])
def test_a_domain_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a domain"):
        normalize_domain(written)


@given(PATH)
def test_a_route_path_ends_without_a_slash_and_stays_as_it_is(path: str) -> None:
    normal = normalize_route_path(path)
    assert normal == "/" or not normal.endswith("/")
    assert normalize_route_path(normal) == normal


@pytest.mark.parametrize(("written", "normal"), [("", "/"), ("/", "/"), ("/api/", "/api"), (" /a ", "/a"), ("/a/../b/", "/b"),
                                                 ("/api/*", "/api"), ("/*", "/"), ("/a/*/*/", "/a"), ("/a*", "/a*")])
def test_a_route_path_is_brought_to_one_form(written: str, normal: str) -> None:
    assert normalize_route_path(written) == normal


@pytest.mark.parametrize("written", ["api", "/a b", "/a?b", "/é", "/a#b", "/" + "a" * 1024, '/"', "/a\nb", "/<x>"])
def test_a_route_path_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        normalize_route_path(written)
