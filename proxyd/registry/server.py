"""The registry's TCP side: connections, framing, order, and the bounds that keep one client from holding up another."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import gevent
from gevent.event import Event as Signal
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool
from gevent.server import StreamServer

from proxyd.config.settings import RegistrySettings
from proxyd.events.bus import Event
from proxyd.events.types import ALL, SUBSCRIBED
from proxyd.net.listen import ListenError, listen
from proxyd.registry import commands
from proxyd.registry.auth import Gatekeeper
from proxyd.registry.caller import Caller, carry_out
from proxyd.registry.framing import LineError, LineReader, answer_line, decode, to_json
from proxyd.registry.operations import Operations
from proxyd.registry.protection import RegistryTls, check_exposure
from proxyd.registry.protocol import CommandError, CommandErrorWith, UnknownCommand, parse
from proxyd.registry.staging import StagingError
from proxyd.registry.state import Registry
from proxyd.store.sql.database import StoreError

log = logging.getLogger("proxyd.registry")

assert commands.__all__, "importing the handlers fills the command table"
_RECEIVE = 65536
_GOODBYE_SECONDS = 1.0
_HANDSHAKE_SECONDS = 10.0
#: Longest wait for a place among the commands in flight before another look whether it is the database that all wait for.
_PLACE_SECONDS = 0.5


class RegistryServer:
    """Listens, and serves each connection in its own greenlet."""

    def __init__(self, registry: Registry, operations: Operations) -> None:
        self.settings: RegistrySettings = registry.settings.registry
        self.registry = registry
        self.operations = operations
        self.gate = Gatekeeper(self.settings.tokens_file, self.settings.max_failed_logins)
        self.working = BoundedSemaphore(self.settings.max_in_flight)
        self.connections: set[Connection] = set()
        self._tls = RegistryTls(self.settings) if self.settings.tls_certificate else None
        self._server: StreamServer | None = None
        self._unsubscribe = registry.bus.subscribe(self._deliver)

    def start(self) -> None:
        """Listen. Raises ListenError."""
        check_exposure(self.settings)
        try:
            listener = listen(self.settings.bind, self.settings.max_connections)
        except ListenError as error:
            raise ListenError(f"{error} ([registry] bind)") from None
        self._server = StreamServer(listener, self._accepted, spawn=Pool(self.settings.max_connections + 64))
        self._server.start()

    def stop(self) -> None:
        """Say SHUTDOWN to everybody, and close. Sessions stay, to be taken up again."""
        self._unsubscribe()
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.goodbye()
        deadline = time.monotonic() + _GOODBYE_SECONDS
        while self.connections and time.monotonic() < deadline:
            gevent.sleep(0.01)
        if self.settings.bind.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self.settings.bind.removeprefix("unix:"))

    def _deliver(self, event: Event) -> None:
        for connection in list(self.connections):
            connection.deliver(event)

    def _accepted(self, sock: Any, address: Any) -> None:
        peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) and address else "unix:"
        if len(self.connections) >= self.settings.max_connections:
            with contextlib.suppress(OSError):
                sock.settimeout(1.0)
                sock.sendall(answer_line(f"ERROR|too many connections (max {self.settings.max_connections})"))
            sock.close()
            return
        try:
            _tune(sock, self.settings)
            if self._tls is not None:
                with gevent.Timeout(_HANDSHAKE_SECONDS):
                    sock = self._tls.context().wrap_socket(sock, server_side=True)
        except (OSError, gevent.Timeout) as error:
            log.info("registry connection from %s refused: %s", peer, error)
            sock.close()
            return
        connection = Connection(self, sock, peer)
        self.connections.add(connection)
        try:
            connection.serve()
        finally:
            self.connections.discard(connection)
            connection.close()


class Connection:
    """One client's connection. Answers leave through a bounded buffer, so that a client that does not read holds up nobody."""

    def __init__(self, server: RegistryServer, sock: Any, peer: str) -> None:
        self._server = server
        self._sock = sock
        self._peer = peer
        self._reader = LineReader(server.settings.max_line)
        self._output = bytearray()
        self._wake = Signal()
        self._ending = False
        self._cut = False
        self._has_place = False
        self.caller = Caller(server.registry, server.operations, server.gate, peer)
        self.caller.unhurried = self._unhurried
        self._writer = gevent.spawn(self._write)

    def serve(self) -> None:
        """Read commands until the client goes away, or has to."""
        timer = gevent.spawn_later(self._server.settings.register_timeout, self._without_session)
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
        finally:
            timer.kill()

    def _without_session(self) -> None:
        if not self.caller.has_session:
            self._send(answer_line("ERROR|no session: REGISTER or RECONNECT within "
                                   f"{self._server.settings.register_timeout:g} s"))
            self._end()
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)

    def _take_lines(self) -> None:
        while not self._ending:
            try:
                line = self._reader.next_line()
                if line is None:
                    return
                if line:
                    self._carry_out(decode(line))
                    # A client that pipelines takes turns with all others.
                    gevent.sleep(0)
            except LineError as error:
                self._send(answer_line(f"ERROR|{error}"))
                if error.fatal:
                    self._end()

    def _carry_out(self, line: str) -> None:
        """Answer one command; nothing it does can end more than its own connection."""
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
                # Somebody speaks another protocol: a web page's POST to this port has an HTTP head first, and whatever the
                # page likes in the lines of its body.
                log.info("registry connection from %s closed: it does not speak the registry's protocol", self._peer)
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

    @contextlib.contextmanager
    def _placed(self) -> Iterator[None]:
        """A place among the commands in flight. While the database is locked they are taken by those who wait for it, and
        nobody else has to."""
        store, working = self._server.registry.store, self._server.working
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
        """While a command waits for a backend, its place among the commands in flight is free."""
        if not self._has_place:
            yield
            return
        self._server.working.release()
        try:
            yield
        finally:
            self._server.working.acquire()

    def deliver(self, event: Event) -> None:
        """Send an event the client subscribed to."""
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
        if len(self._output) + len(data) > self._server.settings.max_output:
            log.warning("registry client %s does not read: cut with %d bytes unread", self._peer, len(self._output))
            self._cut = True
            self._ending = True
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._wake.set()
            return
        self._output += data
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
        """Let what is answered go out, then give the socket back; the session waits for RECONNECT."""
        try:
            self.caller.lost()
        except StoreError as error:
            log.error("%s is gone, but its routes stay until that can be written: %s", self.caller.actor, error)
            gevent.spawn(self._lost_later)
        self._ending = True
        self._wake.set()
        self._writer.join(_GOODBYE_SECONDS)
        self._writer.kill()
        self._sock.close()

    def _lost_later(self) -> None:
        while True:
            gevent.sleep(1.0)
            with contextlib.suppress(StoreError):
                self.caller.lost()
                return


def _tune(sock: Any, settings: RegistrySettings) -> None:
    """Keepalive, so that a dead peer shows: no client has to send anything while it is content."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.keepalive_idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, settings.keepalive_interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, settings.keepalive_count)
    longest = (settings.keepalive_idle + settings.keepalive_interval * settings.keepalive_count) * 1000
    sock.setsockopt(socket.IPPROTO_TCP, 18, longest)  # TCP_USER_TIMEOUT: unacknowledged output counts as death, too
