"""Routes by hand: what an operator adds, changes and removes over the admin HTTP. They are kept in the database alone.

Each is a session of its own without a client, like that of a site file, and goes through the same checks, conflicts and apply as any.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from gevent.lock import BoundedSemaphore

from proxyd.base import text
from proxyd.config import routechecks
from proxyd.registry import fields, staging
from proxyd.registry.auth import EVERYTHING
from proxyd.registry.configuration import RouteSpec, SettingTexts, Staged
from proxyd.registry.ends import Conflict
from proxyd.registry.fields import SCOPES
from proxyd.registry.stagedcopy import StagedCopy
from proxyd.registry.staging import StagingError
from proxyd.registry.state import CONNECTED, LiveSession, Registry
from proxyd.store.sql import changes
from proxyd.store.sql.models import HAND_PREFIX

log = logging.getLogger("proxyd.registry")

#: What such a session is called beside its service.
INSTANCE = "hand"
#: What a route's settings are called where they are asked for, and their scopes.
_NAMED: dict[str, Callable[[str, str], tuple[str, str]]] = {
    "options": lambda name, value: (name, fields.option(name, value)),
    "headers": lambda name, value: (routechecks.header_name(name), routechecks.header_value(value)),
    "request_headers": lambda name, value: (routechecks.request_header_name(name), routechecks.header_value(value)),
}


class ByHand:
    """Methods raise Conflict for what is not possible as things are, ValueError with a message for a person, and StoreError. When
    one returns, every live worker knows of the change. `asked` has `domains`, `backend`, `path`, `priority`, `options`, `headers`,
    `request_headers` and `rate_limit` as the admin HTTP takes them."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: Each change begins from what the last one has left.
        self._turn = BoundedSemaphore()

    def add(self, asked: Mapping[str, Any], actor: str) -> str:
        """Add a route; `service` is its first domain if none is asked for. Returns the route's id."""
        registry = self._registry
        spec = _spec(RouteSpec("", (), "/", "", 0), asked)
        settings = _settings(asked, {})
        try:
            service = fields.name(asked.get("service") or spec.domains[0].removeprefix("*."))
        except ValueError as error:
            raise ValueError(f"service: {error}") from None
        route_id = f"r{registry.store.call(changes.new_route_numbers, 1)}"
        now = time.time()
        session = LiveSession(HAND_PREFIX + route_id, service, INSTANCE, {}, 0, "", CONNECTED, now, now, grant=EVERYTHING)
        with self._turn:
            self._apply(session, _with_id(spec, route_id), settings, actor, True)
        return route_id

    def change(self, route_id: str, asked: Mapping[str, Any], actor: str) -> None:
        """Change what is asked of a route; the rest stays. Options and fields that are asked for replace all of their kind."""
        with self._turn:
            session = self._session(route_id)
            # By the row: settings of a session that was taken up from the kept table are only there.
            row = self._registry.active.rows[route_id]
            spec = _spec(session.routes[route_id], asked)
            self._apply(session, spec, _settings(asked, row), actor)

    def remove(self, route_id: str, actor: str) -> None:
        """Remove a route."""
        with self._turn:
            session = self._session(route_id)
            self._registry.end([session], actor, "removed by hand")
        log.info("route %s of %s is removed (%s)", route_id, session.service, actor)

    def _session(self, route_id: str) -> LiveSession:
        session = self._registry.find(HAND_PREFIX + route_id)
        if session is not None and route_id in session.routes:
            return session
        row = self._registry.active.rows.get(route_id)
        if row is None:
            raise Conflict(f'"{route_id}" is not an active route')
        raise Conflict(f"route {route_id} is not one by hand: {row['service_name']}/{row['instance_name']} declares it (session "
                       f"{row['session']})")

    def _apply(self, session: LiveSession, spec: RouteSpec, wanted: Mapping[tuple[str, str], str], actor: str,
               begins: bool = False) -> None:
        registry, route_id = self._registry, spec.route_id
        settings: SettingTexts = {(scope, route_id, name): value for (scope, name), value in wanted.items()}
        staged: Staged = {key: None for key in session.settings if key not in settings}
        staged.update({key: value for key, value in settings.items() if session.settings.get(key) != value})
        # The route is always among them: what a row says and the settings don't is then written anew.
        staged["routes", route_id, ""] = spec.to_json()
        session.staged = StagedCopy(staged)
        try:
            staging.check_domains(registry, session, spec.domains)
            staging.apply(registry, session, SCOPES, actor, begins)
        except StagingError as error:
            options = json.dumps({name: value for (scope, name), value in wanted.items() if scope == "options"})
            if registry.active.conflict(session.service, {route_id: spec.places(options)}):
                raise Conflict(str(error)) from None
            raise ValueError(str(error)) from None
        finally:
            session.staged = StagedCopy()


def _with_id(spec: RouteSpec, route_id: str) -> RouteSpec:
    return RouteSpec(route_id, spec.domains, spec.path, spec.backend_url, spec.priority)


def _spec(known: RouteSpec, asked: Mapping[str, Any]) -> RouteSpec:
    """The route with what is asked of it."""
    values = {}
    for name, field, value in (("domains", "domains", ",".join(asked.get("domains", ()))), ("backend", "backend_url", asked.get("backend")),
                               ("path", "path", asked.get("path")), ("priority", "priority", asked.get("priority"))):
        if name in asked:
            try:
                values[field] = fields.ROUTE_FIELDS[field](str(value))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
    return RouteSpec(known.route_id, **{"domains": known.domains, "path": known.path, "backend_url": known.backend_url,
                                        "priority": known.priority, **values})


def _settings(asked: Mapping[str, Any], row: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """The settings by scope and name: those that are asked for, else those of the row."""
    settings = {}
    for scope, check in _NAMED.items():
        if scope not in asked:
            settings.update({(scope, name): value for name, value in json.loads(row.get(scope, "{}")).items()})
            continue
        for name, value in asked[scope].items():
            try:
                name, checked = check(name, value)
            except ValueError as error:
                raise ValueError(f"{scope}: {error}" if name in str(error) else f"{scope}: {name}: {error}") from None
            settings[scope, name] = checked
    limits = row.get("rate_limits", "[]")
    if "rate_limit" in asked:
        try:
            limits = json.dumps([list(limit) for limit in routechecks.limits(asked["rate_limit"])] if asked["rate_limit"] else [])
        except ValueError as error:
            raise ValueError(f"rate_limit: {error}") from None
    if json.loads(limits):
        settings["ratelimit", "limit"] = limits
    return settings


def written_limits(limits: str) -> str:
    """Rate limits of a row as `rate_limit` has them; empty without any."""
    return "; ".join(f"{requests}/{text.format_duration(seconds)}" for requests, seconds in json.loads(limits))
