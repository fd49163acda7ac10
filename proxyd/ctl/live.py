"""The commands that keep running: events as they happen, and top, a screen that updates itself."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from proxyd.ctl.adminhttp import Admin, CannotConnect, Refused
from proxyd.ctl.screen import Screen, printable, span
from proxyd.ctl.show import OK, circuit_words, route_state
from proxyd.events.types import ALL

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

_TOP_HEADER = ("ROUTE", "SERVICE", "DOMAINS", "STATE", "CIRCUIT", "REQ/S", "ERR/S", "P50 MS", "P99 MS", "NOW")
_SPARE_OF_TOP = ("P50 MS", "NOW", "CIRCUIT", "SERVICE", "P99 MS", "ERR/S", "STATE")
_LEAST_FOR_DATES = 100
_NAMES_SECONDS = 5.0
_AGAIN_SECONDS = 1.0


def events(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Show the last events, oldest first, then each new one as it happens. With JSON, one object a line.

    On a terminal it waits for a new master when the old one ends, and catches up. Elsewhere it raises CannotConnect.
    """
    names = _Names(admin)
    past = admin.get(f"events?limit={max(options.last, 1)}&type={options.type}").get("events", [])
    last = past[0]["at"] if past else ""
    for event in reversed(past[:options.last]):
        _show(event, screen, options.type, names)
    while not options.no_follow:
        try:
            for event in admin.follow():
                _show(event, screen, options.type, names)
                last = event.get("at") or last
            ended = f"{admin.url} ended the stream of events"
        except CannotConnect as error:
            ended = str(error)
        if not screen.is_terminal or screen.as_json:
            raise CannotConnect(ended)
        print(f"proxyctl: {ended}; trying again", file=sys.stderr)
        for event in reversed(_missed(admin, last)):
            _show(event, screen, options.type, names)
    return OK


def _missed(admin: Admin, last: str) -> list[dict[str, Any]]:
    """The events after an instant, newest first. Waits until the server answers again."""
    while True:
        time.sleep(_AGAIN_SECONDS)
        with contextlib.suppress(CannotConnect, Refused):
            return [event for event in admin.get("events?limit=1000").get("events", []) if event["at"] > last]


class _Names:
    """Names of sessions by id. For a new id the list is fetched again, at most every few seconds."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._known: dict[str, str] = {}
        self._asked = -_NAMES_SECONDS

    def of(self, session_id: str) -> str:
        """`service/instance`, or the number if the session is no longer known."""
        if session_id not in self._known and time.monotonic() - self._asked >= _NAMES_SECONDS:
            self._asked = time.monotonic()
            self._known |= {str(one.get("session_id")): f"{one.get('service_name')}/{one.get('instance_name')}"
                            for one in self._admin.all("sessions")}
        return self._known.get(session_id, session_id)


def _show(event: dict[str, Any], screen: Screen, type_: str, names: _Names) -> None:
    if type_ not in (ALL, event.get("type")):
        return
    if screen.as_json:
        screen.line(json.dumps(event, ensure_ascii=False))
        return
    # The list has an event's data under "data", the stream has them beside type and time. Both are shown alike.
    data = event.get("data")
    rest = data if isinstance(data, dict) else {name: value for name, value in event.items() if name not in ("type", "at", "id")}
    route = event.get("route_id") or rest.get("route_id")
    parts = [f"{name}={printable(value)}" for name, value in rest.items() if name not in ("route_id", "at", "type")]
    if event.get("session_id") and "service" not in rest:
        parts.insert(0, f"session={printable(names.of(str(event['session_id'])))}")
    if event.get("actor"):
        parts.append(f"by {printable(event['actor'])}")
    at, kind = printable(event.get("at")), printable(event.get("type"))
    if screen.is_bounded and screen.width < _LEAST_FOR_DATES:
        # On a narrow screen the details matter more than the date.
        at = at[11:19] or at
    screen.wrapped(f"{at}  {kind:<24} {printable(route):<6} {'  '.join(parts)}".rstrip(), 2)


def top(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Show the busiest routes, and update them every `--every` seconds until q, Ctrl-C or `--count` updates. With JSON, one
    object an update.

    On a terminal it waits for a new master when the old one ends, and keeps showing the last update with a note. Elsewhere it
    raises CannotConnect.
    """
    before: dict[str, tuple[float, int, int]] = {}
    seen: list[RenderableType] = []
    rounds = 0
    with _full_screen(screen) as full:
        while True:
            now = time.monotonic()
            frame = screen.frame() if full else []
            try:
                found, state = admin.all("routes"), admin.get("status")
            except (CannotConnect, Refused) as error:
                if not full:
                    raise
                screen.wrapped(f"trying again: {error}", 2, "red")
                frame += seen[1:]
            else:
                _show_top(_rated(found, before, now), state, screen)
                seen = frame
                before = {one["route_id"]: (now, *_counts(one)) for one in found}
            if full:
                _draw(full, frame)
            rounds += 1
            if rounds == options.count:
                return OK
            if not full:
                time.sleep(options.every)
            elif _asked_to_end(options.every):
                return OK


def _asked_to_end(seconds: float) -> bool:
    """Wait so many seconds. True if the user types q or Ctrl-D, or the terminal is gone."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0]:
            # Not through sys.stdin, which would buffer further keys where select does not see them.
            keys = os.read(sys.stdin.fileno(), 1024)
            if not keys or (keys[0] != 0x1b and any(key in b"qQ\x04" for key in keys)):
                return True
    return False


def _counts(route: dict[str, Any]) -> tuple[int, int]:
    sums = route.get("stats") or {}
    return int(sums.get("requests") or 0), int(sums.get("errors") or 0)


Rated = list[tuple[float, float, dict[str, Any]]]


def _rated(routes: list[dict[str, Any]], before: dict[str, tuple[float, int, int]], now: float) -> Rated:
    """Requests a second, errors a second and the route, the busiest first."""
    rated = []
    for one in routes:
        requests, errors = _counts(one)
        at, old_requests, old_errors = before.get(one["route_id"], (now, requests, errors))
        passed = max(now - at, 0.001)
        rated.append((max(0.0, requests - old_requests) / passed, max(0.0, errors - old_errors) / passed, one))
    return sorted(rated, key=lambda item: (-item[0], -_counts(item[2])[0], str(item[2]["route_id"])))


def _top_json(rated: Rated, state: dict[str, Any]) -> str:
    routes = [{**one, "requests_per_second": round(rate, 2), "errors_per_second": round(errors, 2)} for rate, errors, one in rated]
    return json.dumps({"status": state, "requests_per_second": round(sum(item[0] for item in rated), 2),
                       "errors_per_second": round(sum(item[1] for item in rated), 2), "routes": routes}, ensure_ascii=False)


def _show_top(rated: Rated, state: dict[str, Any], screen: Screen) -> None:
    if screen.as_json:
        screen.line(_top_json(rated, state))
        return
    total, failed = sum(item[0] for item in rated), sum(item[1] for item in rated)
    screen.cut(f"proxyd {printable(state.get('version'))}  up {span(state.get('uptime_seconds') or 0)}  "
               f"{len(state.get('workers') or [])} workers  {len(rated)} routes  {total:.1f} req/s  {failed:.1f} err/s")
    for problem in state.get("problems") or []:
        screen.wrapped(f"problem: {printable(problem)}", 9, "red")
    screen.line()
    rows = []
    # Rows beyond the terminal's height would be cut off anyway, and cost time.
    for rate, error_rate, one in rated[:screen.console.height] if screen.is_terminal else rated:
        sums = one.get("stats") or {}
        rows.append((one.get("route_id"), one.get("service"), one.get("domains"), route_state(one),
                     circuit_words(one.get("circuit") or {}), rate, error_rate, sums.get("p50_latency_ms"),
                     sums.get("p99_latency_ms"), sums.get("in_flight")))
    screen.table(_TOP_HEADER, rows, "no routes", _SPARE_OF_TOP)


def _draw(live: Live, frame: list[RenderableType]) -> None:
    from rich.console import Group

    live.update(Group(*frame), refresh=True)


@contextlib.contextmanager
def _full_screen(screen: Screen) -> Iterator[Live | None]:
    """Take over the whole terminal, with unbuffered keys, and restore it at the end. None if output or input is no such terminal."""
    if screen.as_json or not (screen.is_terminal and sys.stdin.isatty()) or screen.console.is_dumb_terminal:
        yield None
        return
    from rich.live import Live

    saved = termios.tcgetattr(sys.stdin)
    # The terminal must be restored after a signal, too.
    previous = {number: signal.signal(number, lambda number, _: sys.exit(128 + number)) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setcbreak(sys.stdin)
        with contextlib.suppress(OSError), Live(
                console=screen.console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
            yield live
    finally:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
        for number, handler in previous.items():
            signal.signal(number, handler)
