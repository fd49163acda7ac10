"""The commands that go on: events as they happen, and top, a screen that renews itself."""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import shutil
import sys
import termios
import time
import tty
from collections.abc import Iterator
from typing import Any

from proxyd.ctl.adminhttp import Admin, CannotConnect
from proxyd.ctl.screen import Screen, fit, printable, span
from proxyd.ctl.show import OK, route_state

_CLEAR, _HOME, _REST, _HIDE, _SHOW = "\x1b[2J", "\x1b[H", "\x1b[J", "\x1b[?25l", "\x1b[?25h"
_TOP_HEADER = ("ROUTE", "SERVICE", "DOMAINS", "STATE", "CIRCUIT", "REQ/S", "ERR/S", "P50 MS", "P99 MS", "NOW")


def events(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The last events, oldest first, then each as it happens; with JSON one object a line."""
    if options.last:
        for event in reversed(admin.get(f"events?limit={options.last}").get("events", [])):
            _show(event, screen, options.type)
    if options.no_follow:
        return OK
    for event in admin.follow():
        _show(event, screen, options.type)
    raise CannotConnect(f"{admin.url} ended the stream of events")


def _show(event: dict[str, Any], screen: Screen, type_: str) -> None:
    if type_ and event.get("type") != type_:
        return
    if screen.as_json:
        screen.line(_compact(event))
        return
    # The list has an event's own data under "data", the registry beside type and time; both are shown alike.
    data = event.get("data")
    rest = data if isinstance(data, dict) else {name: value for name, value in event.items() if name not in ("type", "at", "id")}
    route = event.get("route_id") or rest.get("route_id")
    details = "  ".join(f"{name}={printable(value)}" for name, value in rest.items() if name not in ("route_id", "at", "type"))
    at, kind = printable(event.get("at")), printable(event.get("type"))
    line = f"{at}  {kind:<24} {printable(route):<6} {printable(details) if details else ''}".rstrip()
    screen.line(fit(line, screen.width).rstrip() if screen.width else line)


def _compact(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


def top(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The busiest routes, renewed every `--every` seconds until q or Ctrl-C; `--count` bounds the rounds."""
    before: dict[str, tuple[float, int, int]] = {}
    rounds = 0
    with _full_screen(screen) as full:
        while True:
            now = time.monotonic()
            found, state = admin.all("routes"), admin.get("status")
            lines = _top_lines(found, state, before, now, screen, full)
            before = {one["route_id"]: (now, *_counts(one)) for one in found}
            if full:
                screen.out.write(_HOME + "".join(f"{line}\x1b[K\r\n" for line in lines) + _REST)
                screen.out.flush()
            else:
                screen.line("\n".join(lines))
            rounds += 1
            if rounds == options.count:
                return OK
            if full and select.select([sys.stdin], [], [], options.every)[0]:
                if sys.stdin.read(1) in ("q", "Q", "\x03", ""):
                    return OK
            elif not full:
                time.sleep(options.every)


def _counts(route: dict[str, Any]) -> tuple[int, int]:
    sums = route.get("stats") or {}
    return int(sums.get("requests") or 0), int(sums.get("errors") or 0)


def _top_lines(
    routes: list[dict[str, Any]], state: dict[str, Any], before: dict[str, tuple[float, int, int]], now: float,
    screen: Screen, full: bool,
) -> list[str]:
    rated = []
    for one in routes:
        requests, errors = _counts(one)
        at, old_requests, old_errors = before.get(one["route_id"], (now, requests, errors))
        passed = max(now - at, 0.001)
        rated.append((max(0.0, requests - old_requests) / passed, max(0.0, errors - old_errors) / passed, one))
    rated.sort(key=lambda item: (-item[0], -_counts(item[2])[0], str(item[2]["route_id"])))
    total, failed = sum(item[0] for item in rated), sum(item[1] for item in rated)
    head = (f"proxyd {printable(state.get('version'))}  up {span(state.get('uptime_seconds') or 0)}  "
            f"{len(state.get('workers') or [])} workers  {len(routes)} routes  {total:.1f} req/s  {failed:.1f} err/s")
    problems = [screen.paint(f"problem: {printable(problem)}", "red") for problem in state.get("problems") or []]
    room = shutil.get_terminal_size().lines - 4 - len(problems) if full else len(rated)
    rows = []
    for rate, error_rate, one in rated[:max(room, 1)]:
        sums = one.get("stats") or {}
        rows.append((one.get("route_id"), one.get("service"), one.get("domains"), route_state(one),
                     (one.get("circuit") or {}).get("state"), rate, error_rate, sums.get("p50_latency_ms"),
                     sums.get("p99_latency_ms"), sums.get("in_flight")))
    return [head, *problems, "", *screen.table_lines(_TOP_HEADER, rows, "no routes")]


@contextlib.contextmanager
def _full_screen(screen: Screen) -> Iterator[bool]:
    """Take the whole terminal, keys unbuffered; False where output or input is none. All is put back at the end."""
    if not (screen.is_terminal and sys.stdin.isatty()):
        yield False
        return
    saved = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        screen.out.write(_CLEAR + _HIDE)
        yield True
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)
        screen.out.write(_SHOW + "\n")
        screen.out.flush()
