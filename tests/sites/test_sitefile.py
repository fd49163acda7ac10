"""Site files: read whole, or refused with every mistake named by file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.config import routechecks
from proxyd.sites.sitefile import Site, parse_site

EXAMPLES = Path(__file__).resolve().parents[2] / "conf" / "sites-available"
SMALL = "[route main]\ndomains = a.example\nbackends = http://127.0.0.1:3000\n"


def good(content: str) -> Site:
    site, problems = parse_site(content, "x.ini", "x")
    assert problems == []
    return site


def wrong(content: str) -> list[str]:
    return [str(problem) for problem in parse_site(content, "x.ini", "x")[1]]


def test_a_small_file_has_defaults_for_all_it_does_not_say() -> None:
    site = good(SMALL)
    route = site.routes["main"]
    assert (site.name, site.service, site.enabled) == ("x", "x", True)
    assert (route.domains, route.path, route.backends, route.priority) == (("a.example",), "/", ("http://127.0.0.1:3000",), 0)
    assert (route.headers, route.options, route.rate_limits) == ({}, {}, [])


def test_a_full_file_is_read_as_written() -> None:
    site = good((EXAMPLES / "full.ini.example").read_text(encoding="utf-8"))
    web, api = site.routes["web"], site.routes["api"]
    assert site.service == "shop"
    assert web.backends == ("http://10.0.0.11:8080", "http://10.0.0.12:8080")
    assert (api.path, api.priority, api.rate_limits) == ("/api", 10, [(100, 60.0), (1000, 3600.0)])
    assert web.headers == api.headers == {"X-Frame-Options": "DENY", "Referrer-Policy": "strict-origin-when-cross-origin"}
    assert (web.options["timeout"], api.options["timeout"]) == ("10s", "30s")
    assert web.rate_limits == []


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.example")), ids=lambda path: path.name)
def test_every_example_that_is_shipped_passes(example: Path) -> None:
    good(example.read_text(encoding="utf-8"))


def test_what_a_route_says_itself_wins_wherever_it_stands() -> None:
    site = good("[headers main]\nX-A = own\n[options main]\nweight = 7\n" + SMALL
                + "[headers]\nX-A = all\nX-B = all\n[options]\nweight = 1\n")
    assert site.routes["main"].headers == {"X-A": "own", "X-B": "all"}
    assert site.routes["main"].options == {"weight": "7"}


def test_request_headers_are_read_like_headers() -> None:
    site = good(SMALL + "[request_headers]\nX-A = all ; {host}\nX-B = all\n[request_headers main]\nx-a = own #1\n")
    assert (site.routes["main"].request_headers, site.routes["main"].headers) == ({"X-A": "own #1", "X-B": "all"}, {})


@pytest.mark.parametrize("value", ["default-src 'self' ; script-src 'none'", "max-age=63072000 ; includeSubDomains", "#fff", "a #b", ";"])
def test_a_text_is_taken_as_it_stands(value: str) -> None:
    site = good(f"{SMALL}[headers]\nX-A = {value}\n[headers main]\nX-B={value}\n[options]\nhealth_expected_body = {value}\n")
    assert site.routes["main"].headers == {"X-A": value, "X-B": value}
    assert site.routes["main"].options == {"health_expected_body": value}


def test_a_text_goes_on_in_indented_lines() -> None:
    site = good(SMALL + "[headers]\nContent-Security-Policy = default-src 'self' ;\n    script-src 'none' ; img-src *\n    # a comment\n")
    assert site.routes["main"].headers == {"Content-Security-Policy": "default-src 'self' ; script-src 'none' ; img-src *"}


def test_what_is_no_text_may_have_a_comment_behind_it() -> None:
    site = good("[route main] \ndomains = a.example ; why\n  b.example # and why\nbackends = http://h #c\n[options]\ntimeout = 5s ; c\n"
                "[ratelimit]\nlimits = 1/second ; 9/minute # c\n")
    route = site.routes["main"]
    assert (route.domains, route.backends, route.options) == (("a.example", "b.example"), ("http://h",), {"timeout": "5s"})
    assert route.rate_limits == [(1, 1.0), (9, 60.0)]


@pytest.mark.parametrize("second", ["[route  main]", "[route\tmain]"])
def test_a_section_written_in_another_way_is_not_taken_for_the_same(second: str) -> None:
    content = f"{SMALL}{second}\ndomains = b.example\npriority = 1\n"
    assert wrong(content)[0] == f"x.ini:4: [{second[1:-1]}] is the section [route main] of line 1, written in another way"
    assert list(good(content.replace(SMALL, second + SMALL.removeprefix("[route main]")).replace(second, "[route main]")
                     .replace("domains = b.example\n", "", 1)).routes) == ["main"]


def test_names_of_routes_may_have_blanks_and_differ_in_them() -> None:
    content = "[route a b]\ndomains = a.example\nbackends = http://h\n[route a  b]\ndomains = b.example\nbackends = http://h\n"
    assert list(good(content).routes) == ["a b", "a  b"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_the_ends_of_lines_are_counted(end: str) -> None:
    content = end.join(["[route main]", "\f", "# a\x0bb\x1cc\x85d\u2028e",
                        "domains = a.example", "backends = http://h", "priority = x", ""])
    assert [problem.partition(": ")[0] for problem in wrong(content)] == ["x.ini:6"]


def test_domains_and_paths_are_normalised() -> None:
    route = good("[route r]\ndomains = A.Example., *.bücher.de\npath = /x/../api/\nbackends = http://h\n").routes["r"]
    assert (route.domains, route.path) == (("a.example", "*.xn--bcher-kva.de"), "/api")


@pytest.mark.parametrize(("content", "message"), [
    ("", "the file has no [route NAME] section"),
    ("[route r]\ndomains = a.b\n", "x.ini:2: [route r] needs backends"),
    ("[route r]\nbackends = http://h\n", "x.ini:2: [route r] needs domains"),
    (SMALL + "[request_headers]\nHost = a\n", 'x.ini:5: [request_headers] "Host" is the proxy'),
    (SMALL + "[request_headers]\nX-A = {usr}\n", 'x.ini:5: [request_headers] X-A: "{usr}" is no variable'),
    (SMALL + "[headers]\nX-A = {usr}\n", 'x.ini:5: [headers] X-A: "{usr}" is no variable'),
    (SMALL + "pth = /\n", 'x.ini:4: unknown key "pth" in [route main] (did you mean path?)'),
    (SMALL + "priority = high\n", 'x.ini:4: [route main] priority: "high" is not a whole number'),
    (SMALL + "path = api\n", 'x.ini:4: [route main] path: "api" is not a path'),
    (SMALL + "backends = http://h, ftp://h\n", 'x.ini:4: [route main] backends: "ftp://h" is not an http'),
    (SMALL + "domains = a b:80\n", 'x.ini:4: [route main] domains: "b:80" is not a domain'),
    (SMALL + "[site]\nenabled = perhaps\n", 'x.ini:5: [site] enabled: "perhaps" is not a yes or no'),
    (SMALL + "[site]\nservice = a b\n", 'x.ini:5: [site] service: "a b" is not a name'),
    (SMALL + "[site]\nservce = a\n", "did you mean service?"),
    (SMALL + "[options]\ntimeot = 1s\n", 'x.ini:5: [options] unknown option "timeot" (did you mean timeout'),
    (SMALL + "[options]\ntimeout = 0\n", "x.ini:5: [options] timeout: "),
    (SMALL + "[options mian]\ntimeout = 1s\n", "x.ini:5: [options mian]: there is no [route mian] (did you mean main?)"),
    (SMALL + "[ratelimit]\nlimits = many\n", 'x.ini:5: [ratelimit] limits: "many" is not requests/window'),
    (SMALL + "[ratelimit]\nlimits = 9/minute; 5/60s\n", 'x.ini:5: [ratelimit] limits: "5/60s" is a second limit for the same window'),
    (SMALL + "[ratelimit]\nlimit = 1/s\n", 'unknown key "limit"'),
    (SMALL + "[headers]\nX Y = 1\n", 'x.ini:5: [headers] "X Y" is not a header name'),
    (SMALL + "[headers]\nX = a\tb\n", "x.ini:5: [headers] X: the value holds a control character"),
    (SMALL + "[headers]\nX = €\n", "beyond Latin-1"),
    (SMALL + "[sites]\nx = 1\n", "x.ini:4: unknown section [sites] (did you mean site?)"),
    (SMALL + "[route]\nx = 1\n", "x.ini:4: unknown section [route]"),
    (SMALL + "[optoins]\n", "x.ini:4: unknown section [optoins] (did you mean options?)"),
    (SMALL + "path = /a\npath = /b\n", "x.ini:5: [route main] path is set twice (first in line 4)"),
    (SMALL + "[headers]\nContent-Length = 5\n", 'x.ini:5: [headers] "Content-Length" is the proxy'),
    (SMALL + "priority = 9999999\n", 'x.ini:4: [route main] priority: "9999999" is not a whole number from'),
    (SMALL + "nonsense\n", 'x.ini:4: "nonsense" is neither'),
])
def test_a_mistake_is_named_with_its_line(content: str, message: str) -> None:
    assert any(message in found for found in wrong(content)), wrong(content)


def test_all_mistakes_are_told_at_once() -> None:
    assert len(wrong("[site]\nenabled = x\n[route r]\npath = y\npriority = z\n[options]\nfoo = 1\n")) == 6


def test_a_file_has_a_thousand_routes_at_most() -> None:
    route = "[route r{0}]\ndomains = d{0}.example\nbackends = http://h\n"
    content = "".join(route.format(number) for number in range(1000))
    assert len(good(content).routes) == 1000
    assert wrong(content + route.format(1000)) == ["x.ini: more than 1000 routes"]


@pytest.mark.parametrize(("written", "limits"), [
    ("100/minute", [(100, 60.0)]), ("1/second;2/HOUR ;3/day", [(1, 1.0), (2, 3600.0), (3, 86400.0)]), ("5/10s", [(5, 10.0)]),
    (" 7 / 1m30s ; ", [(7, 90.0)]),
])
def test_limits_are_requests_in_a_window(written: str, limits: list[tuple[int, float]]) -> None:
    assert routechecks.limits(written) == limits


@pytest.mark.parametrize("written", ["", ";", "100", "0/minute", "-1/minute", "x/minute", "1/", "1/fortnight", "1000000001/day"])
def test_a_limit_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        routechecks.limits(written)


WORD = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
ROUTE = st.fixed_dictionaries({
    "domains": st.lists(WORD.map(lambda word: word + ".example"), min_size=1, max_size=3, unique=True).map(tuple),
    "path": WORD.map(lambda word: "/" + word),
    "backends": st.lists(st.integers(1, 65535).map(lambda port: f"http://127.0.0.1:{port}"), min_size=1, max_size=3).map(tuple),
    "priority": st.integers(-1000, 1000),
    "weight": st.integers(0, 1000),
    "limits": st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 86400)), min_size=1, max_size=3, unique_by=lambda limit: limit[1]),
})


@given(st.dictionaries(WORD, ROUTE, min_size=1, max_size=4))
def test_every_site_written_is_read_back(routes: dict[str, dict[str, object]]) -> None:
    lines = []
    for name, route in routes.items():
        limits = "; ".join(f"{count}/{window}s" for count, window in route["limits"])  # type: ignore[attr-defined]
        lines += [f"[route {name}]", f"domains = {', '.join(route['domains'])}",  # type: ignore[arg-type]
                  f"path = {route['path']}", f"backends = {' '.join(route['backends'])}",  # type: ignore[arg-type]
                  f"priority = {route['priority']}", f"[options {name}]", f"weight = {route['weight']}",
                  f"[ratelimit {name}]", f"limits = {limits}"]
    site = good("\n".join(lines))
    assert list(site.routes) == list(routes)
    for name, route in routes.items():
        found = site.routes[name]
        assert (found.domains, found.path, found.backends, found.priority) == (
            route["domains"], route["path"], route["backends"], route["priority"])
        assert (found.options, found.rate_limits) == ({"weight": str(route["weight"])}, route["limits"])


@pytest.mark.parametrize(("section", "said"), [
    ("[ratelimit web]\nlimits = x", '[ratelimit web] limits: "x" is not requests/window'),
    ("[slo]\navailability = x", "[slo] availability: "), ("[slo]\nuptime = 1", '[slo] unknown key "uptime" (known'),
    ("[ratelimit]\nlimit = 1/m", '[ratelimit] unknown key "limit" (did you mean')])
def test_an_error_names_section_and_key_as_they_are_written(section: str, said: str) -> None:
    _, problems = parse_site(f"[route web]\ndomains = a.test\nbackends = http://127.0.0.1:1\n{section}\n", "f.ini", "f")
    assert len(problems) == 1 and problems[0].message.startswith(said) and problems[0].line == 5
