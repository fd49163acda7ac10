"""What was at a place: a service at a domain and path, over all its instances and deploys. Runs in the database thread."""

from __future__ import annotations

import json
from typing import Any

from proxyd.store.sql.models import Endpoint, Route, RouteHistory
from proxyd.store.sql.observed import SlowRequest
from proxyd.store.sql.query import dicts

#: Service, (first) domain and path.
Place = tuple[str, str, str]
_SLOW_SHOWN = 20


def place_of(route_id: str) -> Place | None:
    """The place of a route that there is now."""
    row = Route.get_or_none(Route.route_id == route_id)
    return (row.service_name, str(json.loads(row.domains)[0]), row.path) if row is not None else None


def at_place(place: Place) -> Any:
    """The condition for endpoints at a place."""
    service, domain, path = place
    return (Endpoint.service_name == service) & (Endpoint.domain == domain) & (Endpoint.path == path)


def slow_requests(place: Place) -> list[dict[str, Any]]:
    """The last slow requests that were kept, newest first."""
    routes = RouteHistory.select(RouteHistory.route_id).join(Endpoint).where(at_place(place))
    query = SlowRequest.select().where(SlowRequest.route_id.in_(routes)).order_by(SlowRequest.at.desc()).limit(_SLOW_SHOWN)
    names = ("at", "route_id", "level", "method", "url", "total_ms", "queue_ms", "connect_ms", "first_byte_ms", "body_ms", "upstream",
             "request_id")
    return [{**{name: row[name] for name in names}, "status": row["status_code"]} for row in dicts(query)]
