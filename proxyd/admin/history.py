"""The endpoints about what was: the requests, the traffic and the checks of a route's place, over all its deploys."""

from __future__ import annotations

import time

from proxyd.admin.context import Context
from proxyd.admin.http import Request, Response, as_json
from proxyd.admin.reading import no_route
from proxyd.base.text import rfc3339
from proxyd.store.sql import places
from proxyd.store.sql.errors import groups

_ERROR_DAYS = 7


def _place(context: Context, route_id: str) -> places.Place:
    found = context.read(places.place_of, route_id)
    if found is None:
        raise no_route(route_id)
    return found


def requests(context: Context, request: Request, route_id: str) -> Response:
    """The last slow and failed requests to a route's place; followed, each request as it ends."""
    place = _place(context, route_id)
    if request.query.get("follow") == "1" or "text/event-stream" in request.header("Accept"):
        body = context.tails.follow(place[1:]) if request.method != "HEAD" else b""
        return Response(200, body, "text/event-stream; charset=utf-8", {"X-Accel-Buffering": "no"})
    since = rfc3339(time.time() - _ERROR_DAYS * 86400)
    return as_json(context.kept(("requests", place), lambda: {
        "slow": context.read(places.slow_requests, place), "errors": context.read(groups, since, "", "", place)}))


def history(context: Context, request: Request, route_id: str) -> Response:
    """What was at a route's place in the last hour, day or week."""
    place, span = _place(context, route_id), request.query.get("span", "hour")
    return as_json(context.kept(("history", place, span), lambda: context.read(places.history, place, span, time.time())))
