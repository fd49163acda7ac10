"""The registry's TCP server: it accepts connections, up to the limits that keep one client from delaying another."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import time
from math import inf
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore
from gevent.pool import Pool

from proxyd.config.sections import RegistrySettings
from proxyd.events.bus import Event
from proxyd.net.descriptors import open_limit
from proxyd.net.listen import ListenError, PatientServer, listen
from proxyd.net.proxyprotocol import ProxyHeaderError, Via, read_relayed
from proxyd.registry import commands
from proxyd.registry.auth import Gatekeeper
from proxyd.registry.caller import Caller
from proxyd.registry.connection import Connection
from proxyd.registry.framing import answer_line
from proxyd.registry.operations import Operations
from proxyd.registry.protection import RegistryTls
from proxyd.registry.state import Registry

log = logging.getLogger("proxyd.registry")

assert commands.__all__, "importing the handlers fills the command table"
_GOODBYE_SECONDS = 1.0
_HANDSHAKE_SECONDS = 10.0
#: Seconds between two lines in the log about the same shortage.
_TELL_SECONDS = 60.0


class RegistryServer:
    """Listens, and serves each connection in its own greenlet."""

    def __init__(self, registry: Registry, operations: Operations) -> None:
        self.settings: RegistrySettings = registry.settings.registry
        self.registry = registry
        self.operations = operations
        self.gate = Gatekeeper(self.settings.tokens_file, self.settings.max_failed_logins)
        self.working = BoundedSemaphore(self.settings.max_in_flight)
        self.connections: set[Connection] = set()
        #: Those that have subscribed to something. Most have not, and each of thousands that register brings an event.
        self._listening: set[Connection] = set()
        self._tls = RegistryTls(self.settings) if self.settings.tls_certificate else None
        self._server: PatientServer | None = None
        self._told_short = -inf
        self._unsubscribe = registry.bus.subscribe(self._deliver)

    def start(self) -> None:
        """Listen. Raises ListenError."""
        try:
            listener = listen(self.settings.bind, self.settings.max_connections)
        except ListenError as error:
            raise ListenError(f"{error} ([registry] bind)") from None
        self._server = PatientServer(listener, self._accepted, spawn=Pool(self.settings.max_connections + 64))
        self._server.start()

    def stop(self) -> None:
        """Send SHUTDOWN to every client, and close. Sessions stay, so that clients can RECONNECT to the next master."""
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

    def cut(self, hosts: set[str]) -> None:
        """End the connections that these hosts have passed on: they are gone, and nothing comes from there any more."""
        for connection in [item for item in self.connections if item.via.host in hosts]:
            connection.cut()

    def _deliver(self, event: Event) -> None:
        for connection in list(self._listening):
            connection.deliver(event)

    def _tell_short(self) -> None:
        now = time.monotonic()
        if now - self._told_short > _TELL_SECONDS:
            self._told_short = now
            log.error("short of file descriptors: new registry connections are refused, with %d open; raise the limit of the master "
                      "(ulimit -n, LimitNOFILE)", len(self.connections))

    def _begins_with_header(self, address: str) -> bool:
        """Whether the peer says whose connection it passes on."""
        networks = self.settings.proxy_protocol_from
        return bool(networks) and any(ipaddress.ip_address(address) in network for network in networks)

    def _full(self) -> bool:
        """Whether there are as many connections as there may be. One that has ended for its client has a moment's work left, and does not
        count: the client may come back at once. The pool bounds how many of those there are."""
        most = self.settings.max_connections
        return len(self.connections) >= most and sum(not connection.ending for connection in self.connections) >= most

    def _accepted(self, sock: Any, address: Any) -> None:
        peer = f"{address[0]}:{address[1]}" if isinstance(address, tuple) and address else "unix:"
        if self._full():
            refuse(sock, f"too many connections (max {self.settings.max_connections})")
            return
        # It is asked for each time, which takes less than a microsecond: an operator may set another one (prlimit).
        limit = open_limit()
        if sock.fileno() >= limit - min(self.settings.spare_descriptors, limit // 2):
            # The kernel gives the lowest number that is free, so that a high one says how many are taken.
            self._tell_short()
            refuse(sock, "the registry is short of file descriptors: try again later; its limit (ulimit -n, LimitNOFILE) is too low")
            return
        via = Via()
        try:
            tune(sock, self.settings)
            if isinstance(address, tuple) and self._begins_with_header(address[0]):
                with gevent.Timeout(_HANDSHAKE_SECONDS):
                    told, via = read_relayed(sock)
                if self.registry.others is not None:
                    self.registry.others.relays(via)
                peer = f"{told}:0" if told else peer
            if self._tls is not None:
                with gevent.Timeout(_HANDSHAKE_SECONDS):
                    sock = self._tls.context().wrap_socket(sock, server_side=True)
        except (OSError, ProxyHeaderError, gevent.Timeout) as error:
            log.debug("registry connection from %s failed: %s", peer, error)
            sock.close()
            return
        connection = Connection(sock, Caller(self.registry, self.operations, self.gate, peer), self.settings, self.working)
        connection.via = via
        connection.caller.listens = lambda listens: (self._listening.add if listens else self._listening.discard)(connection)
        self.connections.add(connection)
        try:
            connection.serve()
        finally:
            self.connections.discard(connection)
            self._listening.discard(connection)
            connection.close()


def refuse(sock: Any, reason: str) -> None:
    """Answer a connection with an error, and close. What has arrived already is read: otherwise the close would be a reset, which destroys
    the answer."""
    with contextlib.suppress(OSError):
        sock.settimeout(1.0)
        sock.sendall(answer_line(f"ERROR|{reason}"))
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(0.0)
        sock.recv(65536)
    sock.close()


def tune(sock: Any, settings: RegistrySettings) -> None:
    """Turn keepalive on, so that a dead peer is noticed although an idle client need not send anything."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.keepalive_idle)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, settings.keepalive_interval)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, settings.keepalive_count)
    longest = (settings.keepalive_idle + settings.keepalive_interval * settings.keepalive_count) * 1000
    sock.setsockopt(socket.IPPROTO_TCP, 18, longest)  # TCP_USER_TIMEOUT: a peer that acknowledges no output is dead, too
