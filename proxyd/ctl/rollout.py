"""`proxyctl rollout`: begin a rollout and follow it to its end, show it, end it."""

from __future__ import annotations

import argparse
import time
from typing import Any

from proxyd.ctl.adminhttp import Admin, CannotConnect, Refused, segment
from proxyd.ctl.screen import Screen, printable, span
from proxyd.ctl.show import BAD, OK

_LOOK = 0.5
#: Seconds for which the master may be away meanwhile: the rollout goes on when it is back.
_PATIENCE = 60.0
_FAILED = ("rolled_back", "aborted", "ended")


def rollout(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """One of them. BAD if the rollout did not come to its end, or was not shown to."""
    path = f"services/{segment(options.service)}/rollout"
    if options.status:
        found = admin.get(path)
        _show(screen, found)
        return BAD if found["state"] in _FAILED else OK
    if options.abort or options.clear:
        answer = admin.act("DELETE", path) if options.abort else admin.act("POST", f"{path}/clear")
        if screen.as_json:
            screen.json(answer)
        else:
            screen.line(f"{printable(options.service)}: {'aborted, the others have all requests' if options.abort else 'shared by weight'}")
        return OK
    admin.act("POST", path, {"to": options.to, "steps": options.steps, "every": options.every, "max_errors": options.max_errors,
                             "max_slower": options.max_slower})
    if options.detach:
        _show(screen, admin.get(path))
        return OK
    try:
        return _follow(admin, screen, path)
    except KeyboardInterrupt:
        screen.line(f"the rollout goes on; proxyctl rollout {printable(options.service)} --abort ends it")
        raise


def _follow(admin: Admin, screen: Screen, path: str) -> int:
    """Tell each step until the end."""
    told, away = None, 0.0
    number = 0
    while True:
        try:
            found = admin.get(path)
        except CannotConnect:
            away = away or time.monotonic()
            if time.monotonic() - away > _PATIENCE:
                raise
            time.sleep(_LOOK)
            continue
        away = 0.0
        number = number or found["rollout_id"]
        if found["rollout_id"] != number:
            raise Refused(f"another rollout of {found['service']} has begun")
        if (found["state"], found["step"]) != told:
            told = found["state"], found["step"]
            if screen.as_json:
                screen.json(found)
            elif found["state"] == "running":
                screen.line(f"{printable(found['service'])}/{printable(found['instance'])}: {found['share']:g} % of the clients "
                            f"for {span(found['every_seconds'])}")
        if found["state"] != "running":
            if not screen.as_json:
                _show(screen, found)
            if found["state"] in _FAILED:
                state = found["state"].replace("_", " ")
                raise Refused(f"the rollout of {found['service']} to {found['instance']} is {state}: {found['why']}")
            return OK
        time.sleep(_LOOK)


def _show(screen: Screen, found: dict[str, Any]) -> None:
    if screen.as_json:
        screen.json(found)
        return
    screen.pairs({
        "service": found["service"], "instance": found["instance"], "state": found["state"].replace("_", " "),
        **({"why": found["why"]} if found["why"] else {}), "share": f"{found['share']:g} %",
        "steps": ", ".join(map(str, found["steps"])), "since": found["started_at"],
        **({"ended": found["ended_at"]} if found["ended_at"] else {"next step in": span(found["step_remaining_seconds"])}),
        **{f"{side} in this step": _figures(found["figures"][side]) for side in ("instance", "others")}})


def _figures(one: dict[str, Any]) -> str:
    p95 = "" if one["p95_ms"] is None else f", p95 {one['p95_ms']:.1f} ms"
    return f"{one['requests']} requests, {one['errors']} errors{p95}"
