"""The staged copy of a session, and how it becomes the active one."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

from proxyd.base import clock
from proxyd.base.conditions import NAMES
from proxyd.base.text import rfc3339
from proxyd.base.urls import same_server
from proxyd.config.options import option_of
from proxyd.registry import configuration
from proxyd.registry.activeroutes import places_of, sorted_ids
from proxyd.registry.configuration import EVERY, Index, Place, RouteSpec, SettingTexts, Staged, by_target, effective_of, staged_routes
from proxyd.registry.deployed import note
from proxyd.registry.ends import NO_MAINTENANCE
from proxyd.registry.fields import SCOPES
from proxyd.registry.stagedcopy import StagedCopy, entry_size
from proxyd.registry.state import ENDED, LiveSession, Registry
from proxyd.store.sql import changes
from proxyd.store.sql.changes import RegistryChange, SettingKey

log = logging.getLogger("proxyd.registry")

#: Routes of others that one apply may leave without traffic, and each is logged.
_MOST_TOLD = 20


class StagingError(Exception):
    """A change can't be staged or applied. Nothing was changed. The message is for the client."""


def merged(session: LiveSession) -> dict[str, RouteSpec]:
    """The session's routes as they would be after an apply."""
    return configuration.merged_routes(session.routes, session.staged)


def stage(registry: Registry, session: LiveSession, entries: Staged, gone: tuple[SettingKey, ...] = ()) -> None:
    """Put changes into the staged copy, and remove those in `gone` from it. Raises StagingError, StoreError."""
    _check_size(registry, session.staged.size_with(entries))
    now = clock.now()
    registry.write(changes.stage, session.session_id, entries, gone, rfc3339(clock.shown(now)), clock.mark(now))
    session.staged.put(entries)
    session.staged.drop(gone)
    session.staged_at = now


def _check_size(registry: Registry, size: int) -> None:
    bound = registry.settings.registry.max_staged_bytes
    if size > bound:
        raise StagingError(f"more than {bound} bytes staged (setting max_staged_bytes); apply or roll back first")


def add_routes(registry: Registry, session: LiveSession, wanted: list[dict[str, Any]]) -> list[str]:
    """Stage new routes, all or none. Returns their ids. Raises StagingError, StoreError."""
    limits = registry.settings.registry
    # As many as that at most. The exact number takes a look at each of them.
    if len(session.routes) + len(session.staged.routes) + len(wanted) > limits.max_routes_per_session < len(merged(session)) + len(wanted):
        raise StagingError(f"more than {limits.max_routes_per_session} routes in this session (setting max_routes_per_session)")
    for item in wanted:
        check_domains(registry, session, item["domains"])
    texts = [RouteSpec("", item["domains"], item["path"], item["backend_url"], item["priority"]).to_json() for item in wanted]
    _check_size(registry, session.staged.size + sum(entry_size(("routes", "", ""), text) for text in texts))
    now = clock.now()
    first = registry.write(changes.stage_routes, session.session_id, texts, rfc3339(clock.shown(now)), clock.mark(now))
    ids = [f"r{first + index}" for index in range(len(wanted))]
    session.staged.put({("routes", route_id, ""): text for route_id, text in zip(ids, texts, strict=True)})
    session.staged_at = now
    return ids


def check_domains(registry: Registry, session: LiveSession, domains: tuple[str, ...]) -> None:
    """Raises StagingError for too many domains, and for one that the session's token does not cover."""
    most = registry.settings.registry.max_domains_per_route
    if len(domains) > most:
        raise StagingError(f"domains: {len(domains)} are more than {most} for one route (setting max_domains_per_route)")
    for domain in domains:
        if not session.grant.covers_domain(domain):
            raise StagingError(f'domains: the token of this session may not claim "{domain}"')


def require_target(session: LiveSession, target: str, field: str = "target") -> None:
    """Raises a StagingError that names the command's field, if a target is neither ALL nor a route of the session."""
    if target != EVERY and _route(session, target) is None:
        raise StagingError(f'{field}: "{target}" is not a route of this session')


def _route(session: LiveSession, route_id: str) -> RouteSpec | None:
    """The route as it would be after an apply, or None."""
    staged = session.staged.routes
    return staged[route_id] if route_id in staged else session.routes.get(route_id)


def require_route(session: LiveSession, route_id: str) -> RouteSpec:
    """The route as it would be after an apply. Raises StagingError."""
    spec = _route(session, route_id)
    if spec is None:
        raise StagingError(f'route_id: "{route_id}" is not a route of this session')
    return spec


def change_route(registry: Registry, session: LiveSession, changed: RouteSpec) -> None:
    """Stage a route as it is to be; one that is as it is already needs nothing staged."""
    key = ("routes", changed.route_id, "")
    if session.routes.get(changed.route_id) == changed:
        stage(registry, session, {}, (key,))
    else:
        stage(registry, session, {key: changed.to_json()})


def remove_route(registry: Registry, session: LiveSession, route_id: str) -> None:
    """Stage the removal of a route. A route that is only staged is forgotten at once, with its settings."""
    require_route(session, route_id)
    own = session.staged.settings_of(route_id)
    if route_id in session.routes:
        stage(registry, session, {("routes", route_id, ""): None}, own)
    else:
        stage(registry, session, {}, (("routes", route_id, ""), *own))


def unset(registry: Registry, session: LiveSession, key: SettingKey) -> None:
    """Stage the removal of a setting. A setting that is only staged is forgotten. One that does not exist needs nothing."""
    if key in session.settings:
        stage(registry, session, {key: None})
    elif key in session.staged:
        stage(registry, session, {}, (key,))


def chosen(session: LiveSession, scopes: tuple[str, ...]) -> Staged:
    """The staged changes of those scopes. Settings of a route that is neither active nor applied with them are left out."""
    picked = {key: value for key, value in session.staged.items() if key[0] in scopes}
    if "routes" in scopes:
        return picked
    return {key: value for key, value in picked.items() if key[1] == EVERY or key[1] in session.routes}


@dataclass(frozen=True, slots=True)
class _Planned:
    """What an apply would lead to: the changes that it takes from the staged copy, and the session's routes and settings after it."""

    picked: Staged
    routes: dict[str, RouteSpec]
    settings: SettingTexts
    index: Index


def _planned(session: LiveSession, scopes: tuple[str, ...]) -> _Planned:
    picked = chosen(session, scopes)
    routes = configuration.merged_routes(session.routes, picked)
    settings = configuration.merged_settings(session.settings, picked, routes)
    return _Planned(picked, routes, settings, by_target(settings))


def validate(registry: Registry, session: LiveSession, scopes: tuple[str, ...] = SCOPES) -> str | None:
    """Why the staged changes of the scopes can't be applied, or None."""
    return _problem(registry, session, _planned(session, scopes))


def _problem(registry: Registry, session: LiveSession, planned: _Planned) -> str | None:
    fresh = [spec for spec in staged_routes(planned.picked).values() if spec is not None]
    limits = registry.settings.registry
    added = sum(1 for spec in fresh if spec.route_id not in session.routes)
    if (kept := registry.kept.get((session.service, session.instance))) is not None:
        added -= len(kept.routes)
    if added > 0 and len(registry.active.rows) + added > limits.max_routes:
        return f"more than {limits.max_routes} routes in the whole registry (setting max_routes)"
    return configuration.check(planned.routes, planned.index) or registry.active.conflict(session.service, _claimed(planned))


def _claimed(planned: _Planned) -> dict[str, list[Place]]:
    """The places that the change claims, by route id: those of new and changed routes, and of all where conditions change."""
    settings_of = effective_of(planned.index)
    if any(scope == "options" and name in NAMES for scope, _, name in planned.picked):
        claiming = list(planned.routes)
    else:
        claiming = [route_id for route_id, spec in staged_routes(planned.picked).items() if spec is not None]
    return {route_id: planned.routes[route_id].places(settings_of(route_id).options) for route_id in claiming}


def apply(registry: Registry, session: LiveSession, scopes: tuple[str, ...], actor: str, begins: bool = False) -> None:
    """Apply the staged changes of the scopes in one transaction, and wait for the workers. `begins`: the session itself is new, and comes
    with them.

    If it raises StagingError or StoreError, nothing was applied.
    """
    with registry.exclusive():
        if session.state == ENDED:
            raise StagingError("invalid session")
        planned = _planned(session, scopes)
        problem = _problem(registry, session, planned)
        if problem:
            raise StagingError(problem)
        picked, routes, settings = planned.picked, planned.routes, planned.settings
        now = time.time()
        change = RegistryChange(session_id=session.session_id, unstaged=list(picked), declares=True, by=actor, why="CONFIG_APPLY",
                                ended_why="redeployed", session_updates={"last_apply": rfc3339(now), "last_activity": rfc3339(now)})
        if begins:
            change.session = registry.session_row(session)
        change.settings = {key: settings.get(key) for key in session.settings.keys() | settings.keys()
                           if session.settings.get(key) != settings.get(key)}
        change.removed = sorted_ids(route_id for route_id in session.routes if route_id not in routes)
        kept = registry.kept.get((session.service, session.instance)) if not session.has_no_client() else None
        if kept is not None:
            change.ended, change.ended_at = [kept.session_id], rfc3339(now)
            change.removed += sorted_ids(kept.routes)
        change.routes = _rows(registry, session, planned, kept, rfc3339(now))
        active = registry.active
        changed = [active.rows[row["route_id"]] for row in change.routes if row["route_id"] in active.rows]
        if change.routes or change.removed or change.settings:
            note(change, session, rfc3339(now), [*changed, *(active.rows[route_id] for route_id in change.removed)])
        before = active.overridden(session.service, changed)
        try:
            version = registry.commit(change)
        except BaseException:
            registry.active.free_slots(change.routes)
            raise
        if begins:
            registry.take(session)
        if kept is not None:
            registry.succeeded(session, actor)
        session.routes = routes
        session.settings = settings
        session.last_apply = now
        session.staged.drop(picked)
        taken = active.overridden(session.service, change.routes)
        for (route_id, place), winner in list(taken.items())[:_MOST_TOLD]:
            if (route_id, place) not in before:
                loser = active.rows[route_id]["service_name"]
                registry.takeovers.route(route_id, loser, place, winner, session.service, actor)
    if change.events and not session.is_site():
        log.info("%s/%s applied (%s): %d routes set, %d removed, %d settings changed; config version %d", session.service,
                 session.instance, actor, len(change.routes), len(change.removed), len(change.settings), version)
    registry.await_workers(version)


def _rows(registry: Registry, session: LiveSession, planned: _Planned, kept: LiveSession | None, now: str) -> list[dict[str, Any]]:
    """The rows of the routes in which something changes. `kept`: the session of the same names whose routes go on until now."""
    routes = planned.routes
    targets = {key[1] for key in planned.picked}
    touched = routes if EVERY in targets else [route_id for route_id in routes if route_id in targets]
    settings_of = effective_of(planned.index)
    like = next(iter(session.routes), None)
    inherited = registry.active.rows[like] if like is not None else None
    before = next(iter(kept.routes), None) if kept is not None else None
    share = inherited or (registry.active.rows[before] if before is not None else None)
    rows = []
    for route_id in touched:
        spec, has = routes[route_id], settings_of(route_id)
        columns = {"domains": json.dumps(list(spec.domains)), "path": spec.path, "backend_url": spec.backend_url,
                   "priority": spec.priority, "options": has.options, "headers": has.headers,
                   "request_headers": has.request_headers, "rate_limits": has.rate_limits}
        known = registry.active.rows.get(route_id)
        if known is None:
            row = _new_row(registry, session, route_id, columns, inherited, now)
            rows.append({**row, "rollout_share": share["rollout_share"] if share is not None else _first_share(registry, row)})
        elif any(known[name] != value for name, value in columns.items()):
            # Another backend needs a new slot, because the old circuit's state is not about it.
            slot = known["slot"] if same_server(known["backend_url"], spec.backend_url) else registry.active.slot(route_id)
            rows.append({**known, **columns, "slot": slot, "updated_at": now})
    return rows


def _first_share(registry: Registry, row: dict[str, Any]) -> float | None:
    """What a route of a new instance gets at first: nothing if it is to wait for a rollout, and another instance serves."""
    if option_of(json.loads(row["options"]), "rollout") != "wait":
        return None
    active, rows = registry.active, registry.active.rows
    others = {route_id for place in places_of(row) for route_id in active.at(place)}
    serving = any(rows[route_id]["instance_name"] != row["instance_name"] and rows[route_id]["rollout_share"] != 0 for route_id in others)
    return 0.0 if serving else None


def _new_row(registry: Registry, session: LiveSession, route_id: str, columns: dict[str, Any],
             inherited: dict[str, Any] | None, now: str) -> dict[str, Any]:
    """The row of a new route. A drain of the session applies to it, too."""
    return {
        "route_id": route_id, "session": session.session_id, "service_name": session.service, "instance_name": session.instance,
        "enabled": True, **NO_MAINTENANCE, "maintenance_plan": None, "hold_until": None, "hold_clock": None,
        "drain_started_at": inherited["drain_started_at"] if inherited else None,
        "drain_clock": inherited["drain_clock"] if inherited else None,
        "drain_seconds": inherited["drain_seconds"] if inherited else None,
        "slot": registry.active.slot(route_id), "created_at": now, "updated_at": now, **columns}


def rollback(registry: Registry, session: LiveSession) -> None:
    """Empty the staged copy. Raises StoreError."""
    registry.write(changes.unstage_all, session.session_id)
    session.staged = StagedCopy()
    session.staged_at = 0.0
