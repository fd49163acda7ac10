"""Why a request would be answered as it would: the route that its url matches, what each gate says, and which member would take it.

The worker's own code matches and chooses, over the routes that the database has for the host and over the shared memory. Nothing is
sent to a backend, and nothing is counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from proxyd.admin.context import Context
from proxyd.admin.http import Request, RequestRefused, Response, as_json
from proxyd.base import clock
from proxyd.base.conditions import conditions_of, with_conditions
from proxyd.base.paths import normalize_host, request_path
from proxyd.base.reasons import CLOSED
from proxyd.base.text import rfc3339
from proxyd.config.defaults import defaults
from proxyd.config.options import DEFAULT_OPTIONS
from proxyd.config.optionvalues import BY_ADDRESS, BY_USER
from proxyd.config.settings import Settings
from proxyd.http1 import RequestHead
from proxyd.proxy.core.origin import trust_check
from proxyd.proxy.core.refusal import Refusal
from proxyd.proxy.core.upstreams import Pool, Upstream
from proxyd.proxy.gates import GATES
from proxyd.proxy.gates.addresses import AddressLists
from proxyd.proxy.gates.followed import Follower
from proxyd.proxy.gates.maintenance import held_in
from proxyd.proxy.gates.ratelimit import RateLimiter
from proxyd.proxy.route.balance import POLICIES
from proxyd.proxy.route.choose import HELD, choose
from proxyd.proxy.route.drain import drain_share
from proxyd.proxy.route.table import Table
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.store.memory.transitions import OPEN, STATE_NAMES
from proxyd.store.sql.snapshot import RouteRecord, Snapshot, load_hosts

_MAX_URL = 8000
PASSES, REFUSES, WAITS = "passes", "refuses", "waits"


class Step(NamedTuple):
    """What one step says. `status`, `code`: of the answer that it would give."""

    name: str
    verdict: str
    detail: str
    status: int = 0
    code: str = ""


class _Asked(NamedTuple):
    context: Context
    settings: Settings
    client: str
    now: float


def why(context: Context, request: Request) -> Response:
    """Which route a url matches, what each gate says, and which member would take the request."""
    url, client = request.query.get("url", ""), request.query.get("client", "127.0.0.1")
    scheme, host, path, target, readings = _parts(url)
    head = RequestHead(request.query.get("method", "GET"), target, 11, _fields(request.query.get("fields", "")), [])
    asked = _Asked(context, context.settings, client, clock.now())
    records = context.read(load_hosts, _domains(host))
    table = Table.empty().with_changes(Snapshot(0, True, records, ()))
    steps: list[Step] = []
    if asked.settings.proxy.redirect_https and scheme == "http":
        steps.append(Step("redirect", REFUSES, f"[proxy] redirect_https sends the client to https://{host}{path}", 301, "https_only"))
    pool = table.match(host, path, head)
    steps.append(_matched(asked, table, host, path, pool))
    chosen: Upstream | None = None
    members: list[dict[str, Any]] = []
    if pool is not None:
        first = pool.members[0]
        other = next((reading for reading in readings if table.match(host, reading, head) is not pool), "")
        if other and first.options.ambiguous_path == "refuse":
            steps.append(Step("path", REFUSES, f"a backend may read this path as {other}, one of another route", 400, "ambiguous_path"))
        steps += [_GATES[gate.__name__](asked, pool) for gate in GATES]
        members = [_member(asked, member) for member in pool.members]
        step, chosen = _choice(asked, pool)
        steps += [step, *_defaults(records, chosen or first)]
    refused = next((step for step in steps if step.verdict == REFUSES), None)
    return as_json({
        "url": url, "client": client, "host": host, "path": path,
        "domain": pool.key[0] if pool is not None else None, "route_path": pool.path if pool is not None else None,
        "priority": pool.priority if pool is not None else None, "conditions": pool.key[3] if pool is not None else None,
        "steps": [step._asdict() for step in steps], "members": members,
        "chosen": chosen.route_id if chosen is not None and refused is None else None,
        "status": refused.status if refused is not None else None, "code": refused.code if refused is not None else None})


def _defaults(records: Sequence[RouteRecord], member: Upstream) -> list[Step]:
    """What holds for a member because it does not say otherwise itself. Empty if the settings have nothing of the kind."""
    record = next(record for record in records if record.route_id == member.route_id)
    left = defaults().left(*(dict(pairs) for pairs in (record.options, record.headers, record.request_headers)))
    said = "; ".join(f"[defaults.{kind}] {', '.join(f'{name} = {value}' for name, value in values.items())}"
                     for kind, values in left.items())
    return [Step("defaults", PASSES, said)] if said else []


def _fields(lines: str) -> list[tuple[str, str]]:
    """Names and values of request fields, one a line. Raises RequestRefused."""
    found = []
    for line in filter(None, lines.splitlines()):
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise RequestRefused(400, "bad_parameter", f'fields: "{line[:100]}" is no field (like X-Canary: 1)')
        found.append((name.strip(), value.strip()))
    return found


def _parts(url: str) -> tuple[str, str, str, str, tuple[str, ...]]:
    """Scheme, host, path, target with the query, and what else backends may read the path as. Raises RequestRefused."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        host = normalize_host(parts.netloc.rpartition("@")[2].encode().decode("latin-1"))
    except ValueError as error:
        raise RequestRefused(400, "bad_parameter", f'url: "{url[:100]}" is no url: {error}') from None
    if not host or parts.scheme not in ("http", "https", "ws", "wss") or len(url) > _MAX_URL:
        raise RequestRefused(400, "bad_parameter", f'url: "{url[:100]}" is no url of a site (like https://shop.example.com/cart)')
    path, readings = request_path(parts.path or "/")
    return {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme), host, path, f"{path}?{parts.query}", readings


def _domains(host: str) -> list[str]:
    """The domains by which a route may serve a host."""
    dot = host.find(".")
    return [host, *(["*" + host[dot:]] if dot > 0 else []), "*"]


def _matched(asked: _Asked, table: Table, host: str, path: str, pool: Pool | None) -> Step:
    if pool is not None:
        return Step("route", PASSES, f"{with_conditions(pool.key[0] + pool.path, pool.key[3])} at priority {pool.priority}, of service "
                    f"{pool.members[0].service}")
    if table.knows_host(host):
        known = sorted({with_conditions(domain + upstream.path, rule.text if (rule := conditions_of(upstream.options)) else "")
                        for upstream in table.upstreams.values() for domain in upstream.domains if domain in _domains(host)})
        return Step("route", REFUSES, f"no route covers this request; there are {', '.join(known[:10])}{' ...' if known[10:] else ''}",
                    404, "no_route")
    how = asked.settings.proxy.unknown_host
    return Step("route", REFUSES, f"no route names the host {host}, nor a wildcard for it", CLOSED if how == "close" else int(how),
                "unknown_host")


def _addresses(asked: _Asked, pool: Pool) -> Step:
    options = pool.members[0].options
    if not (options.allow or options.deny):
        return Step("addresses", PASSES, "open to every address")
    lists = AddressLists(asked.settings.lists)
    Follower(lists.files).read()
    if lists.denies(options.allow, options.deny, asked.client):
        return Step("addresses", REFUSES, f"the route's allow or deny keeps {asked.client} out", 403, "address_denied")
    return Step("addresses", PASSES, f"open to {asked.client}")


def _cors(asked: _Asked, pool: Pool) -> Step:
    origins = pool.members[0].options.cors_origins
    return Step("cors", PASSES, f"pages of {', '.join(origins)} may read the answer" if origins else "no policy of the route's own")


def _preflight(asked: _Asked, pool: Pool) -> Step:
    return Step("preflight", PASSES, "preflights are answered here" if pool.members[0].options.cors_origins else "preflights pass")


def _client_certificate(_: _Asked, pool: Pool) -> Step:
    wanted = pool.members[0].options.client_certificate
    return Step("client_certificate", PASSES, {"off": "no client certificate needed", "optional": "clients may show a certificate",
                                               "required": "clients that show a certificate pass"}[wanted])


def _body_size(asked: _Asked, pool: Pool) -> Step:
    limit = pool.members[0].options.max_body_size or asked.settings.proxy.max_body_size
    return Step("body_size", PASSES, f"bodies of at most {limit} bytes" if limit else "bodies of any size")


def _maintenance(asked: _Asked, pool: Pool) -> Step:
    held = held_in(pool)
    if held is None:
        count = sum(bool(member.maintenance_since) for member in pool.members)
        return Step("maintenance", PASSES, f"{count} of {len(pool.members)} members are in maintenance, others are in service" if count
                    else "not in maintenance")
    if trust_check(asked.settings.maintenance.bypass)(asked.client):
        return Step("maintenance", PASSES, f"in maintenance, but [maintenance] bypass lets {asked.client} pass")
    return Step("maintenance", REFUSES, f"in maintenance since {rfc3339(held.maintenance_since)}", 503, "maintenance")


def _rate_limit(asked: _Asked, pool: Pool) -> Step:
    if pool.limited is None:
        return Step("rate_limit", PASSES, "no limit")
    by = pool.limited.options.rate_limit_key
    if BY_USER in by:
        return Step("rate_limit", PASSES, "the limits count by user, so they come after the login: user_limit")
    if by != BY_ADDRESS:
        key = " + ".join(f"{kind}:{name}" if name else kind for kind, name in by)
        return Step("rate_limit", PASSES, f"limits are counted by {key}, so the url does not tell how many requests are left")
    limiter = RateLimiter(asked.settings, os.path.dirname(asked.context.state.board.file.path))
    try:
        bounds = limiter.standing(pool.limited, asked.client)
    finally:
        limiter.close()
    if not bounds:
        return Step("rate_limit", PASSES, f"[ratelimit] allow spares {asked.client}")
    said = ", ".join(f"{left} of {amount} requests in {window:g} s are left for {asked.client}" for amount, window, left in bounds)
    if any(left <= 0 for _, _, left in bounds):
        return Step("rate_limit", REFUSES, said, 429, "rate_limited")
    return Step("rate_limit", PASSES, said)


def _basic_auth(asked: _Asked, pool: Pool) -> Step:
    name = pool.members[0].options.basic_auth
    return Step("basic_auth", PASSES, f"users of {name} pass by name and password" if name else "no name and password needed")


def _forward_auth(asked: _Asked, pool: Pool) -> Step:
    url = pool.members[0].options.forward_auth
    return Step("forward_auth", PASSES, f"{url.backend.place} is asked whether it may pass" if url is not None else "nobody is asked")


def _user_limit(asked: _Asked, pool: Pool) -> Step:
    by_user = pool.limited is not None and BY_USER in pool.limited.options.rate_limit_key
    return Step("user_limit", PASSES, "limits are counted by user, so the url does not tell how many requests are left" if by_user
                else "no limit by user")


def _plugged(asked: _Asked, pool: Pool) -> Step:
    names = pool.members[0].options.gates
    return Step("plugged", PASSES, f"unless a gate of an installed package refuses it: {', '.join(names)}" if names else "none are asked")


def _own_answer(asked: _Asked, pool: Pool) -> Step:
    answer = pool.members[0].answer
    if answer is None:
        return Step("own_answer", PASSES, "a backend answers")
    return Step("own_answer", REFUSES, f"the route answers itself: {pool.members[0].scheme}", answer.status)


#: What tells of each gate, by the gate's name: a test looks whether all of GATES are here.
_GATES: dict[str, Callable[[_Asked, Pool], Step]] = {
    "cors": _cors, "addresses": _addresses, "preflight": _preflight, "client_certificate": _client_certificate, "body_size": _body_size,
    "maintenance": _maintenance, "rate_limit": _rate_limit, "basic_auth": _basic_auth, "forward_auth": _forward_auth,
    "user_limit": _user_limit, "plugged": _plugged, "own_answer": _own_answer}


def _member(asked: _Asked, member: Upstream) -> dict[str, Any]:
    """Whether a member may be chosen, and why not."""
    told, usable = [], True
    circuit = asked.context.state.circuits.read(member.slot, member.number)
    if not member.enabled:
        told, usable = ["its service has lost its connection to the registry"], False
    if member.maintenance_since:
        told.append("in maintenance")
        usable = False
    if member.held_until > asked.now:
        told.append(f"its requests wait, {member.held_until - asked.now:.0f} s at most (TRAFFIC_HOLD)")
    if not Circuits(asked.context.state.circuits).usable(member, asked.now):
        usable = False
        if circuit.state == OPEN:
            again = "until its health check passes" if circuit.by_health else f"for {max(0.0, circuit.next_attempt - asked.now):.0f} s"
            told.append(f"its circuit is open {again}")
        else:
            told.append("its circuit is half-open, and as many trial requests are under way as may be")
    elif circuit.state:
        told.append(f"its circuit is {STATE_NAMES[circuit.state]}: a request would be a trial")
    if member.rollout < 1.0:
        told.append(f"a rollout leaves it {member.rollout:.0%} of the clients" if member.rollout else
                    "stands aside (rollout): it takes requests only if no other member can")
    if member.drain_started_at:
        told.append(f"drains, takes {drain_share(member, asked.now):.0%} of its usual requests")
    if member.options.weight != DEFAULT_OPTIONS.weight:
        told.append(f"weight {member.options.weight}")
    parting = ":" if member.base_path and not member.port else ""
    backend = member.scheme if member.answer is not None else f"{member.scheme}://{member.authority}{parting}{member.base_path}"
    return {"route_id": member.route_id, "service": member.service, "instance": member.instance,
            "backend": backend, "usable": usable,
            "why": "; ".join(told) or "takes requests"}


def _choice(asked: _Asked, pool: Pool) -> tuple[Step, Upstream | None]:
    found = choose(pool, asked.client, None, (), (), Circuits(asked.context.state.circuits), asked.now)
    if found is HELD:
        return Step("member", WAITS, "the request waits: TRAFFIC_HOLD holds it"), None
    if isinstance(found, Refusal):
        return Step("member", REFUSES, found.detail, found.status, found.code), None
    name = f"{found.instance} ({found.route_id})"
    if len(pool.members) == 1:
        return Step("member", PASSES, f"{name} is the only member"), found
    policy = pool.members[0].options.balance
    if POLICIES[policy].by_client:
        return Step("member", PASSES, f"{name}: balance = {policy} gives this client to it, unless a cookie says otherwise"), found
    return Step("member", PASSES, f"{name}, or another usable member: each worker goes by balance = {policy}"), found
