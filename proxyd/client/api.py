"""The client: one method a command, over a session that keeps itself alive."""

from __future__ import annotations

import base64
import gzip
import json
import ssl
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from proxyd.base import text
from proxyd.client.commands import bulk_lines
from proxyd.client.errors import ClientError, ConnectionLost
from proxyd.client.events import LOCAL_TYPES, Callback, Event, EventHub
from proxyd.client.link import MAINT_WAIT, Identity, Link, Timing
from proxyd.client.wire import addresses_of

# BACKEND_TEST waits for a server that may be silent.
_TEST_WAIT = 30.0

Duration = str | int | float
Answer = dict[str, Any]


class Client:
    """A service's session with the registry.

    `connect` (or `with`) registers; from then on a thread pings, reconnects, and where the registry has forgotten
    the session registers anew and replays the applied configuration (then staged changes, unapplied). Route ids
    stay valid over that: methods take the id that `route_add` returned, `current_route_id` tells the present one.
    Every method raises ClientError with the registry's message, ConnectionLost where no answer came in time.

    `address`: the registry's, or those of all hosts that are one registry, as a list or with commas between them. The session goes to
    the first that can be reached, and from one that fails to the next.
    """

    def __init__(
        self, address: str | Iterable[str] = "127.0.0.1:8181", *, service: str, instance: str, metadata: Mapping[str, Any] | None = None,
        maintenance_port: int = 0, token: str | None = None, tls: ssl.SSLContext | bool | None = None,
        timeout: float = 10.0, ping_interval: float = 15.0, session_id: str = "",
    ) -> None:
        for name, value in (("service", service), ("instance", instance)):
            _check(name, value, last=False)
        identity = Identity(addresses_of(address), service, instance, dict(metadata or {}), maintenance_port, token, tls)
        self._hub = EventHub()
        self._link = Link(identity, Timing(timeout, ping_interval), self._hub, session_id)

    def connect(self, wait: float = 0.0) -> Self:
        """Connect and register, trying again for `wait` seconds. Raises ClientError."""
        self._link.start(wait)
        return self

    def close(self, shutdown: bool = True) -> None:
        """End the session and its routes; with `shutdown` False only the connection, so that RECONNECT finds it."""
        self._link.stop(shutdown)
        self._hub.close()

    def __enter__(self) -> Self:
        return self.connect()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def session_id(self) -> str:
        """The session's id, empty before the first connection."""
        return self._link.session_id

    @property
    def connected(self) -> bool:
        """Whether the session has a connection now."""
        return self._link.connected

    def current_route_id(self, route_id: str) -> str:
        """The id that the registry has for a route now."""
        return self._link.memory.current(route_id)

    # Staging: nothing of this takes traffic before `apply`.

    def route_add(self, domains: str | Iterable[str], path: str, backend_url: str, priority: int = 0) -> str:
        """Stage a route; returns its id."""
        return self._ask("ROUTE_ADD", _joined(domains), path, backend_url, str(priority))

    def route_add_bulk(self, routes: Iterable[Mapping[str, Any]]) -> list[str]:
        """Stage routes ({"domains", "path", "backend_url", "priority"}), all or none; returns their ids in order.

        More than a line of the protocol holds go in several commands. If one is refused, what the others have staged is taken back.
        """
        made: list[str] = []
        try:
            for line in bulk_lines([json.dumps(dict(route)) for route in routes]):
                made += [str(result["route_id"]) for result in json.loads(self._ask("ROUTE_ADD_BULK", line))]
        except ClientError as error:
            for route_id in made if not isinstance(error, ConnectionLost) else ():
                self.route_remove(route_id)
            raise
        return made

    def route_update(self, route_id: str, field: str, value: str | int) -> None:
        """Stage another backend_url, priority, domains (with commas) or path."""
        self._ask("ROUTE_UPDATE", route_id, field, str(value))

    def route_remove(self, route_id: str) -> None:
        """Stage the removal of a route."""
        self._ask("ROUTE_REMOVE", route_id)

    def headers_set(self, target: str, name: str, value: str) -> None:
        """Stage a response header for a route or ALL."""
        self._ask("HEADERS_SET", target, name, value)

    def headers_remove(self, target: str, name: str) -> None:
        """Stage that a response header is not set any more."""
        self._ask("HEADERS_REMOVE", target, name)

    def request_headers_set(self, target: str, name: str, value: str) -> None:
        """Stage a header of the requests to the backend of a route or ALL. The value `-` takes the client's own away."""
        self._ask("REQUEST_HEADERS_SET", target, name, value)

    def request_headers_remove(self, target: str, name: str) -> None:
        """Stage that a request header is not set any more."""
        self._ask("REQUEST_HEADERS_REMOVE", target, name)

    def options_set(self, target: str, key: str, value: str | int | float | bool) -> None:
        """Stage an option for a route or ALL."""
        self._ask("OPTIONS_SET", target, key, str(value).lower() if isinstance(value, bool) else str(value))

    def options_remove(self, target: str, key: str) -> None:
        """Stage that an option has its default again."""
        self._ask("OPTIONS_REMOVE", target, key)

    def health_set(self, route_id: str, path: str, interval: Duration = "10s", timeout: Duration = "5s") -> None:
        """Stage a health check."""
        self._ask("HEALTH_SET", route_id, path, _duration(interval), _duration(timeout))

    def ratelimit_set(self, target: str, requests: int, window: Duration) -> None:
        """Stage a rate limit per client address."""
        self._ask("RATELIMIT_SET", target, str(requests), _duration(window))

    def circuit_breaker_set(self, target: str, threshold: int, timeout: Duration, half_open_requests: int = 1) -> None:
        """Stage a circuit breaker: open after `threshold` failures, try again after `timeout`."""
        self._ask("CIRCUIT_BREAKER_SET", target, str(threshold), _duration(timeout), str(half_open_requests))

    def apply(self) -> None:
        """Make everything staged live; on return every worker routes by it."""
        self._ask("CONFIG_APPLY")

    def apply_partial(self, scopes: str | Iterable[str]) -> None:
        """Make some of it live: routes, headers, options, health, ratelimit, circuit_breaker."""
        self._ask("CONFIG_APPLY_PARTIAL", _joined(scopes))

    def validate(self) -> None:
        """Raise ClientError where the staged changes can't be applied."""
        self._ask("CONFIG_VALIDATE")

    def diff(self) -> Answer:
        """What `apply` would change."""
        return self._object("CONFIG_DIFF")

    def rollback(self) -> None:
        """Forget the staged changes."""
        self._ask("CONFIG_ROLLBACK")

    # Live state

    def route_list(self) -> list[Answer]:
        """The session's routes, with status active, staged or pending_removal."""
        return list(self._compressible("ROUTE_LIST"))

    def route_status(self, route_id: str) -> Answer:
        """Everything about a route: health, circuit, rate limit, maintenance, drain."""
        return self._object("ROUTE_STATUS", route_id)

    def circuit_status(self, route_id: str) -> Answer:
        """What the workers' circuit breakers of a route do now."""
        return self._object("CIRCUIT_BREAKER_STATUS", route_id)

    def circuit_reset(self, route_id: str) -> None:
        """Close a route's circuit in every worker."""
        self._ask("CIRCUIT_BREAKER_RESET", route_id)

    def cert_status(self, domain: str = "") -> Any:
        """How the certificates of the session's domains stand: a list."""
        return json.loads(self._ask("CERT_STATUS", domain))

    def stats(self, target: str = "ALL") -> Any:
        """Counters: one object for a route id, a list for ALL."""
        return self._compressible("STATS_GET", target)

    def backend_test(self, url: str) -> Answer:
        """Whether the registry reaches a url: {"reachable", ...}; a failure is an answer, not an exception."""
        _check("url", url, last=True)
        _, body = self._link.ask("BACKEND_TEST", (url,), timeout=_TEST_WAIT)
        return dict(json.loads(body))

    def drain_start(self, duration: Duration) -> str:
        """Take the session's traffic down to nothing over a time; returns when it will be done (RFC 3339)."""
        return self._ask("DRAIN_START", _duration(duration))

    def drain_status(self) -> Answer:
        """How far the drain is. Raises ClientError where there is none."""
        return self._object("DRAIN_STATUS")

    def drain_cancel(self) -> None:
        """Full traffic at once."""
        self._ask("DRAIN_CANCEL")

    def traffic_hold(self, duration: Duration, target: str = "ALL") -> str:
        """Let requests wait for ALL, ids, a path or a domain, that long at most; returns when that ends (RFC 3339)."""
        return self._ask("TRAFFIC_HOLD", target, _duration(duration))

    def traffic_release(self, target: str = "ALL") -> None:
        """Let the requests that wait go on."""
        self._ask("TRAFFIC_RELEASE", target)

    def maint_enter(self, target: str = "ALL", page_url: str = "", duration: Duration | None = None, reason: str = "") -> str:
        """Maintenance for ALL, ids, a path or a domain, which ends by itself after `duration`; returns the target once the page answers.
        `reason` is for the history."""
        more = () if duration is None and not reason else ("" if duration is None else _duration(duration), *filter(None, (reason,)))
        return self._ask("MAINT_ENTER", target, page_url, *more, then=MAINT_WAIT)

    def maint_exit(self, target: str = "ALL") -> str:
        """Lift maintenance; ClientError where the backend does not answer (lifted all the same)."""
        return self._ask("MAINT_EXIT", target, then=MAINT_WAIT)

    def maint_status(self) -> Answer:
        """Which routes are in maintenance."""
        return self._object("MAINT_STATUS")

    def session_info(self) -> Answer:
        """What the registry knows of this session."""
        return self._object("SESSION_INFO")

    def ping(self) -> None:
        """Raise ClientError where the session does not live."""
        self._ask("PING")

    def shutdown(self) -> None:
        """End the session: its routes are gone when this returns."""
        self.close()

    def send(self, line: str, timeout: float | None = None) -> str:
        """Send a raw line, `{sid}` standing for the session id; returns the raw answer. Not remembered for a replay."""
        _check("line", line, last=True)
        answer = self._link.raw(line.replace("{sid}", self.session_id), timeout)
        if answer.startswith("SHUTDOWN_OK"):
            self.close(shutdown=False)
        return answer

    # Events

    def subscribe(self, type: str, callback: Callback) -> None:
        """Call `callback(event)` for events of a type, `all` for any; the client's own types are in LOCAL_TYPES."""
        self._hub.add(type, callback)
        self._want({type})

    def unsubscribe(self, type: str, callback: Callback | None = None) -> None:
        """Drop the callbacks of a type, or one of them."""
        self._hub.remove(type, callback)
        if not self._hub.wanted(type) and type in self._link.subscribed:
            self._link.subscribed.discard(type)
            self._ask("UNSUBSCRIBE", type)

    def events(self, *types: str, silence: float | None = None) -> Iterator[Event]:
        """An iterator over events from now on (default: all), ending at `close` or after `silence` seconds of none."""
        chosen = frozenset(types or ("all",))
        stream = self._hub.listen(chosen, silence)
        self._want(set(chosen))
        return stream

    def _want(self, types: set[str]) -> None:
        for type in types - LOCAL_TYPES - self._link.subscribed:
            self._link.subscribed.add(type)
            if self._link.connected:
                self._ask("SUBSCRIBE", type)

    def _ask(self, command: str, *fields: str, then: float = 0.0) -> str:
        for position, value in enumerate(fields):
            _check(command, value, last=position == len(fields) - 1)
        return self._link.ask(command, fields, then=then)[1]

    def _object(self, command: str, *fields: str) -> Answer:
        return dict(json.loads(self._ask(command, *fields)))

    def _compressible(self, command: str, *fields: str) -> Any:
        """The JSON of an answer, asked for compressed where it is too long for a line."""
        try:
            return json.loads(self._ask(command, *fields))
        except ClientError as error:
            if "response too large" not in str(error):
                raise
        packed = base64.b64decode(self._ask(command, *fields, "compressed"))
        return json.loads(gzip.decompress(packed))


def _joined(items: str | Iterable[str]) -> str:
    return items if isinstance(items, str) else ",".join(items)


def _duration(value: Duration) -> str:
    return value if isinstance(value, str) else text.format_duration(value)


def _check(name: str, value: str, *, last: bool) -> None:
    """A field must not break the line it travels in."""
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ClientError(f"{name}: {value!r} holds a control character")
    if "|" in value and not last:
        raise ClientError(f"{name}: {value!r} holds |, which separates fields")
