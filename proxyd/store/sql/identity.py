"""What stays the same while routes come and go: services, and endpoints with the history of their routes.

A redeploy gives routes new ids. Whoever adds up what was counted by route finds in `route_history` which endpoint it was counted for.
Everything here runs in the database thread, inside one transaction of the caller.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from peewee import chunked

from proxyd.store.sql.models import Endpoint, RouteHistory, Service
from proxyd.store.sql.query import among
from proxyd.store.sql.upsert import change, insert, upsert

#: Service, instance, domain and path.
Identity = tuple[str, str, str, str]
_KNOWN = ("SELECT h.route_id, e.domain, e.path, h.backend_url, h.added_at, h.added_by FROM route_history h "
          "JOIN endpoints e ON e.endpoint_id = h.endpoint_id WHERE h.route_id IN")
_OF_SERVICE = "SELECT instance_name, domain, path, endpoint_id FROM endpoints WHERE service_name = ? AND domain IN"


def identity(row: dict[str, Any]) -> Identity:
    """What the route of a row is for. The first domain stands for all of them: another name behind it makes no other endpoint."""
    return row["service_name"], row["instance_name"], json.loads(row["domains"])[0], row["path"]


def came(rows: Sequence[dict[str, Any]], by: str) -> None:
    """Note routes that are new or were changed, as rows of table routes with their session."""
    known = {}
    for route_id, *others in among(_KNOWN, [row["route_id"] for row in rows]):
        known[route_id] = others
    named = [(row, identity(row)) for row in rows]
    changed = [(row, of) for row, of in named if known.get(row["route_id"], [])[:3] != [*of[2:], row["backend_url"]]]
    if not changed:
        return
    endpoints = _endpoints({of: row["created_at"] for row, of in changed})
    noted = []
    for row, of in changed:
        at, who = known.get(row["route_id"], (row["created_at"], by))[-2:]
        noted.append({"route_id": row["route_id"], "endpoint": endpoints[of], "session_id": row["session"],
                      "backend_url": row["backend_url"], "added_at": at, "added_by": who})
    upsert(RouteHistory, noted)


def went(route_ids: Iterable[str], at: str, by: str, why: str, ended: Sequence[str] = (), ended_why: str = "") -> None:
    """Note routes that are gone: when, by whom, and why. `ended_why` is the reason for those of the sessions `ended`."""
    gone = list(route_ids)
    change(RouteHistory, ("route_id",), ("removed_at", "removed_by", "removed_why"), [(route_id, at, by, why) for route_id in gone])
    if ended_why:
        change(RouteHistory, ("route_id", "session_id"), ("removed_why",),
               [(route_id, session_id, ended_why) for session_id in ended for route_id in gone])


def endpoints_of(route_ids: Iterable[str]) -> dict[str, int]:
    """The endpoint of each route that is known."""
    return dict(among("SELECT route_id, endpoint_id FROM route_history WHERE route_id IN", route_ids))


def _endpoints(wanted: dict[Identity, str]) -> dict[Identity, int]:
    """The ids of endpoints, which are made where they are new; `wanted` says since when they are there."""
    found = _known_endpoints(wanted)
    if wanted.keys() <= found.keys():
        return found
    services = _services({of[0]: at for of, at in wanted.items()})
    missing = [{"service": services[of[0]], "service_name": of[0], "instance_name": of[1], "domain": of[2], "path": of[3], "first_seen": at}
               for of, at in wanted.items() if of not in found]
    insert(Endpoint, missing)
    return {**found, **_known_endpoints(of for of in wanted if of not in found)}


def _known_endpoints(wanted: Iterable[Identity]) -> dict[Identity, int]:
    found: dict[Identity, int] = {}
    domains: dict[str, set[str]] = {}
    for service, _, domain, _ in wanted:
        domains.setdefault(service, set()).add(domain)
    for service, names in domains.items():
        for instance, domain, path, number in among(_OF_SERVICE, names, service):
            found[service, instance, domain, path] = number
    return found


def _services(wanted: dict[str, str]) -> dict[str, int]:
    names = list(wanted)
    found: dict[str, int] = {}
    for _ in range(2):
        found.update(among("SELECT service_name, service_id FROM services WHERE service_name IN", names))
        names = [name for name in names if name not in found]
        for rows in chunked([{"service_name": name, "first_seen": wanted[name]} for name in names], 80):
            Service.insert_many(rows).execute()
        if not names:
            break
    return found
