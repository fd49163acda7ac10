"""Urls, domains and paths: routes and requests come to one form, so that what looks alike is matched alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxyd.base.paths import normalize_host, normalize_path
from proxyd.base.urls import normalize_domain, normalize_route_path, parse_backend

LABEL = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: not re.fullmatch(r"[0-9.]+", name))
PATH = st.lists(st.sampled_from(["a", "b", ".", "..", "", "%41", "%2e", "%2F", "%c3%a9", "x.y", "..."]), max_size=7).map(
    lambda segments: "/" + "/".join(segments))


@pytest.mark.parametrize(("url", "scheme", "host", "port", "path", "websocket", "authority"), [
    ("http://127.0.0.1:3000", "http", "127.0.0.1", 3000, "", False, "127.0.0.1:3000"),
    ("https://App.Example.com/v1/", "https", "app.example.com", 443, "/v1", False, "app.example.com"),
    ("ws://[::1]:80/s", "http", "::1", 80, "/s", True, "[::1]"),
    ("wss://h:8443", "https", "h", 8443, "", True, "h:8443"),
])
def test_a_backend_url_is_taken_apart(url: str, scheme: str, host: str, port: int, path: str, websocket: bool,
                                      authority: str) -> None:
    backend = parse_backend(url)
    assert (backend.scheme, backend.host, backend.port, backend.path, backend.websocket, backend.authority) == (
        scheme, host, port, path, websocket, authority)


@pytest.mark.parametrize("url", [
    "", "127.0.0.1:3000", "ftp://h", "http://", "http://:80", "http://h:0", "http://h:99999", "http://h:x", "http://u:p@h",
    "http://h/?q", "http://h/#f", "http://h/a b", "http://h\r\nX: y", "http://-h-", "http://h/" + "a" * 2048, "http://[::1",
    "http://ex ample", "http://h/\x7f", "http://a..b",
])
def test_a_backend_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match='^"'):
        parse_backend(url)


@given(st.sampled_from(["http", "https", "ws", "wss"]), NAME, st.integers(1, 65535), st.sampled_from(["", "/a", "/a/b%20c"]))
def test_a_backend_put_together_again_is_the_same(scheme: str, name: str, port: int, path: str) -> None:
    backend = parse_backend(f"{scheme}://{name}:{port}{path}")
    assert (backend.host, backend.port, backend.path) == (name, port, path)
    assert parse_backend(f"{backend.scheme}://{backend.authority}{backend.path}/").authority == backend.authority


@pytest.mark.parametrize(("written", "normal"), [
    ("App.Example.COM.", "app.example.com"), ("*", "*"), ("*.Example.com", "*.example.com"), ("bücher.de", "xn--bcher-kva.de"),
    ("*.bücher.de", "*.xn--bcher-kva.de"), ("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("[0:0::1]", "[::1]"),
    ("_dmarc.x", "_dmarc.x"),
])
def test_a_domain_is_brought_to_the_form_that_is_matched(written: str, normal: str) -> None:
    assert normalize_domain(written) == normal
    assert normalize_domain(normal) == normal


@pytest.mark.parametrize("written", [
    "", ".", "*.", "a..b", "a.*.b", "*x.com", "a b", "a/b", "a:80", "-a.b", "a-.b", "*.127.0.0.1", "x" * 64 + ".de",
    "a." * 127 + "com", "a\nb", "http://a",
])
def test_a_domain_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a domain"):
        normalize_domain(written)


@given(NAME, st.sampled_from(["", ":80", ":", "."]))
def test_a_host_field_meets_the_domain_of_the_same_name(name: str, tail: str) -> None:
    domain = normalize_domain(name)
    assert normalize_host(name.upper() + tail) == domain
    assert normalize_host(domain) == domain


@pytest.mark.parametrize(("raw", "normal"), [
    ("[::1]:8000", "[::1]"), ("[::1]", "[::1]"), (" a.b ", "a.b"), ("", ""), ("b\u00c3\u00bccher.de", "xn--bcher-kva.de"),
    ("a.b.:80", "a.b"),
])
def test_a_host_field_is_brought_to_the_form_that_is_matched(raw: str, normal: str) -> None:
    assert normalize_host(raw) == normal


@given(st.text(max_size=40))
def test_no_host_field_makes_matching_fail(raw: str) -> None:
    assert isinstance(normalize_host(raw), str)


@pytest.mark.parametrize(("target", "normal"), [
    ("/a/b?x=/../c", "/a/b"), ("/a/../b", "/b"), ("/../../etc", "/etc"), ("/a/./b/.", "/a/b/"), ("/a/..", "/"),
    ("/%61%2e", "/a."),
    ("/a/%2e%2E/b", "/b"), ("/a%2fb", "/a%2Fb"), ("*", "/"), ("", "/"), ("/a//b", "/a//b"), ("/...", "/..."),
    ("/.hidden", "/.hidden"),
    ("/%zz", "/%zz"), ("/%c3%a9", "/%C3%A9"), ("/a;b=1/c", "/a;b=1/c"),
])
def test_a_path_is_brought_to_the_form_that_is_matched(target: str, normal: str) -> None:
    assert normalize_path(target) == normal
    assert normalize_path(target) == normal


def naive(path: str) -> str:
    """RFC 3986 5.2.4 by the letter."""
    source, out = path, ""
    while source:
        if source.startswith("/./"):
            source = source[2:]
        elif source == "/.":
            source = "/"
        elif source.startswith("/../") or source == "/..":
            source = source[3:] or "/"
            out = out.rpartition("/")[0]
        else:
            cut = source.find("/", 1)
            cut = len(source) if cut < 0 else cut
            out, source = out + source[:cut], source[cut:]
    return out


@given(PATH)
@example("/a//../b")
@example("/..//")
def test_dot_segments_go_as_the_rfc_says_and_none_stays(path: str) -> None:
    normal = normalize_path(path)
    decoded = path.replace("%41", "A").replace("%2e", ".").replace("%c3%a9", "%C3%A9")
    assert normal == naive(decoded)
    assert not {".", ".."} & set(normal.split("/"))
    assert normalize_path(normal) == normal


@given(PATH.filter(lambda path: ".." not in path and "%2e" not in path))
def test_a_long_path_is_read_as_a_short_one_is(path: str) -> None:
    assert normalize_path("/" + "x" * 300 + path) == "/" + "x" * 300 + normalize_path(path)


@given(PATH)
def test_a_route_path_ends_without_a_slash_and_stays_as_it_is(path: str) -> None:
    normal = normalize_route_path(path)
    assert normal == "/" or not normal.endswith("/")
    assert normalize_route_path(normal) == normal


@pytest.mark.parametrize(("written", "normal"), [("", "/"), ("/", "/"), ("/api/", "/api"), (" /a ", "/a"), ("/a/../b/", "/b")])
def test_a_route_path_is_brought_to_one_form(written: str, normal: str) -> None:
    assert normalize_route_path(written) == normal


@pytest.mark.parametrize("written", ["api", "/a b", "/a?b", "/é", "/a#b", "/" + "a" * 1024, '/"', "/a\nb", "/<x>"])
def test_a_route_path_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a path"):
        normalize_route_path(written)
