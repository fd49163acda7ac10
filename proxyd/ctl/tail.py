"""`proxyctl tail`: the requests to a route as they end."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from queue import Queue
from typing import Any

from proxyd.ctl.adminhttp import Admin, CannotConnect, Refused, segment
from proxyd.ctl.screen import Screen, printable
from proxyd.ctl.show import OK

#: Places of a service that are followed at once.
_MOST_PLACES = 8


def tail(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Show each request as it ends. With JSON, one object a line. Raises Refused for a target that no route has."""
    shown = 0
    for line in _all(admin, _routes(admin, options.target)):
        if line.get("type") == "missed":
            screen.wrapped(f"{line.get('missed')} requests are not shown: they come faster than they can be told", 2, "yellow")
            continue
        if options.failed and int(line.get("status") or 0) < 400:
            continue
        screen.line(json.dumps(line, ensure_ascii=False) if screen.as_json else _text(line, screen.is_terminal))
        shown += 1
        if shown == options.count:
            break
    return OK


def _text(line: dict[str, Any], short: bool) -> str:
    at = printable(line.get("at"))
    why = f" {printable(line['reason'])}" if line.get("reason") else ""
    return (f"{at[11:23] if short else at} {line.get('status')} {float(line.get('seconds') or 0) * 1000:8.1f} ms "
            f"{printable(line.get('client')):<15} {printable(line.get('method'))} "
            f"{printable(line.get('host'))}{printable(line.get('path'))} "
            f"{line.get('bytes')} B {printable(line.get('upstream')) or '-'} {printable(line.get('request_id'))}{why}")


def _routes(admin: Admin, target: str) -> list[str]:
    """Ids of routes, one for each place that a person means."""
    domain, slash, path = target.partition("/")
    found: dict[tuple[Any, ...], str] = {}
    for one in admin.all("routes"):
        named = one["route_id"] == target or one.get("service") == target and not slash
        if named or domain in one.get("domains", ()) and (not slash or one.get("path") == f"/{path}"):
            found.setdefault((one["domains"][0], one["path"]), str(one["route_id"]))
    if not found:
        raise Refused(f'no route has the id, domain or service "{target}"')
    if len(found) > _MOST_PLACES:
        raise Refused(f'"{target}" has {len(found)} places, and {_MOST_PLACES} can be followed at once: name a domain with its path')
    return list(found.values())


def _all(admin: Admin, routes: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of all these routes as they come. Raises CannotConnect when a stream ends."""
    lines: Queue[dict[str, Any] | Exception] = Queue(1000)

    def follow(route_id: str) -> None:
        try:
            for line in admin.follow(f"routes/{segment(route_id)}/requests"):
                lines.put(line)
            lines.put(CannotConnect(f"{admin.url} ended the stream of requests"))
        except (CannotConnect, Refused) as error:
            lines.put(error)

    for route_id in routes:
        threading.Thread(target=follow, args=(route_id,), daemon=True).start()
    while True:
        line = lines.get()
        if isinstance(line, Exception):
            raise line
        yield line
