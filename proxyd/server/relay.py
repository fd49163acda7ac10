"""Passes registry connections on to the host whose master leads, so that services may use any host.

It looks at nothing of what is said. Where the leader heeds the PROXY protocol, it is told the client's address first.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket as constants
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Pool

from proxyd.base.text import split_address
from proxyd.base.trouble import Trouble
from proxyd.config.sections import RegistrySettings
from proxyd.net.dial import resolver
from proxyd.net.listen import ListenError, PatientServer, listen
from proxyd.net.proxyprotocol import Via, header
from proxyd.registry.framing import answer_line
from proxyd.registry.server import refuse, tune

log = logging.getLogger("proxyd.master")

_PIECE = 65536
#: Connections that may be refused at once.
_REFUSALS = 64
#: Seconds to reach the leader, name resolution included: its client has to find another host before its routes take no traffic any more.
#: And those that the leader has to end after the client has.
_CONNECT_SECONDS, _END_SECONDS = 1.5, 30.0
#: Seconds of silence before the leader's host is asked for a sign of life, and between two questions; how many may go unanswered.
_SILENCE, _UNANSWERED = 1, 2
#: Seconds that a client has to use another host after it was told to; and after which all of them are cut.
_MOVE_SECONDS, _GOODBYE_SECONDS = 2.0, 10.0


class Relay:
    """Listens where the registry of this host, which is called `host`, would, and passes on what comes to the leader."""

    def __init__(self, settings: RegistrySettings, host: str) -> None:
        self._leader = ""
        self._via = Via(host, secrets.token_hex(8))
        self._settings = settings
        self._server: PatientServer | None = None
        self._open = Pool(settings.max_connections + _REFUSALS)
        self._passed: set[_Passed] = set()
        self._ending: gevent.Greenlet | None = None
        self._trouble = Trouble(log, "registry connections to this host are not passed on to the leader")

    def start(self) -> None:
        """Listen, if it does not yet. If the address is taken, that is logged once, and the next call tries again."""
        if self._server is not None:
            return
        if self._ending is not None:
            self._ending.kill()
            self._ending = None
        try:
            listener = listen(self._settings.bind, self._settings.max_connections)
        except ListenError as error:
            self._trouble.goes_on(f"{error} ([registry] bind)")
            return
        self._trouble.is_over()
        self._server = PatientServer(listener, self._accepted, spawn=self._open)
        self._server.start()

    def use(self, leader: str) -> None:
        """Pass connections on to the registry that is reached at `leader`; empty while nobody knows. What was passed on to another one
        ends: that may be stopped or cut off, so that its kernel says nothing, and the client would wait for ever."""
        self._leader = leader
        if not leader:
            return
        if old := [passed for passed in self._passed if passed.where != leader]:
            log.info("the master at %s leads: %d registry connections that were passed on to another one end", leader, len(old))
        for passed in old:
            passed.cut()

    @property
    def count(self) -> int:
        """The connections that are passed on now."""
        return len(self._passed)

    def leave(self) -> None:
        """Listen no more, and tell those whose connections are open to use another host. They have a moment to do so."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._passed:
            log.info("%d registry connections are told to use another host", len(self._passed))
        for passed in list(self._passed):
            # Of what is encrypted nobody here can write a line: its end has to do.
            gevent.spawn(passed.goodbye, not self._settings.tls_certificate)
        self._ending = gevent.spawn_later(_GOODBYE_SECONDS, self._open.kill, timeout=1.0)

    def stop(self) -> None:
        """Listen no more, and end what is open."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._ending is not None:
            self._ending.kill()
        self._open.kill(timeout=1.0)

    def _accepted(self, sock: Any, address: Any) -> None:
        if len(self._open) > self._settings.max_connections:
            refuse(sock, f"too many connections (max {self._settings.max_connections})")
            return
        client = address[0] if isinstance(address, tuple) and address else ""
        leader, where = None, self._leader
        try:
            tune(sock, self._settings)
            try:
                if not where:
                    raise OSError("none is known now")
                leader = self._connect(where, client)
                if self._leader not in ("", where):
                    raise OSError("another one leads by now")
            except (OSError, gevent.Timeout) as error:
                log.debug("registry connection from %s: the leader at %s can't be reached: %s", client, where, error)
                if not self._settings.tls_certificate:
                    refuse(sock, "this host can't reach the master that leads now: try again, or another host")
                return
            passed = _Passed(sock, leader, where)
            self._passed.add(passed)
            back = gevent.spawn(_copy, leader, passed)
            back.link(lambda _: _shut(sock, constants.SHUT_RD))
            try:
                _copy(sock, leader)
                back.join(_END_SECONDS)
            finally:
                self._passed.discard(passed)
                back.kill()
        except OSError:
            pass
        finally:
            sock.close()
            if leader is not None:
                leader.close()

    def _connect(self, where: str, client: str) -> Any:
        host, port = split_address(where)
        failed = OSError("no address")
        with gevent.Timeout(_CONNECT_SECONDS):
            for address in resolver().addresses(host):
                try:
                    leader = socket.create_connection((address, port))
                except OSError as error:
                    failed = error
                    continue
                try:
                    tune(leader, self._settings)
                    _hurry(leader)
                    if self._settings.proxy_protocol_from:
                        leader.sendall(header("v2", client, leader.getpeername()[:2], self._via))
                except BaseException:
                    leader.close()
                    raise
                return leader
        raise failed


class _Passed:
    """A client's connection, to which the answers of the leader at `where` are copied."""

    def __init__(self, sock: Any, leader: Any, where: str) -> None:
        self._sock = sock
        self._leader = leader
        self.where = where
        #: Whether all that was sent ends with a whole line.
        self._between_lines = True

    def sendall(self, data: bytes) -> None:
        """Send a piece of what the leader says. Raises OSError."""
        self._between_lines = False
        self._sock.sendall(data)
        self._between_lines = data.endswith(b"\n")

    def shutdown(self, how: int) -> None:
        """As of a socket."""
        self._sock.shutdown(how)

    def cut(self) -> None:
        """End it on both sides, without waiting for either."""
        _shut(self._leader, constants.SHUT_RDWR)
        _shut(self._sock, constants.SHUT_RD)

    def goodbye(self, says_so: bool) -> None:
        """Tell the client to connect elsewhere, if a line can be written just now; then nothing more comes from it."""
        with contextlib.suppress(OSError):
            if says_so and self._between_lines:
                self._sock.sendall(answer_line("SHUTDOWN"))
        gevent.sleep(_MOVE_SECONDS)
        _shut(self._sock, constants.SHUT_RD)


def _hurry(leader: Any) -> None:
    """Notice within three seconds that the leader's host can't be reached any more: it takes the routes of those whose connections come by
    here out soon after that, so they have to look for another way."""
    leader.setsockopt(constants.IPPROTO_TCP, constants.TCP_KEEPIDLE, _SILENCE)
    leader.setsockopt(constants.IPPROTO_TCP, constants.TCP_KEEPINTVL, _SILENCE)
    leader.setsockopt(constants.IPPROTO_TCP, constants.TCP_KEEPCNT, _UNANSWERED)
    leader.setsockopt(constants.IPPROTO_TCP, 18, _SILENCE * (_UNANSWERED + 1) * 1000)  # TCP_USER_TIMEOUT


def _copy(source: Any, sink: Any) -> None:
    """Pass on what comes until it ends, or until the sink takes no more; then say to the sink that this was all."""
    with contextlib.suppress(OSError):
        while data := source.recv(_PIECE):
            sink.sendall(data)
    _shut(sink, constants.SHUT_WR)


def _shut(sock: Any, how: int) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(how)
