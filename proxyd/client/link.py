"""The session's life: connect, register, ping, come back after a loss, register anew where it was forgotten."""

from __future__ import annotations

import json
import logging
import random
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any

from proxyd.client.commands import REPEATABLE, TARGETED
from proxyd.client.errors import ClientError, ConnectionLost
from proxyd.client.events import Event, EventHub, parse_event
from proxyd.client.memory import Memory
from proxyd.client.wire import Wire, open_any

# A connection that lived this long was a good one: the next loss starts with short delays again.
_STABLE = 10.0
# Seconds a maintenance page may take (the registry gives it 25).
MAINT_WAIT = 30.0
_GONE = ("invalid session", "no session")

_log = logging.getLogger("proxyd.client")


@dataclass(frozen=True, slots=True)
class Identity:
    """Where the registry is, and who registers there. `addresses`: those of its hosts, which are one registry."""

    addresses: tuple[str, ...]
    service: str
    instance: str
    metadata: dict[str, Any] | None = None
    maintenance_port: int = 0
    token: str | None = None
    tls: ssl.SSLContext | bool | None = None

    def register_line(self) -> str:
        """The REGISTER command; a token travels in the metadata."""
        metadata = dict(self.metadata or {})
        if self.token:
            metadata["token"] = self.token
        body = json.dumps(metadata, separators=(",", ":")) if metadata else "{}"
        return f"REGISTER|{self.service}|{self.instance}|{self.maintenance_port}|{body}"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds: for a command's answer, between pings, and the first and longest delay before a new attempt."""

    command: float = 10.0
    ping: float = 15.0
    first_delay: float = 0.2
    longest_delay: float = 15.0


class Link:
    """One session over however many connections it takes. Thread safe; one command at a time."""

    def __init__(self, identity: Identity, timing: Timing, hub: EventHub, session_id: str = "") -> None:
        self.identity = identity
        self.timing = timing
        self.memory = Memory()
        self.session_id = session_id
        self.subscribed: set[str] = set()
        self._hub = hub
        #: Which of the addresses is tried first.
        self._place = 0
        self._turn = threading.RLock()
        self._state = threading.Condition()
        self._wire: Wire | None = None
        self._since = 0.0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def connected(self) -> bool:
        """Whether a connection with a live session stands now."""
        return self._wire is not None

    def start(self, wait: float) -> None:
        """Connect and register, trying for `wait` seconds (0: once), then keep the session. Raises ClientError."""
        deadline, failures = time.monotonic() + wait, 0
        while not self.connected:
            try:
                self._open()
            except ConnectionLost:
                delay = self._delay(failures)
                failures += 1
                if time.monotonic() + delay >= deadline or self._closing.wait(delay):
                    raise
        if self._keeper is None:
            self._keeper = threading.Thread(target=self._keep, name="registry-keeper", daemon=True)
            self._keeper.start()

    def stop(self, goodbye: bool) -> None:
        """End the keeper and the connection; with `goodbye` the session and its routes too."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._wake.set()
        with self._turn, self._state:
            wire, self._wire = self._wire, None
            self._state.notify_all()
        if wire is not None:
            try:
                if goodbye:
                    wire.ask(f"CLIENT_SHUTDOWN|{self.session_id}", self.timing.command)
            except ConnectionLost as error:
                _log.info("the registry did not confirm the goodbye: %s", error)
            wire.close()
        if self._keeper is not None and self._keeper is not threading.current_thread():
            self._keeper.join(self.timing.command)

    def ask(
        self, command: str, fields: tuple[str, ...] = (), *, timeout: float | None = None, then: float = 0.0,
    ) -> tuple[str, str]:
        """Send a command of this session: the answer's first field and its rest.

        `timeout` bounds the wait for a connection, and for the answer. With `then` the answer is ACK, and the real
        one comes within that many seconds. Raises ClientError for ERROR, ConnectionLost where no answer came.
        """
        patience = timeout or self.timing.command
        deadline = time.monotonic() + patience
        while True:
            with self._turn:
                wire = self._await_wire(deadline)
                sent = fields
                if command in TARGETED and fields:
                    sent = (self.memory.current(fields[0]), *fields[1:])
                try:
                    reply = split(wire.ask("|".join((command, self.session_id, *sent)), patience))
                    if then:
                        reply = split(wire.answer(then))
                except ConnectionLost:
                    if command not in REPEATABLE or time.monotonic() >= deadline or self._closing.is_set():
                        raise
                    self._lost(wire)
                    continue
                self.memory.record(command, fields, reply[1])
                return reply

    def raw(self, line: str, timeout: float | None = None) -> str:
        """Send a line as it is; the answer as it is (of a maintenance command the second one)."""
        patience = timeout or self.timing.command
        with self._turn:
            wire = self._await_wire(time.monotonic() + patience)
            answer = wire.ask(line, patience)
            # The second answer must be taken, or it would pass for that of the next command.
            return wire.answer(MAINT_WAIT) if line.startswith("MAINT_E") and answer.startswith("ACK") else answer

    def _await_wire(self, deadline: float) -> Wire:
        # Called with the turn held; the keeper needs the turn only to replay, so it must be let go meanwhile.
        while True:
            wire = self._wire
            if wire is not None:
                return wire
            if self._closing.is_set():
                raise ConnectionLost("the client is closed")
            left = deadline - time.monotonic()
            if left <= 0:
                raise ConnectionLost(f"no connection to the registry at {', '.join(self.identity.addresses)}")
            self._turn.release()
            try:
                with self._state:
                    if self._wire is None:
                        self._state.wait(min(left, 1.0))
            finally:
                self._turn.acquire()

    def _open(self) -> None:
        """Connect, take the session up again or register, and make the connection the current one."""
        identity, patience = self.identity, self.timing.command
        sock, self._place = open_any(identity.addresses, self._place, identity.tls, patience)
        wire = Wire(sock, self._unsolicited, self._lost)
        happened = "connected"
        try:
            with self._turn:
                session_id = self.session_id
                if session_id:
                    reply, _ = split(wire.ask(f"RECONNECT|{session_id}", patience))
                    happened = "reregistered" if reply == "REREGISTER" else "reconnected"
                if happened != "reconnected":
                    _, session_id = split(wire.ask(identity.register_line(), patience))
                    self.memory.replay(lambda command, fields: split(
                        wire.ask("|".join((command, session_id, *fields)), patience))[1])
                for kind in sorted(self.subscribed):
                    split(wire.ask(f"SUBSCRIBE|{session_id}|{kind}", patience))
                with self._state:
                    if self._closing.is_set() or wire.closed:
                        raise ConnectionLost("the connection closed while the session was taken up")
                    # Known only now: a session whose replay failed must not be taken up again as if it were whole.
                    self._wire, self.session_id, self._since = wire, session_id, time.monotonic()
                    self._state.notify_all()
        except ClientError:
            wire.close()
            # Another host may know better, or be able to.
            self._place = (self._place + 1) % len(identity.addresses)
            raise
        self._hub.emit(Event(happened, {"session_id": session_id}))

    def _keep(self) -> None:
        failures = 0
        while not self._closing.is_set():
            if self._wire is not None:
                if not self._wake.wait(self.timing.ping * random.uniform(0.8, 1.0)):
                    self._ping()
                self._wake.clear()
                continue
            if time.monotonic() - self._since > _STABLE and self._since:
                failures = 0
            self._since = 0.0
            if self._closing.wait(self._delay(failures)):
                return
            failures += 1
            try:
                self._open()
            except ClientError as error:
                level = logging.INFO if isinstance(error, ConnectionLost) else logging.ERROR
                _log.log(level, "can't take up the session of %s/%s: %s", self.identity.service, self.identity.instance, error)
            except Exception:
                _log.exception("can't take up the session of %s/%s", self.identity.service, self.identity.instance)

    def _ping(self) -> None:
        # Not through `ask`, which would wait for a new connection: the one who makes it is this very thread.
        with self._turn:
            wire = self._wire
            if wire is None:
                return
            try:
                split(wire.ask(f"PING|{self.session_id}", self.timing.command))
            except ConnectionLost:
                return
            except ClientError as error:
                if any(word in str(error) for word in _GONE):
                    wire.close()

    def _delay(self, failures: int) -> float:
        """Seconds before the next attempt: doubling, bounded, and spread so that many clients don't come at once."""
        bound = min(self.timing.longest_delay, self.timing.first_delay * 2 ** min(failures, 16))
        return random.uniform(bound / 2, bound)

    def _unsolicited(self, line: str) -> bool:
        if line.startswith("EVENT|"):
            self._hub.emit(parse_event(line))
            return True
        if line == "SHUTDOWN" or line.startswith("SHUTDOWN|"):
            self._hub.emit(Event("shutdown"))
            return True
        return False

    def _lost(self, wire: Wire) -> None:
        with self._state:
            if self._wire is not wire:
                return
            self._wire = None
            self._state.notify_all()
        self._wake.set()
        self._hub.emit(Event("disconnected"))


def split(line: str) -> tuple[str, str]:
    """First field and rest of an answer line. Raises ClientError for ERROR."""
    head, _, rest = line.partition("|")
    if head == "ERROR":
        raise ClientError(rest or "the registry answered ERROR")
    return head, rest
