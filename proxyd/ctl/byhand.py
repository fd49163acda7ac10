"""`proxyctl add` and `proxyctl remove`: routes by hand."""

from __future__ import annotations

import argparse
from typing import Any

from proxyd.base.urls import normalize_domain
from proxyd.ctl.adminhttp import Admin, Refused, segment
from proxyd.ctl.screen import Screen, printable
from proxyd.ctl.show import OK


def add(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Add a route."""
    wanted: dict[str, Any] = {"domains": options.domain.split(","), "backend": options.url, "path": options.path,
                              "priority": options.priority}
    if options.service:
        wanted["service"] = options.service
    if options.option:
        wanted["options"] = dict(options.option)
    if options.limit:
        wanted["rate_limit"] = options.limit
    answer = admin.act("POST", "routes", wanted)
    if screen.as_json:
        screen.json(answer)
    else:
        screen.line(f"{printable(answer['route_id'])}: {printable(options.domain)}{printable(options.path)} to {printable(options.url)}")
    return OK


def remove(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Remove the routes by hand with those ids or that domain."""
    found = _by_hand(admin, options.target)
    for route_id in found:
        admin.act("DELETE", f"routes/{segment(route_id)}")
        if not screen.as_json:
            screen.line(f"{route_id}: removed")
    if screen.as_json:
        screen.json({"removed": found})
    return OK


def _by_hand(admin: Admin, target: str) -> list[str]:
    """Their ids. Raises Refused for a name that none of them has, and where the route is somebody else's."""
    wanted = set(target.split(","))
    try:
        domain = normalize_domain(target)
    except ValueError:
        domain = ""
    named = [one for one in admin.all("routes") if one["route_id"] in wanted or domain in one["domains"]]
    mine = [str(one["route_id"]) for one in named if one["source"] == "hand"]
    others = [one for one in named if one["route_id"] in wanted and one["source"] != "hand"] if mine else named
    if others:
        one = others[0]
        raise Refused(f"route {one['route_id']} is not one by hand: {one['service']}/{one['instance']} declares it")
    if missing := wanted - {one["route_id"] for one in named} if not domain or not mine else ():
        raise Refused(f'no route by hand with the id or domain "{", ".join(sorted(missing))}"')
    return mine
