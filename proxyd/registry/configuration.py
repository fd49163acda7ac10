"""What a session has declared, and which of it applies to a route: pure functions over settings, without I/O.

Settings are texts by (scope, target, name). Staged changes have the same keys; the value None removes a setting. In the scope
`routes` each entry is a route, as JSON. A route's own setting overrides the one for ALL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from proxyd.base.conditions import conditions_of_row
from proxyd.base.text import route_number
from proxyd.config.options import route_options
from proxyd.config.optionvalues import BY_USER
from proxyd.registry.fields import SCOPES
from proxyd.store.sql.changes import SettingKey

SettingTexts = dict[SettingKey, str]
Staged = dict[SettingKey, str | None]
EVERY = "ALL"
#: Domain, path, priority, and what else the route asks of requests, in words.
Place = tuple[str, str, int, str]


class RouteSpec(NamedTuple):
    """A route as its session declared it."""

    route_id: str
    domains: tuple[str, ...]
    path: str
    backend_url: str
    priority: int

    def to_json(self) -> str:
        """The text kept in the staged copy."""
        return json.dumps([list(self.domains), self.path, self.backend_url, self.priority])

    @staticmethod
    @lru_cache(maxsize=16_384)  # each command reads all that its session has staged
    def from_json(route_id: str, text: str) -> RouteSpec:
        """The route in a staged text."""
        domains, path, backend_url, priority = json.loads(text)
        return RouteSpec(route_id, tuple(domains), path, backend_url, priority)

    def places(self, options: str) -> list[Place]:
        """The place of each pool it is part of. `options`: those of the route, as its row has them."""
        asked = conditions_of_row(options)
        return [(domain, self.path, self.priority, asked) for domain in self.domains]


@dataclass(frozen=True, slots=True)
class Effective:
    """All settings of a route, in the form of its database row."""

    options: str
    headers: str
    request_headers: str
    rate_limits: str


def staged_routes(staged: Mapping[SettingKey, str | None]) -> dict[str, RouteSpec | None]:
    """The staged routes by id. None stands for a removal."""
    return {target: RouteSpec.from_json(target, value) if value is not None else None
            for (scope, target, _), value in staged.items() if scope == "routes"}


def merged_routes(active: Mapping[str, RouteSpec], staged: Mapping[SettingKey, str | None]) -> dict[str, RouteSpec]:
    """The routes as they would be after an apply."""
    merged = dict(active)
    for route_id, spec in staged_routes(staged).items():
        if spec is None:
            merged.pop(route_id, None)
        else:
            merged[route_id] = spec
    return merged


def merged_settings(settings: Mapping[SettingKey, str], staged: Mapping[SettingKey, str | None],
                    routes: Iterable[str]) -> SettingTexts:
    """The settings as they would be after an apply. Settings of removed routes are removed, too."""
    known = {EVERY, *routes}
    merged = {key: value for key, value in settings.items() if key[1] in known}
    for key, value in staged.items():
        if key[0] == "routes":
            continue
        if value is None:
            merged.pop(key, None)
        elif key[1] in known:
            merged[key] = value
    return merged


Index = dict[str, list[tuple[str, str, str]]]


def by_target(settings: Mapping[SettingKey, str]) -> Index:
    """Settings as (scope, name, value) by target, so that those of one route are found without reading all others."""
    index: Index = {}
    for (scope, target, name), value in settings.items():
        index.setdefault(target, []).append((scope, name, value))
    return index


def effective(index: Index, route_id: str) -> Effective:
    """The settings of a route. Its own override those for ALL. For the same target, HEALTH_SET and the like override plain options."""
    options: dict[str, str] = {}
    headers: dict[str, str] = {}
    request_headers: dict[str, str] = {}
    limits = "[]"
    for target in (EVERY, route_id):
        structured = []
        for scope, name, value in index.get(target, ()):
            if scope == "options":
                options[name] = value
            elif scope == "headers":
                headers[name] = value
            elif scope == "request_headers":
                request_headers[name] = value
            elif scope == "ratelimit":
                limits = value
            else:
                structured.append(value)
        for value in structured:
            options.update(json.loads(value))
    return Effective(json.dumps(options, sort_keys=True), json.dumps(headers, sort_keys=True),
                     json.dumps(request_headers, sort_keys=True), limits)


def effective_of(index: Index) -> Callable[[str], Effective]:
    """The same for many routes: those without settings of their own share one answer."""
    shared = effective(index, EVERY)
    return lambda route_id: effective(index, route_id) if route_id in index else shared


def check(routes: Iterable[str], index: Index) -> str | None:
    """What is wrong with the routes' settings taken together, as `route r2: ...`, or None. Each value was checked when staged."""
    seen: dict[str, str | None] = {}
    settings_of = effective_of(index)
    for route_id in routes:
        text = settings_of(route_id).options
        if text not in seen:
            seen[text] = check_options(json.loads(text))
        if seen[text]:
            return f"route {route_id}: {seen[text]}"
    return None


def check_options(options: Mapping[str, str]) -> str | None:
    """What is wrong with a route's options taken together, or None."""
    try:
        made = route_options(tuple(sorted(options.items())))
    except ValueError as error:
        return str(error)
    if made.slow_warning and made.slow_critical and made.slow_critical < made.slow_warning:
        return f"slow_critical ({options['slow_critical']}) is below slow_warning ({options['slow_warning']})"
    if made.cors_credentials and made.cors_origins == ("*",):
        return "cors_credentials needs origins by name: with * every page on the web could act for its visitor"
    if made.basic_auth and made.forward_auth is not None:
        return "basic_auth and forward_auth both decide who the user is: choose one"
    # A default is for the routes that have a login. The others are counted by address.
    if "rate_limit_key" in options and BY_USER in made.rate_limit_key and not made.basic_auth and made.forward_auth is None:
        return "rate_limit_key = user has no effect without basic_auth or forward_auth"
    if made.retry and made.retry_max_delay < made.retry_initial_delay:
        return "retry_max_delay is below retry_initial_delay"
    if not made.health_check_path.startswith("/") and made.health_check_path:
        for key in ("health_method", "health_headers"):
            if key in options and (key == "health_method" or made.health_check_path.startswith("tcp://")):
                return f"{key} has no effect on a check by {made.health_check_path}"
    if made.health_method == "HEAD" and made.health_expected_body:
        return "health_expected_body finds nothing in an answer to HEAD (health_method)"
    if made.tls_ca and not made.tls_verify:
        return "tls_ca has no effect while tls_verify is off"
    if made.rewrite is not None and made.strip_prefix:
        return "rewrite and strip_prefix contradict each other: /old -> / strips a prefix, too"
    if made.error_pages_replace and not made.error_pages:
        return "error_pages_replace has no effect without error_pages"
    # Only a connect_timeout that was set contradicts: total_timeout limits a connect by the default, too.
    if made.total_timeout and "connect_timeout" in options and made.total_timeout < made.connect_timeout:
        return "total_timeout is below connect_timeout"
    return None


def differences(settings: Mapping[SettingKey, str], active: Mapping[str, RouteSpec],
                      staged: Mapping[SettingKey, str | None]) -> dict[str, Any]:
    """The answer of CONFIG_DIFF: what an apply would change."""
    routes = staged_routes(staged)
    result: dict[str, Any] = {"routes": {
        "added": sorted((key for key, spec in routes.items() if spec is not None and key not in active), key=route_number),
        "removed": sorted((key for key, spec in routes.items() if spec is None and key in active), key=route_number),
        "modified": sorted((key for key, spec in routes.items()
                            if spec is not None and key in active and spec != active[key]), key=route_number)}}
    for scope in SCOPES[1:]:
        counts = {"added": 0, "removed": 0, "modified": 0}
        for key, value in staged.items():
            if key[0] != scope:
                continue
            now = settings.get(key)
            if value is None and now is not None:
                counts["removed"] += 1
            elif value is not None and now is None:
                counts["added"] += 1
            elif value is not None and value != now:
                counts["modified"] += 1
        result[scope] = counts
    return result
