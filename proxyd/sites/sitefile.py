"""Site files: static routes without a registry client, one INI file each, read whole or refused with file and line.

`[site]` enabled, service; `[route NAME]` domains, path, backends, priority; `[headers]`, `[request_headers]`,
`[options]`, `[ratelimit]` and `[slo]` for all routes of the file, or with a route's name for that one alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxyd.base import text
from proxyd.base.sourceapi import Sections
from proxyd.base.urls import normalize_domain, normalize_route_path
from proxyd.config import routechecks
from proxyd.config.ini import COMMENTS, IniEntry, Problem, read_ini
from proxyd.config.options import OPTIONS, check_option
from proxyd.net.optioncheck import check_on_host
from proxyd.net.targets import rules

_ROUTE_KEYS = ("domains", "path", "backends", "priority")
_SITE_KEYS = ("enabled", "service")
_LIMIT_KEYS = ("limits",)
_SLO_KEYS = ("availability", "latency")
_COMMON = ("headers", "request_headers", "options", "ratelimit", "slo")
#: Which names of header fields may stand in a section.
_FIELD_NAMES = {"headers": routechecks.header_name, "request_headers": routechecks.request_header_name}
_MAX_ROUTES = 1000


@dataclass(slots=True)
class SiteRoute:
    """One `[route NAME]`, with what holds for it alone."""

    name: str
    line: int
    domains: tuple[str, ...] = ()
    path: str = "/"
    backends: tuple[str, ...] = ()
    priority: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    request_headers: dict[str, str] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    rate_limits: list[tuple[int, float]] = field(default_factory=list)


@dataclass(slots=True)
class Site:
    """A site file that passed every check."""

    name: str
    enabled: bool = True
    service: str = ""
    routes: dict[str, SiteRoute] = field(default_factory=dict)


def parse_site(content: str, file: str, name: str) -> tuple[Site, list[Problem]]:
    """The site in the text of a file, and everything that is wrong with it: with any problem it must not be used."""
    sections: dict[str, int] = {}
    entries, problems = read_ini(content, file, _unknown_section, sections, _comments)
    return _made(entries, problems, sections, file, name)


def site_of(declared: Sections, origin: str, name: str) -> tuple[Site, list[Problem]]:
    """The same of sections that are no text: what a source of routes says. `origin`: in place of the file."""
    entries: list[IniEntry] = []
    problems: list[Problem] = []
    for section, values in declared.items():
        if wrong := _unknown_section(section):
            problems.append(Problem(origin, 0, wrong))
            continue
        for key, value in values.items():
            if any(ord(char) < 32 or ord(char) == 127 for char in value):
                problems.append(Problem(origin, 0, f"[{section}] {key}: the value holds a control character"))
            else:
                entries.append(IniEntry(section, key.lower(), value.strip(), 0, key))
    return _made(entries, problems, dict.fromkeys(declared, 0), origin, name)


def _made(entries: list[IniEntry], problems: list[Problem], sections: dict[str, int], file: str, name: str) -> tuple[Site, list[Problem]]:
    site = Site(name, service=name)
    site.routes = {owner: SiteRoute(owner, line) for owner, line in _routes(sections, entries).items()}
    common: dict[str, list[IniEntry]] = {kind: [] for kind in _COMMON}
    for entry in entries:
        kind, _, owner = entry.section.partition(" ")
        owner = owner.strip()
        message = None
        if kind == "site":
            message = _site_key(site, entry)
        elif kind == "route":
            message = _route_key(site.routes[owner], entry)
        else:
            common[kind].append(entry)
        if message:
            problems.append(Problem(file, entry.line, message))
    _spread(site, common, file, problems)
    for route in site.routes.values():
        for key, value in (("domains", route.domains), ("backends", route.backends)):
            if not value:
                problems.append(Problem(file, route.line, f"[route {route.name}] needs {key}"))
    if not site.routes:
        problems.append(Problem(file, 0, "the file has no [route NAME] section"))
    if len(site.routes) > _MAX_ROUTES:
        problems.append(Problem(file, 0, f"more than {_MAX_ROUTES} routes"))
    return site, sorted(problems, key=lambda problem: problem.line)


def _routes(sections: dict[str, int], entries: list[IniEntry]) -> dict[str, int]:
    """Each route's line: of its first key, or of its header where nothing follows that."""
    lines = {section: line for section, line in sections.items() if section.startswith("route ")}
    for entry in reversed(entries):
        if entry.section in lines:
            lines[entry.section] = entry.line
    return {section.partition(" ")[2].strip(): line for section, line in lines.items()}


def _comments(section: str, key: str) -> str:
    """What begins a comment behind a value. Headers and options that are texts have none, and `;` parts limits."""
    kind = section.partition(" ")[0]
    if kind in _FIELD_NAMES or (kind == "options" and key in OPTIONS and OPTIONS[key].kind.free):
        return ""
    return "#" if kind == "ratelimit" else COMMENTS


def _unknown_section(section: str) -> str | None:
    kind, _, owner = section.partition(" ")
    if kind in _COMMON or section == "site" or (kind == "route" and owner.strip()):
        return None
    known = ("site", "route NAME", *_COMMON)
    return f"unknown section [{section}]{text.suggest(section, known)} (known: {', '.join(known)})"


def _checked(entry: IniEntry, take: Callable[[], None]) -> str | None:
    try:
        take()
    except ValueError as error:
        return f"[{entry.section}] {entry.key}: {error}"
    return None


def _unknown(entry: IniEntry, known: tuple[str, ...]) -> str:
    return f'unknown key "{entry.key}" in [{entry.section}]{text.suggest(entry.key, known)} (known: {", ".join(known)})'


def _unknown_here(entry: IniEntry, known: tuple[str, ...]) -> str:
    """The same where the section is told already."""
    return f'unknown key "{entry.key}"{text.suggest(entry.key, known)} (known: {", ".join(known)})'


def _site_key(site: Site, entry: IniEntry) -> str | None:
    if entry.key not in _SITE_KEYS:
        return _unknown(entry, _SITE_KEYS)

    def take() -> None:
        if entry.key == "enabled":
            site.enabled = text.parse_bool(entry.value)
        elif not re.fullmatch(r"[A-Za-z0-9._-]{1,128}", entry.value):
            raise ValueError(f'"{entry.value}" is not a name of letters, digits, dot, dash and underscore')
        else:
            site.service = entry.value

    return _checked(entry, take)


def _route_key(route: SiteRoute, entry: IniEntry) -> str | None:
    if entry.key not in _ROUTE_KEYS:
        return _unknown(entry, _ROUTE_KEYS)

    def take() -> None:
        if entry.key == "domains":
            route.domains = tuple(normalize_domain(item) for item in text.split_list(entry.value))
        elif entry.key == "path":
            route.path = normalize_route_path(entry.value)
        elif entry.key == "backends":
            route.backends = text.split_list(entry.value)
            for backend in route.backends:
                rules().check_url(backend)
        else:
            route.priority = routechecks.priority(entry.value)

    return _checked(entry, take)


def _spread(site: Site, common: dict[str, list[IniEntry]], file: str, problems: list[Problem]) -> None:
    """Give each route what the file says for all, then what it says for that route: the own one wins."""
    setters: dict[str, Callable[[SiteRoute, IniEntry, Any], None]] = {
        "headers": lambda route, entry, value: route.headers.__setitem__(routechecks.header_name(entry.name), value),
        "request_headers": lambda route, entry, value: route.request_headers.__setitem__(
            routechecks.request_header_name(entry.name), value),
        "options": lambda route, entry, value: route.options.__setitem__(entry.key, value),
        "slo": lambda route, entry, value: route.options.__setitem__(f"slo_{entry.key}", value),
        "ratelimit": lambda route, entry, value: setattr(route, "rate_limits", value),
    }
    for own in (False, True):
        for kind, entries in common.items():
            for entry in entries:
                owner = entry.section.partition(" ")[2].strip()
                if bool(owner) is not own:
                    continue
                if owner and owner not in site.routes:
                    problems.append(Problem(file, entry.line, f"[{entry.section}]: there is no [route {owner}]"
                                                              f"{text.suggest(owner, site.routes)}"))
                    continue
                try:
                    value = _shared_value(kind, entry)
                except ValueError as error:
                    problems.append(Problem(file, entry.line, f"[{entry.section}] {error}"))
                    continue
                for route in [site.routes[owner]] if owner else site.routes.values():
                    setters[kind](route, entry, value)


def _shared_value(kind: str, entry: IniEntry) -> Any:
    if kind == "options":
        check_option(entry.key, entry.value)
        check_on_host(entry.key, entry.value)
        return entry.value
    if kind == "slo":
        if entry.key not in _SLO_KEYS:
            raise ValueError(_unknown_here(entry, _SLO_KEYS))
        try:
            check_option(f"slo_{entry.key}", entry.value)
        except ValueError as error:
            raise ValueError(str(error).removeprefix("slo_")) from None
        return entry.value
    if kind == "ratelimit":
        if entry.key not in _LIMIT_KEYS:
            raise ValueError(_unknown_here(entry, _LIMIT_KEYS))
        try:
            return routechecks.limits(entry.value)
        except ValueError as error:
            raise ValueError(f"{entry.key}: {error}") from None
    _FIELD_NAMES[kind](entry.name)
    try:
        return routechecks.header_value(entry.value)
    except ValueError as error:
        raise ValueError(f"{entry.name}: {error}") from None
