"""The other hosts of a PostgreSQL database, as the leader knows them: which of them live, and by which config version they route.

An apply waits for those that live. The leader reads their rows after each commit: so a host whose master came before the commit is known,
and one that comes after it finds the new version. Each reports by NOTIFY when all of its workers have taken a version.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import socket

from proxyd.base.findings import Finding
from proxyd.base.text import split_address
from proxyd.events.bus import EventBus
from proxyd.net.dial import resolver
from proxyd.net.proxyprotocol import Via
from proxyd.store.sql import words
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.membership import LEASE
from proxyd.store.sql.models import Host
from proxyd.store.sql.query import tuples

log = logging.getLogger("proxyd.registry")

_TICK = 0.001
#: If the last look was longer ago than this, silence since then says nothing about others.
_LONGEST_GAP = 1.0
#: A host takes a version within milliseconds: one that takes longer than this is late.
_LATE = 1.0
#: Seconds in which a host passes a line on, and the answer to it, if it can be reached.
_REACH_SECONDS = 0.5
#: Those after which a connection that nothing came from is there still; and a line that any registry answers.
_STAYS_SECONDS, _ANYBODY = 0.2, b"PING|\n"


@dataclass(slots=True)
class _Other:
    """A host: the version that its workers have reached, its last sign of life and when that was new; when it was seen behind what is
    current first (0.0: it is not). Monotonic seconds."""

    reached: int
    beat: tuple[str, int]
    since: float
    lives: bool = True
    behind_since: float = 0.0
    told: int = 0
    #: Whether it understands words (`store/sql/words.py`): its proxyd is not of an older version.
    speaks: bool = False
    #: It is about to be upgraded: it takes no sessions, and leads only if no other host can.
    drained: bool = False
    #: Where it takes registry connections, and the mark of the process that has passed one on last.
    registry: str = ""
    relay: str = ""


class OtherHosts:
    """All hosts of the database but the one called `own`. `bus`: where a late one is told of."""

    def __init__(self, store: Store, own: str, bus: EventBus) -> None:
        self._store = store
        self._own = own
        self._bus = bus
        self._hosts: dict[str, _Other] = {}
        self._looked = 0.0
        #: The hosts that have not yet said that they have done what they were asked, by the mark of the question.
        self._asked: dict[str, set[str]] = {}
        #: Why this host is not to serve, in a sentence; empty: it is.
        self.drained = ""

    def look(self, version: int) -> None:
        """Read who is there; `version` is the current one. Raises StoreError."""
        rows = self._store.read(_rows)
        now = time.monotonic()
        gap, self._looked = now - self._looked, now
        names = set()
        for name, boot, beat, reached, speaks, drained_at, drained_by, registry in rows:
            if name == self._own:
                self.drained = f"this host is drained since {drained_at} ({drained_by})" if drained_at else ""
                continue
            names.add(name)
            host = self._hosts.get(name)
            if host is None:
                self._hosts[name] = host = _Other(reached, (boot, beat), now)
                log.info("host %s shares the database", name)
            # A report may have come after the row was read. A host that began anew has reached nothing yet.
            host.reached = max(reached, host.reached) if host.beat[0] == boot and reached else reached
            if host.beat != (boot, beat) or gap > _LONGEST_GAP and host.lives:
                host.beat, host.since = (boot, beat), now
            host.speaks, host.drained, host.registry = bool(speaks), bool(drained_at), registry or ""
            self._judge(name, host, version, now)
        for name in self._hosts.keys() - names:
            del self._hosts[name]

    def _judge(self, name: str, host: _Other, version: int, now: float) -> None:
        lived, host.lives = host.lives, now - host.since <= LEASE
        if host.lives and not lived:
            log.info("host %s is back", name)
            self._bus.publish("host_changed", {"host": name, "state": "back"})
        elif lived and not host.lives:
            log.warning("host %s has given no sign of life for %g s: changes do not wait for it", name, LEASE)
            self._bus.publish("host_changed", {"host": name, "state": "gone"})
            for asked in self._asked.values():
                asked.discard(name)
        behind = host.lives and host.reached < version
        host.behind_since = (host.behind_since or now) if behind else 0.0

    def heard(self, name: str, version: int) -> None:
        """All workers of a host route by a version now."""
        host = self._hosts.get(name)
        if host is not None:
            host.reached = max(host.reached, version)

    def behind(self, version: int) -> dict[str, int]:
        """The hosts that live and have not reached a version, each with the one that it has."""
        return {name: host.reached for name, host in self._hosts.items() if host.lives and host.reached < version}

    def know_all(self, version: int) -> None:
        """Know every host that was there when a version was committed: to be called after the commit, and before `await_all`."""
        # Without the database nobody knows more than before.
        with contextlib.suppress(StoreError):
            self.look(version)

    def await_all(self, version: int, goes_on: Callable[[], bool]) -> None:
        """Wait until every host that lives has reached a version, as long as `goes_on()`. A host that has not by then is told of."""
        while late := self.behind(version):
            if not goes_on():
                self._tell(version, late)
                return
            gevent.sleep(_TICK)

    def ask(self, what: dict[str, Any], seconds: float) -> bool:
        """Ask every host that lives to do something for its own workers, and wait until each has said that it has, `seconds` at most. The
        log names those that have not by then. Returns whether all that live could be asked: one of an older version can't. Raises
        StoreError."""
        living = {name: host.speaks for name, host in self._hosts.items() if host.lives}
        asked = {name for name, speaks in living.items() if speaks}
        if not asked:
            return not living
        mark, deadline = secrets.token_hex(8), time.monotonic() + seconds
        self._asked[mark] = asked
        try:
            self._store.call(words.say, {**what, "mark": mark})
            while asked and time.monotonic() < deadline:
                gevent.sleep(_TICK)
        finally:
            del self._asked[mark]
        if asked:
            log.warning("host %s has not yet done what was asked of all hosts: %s", ", ".join(sorted(asked)), what)
        return all(living.values())

    def did(self, name: str, mark: str) -> None:
        """A host has done what it was asked."""
        self._asked.get(mark, set()).discard(name)

    def drains(self) -> set[str]:
        """The other hosts that are drained."""
        return {name for name, host in self._hosts.items() if host.drained}

    def could_lead(self) -> set[str]:
        """The other hosts that live and are not drained."""
        return {name for name, host in self._hosts.items() if host.lives and not host.drained}

    def living(self) -> set[str]:
        """The other hosts that give signs of life."""
        return {name for name, host in self._hosts.items() if host.lives}

    def relays(self, via: Via) -> None:
        """A process of a host passes a connection on."""
        host = self._hosts.get(via.host)
        if host is not None:
            host.relay = via.process

    def passes_on(self, via: Via, plain: bool) -> bool:
        """Whether a process of a host still passes registry connections on. Another one may be there already, by which the client will
        come, but what the first one has passed on has ended with it. `plain`: the registry speaks without TLS."""
        host = self._hosts.get(via.host)
        # Its line was passed on by the process that is there now.
        return host is not None and host.lives and bool(host.registry) and self._reaches(host.registry, plain) and host.relay == via.process

    @staticmethod
    def _reaches(registry: str, plain: bool) -> bool:
        """Whether a line that goes by a host to this registry is answered within a moment. That its kernel takes a connection is not
        enough: it does so while a process ends. With TLS it has to do that the connection does not end at once."""
        at, port = split_address(registry)
        with contextlib.suppress(OSError), gevent.Timeout(_REACH_SECONDS, False):
            for address in resolver().addresses(at):
                with contextlib.closing(socket.create_connection((address, port))) as sock:
                    if plain:
                        sock.sendall(_ANYBODY)
                        return bool(sock.recv(1))
                    sock.settimeout(_STAYS_SECONDS)
                    try:
                        return bool(sock.recv(1))
                    except TimeoutError:
                        return True
        return False

    def _tell(self, version: int, late: dict[str, int]) -> None:
        log.warning("config version %d is committed, but not yet taken by host %s", version,
                    ", ".join(f"{name} (at {reached})" for name, reached in late.items()))
        for name, reached in late.items():
            host = self._hosts[name]
            if host.told <= reached:
                # Once, until it has caught up.
                host.told = version
                self._bus.publish("host_late", {"host": name, "version": version, "reached": reached})

    def reached(self, name: str) -> int | None:
        """The version that all workers of another host route by; None for one that is not known."""
        host = self._hosts.get(name)
        return host.reached if host is not None else None

    def lives(self, name: str) -> bool:
        """Whether a host gives signs of life; this one does."""
        host = self._hosts.get(name)
        return host is None or host.lives

    def findings(self) -> list[Finding]:
        """The hosts that are late, for the status."""
        now = time.monotonic()
        return [Finding("host_behind", f"host {name}", f"host {name} routes by config version {host.reached}",
                        "the current one is newer") for name, host in self._hosts.items()
                if host.lives and host.behind_since and now - host.behind_since > _LATE]


def _rows() -> list[tuple[Any, ...]]:
    return list(tuples(Host.select(Host.name, Host.boot, Host.beat, Host.config_version, Host.clock.is_null(False),
                                   Host.drained_at, Host.drained_by, Host.registry)))
