"""Hosts and paths of requests: they come to the form in which routes name them, so that what looks alike is matched alike."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxyd.base.paths import normalize_host, normalize_path, request_path
from proxyd.base.urls import normalize_domain
from tests.base.strategies import NAME, PATH


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
    ("/a/%2e%2E/b", "/b"), ("/a%2fb", "/a%2Fb"), ("*", "/"), ("", "/"), ("/a//b", "/a/b"), ("//", "/"),
    ("/foo/..//admin", "/admin"), ("/a//../b", "/b"), ("/...", "/..."),
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
    assert normal == naive(re.sub("/+", "/", decoded))
    assert not {".", ".."} & set(normal.split("/"))
    assert normalize_path(normal) == normal


@given(PATH.filter(lambda path: ".." not in path and "%2e" not in path))
def test_a_long_path_is_read_as_a_short_one_is(path: str) -> None:
    assert normalize_path("/" + "x" * 300 + path) == "/" + "x" * 300 + normalize_path(path)


@pytest.mark.parametrize(("target", "lenient"), [
    ("/admin/x", ""), ("/a%20b", ""), ("/admin%2fx", "/admin/x"), ("/admin;x", "/admin"), ("/a/..;/admin", "/admin"), ("/a%3Bb/c", "/a/c"),
    ("/a\\..\\admin", "/admin"), ("/a%5cb", "/a/b"), ("/strip/%2e%2e%2fadmin", "/admin"), ("/a?b=;c%2f", "")])
def test_what_backends_read_in_two_ways_is_read_in_the_other_one_too(target: str, lenient: str) -> None:
    assert next(iter(request_path(target)[1]), "") == lenient


@pytest.mark.parametrize(("target", "reading"), [
    # Who cuts parameters before it decodes, who only decodes %2F, who leaves dot segments alone, who turns backslashes only.
    ("/admin;%2f..%2ffoo", "/admin"), ("/admin%2f..;x/foo", "/admin/..;x/foo"), ("/admin%2f../foo", "/admin/../foo"),
    ("/x%2f..%2fadmin%2f..%5cy", "/admin/..%5Cy"), ("/admin\\x%2f..%2f..%2fy", "/admin/x%2F..%2F..%2Fy"),
    ("/foo;%2fbar/admin", "/foo/admin")])
def test_a_backend_that_reads_less_leniently_counts_too(target: str, reading: str) -> None:
    assert reading in request_path(target)[1]


def test_dot_segments_that_the_backend_never_gets_count_for_nothing() -> None:
    assert not any(reading.startswith("/foo") for reading in request_path("/foo/../x;y")[1])
