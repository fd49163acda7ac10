"""The commands that change something: drain, maint, reset, test, and send, which speaks to the registry itself."""

from __future__ import annotations

import argparse
import os
import re
import socket
from typing import Any

from proxyd.base.text import rfc3339
from proxyd.client.link import MAINT_WAIT, Identity, split
from proxyd.client.wire import Wire, addresses_of, open_any
from proxyd.ctl.adminhttp import Admin, Refused, segment
from proxyd.ctl.screen import Screen, printable
from proxyd.ctl.show import BAD, OK

# To enter maintenance, the master waits up to 25 s for the page.
_MAINT_TIMEOUT = 35.0
_TEST_TIMEOUT = 35.0


def drain(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Start or cancel the drain of a session, or of every connected session of a service."""
    chosen = _sessions_named(admin, options.who)
    answers = []
    for one in chosen:
        path = f"sessions/{segment(one['session_id'])}/drain"
        answer = admin.act("DELETE", path) if options.cancel else admin.act("POST", path, {"seconds": options.over})
        answers.append({**one, "answer": answer})
        if not screen.as_json:
            done = "drain cancelled" if options.cancel else f"draining over {printable(options.over)}s"
            screen.line(f"{printable(one['service_name'])}/{printable(one['instance_name'])}: {done}")
    if screen.as_json:
        screen.json(answers)
    return OK


def _sessions_named(admin: Admin, who: str) -> list[dict[str, Any]]:
    """The sessions with that number, service or service/instance, or the site whose name begins so.

    The beginning of a number would name another session when the one that was meant has ended.
    """
    known = admin.all("sessions")
    exact = [one for one in known if who == one["session_id"]]
    named = [one for one in known if who in (one["service_name"], f"{one['service_name']}/{one['instance_name']}")
             and one.get("state") == "connected"]
    begun = [] if re.fullmatch(r"s\d+", who) else [one for one in known if len(who) >= 4 and one["session_id"].startswith(who)]
    if not exact and not named and len(begun) > 1:
        raise Refused(f'the ids of {len(begun)} sessions begin with "{who}"; give more characters')
    found = exact or named or begun
    if not found:
        raise Refused(f'no connected session or service "{who}"')
    return found


def maint(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Put routes into maintenance, take them out of it, or list those in it."""
    if options.action == "status":
        active = [one for one in admin.all("routes") if (held := one.get("maintenance") or {}).get("active") or held.get("planned")]
        if screen.as_json:
            screen.json(active)
        else:
            screen.table(("ROUTE", "SERVICE", "DOMAINS", "PATH", "SINCE", "UNTIL", "HITS", "PLANNED", "REASON", "BY", "PAGE"), [
                (one["route_id"], one.get("service"), one.get("domains"), one.get("path"), *_maintenance_shown(one["maintenance"]))
                for one in active], "no route is in maintenance", ("HITS", "PATH", "SINCE", "SERVICE", "BY", "PAGE"))
        return OK
    entering, refused = options.action == "enter", []
    wanted: dict[str, object] = {}
    done = "maintenance lifted"
    if entering:
        wanted, done = _maintenance_wanted(options)
    for route_id in _routes_named(admin, options.target):
        path = f"routes/{segment(route_id)}/maintenance"
        try:
            if entering:
                admin.act("POST", path, wanted, timeout=_MAINT_TIMEOUT)
            else:
                admin.act("DELETE", path, timeout=_MAINT_TIMEOUT)
        except Refused as error:
            refused.append(f"{route_id}: {error}")
            continue
        if not screen.as_json:
            screen.line(f"{route_id}: {done}")
    if screen.as_json:
        screen.json({"action": options.action, "target": options.target, "refused": refused})
    if refused:
        raise Refused("; ".join(refused))
    return OK


def _maintenance_shown(held: dict[str, Any]) -> tuple[Any, ...]:
    """The cells of a route's maintenance; reason and who are those of the plan where there is nothing else."""
    plan = held.get("planned") or {}
    why, by = (held.get("reason"), held.get("entered_by")) if held.get("active") else (plan.get("reason"), plan.get("by"))
    return held.get("entered_at"), held.get("until"), held.get("hits"), plan.get("at"), why, by, held.get("page_url")


def _maintenance_wanted(options: argparse.Namespace) -> tuple[dict[str, object], str]:
    """What to ask for on entering maintenance, and what is said when it is done."""
    wanted: dict[str, object] = {"page_url": options.page, **({"reason": options.reason} if options.reason else {})}
    done = "maintenance entered"
    if options.at is not None and options.seconds is None:
        raise Refused("--at needs --for: planned maintenance begins and ends by itself")
    if options.seconds is not None:
        wanted["seconds"] = options.seconds
        done = f"maintenance entered for {options.seconds:g}s"
    if options.at is not None:
        wanted["at"] = rfc3339(options.at)
        done = f"maintenance planned at {rfc3339(options.at)} for {options.seconds:g}s"
    return wanted, done


def hold(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Let the requests of routes wait, or go on."""
    found = _routes_named(admin, options.target)
    for route_id in found:
        path = f"routes/{segment(route_id)}/hold"
        if options.release:
            admin.act("DELETE", path)
        else:
            admin.act("POST", path, {"seconds": options.seconds})
        if not screen.as_json:
            screen.line(f"{route_id}: {'released' if options.release else f'held for {options.seconds:g}s at most'}")
    if screen.as_json:
        screen.json({"target": options.target, "routes": found, "released": options.release})
    return OK


def _routes_named(admin: Admin, target: str) -> list[str]:
    """Ids of the routes that `target` names: ids with commas, a service, a domain, a path, or ALL."""
    wanted = set(target.split(","))
    found = [str(one["route_id"]) for one in admin.all("routes")
             if target.upper() == "ALL" or one["route_id"] in wanted or target in (one.get("service"), one.get("path"))
             or target in (one.get("domains") or ())]
    if not found:
        raise Refused(f'no route with the id, service, domain or path "{target}"')
    return found


def reset(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Close a route's circuit in every worker."""
    answer = admin.act("POST", f"routes/{segment(options.route_id)}/circuit/reset")
    if screen.as_json:
        screen.json(answer)
    else:
        screen.line(f"{options.route_id}: circuit closed")
    return OK


def test(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """Ask the registry master to reach a url. BAD if it can't."""
    answer = admin.act("POST", "test", {"url": options.url}, timeout=_TEST_TIMEOUT)
    if screen.as_json:
        screen.json(answer)
    else:
        screen.pairs(answer)
    return OK if answer.get("reachable") else BAD


def send(screen: Screen, options: argparse.Namespace, token: str) -> int:
    """Send one registry command, in a new session or in `--session`, which RECONNECT resumes."""
    addresses = addresses_of(options.registry)
    identity = Identity(addresses, "proxyctl", f"{socket.gethostname()}-{os.getpid()}", token=token or None)
    if any(ord(char) < 32 or ord(char) == 127 for char in options.line):
        raise Refused("a command is one line without control characters")
    line = options.line if "|" in options.line else f"{options.line}|{{sid}}"
    sock, _ = open_any(addresses, 0, options.tls, options.timeout)
    wire = Wire(sock, _is_event, lambda wire: None)
    try:
        answer = _send_in_session(wire, identity, line, options)
    finally:
        wire.close()
    head, _, rest = answer.partition("|")
    if screen.as_json:
        screen.json({"answer": head, "rest": rest})
    else:
        screen.line(printable(answer))
    return BAD if head in ("ERROR", "BACKEND_FAIL", "REREGISTER") else OK


def _is_event(line: str) -> bool:
    return line.startswith("EVENT|")


def _send_in_session(wire: Wire, identity: Identity, line: str, options: argparse.Namespace) -> str:
    command = line.partition("|")[0]
    if command in ("REGISTER", "RECONNECT"):
        return wire.ask(line, options.timeout)
    if options.session:
        session_id = options.session
        if split(wire.ask(f"RECONNECT|{session_id}", options.timeout))[0] != "OK":
            raise Refused(f"the registry knows no session {session_id}")
    else:
        session_id = split(wire.ask(identity.register_line(), options.timeout))[1]
    answer = wire.ask(line.replace("{sid}", session_id), options.timeout)
    if command in ("MAINT_ENTER", "MAINT_EXIT") and answer.startswith("ACK"):
        answer = wire.answer(MAINT_WAIT)
    if not options.session and command != "CLIENT_SHUTDOWN":
        wire.ask(f"CLIENT_SHUTDOWN|{session_id}", options.timeout)
    return answer


def alerts(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """The webhooks; or, with --test, whether each takes a message: BAD where one does not."""
    if not options.test:
        found = [one for one in admin.get("alerts")["webhooks"] if options.webhook in (None, one["name"])]
        if screen.as_json:
            screen.json(found)
        else:
            screen.table(("NAME", "HOST", "FORMAT", "TYPES", "SERVICES", "RESOLVED"), [
                (one["name"] or "[alerts] webhook", one["host"], one["format"], one["types"] or "all", one["services"] or "all",
                 "yes" if one["resolved"] else "no") for one in found], "no webhooks: [alerts] webhook and [webhooks] are empty")
        return OK
    sent = admin.act("POST", "alerts/test", {} if options.webhook is None else {"name": options.webhook}, timeout=60.0)["sent"]
    if screen.as_json:
        screen.json(sent)
    else:
        screen.table(("NAME", "HOST", "RESULT"), [
            (one["name"] or "[alerts] webhook", one["host"], one["error"] or "ok") for one in sent], "no webhooks")
    return BAD if any(one["error"] for one in sent) else OK
