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
from proxyd.store.sql.query import tuples
from proxyd.store.sql.upsert import upsert

#: Service, instance, domain and path.
Identity = tuple[str, str, str, str]
_READ_CHUNK = 250


def identity(row: dict[str, Any]) -> Identity:
    """What the route of a row is for. The first domain stands for all of them: another name behind it makes no other endpoint."""
    return row["service_name"], row["instance_name"], json.loads(row["domains"])[0], row["path"]


def came(rows: Sequence[dict[str, Any]], by: str) -> None:
    """Note routes that are new or were changed, as rows of table routes with their session."""
    known = {}
    for ids in chunked([row["route_id"] for row in rows], _READ_CHUNK):
        found = RouteHistory.select(RouteHistory.route_id, Endpoint.domain, Endpoint.path, RouteHistory.backend_url, RouteHistory.added_at,
                                    RouteHistory.added_by).join(Endpoint).where(RouteHistory.route_id.in_(ids))
        known.update({route_id: others for route_id, *others in tuples(found)})
    changed = [row for row in rows if known.get(row["route_id"], [])[:3] != [*identity(row)[2:], row["backend_url"]]]
    if not changed:
        return
    endpoints = _endpoints({identity(row): row["created_at"] for row in changed})
    noted = []
    for row in changed:
        at, who = known.get(row["route_id"], (row["created_at"], by))[-2:]
        noted.append({"route_id": row["route_id"], "endpoint": endpoints[identity(row)], "session_id": row["session"],
                      "backend_url": row["backend_url"], "added_at": at, "added_by": who})
    upsert(RouteHistory, noted)


def went(route_ids: Iterable[str], at: str, by: str, why: str, ended: Sequence[str] = (), ended_why: str = "") -> None:
    """Note routes that are gone: when, by whom, and why. `ended_why` is the reason for those of the sessions `ended`."""
    for ids in chunked(route_ids, _READ_CHUNK):
        gone = RouteHistory.route_id.in_(ids)
        RouteHistory.update(removed_at=at, removed_by=by, removed_why=why).where(gone).execute()
        if ended and ended_why:
            RouteHistory.update(removed_why=ended_why).where(gone, RouteHistory.session_id.in_(ended)).execute()


def endpoints_of(route_ids: Iterable[str]) -> dict[str, int]:
    """The endpoint of each route that is known, in the order of the routes."""
    found: dict[str, int] = {}
    for ids in chunked(route_ids, _READ_CHUNK):
        found.update(dict(tuples(RouteHistory.select(RouteHistory.route_id, RouteHistory.endpoint).where(RouteHistory.route_id.in_(ids)))))
    return found


def _endpoints(wanted: dict[Identity, str]) -> dict[Identity, int]:
    """The ids of endpoints, which are made where they are new; `wanted` says since when they are there."""
    services = _services({of[0]: at for of, at in wanted.items()})
    found = _known_endpoints(wanted)
    missing = [{"service": services[of[0]], "service_name": of[0], "instance_name": of[1], "domain": of[2], "path": of[3], "first_seen": at}
               for of, at in wanted.items() if of not in found]
    for piece in chunked(missing, 80):
        Endpoint.insert_many(piece).execute()
    return {**found, **_known_endpoints(of for of in wanted if of not in found)}


def _known_endpoints(wanted: Iterable[Identity]) -> dict[Identity, int]:
    found: dict[Identity, int] = {}
    domains: dict[str, set[str]] = {}
    for service, _, domain, _ in wanted:
        domains.setdefault(service, set()).add(domain)
    for service, names in domains.items():
        for piece in chunked(names, _READ_CHUNK):
            query = Endpoint.select(Endpoint.service_name, Endpoint.instance_name, Endpoint.domain, Endpoint.path, Endpoint.endpoint_id)
            found.update({(name, instance, domain, path): number for name, instance, domain, path, number in
                          tuples(query.where(Endpoint.service_name == service, Endpoint.domain.in_(piece)))})
    return found


def _services(wanted: dict[str, str]) -> dict[str, int]:
    names = list(wanted)
    found: dict[str, int] = {}
    for _ in range(2):
        for piece in chunked(names, _READ_CHUNK):
            found.update(dict(tuples(Service.select(Service.service_name, Service.service_id).where(Service.service_name.in_(piece)))))
        names = [name for name in names if name not in found]
        for rows in chunked([{"service_name": name, "first_seen": wanted[name]} for name in names], 80):
            Service.insert_many(rows).execute()
        if not names:
            break
    return found
