"""What a deploy changed, for the history: by place and not by route, as a new registration makes new routes of all that stays.

Names of request headers are told and their values are not: they may be what a backend asks for as a password.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from proxyd.base.text import route_number
from proxyd.registry.state import LiveSession
from proxyd.store.sql.changes import RegistryChange

#: Bytes of the JSON text of a change, and of a value in it.
_LONGEST, _LONGEST_VALUE = 16_384, 400
#: Longest version of a service.
_LONGEST_VERSION = 100
_PLAIN = ("domains", "backend_url", "priority")
_MAPS = ("options", "headers", "request_headers")
Row = dict[str, Any]


def note(change: RegistryChange, session: LiveSession, at: str, before: Iterable[Row]) -> None:
    """Let a change tell the history that it is a deploy, by an event and a row. `at`: when, RFC 3339. `before`: the rows of the routes
    that are changed or removed, as they were."""
    counts = {"routes": len(change.routes), "settings": len(change.settings)}
    change.events.append({
        "at": at, "type": "config_applied", "session_id": session.session_id, "actor": change.by,
        "detail": json.dumps({"service": session.service, "instance": session.instance, "removed": change.removed, **counts})})
    change.deploy = {
        "at": at, "service_name": session.service, "instance_name": session.instance, "actor": change.by,
        "version_after": version_of(session.metadata), "routes_set": counts["routes"], "routes_removed": len(change.removed),
        "settings_changed": counts["settings"], **_places(before, change.routes)}


def _places(before: Iterable[Row], after: Iterable[Row]) -> Row:
    """What is different at each place, counted and told."""
    old, new = _by_place(before), _by_place(after)
    told: dict[str, list[dict[str, Any]]] = {"added": [], "changed": [], "removed": []}
    for place in sorted(old.keys() | new.keys()):
        were, are = old.get(place, []), new.get(place, [])
        told["changed"] += [changed for was, now in zip(were, are, strict=False) if (changed := _difference(was, now))]
        told["removed"] += [_said(row) for row in were[len(are):]]
        told["added"] += [_said(row) for row in are[len(were):]]
    counts = {name: len(items) for name, items in told.items()}
    return {**{f"places_{name}": count for name, count in counts.items()}, "change": _bounded(told, counts)}


def version_of(metadata: Mapping[str, Any]) -> str | None:
    """The version of the service that its client tells in the metadata of REGISTER (`{"version": "1.4.2"}`), or None."""
    version = metadata.get("version")
    text = str(version) if isinstance(version, str | int | float) else ""
    # JSON may hold what no database takes as text.
    return "".join(char for char in text[:_LONGEST_VERSION] if char.isprintable()) or None


def _by_place(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows by their first domain and path, in the order of their routes: what an endpoint is known by."""
    places: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: route_number(row["route_id"])):
        places[json.loads(row["domains"])[0], row["path"]].append(row)
    return places


def _said(row: Row) -> dict[str, Any]:
    return {"route_id": row["route_id"], "domains": json.loads(row["domains"]), "path": row["path"], "backend_url": row["backend_url"]}


def _difference(was: Row, now: Row) -> dict[str, Any] | None:
    """What differs between two routes of one place, each as [before, after]; None if nothing does."""
    found: dict[str, Any] = {}
    for name in _PLAIN:
        if was[name] != now[name]:
            read = json.loads if name == "domains" else lambda value: value
            found[name] = [read(was[name]), read(now[name])]
    if was["rate_limits"] != now["rate_limits"]:
        found["rate_limits"] = [json.loads(was["rate_limits"]), json.loads(now["rate_limits"])]
    for name in _MAPS:
        if was[name] == now[name]:
            continue
        old, new = json.loads(was[name]), json.loads(now[name])
        keys = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
        if keys:
            found[name] = keys if name == "request_headers" else {key: [_short(old.get(key)), _short(new.get(key))] for key in keys}
    return {"route_id": now["route_id"], "domain": json.loads(now["domains"])[0], "path": now["path"], **found} if found else None


def _short(value: str | None) -> str | None:
    return value if value is None or len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."


def _bounded(told: dict[str, list[dict[str, Any]]], counts: dict[str, int]) -> str:
    """The change as JSON text, with as many of the routes as there is room for. `left_off` says how many are not told."""
    kept: dict[str, Any] = {}
    room = _LONGEST
    for name, items in told.items():
        shown = []
        for item in items:
            room -= len(json.dumps(item)) + 2
            if room < 0:
                break
            shown.append(item)
        if shown:
            kept[name] = shown
    left = sum(counts.values()) - sum(map(len, kept.values()))
    return json.dumps({**kept, "left_off": left} if left else kept)
