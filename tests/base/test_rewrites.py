"""Rewriting of paths: what it does, what is refused, and that no expression that is taken can be made slow by a path."""

from __future__ import annotations

import time
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.base.rewrites import LONGEST, parse_rewrite
from tests.support.timing import least

#: Expressions that are taken, with a path and what becomes of it.
TAKEN = [
    (r"/users/([0-9]+)/(.*) -> /u/\2/\1", "/users/7/a/b", "/u/a/b/7"),
    (r"/(.*)\.php -> /\1", "/a/b.php", "/a/b"),
    (r"^/blog/(\d{4})/([0-9]{2})/(.*)$ -> /posts/\1-\2/\3", "/blog/2024/07/x", "/posts/2024-07/x"),
    (r"/(en|de)/(.*) -> /\2?lang=\1", "/de/a", "/a?lang=de"),
    (r"/api/v([0-9]+)/(.*)/edit -> /e\1/\2", "/api/v2/a/b/edit", "/e2/a/b"),
    (r"/([^/]+)/([^/]+)/(.*) -> /\3/\2/\1", "/a/b/c/d", "/c/d/b/a"),
    (r"/a(/.*)? -> /b\1", "/a", "/b"),
    (r"/a(/.*)? -> /b\1", "/a/c", "/b/c"),
    (r"/x|/y(z*) -> /q\1", "/yzz", "/qzz"),
    (r"/x -> /y", "/x/z", None),
    (r"/x -> /y", "/ax", None),
    (r"/.*aaaaaaaaaab -> /x", "/aaaaaaaaaaaab", "/x"),
    (r"(?:/a|/aa|/aaa)?/.*x -> /y", "/aa/x", "/y"),
    (r"/.{0,50}.{0,50}x -> /y", "/zx", "/y"),
    (r"/a\.\$[.\]/-]\w+ -> /y", "/a.$]x_1", "/y"),
    # Each of the repetitions goes over the path at most twice: seven are taken, eight are not.
    (r"/a*b*c*d*e*f*g* -> /y", "/aabg", "/y"),
]


@pytest.mark.parametrize(("rule", "path", "made"), TAKEN)
def test_an_expression_matches_the_whole_path(rule: str, path: str, made: str | None) -> None:
    rewrite = parse_rewrite(f"~ {rule}")
    assert rewrite is not None
    assert rewrite.apply(path) == made


@pytest.mark.parametrize("rule", [rule for rule, _, _ in TAKEN])
def test_no_path_takes_more_than_some_passes_over_it(rule: str) -> None:
    """A pass and back is 16 thousand of the 120 thousand steps that a rule may take, and some steps take longer than these: rules
    that are taken took 45 passes at most, and one with twice as many repetitions 135."""
    rewrite, one = parse_rewrite(f"~ {rule}"), parse_rewrite("~ /a*b -> /y")
    assert rewrite is not None and one is not None
    once = ("/" + "a" * LONGEST)[:LONGEST - 1] + "!"
    for begin in ("/", "/users/1/", "/api/v1/", "/en/", "/blog/2024/07/", "/a/"):
        for piece in ("a", "/", "x", "1", ".", "a/", "/a", "aaaaaaaaab", ".ph", "/edi"):
            path = (begin + piece * LONGEST)[:LONGEST - 1] + "!"
            most = 80 * least(partial(one.apply, once), 20)
            assert least(partial(rewrite.apply, path), 20, most) < most, (rule, path[:40])


@pytest.mark.parametrize(("rule", "why"), [
    ("/.*.* -> /", "too long"), ("/(.*)/(.*) -> /", "too long"), ("/a*a*b -> /", "too long"), ("/a|.*b.*c -> /", "too long"),
    ("/.*aaaaaaaaaaaaaaaaaaaaaaaaaaaaab -> /", "too long"), ("/" + ".?" * 40 + "x -> /", "too long"),
    ("/" + "(?:a|a)?" * 20 + "x -> /", "too long"), ("/.{0,1000}.{0,1000}x -> /", "too long"), ("/a*b*c*d*e*f*g*h* -> /", "too long"),
    ("/(a+)+ -> /", "can't be repeated"),
    ("/(a){3} -> /", "can't be repeated"), (r"/(?=a) -> /", "only"), (r"/(?P<a>x) -> /", "only"), ("/(?i)a -> /", "only"),
    (r"/(a)\1 -> /\1", "is not known"), (r"/\x41 -> /", "is not known"), ("/\\ -> /", "is not known"), ("/a*? -> /", "followed by"),
    ("/a++ -> /", "followed by"), ("/a{1,2}{3} -> /", "repeats nothing"), ("/** -> /", "followed by"), ("/( -> /", "without its"),
    ("/a) -> /", "without its"), ("/^a -> /", "whole path"), ("/[a -> /", "class"), ("/[] -> /", "class"), ("/[[:alpha:]] -> /", "class"),
    ("/[z-a] -> /", "can't be read"), ("/a{3,2} -> /", "can't be read"), ("/ü -> /", "ASCII"), ("/a b -> /", "ASCII"),
    ("/a -> b", "is not a path"), (r"/a -> /\1", "group"), ("/a -> /\\", "is not a path"), ("/a -> /b#c", "is not a path"),
    ("/" + "a" * 256 + " -> /", "256"), ("/a", "neither"),
])
def test_what_could_be_slow_or_is_not_known_is_refused(rule: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_rewrite(f"~ {rule}")


@pytest.mark.parametrize("rule", ["/", "/a", "/a -> ", "-> /b", "a -> /b", "/a -> b", "/ -> /b", "/a?x -> /b", "/a->/b"])
def test_a_prefix_that_is_none_is_refused(rule: str) -> None:
    with pytest.raises(ValueError, match="path|neither|every"):
        parse_rewrite(rule)


@given(st.text("ab/.*+?|()[]{}\\^$12,-:", max_size=30))
def test_any_expression_is_taken_or_refused_and_what_is_taken_ends(text: str) -> None:
    try:
        rewrite = parse_rewrite(f"~ {text} -> /x")
    except ValueError:
        return
    assert rewrite is not None
    for path in ("/" + "a" * 4000 + "!", "/" + "ab/" * 1500, "a" * 4000):
        started = time.thread_time()
        rewrite.apply(path)
        assert time.thread_time() - started < 1.0
