"""One connection to the registry: reads lines, carries out the commands in order, and sends answers and events."""

from __future__ import annotations

import contextlib
import logging
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import gevent
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore

from proxyd.config.sections import RegistrySettings
from proxyd.events.bus import Event
from proxyd.events.types import ALL, SUBSCRIBED
from proxyd.net.proxyprotocol import Via
from proxyd.net.turns import SLICE, let_others_run
from proxyd.registry.caller import Caller, carry_out
from proxyd.registry.framing import LineError, LineReader, answer_line, decode, to_json
from proxyd.registry.protocol import CommandError, CommandErrorWith, UnknownCommand, parse
from proxyd.registry.staging import StagingError
from proxyd.store.sql.database import StoreError, StoreFenced, StoreUncertain

log = logging.getLogger("proxyd.registry")

_RECEIVE = 65536
#: Seconds that waiting answers have to go out when the connection ends.
_GOODBYE_SECONDS = 1.0
#: Seconds to wait for a place among the commands in flight before checking again whether all wait for the database.
_PLACE_SECONDS = 0.5


class Connection:
    """One client's connection. Answers leave through a bounded buffer, so that a client that does not read delays nobody.

    `working`: the places for commands in flight. All connections share them.
    """

    def __init__(self, sock: Any, caller: Caller, settings: RegistrySettings, working: BoundedSemaphore) -> None:
        self._sock = sock
        self._settings = settings
        self._working = working
        self._store = caller.registry.store
        self._peer = caller.address
        self._reader = LineReader(settings.max_line)
        self._output = bytearray()
        self._wake = Signal()
        self._ending = False
        self._cut = False
        self._has_place = False
        self._since = time.monotonic()
        #: Who has passed the connection on, if somebody has and says so.
        self.via = Via()
        self.caller = caller
        self.caller.unhurried = self._unhurried
        self.caller.exit_waits = self._exit_waits
        self.caller.deliver = self.deliver
        self._writer = gevent.spawn(self._write)

    @property
    def ending(self) -> bool:
        """Whether nothing more is read, or said but what waits to be sent."""
        return self._ending

    def serve(self) -> None:
        """Read commands until the client leaves or must be disconnected."""
        timer = gevent.spawn_later(self._settings.register_timeout, self._without_session)
        try:
            while not self._ending:
                try:
                    data = self._sock.recv(_RECEIVE)
                except OSError:
                    return
                if not data:
                    return
                self._reader.feed(data)
                self._take_lines()
                self._give_way()
        finally:
            timer.kill()

    def _without_session(self) -> None:
        if not self.caller.has_session:
            self._send(answer_line("ERROR|no session: REGISTER or RECONNECT within "
                                   f"{self._settings.register_timeout:g} s"))
            self._end()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)

    def _give_way(self) -> None:
        """Let others run if this client has had its slice: where data is always there, nothing else waits, and empty or wrong lines are
        no commands after which others get their turn."""
        if time.monotonic() - self._since > SLICE:
            let_others_run()
            self._since = time.monotonic()

    def _take_lines(self) -> None:
        while not self._ending:
            self._give_way()
            try:
                line = self._reader.next_line()
                if line is None:
                    return
                if line:
                    self._carry_out(decode(line))
                    # Let other clients run between two commands of a client that pipelines.
                    gevent.sleep(0)
            except LineError as error:
                self._send(answer_line(f"ERROR|{error}"))
                if error.fatal:
                    self._end()
                elif not self.caller.has_session:
                    # A TLS handshake, for example: a web page chooses some bytes of one too.
                    self._end_foreign()

    def _carry_out(self, line: str) -> None:
        """Answer one command. Whatever goes wrong ends at most this connection."""
        transaction, big = "", False
        try:
            command_line = parse(line)
            transaction = command_line.transaction
            big = command_line.values[-1:] == ["compressed"]
            with self._placed():
                answer = carry_out(self.caller, command_line)
                for part in (answer,) if isinstance(answer, str) else answer:
                    self._send(answer_line(part, transaction, big))
        except CommandErrorWith as error:
            self._send(answer_line(f"ERROR|{error}", error.transaction))
            if isinstance(error, UnknownCommand) and not self.caller.has_session:
                # The client speaks another protocol. A web page could POST to this port: an HTTP head comes first, then a
                # body with any lines the page likes. So no further line may be read.
                self._end_foreign()
        except (StoreUncertain, StoreFenced) as error:
            # Of the first, OK and ERROR would both be guesses: the client comes back, and asks what there is. The second is no word on what
            # was asked, and a client that took it for one would give up a session that is well with the master that leads.
            log.warning("no answer to %s of %s: %s", line.partition("|")[0], self.caller.actor, error)
            self._end()
        except (CommandError, StagingError, StoreError) as error:
            self._send(answer_line(f"ERROR|{error}", transaction))
        except (gevent.GreenletExit, SystemExit):
            raise
        except Exception:
            error_id = uuid.uuid4().hex[:12]
            log.exception("internal error %s in command %s from %s", error_id, line.partition("|")[0], self._peer)
            self._send(answer_line(f"ERROR|internal error (id {error_id})", transaction))
        if self.caller.closing:
            self._end()

    def _end_foreign(self) -> None:
        log.info("registry connection from %s closed: it does not speak the registry's protocol", self._peer)
        self._end()

    def _exit_waits(self, seconds: float) -> bool:
        """Read on for `seconds` at most. Returns whether a MAINT_EXIT is among what was read, or the client has left."""
        if self._reader.holds(b"MAINT_EXIT|"):
            return True
        if self._reader.waiting > _RECEIVE:
            gevent.sleep(seconds)
            return False
        data: bytes | None = None
        try:
            with gevent.Timeout(seconds, False):
                data = self._sock.recv(_RECEIVE)
        except OSError:
            return True
        if data:
            self._reader.feed(data)
        return data == b"" or self._reader.holds(b"MAINT_EXIT|")

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        """Hold a place among the commands in flight. While the database is locked, no place is needed: commands that wait for it
        hold all places, and others must not wait for them."""
        store, working = self._store, self._working
        while not store.blocked and not self._has_place:
            self._has_place = working.acquire(timeout=_PLACE_SECONDS)
        try:
            yield
        finally:
            if self._has_place:
                self._has_place = False
                working.release()

    @contextlib.contextmanager
    def _unhurried(self) -> Iterator[None]:
        """Give the place among the commands in flight to others while this command waits for a backend."""
        if not self._has_place:
            yield
            return
        self._working.release()
        try:
            yield
        finally:
            self._working.acquire()

    def deliver(self, event: Event) -> None:
        """Send an event, if the client has subscribed to it and it concerns the client's session."""
        caller = self.caller
        subscribed = caller.subscriptions
        if not subscribed or not caller.has_session:
            return
        wanted = SUBSCRIBED.get(event.type)
        if wanted is None or (wanted not in subscribed and ALL not in subscribed):
            return
        if event.route_id is not None and event.route_id not in caller.session.routes:
            return
        if event.session_id is not None and event.route_id is None and event.session_id != caller.session.session_id:
            return
        self._send(answer_line(f"EVENT|{event.type}|{to_json(event.payload())}"))

    def goodbye(self) -> None:
        """The server stops."""
        self.caller.stopping = True
        self._send(answer_line("SHUTDOWN"))
        self._end()

    def _send(self, data: bytes) -> None:
        if self._cut or self._ending:
            return
        if len(self._output) + len(data) > self._settings.max_output:
            log.warning("registry client %s does not read its answers: disconnected with %d bytes unread", self._peer, len(self._output))
            self.cut()
            return
        self._output += data
        self._wake.set()

    def cut(self) -> None:
        """End it at once, without a word."""
        self._cut = True
        self._ending = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._wake.set()

    def _end(self) -> None:
        self._ending = True
        self._wake.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def _write(self) -> None:
        try:
            while True:
                self._wake.wait()
                self._wake.clear()
                while self._output and not self._cut:
                    piece = bytes(self._output)
                    sent = self._sock.send(piece)
                    del self._output[:sent]
                if self._ending:
                    with contextlib.suppress(OSError):
                        self._sock.shutdown(socket.SHUT_WR)
                    return
        except OSError:
            self._ending = True

    def close(self) -> None:
        """Send the waiting answers, then close the socket. The session waits for RECONNECT."""
        moves = self._moves()
        try:
            self.caller.lost(moves)
        except StoreError as error:
            log.error("%s is gone, but its routes stay until the database can be written: %s", self.caller.actor, error)
            gevent.spawn(self._lost_later, moves)
        self._ending = True
        self._wake.set()
        self._writer.join(_GOODBYE_SECONDS)
        self._writer.kill()
        self._sock.close()

    def _lost_later(self, moves: bool) -> None:
        while True:
            gevent.sleep(1.0)
            with contextlib.suppress(StoreError):
                self.caller.lost(moves)
                return

    def _moves(self) -> bool:
        """Whether it was not the client that ended, but the host that has passed the connection on: then the client comes back by another
        one."""
        registry = self.caller.registry
        if not self.via.host or not self.caller.has_session or registry.others is None:
            return False
        return not registry.others.passes_on(self.via, plain=not registry.settings.registry.tls_certificate)
