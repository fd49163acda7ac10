"""`proxyctl host`: take a host out of service for an upgrade, and back."""

from __future__ import annotations

import argparse
import time
from typing import Any

from proxyd.ctl.adminhttp import Admin, CannotConnect, Refused, segment
from proxyd.ctl.screen import Screen, printable
from proxyd.ctl.show import BAD, OK

#: Seconds between two looks how far it is.
_PAUSE = 0.5
_OPEN = (("connections", "registry connections"), ("in_flight", "requests under way"), ("websocket_active", "open WebSockets"))


def host(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Drain a host and wait until it may be upgraded, or let it serve again. BAD where it may not be upgraded in time."""
    path = f"hosts/{segment(options.host)}/drain"
    if options.action == "undrain":
        _say(screen, {"done": admin.act("DELETE", path)["done"]})
        return OK
    admin.act("POST", path)
    began = time.monotonic()
    if not screen.as_json:
        screen.line(f"{printable(options.host)} is drained: /readyz fails there")
    left = ["nothing is known yet"]
    while True:
        try:
            found = admin.get("hosts")
        except (CannotConnect, Refused) as error:
            # The lead is handed over just now: by this very host, perhaps.
            left = [str(error)]
        else:
            left = _left(found, options.host, time.monotonic() - began)
        if not left:
            _say(screen, {"done": f"{options.host} may be upgraded; after that: proxyctl host undrain {options.host}"})
            return OK
        if time.monotonic() - began >= options.timeout:
            _say(screen, {"left": left} if screen.as_json else {"done": f"not yet: {'; '.join(left)}"})
            return BAD
        time.sleep(_PAUSE)


def _left(found: dict[str, Any], name: str, seconds: float) -> list[str]:
    """What keeps a host from being upgraded, `seconds` after it was drained."""
    one = next((row for row in found.get("hosts") or [] if row.get("name") == name), None)
    if one is None or not one.get("drained_at"):
        raise Refused(f"host {name} is not drained any more")
    left = [] if seconds > (found.get("drain_delay_seconds") or 0) else ["fronts have yet to notice"]
    if one.get("leads"):
        left.append("it leads")
    left += [f"it has {one[key]} {what}" for key, what in _OPEN if one.get(key)]
    return left


def _say(screen: Screen, answer: dict[str, Any]) -> None:
    if screen.as_json:
        screen.json(answer)
    else:
        screen.line(printable(str(answer["done"])))
