"""What changes live traffic beside CONFIG_APPLY: maintenance, drains and circuit resets, by clients and operators alike."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gevent
import requests

from proxyd.base import clock
from proxyd.base.text import parse_rfc3339, rfc3339, route_number
from proxyd.base.urls import parse_backend
from proxyd.config.options import BackendTls, option_of, parse_option, route_options, tls_of
from proxyd.net import asking
from proxyd.net.targets import rules
from proxyd.registry import fields
from proxyd.registry.activeroutes import sorted_ids
from proxyd.registry.byhand import ByHand
from proxyd.registry.ends import NO_MAINTENANCE, Conflict, Ends, maintained
from proxyd.registry.hostdrains import HostDrains
from proxyd.registry.http2ask import ask_http2
from proxyd.registry.rollouts import Rollouts
from proxyd.registry.state import LiveSession, Registry
from proxyd.store.sql.changes import RegistryChange
from proxyd.store.sql.sharing import counts_missing, server_time
from proxyd.store.sql.status import drain_state
from proxyd.store.sql.traffic import route_stats

#: Stands before the url of a backend that may speak HTTP/2 (option `http2`).
_EITHER = "http2+"
#: Why an option has no effect.
HTTP3_UNSPOKEN = "http3 is accepted but has no effect: put a front that speaks HTTP/3 before proxyd (conf/fronts)"

log = logging.getLogger("proxyd.registry")

CANCELLED = "the wait for the page was cancelled by MAINT_EXIT"

_PROBE_TIMEOUT = (2.0, 3.0)
#: And for the whole answer: one that trickles in starts each read's time again.
_PROBE_WHOLE = 5.0
_PROBE_PAUSE = 0.25
#: Seconds that maintenance may be planned ahead.
_PLANNED_AHEAD = 90 * 86400.0
_TICK = 0.05
#: Unknown options that are remembered of a session, and services and options that were logged.
_MOST_UNKNOWN, _MOST_SAID = 32, 10_000
#: A url that is asked, and how its TLS is meant.
Asked = tuple[str, BackendTls]
#: Seconds. Workers write their counts twice a second, but a locked database can delay that.
_COUNTS_PERIOD, _COUNTS_PATIENCE, _COUNTS_PAUSE = 0.6, 30.0, 0.2


class Operations:
    """When a method returns, every live worker knows of the change. Methods raise ValueError with a message for a person, and
    StoreError."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.ends = Ends(registry)
        self.rollouts = Rollouts(registry)
        self.by_hand = ByHand(registry)
        self.host_drains = HostDrains(registry)
        self._said: set[str] = set()
        self._drains: dict[str, int] = {}
        self._generations = itertools.count(1)

    # -- maintenance

    def enter_maintenance(self, route_ids: list[str], page_url: str, actor: str, seconds: float | None = None,
                          at: float | None = None, reason: str = "") -> None:
        """Put routes into maintenance, for `seconds` if it is to end by itself. An empty url means the built-in page. `at`: when it is to
        begin, in Unix seconds, if not now. `reason`: for the history. Raises ValueError for a url that can't have a page, for more seconds
        than [maintenance] max_duration, and for a plan without an end or in the past."""
        longest = self.registry.settings.maintenance.max_duration
        if longest and seconds is not None and seconds > longest:
            raise ValueError(f"duration: {seconds:g}s is longer than [maintenance] max_duration ({longest:g}s)")
        seconds = seconds or longest or None
        try:
            page_url = fields.page_url(page_url)
        except ValueError as error:
            raise ValueError(f"page_url: {error}") from None
        if at is not None:
            if seconds is None:
                raise ValueError("planned maintenance needs a duration: it begins and ends by itself")
            if not time.time() <= at <= time.time() + _PLANNED_AHEAD:
                raise ValueError(f"at: {rfc3339(at)} is not within the next {_PLANNED_AHEAD / 86400:.0f} days")
            self.ends.plan(route_ids, {"at": at, "seconds": seconds, "page_url": page_url, "reason": reason}, actor)
            return
        self.ends.maintain(route_ids, maintained(page_url, seconds), True, actor, reason)
        if seconds is not None:
            self.ends.watch(seconds)

    def exit_maintenance(self, route_ids: list[str], actor: str) -> None:
        """Take routes out of maintenance. One that is not in maintenance loses the plan for it."""
        rows = self.registry.active.rows
        planned = [route_id for route_id in route_ids
                   if route_id in rows and rows[route_id]["maintenance_plan"] and not rows[route_id]["maintenance_since"]]
        if planned:
            self.ends.plan(planned, None, actor)
        self.ends.maintain(route_ids, dict(NO_MAINTENANCE), False, actor)

    def _check_known(self, route_ids: list[str]) -> None:
        for route_id in route_ids:
            if route_id not in self.registry.active.rows:
                raise Conflict(f'"{route_id}" is not an active route')

    # -- drain

    def start_drain(self, session_id: str, seconds: float, actor: str) -> float:
        """Begin to drain a session's routes over `seconds`. Returns the end of the drain in Unix seconds."""
        registry = self.registry
        session = registry.find(session_id)
        if session is None:
            raise Conflict(f'"{session_id}" is not a session')
        now = clock.now()
        columns = {"drain_started_at": rfc3339(clock.shown(now)), "drain_clock": clock.mark(now), "drain_seconds": seconds}
        with registry.exclusive():
            version = registry.commit(RegistryChange(routes=registry.active.changed(session.routes, columns)))
        registry.await_workers(version)
        log.info("%s/%s drains over %g s (%s)", session.service, session.instance, seconds, actor)
        registry.bus.publish("drain_started", {"seconds": seconds}, None, session_id, actor)
        self._watch(session)
        return clock.shown(now + seconds)

    def cancel_drain(self, session_id: str, actor: str) -> None:
        """End a drain. The routes get full traffic at once."""
        registry = self.registry
        session = registry.find(session_id)
        if session is None or not self.drain_row(session):
            raise Conflict("no drain in progress")
        self._drains.pop(session_id, None)
        with registry.exclusive():
            columns = {"drain_started_at": None, "drain_clock": None, "drain_seconds": None}
            version = registry.commit(RegistryChange(routes=registry.active.changed(session.routes, columns)))
        registry.await_workers(version)
        log.info("the drain of %s/%s is cancelled (%s)", session.service, session.instance, actor)
        registry.bus.publish("drain_cancelled", {}, None, session_id, actor)

    def drain_row(self, session: LiveSession) -> dict[str, Any] | None:
        """A row of the session that is draining, or None."""
        for route_id in session.routes:
            row = self.registry.active.rows[route_id]
            if row["drain_started_at"]:
                return row
        return None

    def resume(self) -> None:
        """Watch the drains that were in progress when the last master ended, and all that ends by itself."""
        self.ends.resume()
        self.rollouts.resume()
        for session in list(self.registry.sessions.values()):
            if self.drain_row(session):
                self._watch(session)

    def _watch(self, session: LiveSession) -> None:
        generation = next(self._generations)
        self._drains[session.session_id] = generation
        gevent.spawn(self._run_drain, session, generation)

    def _run_drain(self, session: LiveSession, generation: int) -> None:
        """Publish an event at every tenth of a drain, at its end, and when the last request in flight has ended."""
        bus = self.registry.bus
        told = -1
        while (row := self._still(session, generation)) is not None:
            state = drain_state(row, clock.now())
            tenth = min(10, int((100.0 - state["traffic_percent"]) / 10 + 1e-9))
            if state["remaining_seconds"] <= 0:
                break
            if tenth > max(told, 0):
                told = tenth
                bus.publish("drain_progress", {key: state[key] for key in ("traffic_percent", "remaining_seconds")}, None,
                            session.session_id)
            gevent.sleep(_TICK)
        if row is None:
            return
        self._await_counts(time.monotonic() + _TICK)
        open_now = self._in_flight(session)
        bus.publish("drain_completed", {"traffic_percent": 0.0, "in_flight": open_now}, None, session.session_id)
        while open_now and self._still(session, generation) is not None:
            gevent.sleep(0.5)
            open_now = self._in_flight(session)
            if not open_now:
                bus.publish("drain_completed", {"traffic_percent": 0.0, "in_flight": 0}, None, session.session_id)

    def _await_counts(self, moment: float) -> None:
        """Wait until the database has what the workers of all hosts had counted at `moment` (time.monotonic() seconds), so that no request
        that they took just before is missing."""
        registry, deadline = self.registry, moment + _COUNTS_PATIENCE
        gevent.sleep(max(0.0, moment - time.monotonic()))
        there = registry.store.read(server_time) if registry.others is not None else None
        gevent.sleep(_COUNTS_PERIOD)
        while any(worker.counted < moment for worker in registry.board.workers()) and time.monotonic() < deadline:
            gevent.sleep(_TICK)
        # Those of other hosts are not on the board. Each says with its heartbeat how far it has come.
        while there is not None and registry.store.read(counts_missing, there) and time.monotonic() < deadline:
            gevent.sleep(_COUNTS_PAUSE)

    def _still(self, session: LiveSession, generation: int) -> dict[str, Any] | None:
        if self._drains.get(session.session_id) != generation:
            return None
        return self.drain_row(session)

    def _in_flight(self, session: LiveSession) -> int:
        stats = self.registry.store.read(route_stats, list(session.routes))
        return sum(item["in_flight"] for item in stats.values())

    def drain_status(self, session: LiveSession) -> dict[str, Any] | None:
        """The answer of DRAIN_STATUS, or None without a drain."""
        row = self.drain_row(session)
        if row is None:
            return None
        stats = self.registry.store.read(route_stats, list(session.routes))
        return {**drain_state(row, clock.now()), "rejected": sum(item["drain_rejected"] for item in stats.values()),
                "in_flight": sum(item["in_flight"] for item in stats.values())}

    # -- circuits

    def reset_circuit(self, route_id: str, actor: str) -> None:
        """Close a route's circuit in every worker of every host."""
        self._check_known([route_id])
        registry = self.registry
        row = registry.active.rows[route_id]
        registry.circuits.move(row["slot"], route_number(route_id), "reset", clock.now())
        if registry.others is not None:
            registry.others.ask({"kind": "reset", "slot": row["slot"], "route_id": route_id}, registry.settings.registry.apply_wait)
        self.registry.bus.publish("circuit_reset", {}, route_id, row["session"], actor)
        log.info("the circuit of route %s is reset (%s)", route_id, actor)

    # -- probes

    def test_backend(self, url: str) -> dict[str, Any]:
        """Ask a backend once: whether it answers, how fast, and whether its certificate is valid."""
        try:
            backend = parse_backend(url)
            if backend.answer is not None:
                raise ValueError(f"{url} is answered by the proxy itself: there is no backend to ask")
            rules().check_host(backend.host, backend.port)
        except ValueError as error:
            return {"reachable": False, "error": str(error)}
        asked = backend.url(backend.path or "/")
        started = time.monotonic()
        valid = backend.scheme == "https"
        try:
            try:
                status = self._ask(asked, BackendTls())
            except requests.exceptions.SSLError:
                valid = False
                status = self._ask(asked, BackendTls(False))
        except (requests.RequestException, ValueError, OSError) as error:
            return {"reachable": False, "error": asking.why(error)}
        return {"reachable": True, "response_time_ms": round((time.monotonic() - started) * 1000, 2), "status_code": status,
                "tls_valid": valid}

    @staticmethod
    def _ask(url: str, tls: BackendTls) -> int:
        if url.startswith("h2c:"):
            with gevent.Timeout(_PROBE_WHOLE, requests.Timeout("no answer in time")):
                return ask_http2(url, tls)
        if url.startswith(_EITHER):
            # One that speaks HTTP/2 alone gives no answer to HTTP/1.1.
            try:
                return Operations._ask(url.removeprefix(_EITHER), tls)
            except (requests.RequestException, OSError):
                with gevent.Timeout(_PROBE_WHOLE, requests.Timeout("no answer in time")):
                    return ask_http2(url.removeprefix(_EITHER), tls)
        with gevent.Timeout(_PROBE_WHOLE, requests.Timeout("no answer in time")), asking.ask(url, _PROBE_TIMEOUT, tls) as response:
            return response.status_code

    def await_answer(self, asked: list[Asked], seconds: float, over: Callable[[float], bool] | None = None) -> str | None:
        """Wait until every url gives an HTTP answer. Returns the last error if one does not within `seconds`, else None.

        `over`: waits for that many seconds at most, and returns whether the answer is not needed any more."""
        waiting = gevent.spawn(self._await_answer, asked, seconds)
        try:
            while over is not None and not waiting.ready():
                if over(_TICK):
                    return CANCELLED
            return waiting.get()  # type: ignore[no-any-return]
        finally:
            waiting.kill()

    def _await_answer(self, asked: list[Asked], seconds: float) -> str | None:
        deadline = time.monotonic() + seconds
        for url, tls in asked:
            error = "no answer"
            while True:
                with gevent.Timeout(max(0.05, deadline - time.monotonic()), False):
                    try:
                        self._ask(url, tls)
                        break
                    except (requests.RequestException, ValueError, OSError) as failure:
                        error = asking.why(failure)
                        if asking.denied(failure):
                            return f"{url.removeprefix(_EITHER)} is not asked: {error}"
                if time.monotonic() + _PROBE_PAUSE >= deadline:
                    return f"{url.removeprefix(_EITHER)} did not answer within {seconds:g} s: {error}"
                gevent.sleep(_PROBE_PAUSE)
        return None

    def verifies(self, route_ids: list[str]) -> bool:
        """Whether the workers verify certificates for any of the routes."""
        options = (json.loads(self.registry.active.rows[route_id]["options"]) for route_id in route_ids)
        return any(option_of(item, "tls_verify") for item in options)

    def backend_urls(self, route_ids: list[str]) -> list[Asked]:
        """The urls that show whether the backends of routes answer. Whose their certificates are does not matter for that."""
        urls = []
        for route_id in sorted_ids(route_ids):
            row = self.registry.active.rows[route_id]
            backend = parse_backend(row["backend_url"])
            if backend.answer is not None:
                continue
            path = option_of(json.loads(row["options"]), "health_check_path")
            if not path.startswith("/"):
                path = f"{backend.path}/"
            either = _EITHER if option_of(json.loads(row["options"]), "http2") and not backend.http2 else ""
            tls = tls_of(route_options(tuple(sorted(json.loads(row["options"]).items()))))
            urls.append((either + backend.url(path), replace(tls, verify=False, ca="")))
        return list(dict.fromkeys(urls))

    # -- options without effect

    def note_unspoken(self, session: LiveSession, key: str, value: str) -> None:
        """Log once for each service that http3 has no effect. The option is accepted nevertheless."""
        if key != "http3" or not parse_option(key, value) or f"{session.service}/{key}" in self._said:
            return
        self._said.add(f"{session.service}/{key}")
        log.warning("service %s: %s", session.service, HTTP3_UNSPOKEN)

    def note_unknown(self, session: LiveSession, key: str) -> None:
        """Remember that a client wants an option that there is not, and log it once for each service."""
        if key in session.unknown_options or len(session.unknown_options) >= _MOST_UNKNOWN:
            return
        session.unknown_options = (*session.unknown_options, key)
        said = f"{session.service}/unknown {key}"
        if said not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(said)
            log.warning('service %s: unknown option "%s" has no effect', session.service, key)


def entered_at(rows: list[dict[str, Any]]) -> str | None:
    """When the first of the routes entered maintenance."""
    instants = [row["maintenance_since"] for row in rows if row["maintenance_since"]]
    return min(instants, key=parse_rfc3339) if instants else None
