"""Gates that installed packages bring (entry points `proxyd.gates`), asked for routes that name them in the option `gates`.

They are imported when a worker takes such a route up. One that can't be imported, fails, takes too long or says what can't be said
refuses the request: a gate may guard something.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

import gevent

from proxyd.base.gateapi import GROUP, GateAnswer, GateFields, GateFunction, GateRequest
from proxyd.config import routechecks
from proxyd.config.settings import Settings
from proxyd.proxy.core.refusal import Page, Refusal, refuse
from proxyd.proxy.core.setfields import replace_fields

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool

log = logging.getLogger("proxyd.proxy")

_MAX_BODY = 1 << 20
_MAX_VALUE = 8192


class HasSettings(Protocol):
    """What this gate needs of a worker."""

    settings: Settings


_loaded: dict[str, GateFunction | str] = {}


def load(names: Iterable[str]) -> None:
    """Import gates, unless they are. What can't be imported is logged, and kept as the reason why requests are refused."""
    from importlib.metadata import entry_points

    for name in names:
        if name in _loaded:
            continue
        try:
            (found,) = entry_points(group=GROUP, name=name)
            _loaded[name] = found.load()
        except Exception as error:
            log.exception("the gate %s can't be imported", name)
            _loaded[name] = f"{type(error).__name__}: {error}"


def plugged(parts: HasSettings, ex: Exchange, pool: Pool) -> Refusal | None:
    """Ask the gates that the route names, until one answers."""
    first = pool.members[0]
    names = first.options.gates
    if not names:
        return None
    path = ex.head.path
    request = GateRequest(
        ex.method, "https" if ex.secure else "http", ex.host, ex.path, path, ex.client_ip,
        tuple([(name.lower(), value) for name, value in ex.head.headers]), ex.request_id, first.route_id, first.service)
    for name in names:
        refusal = _ask(name, request, ex, parts.settings.proxy.gate_timeout)
        if refusal is not None:
            return refusal
    return None


def _ask(name: str, request: GateRequest, ex: Exchange, seconds: float) -> Refusal | None:
    gate = _loaded.get(name, "it is not loaded")
    if isinstance(gate, str):
        return _failed(name, gate)
    timeout = gevent.Timeout(seconds)
    try:
        with timeout:
            said = gate(request)
        return None if said is None else _heed(said, ex)
    except gevent.Timeout as expired:
        if expired is not timeout:
            raise
        return _failed(name, f"it took longer than {seconds:g} s ([proxy] gate_timeout)")
    except Exception as error:
        log.exception("the gate %s failed for request %s", name, ex.request_id)
        return _failed(name, f"{type(error).__name__}")


def _failed(name: str, why: str) -> Refusal:
    log.error("the gate %s lets nothing pass: %s", name, why)
    return refuse("gate_failed", f"the gate {name} failed")


def _heed(said: object, ex: Exchange) -> Refusal | None:
    """Do what a gate has said. Raises ValueError, TypeError and the like for what can't be done."""
    if isinstance(said, GateFields):
        wanted = [(routechecks.request_header_name(field), _value(value)) for field, value in said.request]
        told = [(routechecks.header_name(field), _value(value)) for field, value in said.answer]
        if wanted:
            _set(ex, wanted)
        ex.set_headers += told
        return None
    if not isinstance(said, GateAnswer):
        raise TypeError(f"a gate returned {type(said).__name__}, not None, GateAnswer or GateFields")
    if not 200 <= said.status <= 599:
        raise ValueError(f"a gate answered with status {said.status}")
    body = said.body.encode() if isinstance(said.body, str) else bytes(said.body)
    if len(body) > _MAX_BODY:
        raise ValueError(f"a gate answered with more than {_MAX_BODY} bytes")
    fields = tuple((routechecks.header_name(field), _value(value)) for field, value in said.fields)
    code = "gate_refused" if said.status >= 400 else ""
    return Refusal(said.status, code, "a gate refused the request" if code else "", fields, page=Page(_value(said.content_type), body))


def _set(ex: Exchange, wanted: list[tuple[str, str]]) -> None:
    """Set fields of the request for every attempt that follows. What the client sent under their names is dropped."""
    head = ex.head
    names = {field.lower() for field, _ in wanted}
    kept = set(head.skip)
    skip = [index for index, field in enumerate(head.headers) if index in kept or field[0].lower() in names]
    head.replace([*head.headers, *replace_fields([], tuple(wanted))], skip)


def _value(value: str) -> str:
    if len(value) > _MAX_VALUE or any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("a gate set a field with control characters, or with more than 8 KiB")
    value.encode("latin-1")
    return value
