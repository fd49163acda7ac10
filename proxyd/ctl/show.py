"""The commands that only look: status, routes, route, health, circuits, sessions, stats."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from proxyd.ctl.adminhttp import Admin, Refused, segment
from proxyd.ctl.screen import Screen, ago, printable, span
from proxyd.ctl.sizes import history_pairs

OK, BAD = 0, 1
_DOWN = {"down", "unhealthy"}

ROUTE_HEADER = ("ROUTE", "SERVICE", "DOMAINS", "PATH", "BACKEND", "PRIO", "STATE", "CIRCUIT", "REQ", "ERR", "P99 MS")
#: What goes first where the terminal is narrow.
_SPARE_OF_ROUTES = ("PRIO", "P99 MS", "ERR", "REQ", "BACKEND", "SERVICE", "PATH", "CIRCUIT")


def status(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """What is unwell, version, workers and counts; BAD where something is."""
    found = admin.get("status")
    code = BAD if found.get("problems") or found.get("state") == "unwell" else OK
    if screen.as_json:
        screen.json(found)
        return code
    now = time.time()
    _findings(screen, found, now)
    workers = found.get("workers") or []
    behind = sum(worker.get("config_version") != found.get("config_version") for worker in workers)
    state = {"well": "all is well"}.get(found.get("state", ""), found.get("state", ""))
    screen.pairs({
        **({"state": state} if state else {}),
        "version": found.get("version"), "up": span(found.get("uptime_seconds") or 0), "config": found.get("config_version"),
        "workers": f"{len(workers)}{f', {behind} behind' if behind else ''}",
        "sessions": found.get("sessions"), "routes": found.get("routes"), **_unknown(found.get("unknown_hosts") or {}),
        **history_pairs(found.get("history") or {})})
    if workers:
        screen.line()
        screen.table(("WORKER", "CONFIG", "HEARTBEAT"), [
            (one.get("pid"), one.get("config_version"), ago(one.get("heartbeat_at"), now)) for one in workers], "")
    certificates = found.get("certificates") or []
    if certificates:
        screen.line()
        certificate_files(screen, certificates, now)
    jobs = found.get("jobs") or []
    if jobs:
        screen.line()
        screen.table(("JOB", "LAST RUN", "TOOK MS", "RUNS", "ERRORS", "FAILS WITH"), [
            (one.get("name"), ago(one.get("last_run_at"), now), round((one.get("duration_seconds") or 0) * 1000, 1), one.get("runs"),
             one.get("errors"), one.get("error")) for one in jobs], "", ("TOOK MS", "RUNS"))
    for notice in found.get("notices") or []:
        screen.wrapped(f"notice: {printable(notice)}", 8)
    return code


def _unknown(found: dict[str, Any]) -> dict[str, str]:
    """The line about requests to hosts that no route names, where there were some."""
    if not found.get("requests"):
        return {}
    asked = ", ".join(f"{printable(one.get('host'))} ({one.get('requests')})" for one in (found.get("most_asked") or [])[:3])
    return {"unknown hosts": f"{found['requests']} requests{f', most for {asked}' if asked else ''}"}


def certificate_files(screen: Screen, found: list[dict[str, Any]], now: float) -> None:
    """The files of certificates that the status tells of, with their ends. `now`: Unix seconds."""
    screen.table(("CERTIFICATE", "EXPIRES", "NAMES"), [
        (one.get("path"), ago(one.get("expires_at"), now), one.get("names")) for one in found], "")


def _findings(screen: Screen, found: dict[str, Any], now: float) -> None:
    """What is unwell, worst first; of a server that has no findings, the problems that it tells."""
    if found.get("findings") is None:
        for problem in found.get("problems") or []:
            screen.wrapped(f"problem: {printable(problem)}", 9, "red")
        return
    for one in found["findings"]:
        why = f": {printable(one['why'])}" if one.get("why") else ""
        since = f" (for {ago(one['since'], now)})" if one.get("since") else ""
        colour = {"critical": "red", "warning": "yellow"}.get(one.get("severity", ""), "")
        said = f"{printable(one.get('what'))}{why}{since}. {printable(one.get('todo'))}"
        screen.wrapped(f"{printable(one.get('severity'))}: {said}", 10, colour)
    if found["findings"]:
        screen.line()


def route_state(route: dict[str, Any]) -> str:
    """One word (or two) for how a route is: what keeps traffic away comes first."""
    if not route.get("enabled", True):
        return "disabled"
    if (route.get("maintenance") or {}).get("active"):
        return "maintenance"
    drain = route.get("drain") or {}
    if drain.get("active"):
        return f"drain {printable(drain.get('traffic_percent'))}%"
    if (route.get("hold") or {}).get("active"):
        return "held"
    return str((route.get("health") or {}).get("status") or "unchecked")


def circuit_words(circuit: dict[str, Any]) -> str:
    """The state of a circuit, and where it is another one on other hosts."""
    others = [f"{one['state']} on {one['host']}" for one in circuit.get("hosts") or [] if one.get("state") != circuit.get("state")]
    return ", ".join([str(circuit.get("state")), *others])


def route_rows(routes: Sequence[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Routes as rows under ROUTE_HEADER."""
    rows: list[tuple[object, ...]] = []
    for one in routes:
        sums = one.get("stats") or {}
        rows.append((
            one.get("route_id"), f"{one.get('service')}/{one.get('instance')}", one.get("domains"), one.get("path"),
            one.get("backend"), one.get("priority"), route_state(one), circuit_words(one.get("circuit") or {}),
            sums.get("requests"), sums.get("errors"), sums.get("p99_latency_ms")))
    return rows


def routes(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """All routes, or those that hold a text; BAD where a text was asked for and none holds it."""
    state = {"": "", "unwell": "&unwell=1"}.get(options.state, f"&state={options.state}")
    found = admin.all("routes", (f"&q={quote(options.text)}" if options.text else "") + state)
    if screen.as_json:
        screen.json(found)
    else:
        screen.table(ROUTE_HEADER, route_rows(found), "no routes", _SPARE_OF_ROUTES)
    return BAD if options.text and not found else OK


def route(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """One route in full; BAD where it is down or its circuit is open."""
    found = admin.get(f"routes/{segment(options.route_id)}")
    found = found.get("route", found)
    if screen.as_json:
        screen.json(found)
    else:
        flat: dict[str, object] = {}
        for name, value in found.items():
            if isinstance(value, dict):
                flat |= {f"{name}.{inner}": item for inner, item in value.items()}
            else:
                flat[name] = value
        screen.pairs(flat)
    down = (found.get("health") or {}).get("status") in _DOWN
    return BAD if down or _open_somewhere(found.get("circuit") or {}) else OK


def _open_somewhere(circuit: dict[str, Any]) -> bool:
    return any(one.get("state") == "open" for one in (circuit, *(circuit.get("hosts") or [])))


def health(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The health checks; BAD where one is down."""
    found, now = admin.all("health"), time.time()
    if screen.as_json:
        screen.json(found)
    else:
        screen.table(("ROUTE", "STATUS", "OK %", "MS", "CHECKED", "URL", "REASON"), [
            (one.get("route_id"), one.get("status"), one.get("success_rate_percent"), one.get("response_time_ms"),
             ago(one.get("last_check"), now), one.get("url"), one.get("reason")) for one in found], "no health checks",
            ("MS", "OK %", "URL", "CHECKED"))
    return BAD if any(one.get("status") in _DOWN for one in found) else OK


def circuits(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The circuit breakers; BAD where one is open."""
    found, now = admin.all("circuits"), time.time()
    if screen.as_json:
        screen.json(found)
    else:
        several = any(one.get("hosts") for one in found)
        rows = [(one.get("route_id"), which.get("host"), which.get("state"), which.get("failures"),
                 ago(which.get("next_attempt") or "", now), which.get("reason", "")) for one in found
                for which in (one, *(one.get("hosts") or []))]
        shown = ("ROUTE", "HOST", "STATE", "FAILURES", "NEXT TRY", "REASON")
        screen.table(shown if several else (shown[0], *shown[2:]), rows if several else [(one[0], *one[2:]) for one in rows],
                     "no circuits", ("FAILURES", "NEXT TRY"))
    return BAD if any(map(_open_somewhere, found)) else OK


def hosts(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The hosts that share the database; BAD where one is behind, or silent."""
    found = admin.get("hosts")
    rows, now = found.get("hosts") or [], time.time()
    if screen.as_json:
        screen.json(found)
    else:
        screen.table(("HOST", "STATE", "CONFIG", "BEHIND", "WORKERS", "RELEASE", "STARTED", "SIGN OF LIFE"), [
            (one.get("name"), _state_of_host(one), one.get("config_version"), one.get("behind"), one.get("workers"), one.get("release"),
             ago(one.get("started_at"), now), ago(one.get("heartbeat_at"), now)) for one in rows],
            "no hosts: the database is SQLite, which is one host's", ("STARTED", "RELEASE"))
    return BAD if any(one.get("behind") or not one.get("lives") for one in rows) else OK


def _state_of_host(one: dict[str, Any]) -> str:
    if not one.get("lives"):
        return "no sign of life"
    drained = ", drained" if one.get("drained_at") else ""
    return (f"leads (term {one.get('term')})" if one.get("leads") else "follows") + drained


def ca(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The local CA's certificate, as PEM; BAD where there is none."""
    found = admin.get("certificates").get("local_ca")
    if not found:
        raise Refused("there is no local CA: [acme] enabled = yes makes it")
    if screen.as_json:
        screen.json({"local_ca": found})
    else:
        for line in str(found).splitlines():
            screen.line(printable(line))
    return OK


def sessions(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The sessions of the registry."""
    found, now = admin.all("sessions"), time.time()
    if screen.as_json:
        screen.json(found)
    else:
        screen.table(("SESSION", "SERVICE", "INSTANCE", "STATE", "ADDRESS", "CONNECTED", "ROUTES", "ACTIVE"), [
            (one.get("session_id"), one.get("service_name"), one.get("instance_name"), one.get("state"), one.get("address"),
             ago(one.get("connected_at"), now), one.get("routes_active"), ago(one.get("last_activity"), now))
            for one in found], "no sessions", ("ACTIVE", "CONNECTED", "ADDRESS", "SESSION", "ROUTES"))
    return OK


def stats(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Traffic by route, or of one. Raises Refused for a route that is not there."""
    found = [one for one in admin.all("stats") if options.route_id in ("", one.get("route_id"))]
    if options.route_id and not found:
        raise Refused(f'there is no route "{options.route_id}"')
    if screen.as_json:
        screen.json(found)
    else:
        screen.table(("ROUTE", "REQUESTS", "ERRORS", "P50 MS", "P95 MS", "P99 MS", "LIMITED", "RETRIES", "NOW", "CODES"), [
            (one.get("route_id"), one.get("requests"), one.get("errors"), one.get("p50_latency_ms"),
             one.get("p95_latency_ms"), one.get("p99_latency_ms"), one.get("rate_limited"), one.get("retries"),
             one.get("in_flight"), one.get("status_codes")) for one in found], "no routes",
            ("P95 MS", "RETRIES", "LIMITED", "P50 MS", "NOW", "CODES"))
    return OK


def errors(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The errors of the last days, grouped; or the hosts that no route names."""
    now = time.time()
    if options.hosts:
        hosts = admin.get("unknown-hosts?limit=100").get("hosts") or []
        if screen.as_json:
            screen.json(hosts)
        else:
            screen.table(("HOST", "REQUESTS", "LAST"), [
                (one.get("host"), one.get("requests"), ago(one.get("last_at"), now)) for one in hosts], "no requests to unknown hosts")
        return OK
    hours = min(max(1, round(options.since / 3600)), 720)
    query = f"&hours={hours}" + (f"&made_by={options.by}" if options.by else "") + (
        f"&service={quote(options.service, safe='')}" if options.service else "")
    found = admin.all("errors", query)
    if screen.as_json:
        screen.json(found)
    else:
        screen.table(("SERVICE", "PLACE", "STATUS", "REASON", "BY", "COUNT", "LAST", "LAST REQUEST", "ID"), [
            (one.get("service") or "-", f"{one.get('domain') or ''}{one.get('path') or ''}" or "-", one.get("status"),
             one.get("reason") or "-", one.get("made_by"), one.get("requests"), ago(one.get("last_at"), now),
             f"{one.get('last_method')} {one.get('last_url')}", one.get("last_request_id")) for one in found], "no errors",
            ("ID", "PLACE", "LAST REQUEST"))
    return OK


def why(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """What would become of a request; BAD where it would be refused."""
    asked = {"url": options.url, "client": options.client, "method": options.method, "fields": "\n".join(options.field)}
    found = admin.get(f"why?{urlencode(asked)}")
    code = OK if found.get("status") is None else BAD
    if screen.as_json:
        screen.json(found)
        return code
    screen.table(("STEP", "VERDICT", "DETAIL"), [
        (one.get("name"), one.get("verdict"), one.get("detail")) for one in found.get("steps") or []], "")
    members = found.get("members") or []
    if members:
        screen.line()
        screen.table(("MEMBER", "SERVICE", "BACKEND", "USABLE", "WHY"), [
            (one.get("route_id"), f"{one.get('service')}/{one.get('instance')}", one.get("backend"), "yes" if one.get("usable") else "no",
             one.get("why")) for one in members], "", ("BACKEND", "SERVICE"))
    screen.line()
    if found.get("status") is not None:
        screen.wrapped(f"answered {printable(found['status'])} by the proxy: {printable(found.get('code'))}", 0, "red")
    elif found.get("chosen"):
        screen.line(f"goes to {printable(found['chosen'])}")
    else:
        screen.line("waits")
    return code
