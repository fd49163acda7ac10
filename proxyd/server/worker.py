"""The gunicorn worker class: gunicorn's gevent worker with the proxy's own HTTP/1.1 and HTTP/2 connections.

gunicorn still does listeners, forking, signals and reloads. This class changes how a connection is read and written
(proxyd.proxy.client), and how a worker stops.
"""

from __future__ import annotations

import _socket
import gc
import os
import signal
import time
import traceback
from collections.abc import Callable
from types import MethodType
from typing import Any

import gevent
from gevent import socket as gevent_socket
from gunicorn.workers.ggevent import GeventWorker

from proxyd.base.lean import patch_all
from proxyd.base.processes import ignore
from proxyd.base.text import UNIX
from proxyd.net import tickets
from proxyd.net.certificates import Certificates
from proxyd.net.descriptors import keep_spare
from proxyd.net.gunicorn_inner import SIGNALS
from proxyd.net.proxyprotocol import ProxyHeaderError, read_header
from proxyd.net.stream import PlainStream, no_delay
from proxyd.net.tls import CertificateError, tls_listeners
from proxyd.net.tlsalpn import PROTOCOL
from proxyd.net.tlsstream import TlsStream
from proxyd.net.workerstart import tell_accepting, tell_failure, tell_stopped
from proxyd.proxy.client.connection import ClientConnection
from proxyd.proxy.client.http2 import Http2Connection
from proxyd.proxy.core.origin import trust_check
from proxyd.proxy.gates.clients import CROWDED, NOT_PROXIED
from proxyd.server.accept import RoomyServer, Share, SharingServer
from proxyd.server.refused import refuse_connection
from proxyd.server.room import close_idlest

_GC_THRESHOLDS = (50_000, 20, 50)
#: Signals that mean something to the arbiter or the master, but nothing to a worker.
_NOTHING = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2)
#: Seconds between two looks whether the routes are known.
_FIT_PAUSE = 0.02


class ProxydWorker(GeventWorker):  # type: ignore[misc]
    """Serves `proxyd.wsgi:app`."""

    #: Whether INT or QUIT has asked for a stop at once.
    _quick = False
    #: Whether clients are accepted, or were.
    _accepts = False
    #: Reopens the access log; None while the worker boots and has none.
    _reopen: Callable[[], None] | None = None

    def patch(self) -> None:
        """Patch the standard library. gunicorn's own does it again, which finds nothing left to do, and makes the sockets gevent's."""
        patch_all()
        super().patch()

    def init_process(self) -> None:
        """Boot and run. What fails before clients are accepted is told to the arbiter, which logs it once and tries again."""
        try:
            super().init_process()
        except Exception as error:
            if self._accepts:
                raise
            from proxyd.config.settings import SettingsError
            from proxyd.store.memory.shared import SharedMemoryError
            from proxyd.store.sql.database import StoreError

            expected = isinstance(error, (OSError, SettingsError, SharedMemoryError, StoreError))
            told = f"{type(error).__name__}: {error}".replace("\n", "\\n")
            tell_failure(self, told if expected else "\n".join((told, traceback.format_exc())))
            ignore(SIGNALS)

    def init_signals(self) -> None:
        """Set the handlers. The arbiter has held all signals back since before the fork: gunicorn resets each to its default, by which
        most end a process."""
        super().init_signals()
        for number in _NOTHING:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def run(self) -> None:
        """Accept and serve until told to stop. Then let requests in flight end within graceful_timeout (INT, QUIT: cut them)."""
        from proxyd.proxy.handler import handle
        from proxyd.server.application import runtime

        self._runtime = runtime()
        self._reopen = self._runtime.access.reopen
        # Not a partial, through which a call takes more of the stack, in each connection that waits within it (net/crew).
        self._answer = MethodType(handle, self._runtime)
        self._certificates = _certificates(self._runtime)
        self._tls = [listener for listener, secure in zip(self.sockets, self._which_are_tls(), strict=True) if secure]
        told_by = self._runtime.settings.proxy.proxy_protocol_from
        self._told_by = trust_check(told_by) if told_by else None
        self._share = Share(self._runtime.board)
        self._spare = keep_spare(self._make_room)
        while self.alive and not self._runtime.fit():
            self.notify()
            gevent.sleep(_FIT_PAUSE)
        servers = [self._listen(listener) for listener in self.sockets] if self.alive else []
        self._share.begin()
        if servers:
            self._accepts = True
            tell_accepting(self)
        else:
            tell_stopped(self)
        # Objects that exist now stay for good, and requests create few cycles. Frequent collections would only cost time.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        while self.alive:
            self.notify()
            if self._certificates is not None:
                self._certificates.refresh(time.monotonic())
            gevent.sleep(0.25)
        self._share.end()
        self._runtime.stop()
        for server in servers:
            server.close()
        deadline = time.monotonic() + self._runtime.settings.proxy.graceful_timeout
        while any(server.busy() for server in servers):
            if self._quick or time.monotonic() >= deadline:
                if not self._quick:
                    self.log.warning("worker %s: graceful_timeout has passed: cutting the remaining requests", self.pid)
                self._runtime.end_websockets()
                for server in servers:
                    server.stop(timeout=1)
                break
            self.notify()
            gevent.sleep(0.05)
        if self._quick:
            self.cfg.worker_int(self)
        self._runtime.finish()
        ignore(SIGNALS)

    def _listen(self, listener: Any) -> RoomyServer:
        listener.setblocking(1)
        # What is accepted has it from the listener.
        no_delay(listener)
        most = self.worker_connections
        server = (SharingServer(listener, self.handle, most, self._spare, self._share) if self.cfg.workers > 1
                  else RoomyServer(listener, self.handle, most, self._spare))
        server.start()
        return server

    def _which_are_tls(self) -> list[bool]:
        """For each listener, whether it is the HTTPS one. If none is, the log says so."""
        settings = self._runtime.settings
        if self._certificates is None:
            return [False] * len(self.sockets)
        found = tls_listeners([listener.getsockname() for listener in self.sockets], settings.tls.bind, settings.proxy.bind)
        if not any(found):
            self.log.error("[tls] bind is %s, but no socket listens there, so HTTPS is not served. With systemd's socket, "
                           "add a ListenStream for it", settings.tls.bind)
        return found

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one client connection. Runs in its own greenlet."""
        # A socket for both families shows IPv4 addresses as mapped IPv6 ones.
        peer = addr[0].removeprefix("::ffff:") if isinstance(addr, tuple) and addr else UNIX
        if self._told_by is not None and self._told_by(peer):
            told = self._proxied_peer(listener, client, peer)
            if told is None:
                return
            peer = told
        caps = self._runtime.clients
        if caps is None:
            self._serve(listener, client, peer)
            return
        number = caps.connect(peer)
        if number is None:
            self._runtime.refusals.count(CROWDED.code)
            refuse_connection(client, CROWDED, listener not in self._tls)
            return
        try:
            self._serve(listener, client, peer)
        finally:
            caps.disconnect(number)

    def _proxied_peer(self, listener: Any, client: Any, peer: str) -> str | None:
        """The client's address in the PROXY header that a front sends first, `peer` if it names none. None if the connection is refused."""
        # One that waits, on the same descriptor.
        waiting = gevent_socket.socket(client.family, client.type, client.proto, client.fileno())
        try:
            with gevent.Timeout(self._runtime.settings.proxy.header_timeout):
                try:
                    return read_header(waiting) or peer
                finally:
                    waiting.detach()
        except (ProxyHeaderError, OSError, gevent.Timeout) as error:
            self.log.debug("no PROXY header from %s: %s", peer, error)
            self._runtime.refusals.count(NOT_PROXIED.code)
            refuse_connection(client, NOT_PROXIED, listener not in self._tls)
            return None

    def _serve(self, listener: Any, client: Any, peer: str) -> None:
        if listener in self._tls:
            stream: Any = self._handshake(client)
            if stream is None:
                return
            protocol = stream.protocol
            if protocol == PROTOCOL:
                # RFC 8737 3: the CA has seen what it wanted, and nothing else is said.
                stream.close()
                return
            if protocol == "h2":
                Http2Connection(stream, peer, self._runtime).serve(self._answer)
                return
        else:
            stream = PlainStream(client)
        ClientConnection(stream, peer, self._runtime).serve(self._answer)

    def _make_room(self, count: int) -> int:
        """Close so many idle connections, the longest idle first. Returns how many there are."""
        return close_idlest(self._runtime, count)

    def _handshake(self, client: _socket.socket) -> TlsStream | None:
        """The client's connection after its TLS handshake, or None, and it is closed. The handshake's time limit is that of a request
        header, and longer where it may wait for a certificate."""
        certificates = self._certificates
        if certificates is None:
            client.close()
            return None
        stream: TlsStream | None = None
        done = False
        try:
            with gevent.Timeout(self._runtime.settings.proxy.header_timeout + certificates.patience):
                context, asks = certificates.begin(client)
                if context is not None:
                    stream = TlsStream(client)
                    stream.shake(context, asked=asks)
                    done = True
        except (OSError, CertificateError, gevent.Timeout) as error:
            self.log.debug("TLS handshake failed: %s", error)
        finally:
            if not done:
                if stream is not None:
                    stream.close()
                client.close()
        return stream if done else None

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop at once. gunicorn's own handler would end the process in the middle of its work, with a traceback, and would lose
        the last log lines and counts."""
        self._quick = True
        self.alive = False

    def handle_usr1(self, sig: int, frame: Any) -> None:
        """Reopen the logs."""
        gevent.spawn(self._reopen_logs)

    def _reopen_logs(self) -> None:
        try:
            if self._reopen is not None:
                self._reopen()
            self.log.reopen_files()
        except OSError as error:
            self.log.error("USR1: can't open a log file again: %s", error)


def _certificates(runtime: Any) -> Certificates | None:
    """The certificates of the HTTPS listener, or None without one."""
    tls = runtime.settings.tls
    if not tls.bind:
        return None
    sync = runtime.certificates
    return Certificates(tls, sync.served if sync is not None else None, lambda name: runtime.table.asks(name),
                        os.path.join(runtime.settings.shared_memory_directory(), tickets.NAME) if tls.shared_tickets else "")
