"""Our gunicorn worker class: gunicorn's gevent worker with the HTTP/1.1 connection loop of this project.

gunicorn keeps what it is good at: listeners, forking, signals, reloads, TLS contexts, HTTP/2. What changes is
how a plain connection is read and written (proxyd.proxy.connection), and how a worker stops.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from functools import partial
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import sock as gunicorn_sock
from gunicorn.workers.ggevent import GeventWorker

from proxyd.proxy.connection import ClientConnection, no_delay
from proxyd.proxy.stream import TlsStream, plain_stream


class ProxydWorker(GeventWorker):
    """Serves `proxyd.wsgi:app`."""

    def run(self) -> None:
        """Accept and serve until told to stop; then let what is in flight end within graceful_timeout."""
        from proxyd.proxy.exchange import Exchange
        from proxyd.wsgi import runtime

        self._runtime = runtime()
        wsgi = self.wsgi

        def call(exchange: Exchange) -> None:
            wsgi({"proxyd.exchange": exchange}, None)

        self._call = call
        servers = [self._listen(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            gevent.sleep(0.25)
        self._runtime.stop()
        for server in servers:
            server.close()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while any(server.pool.free_count() != server.pool.size for server in servers):
            if time.monotonic() >= deadline:
                self.log.warning("worker %s: graceful_timeout is over, cutting what is left", self.pid)
                for server in servers:
                    server.stop(timeout=1)
                break
            self.notify()
            gevent.sleep(0.05)
        self._runtime.finish()

    def _listen(self, listener: Any) -> StreamServer:
        listener.setblocking(1)
        arguments: dict[str, Any] = {}
        if self.cfg.is_ssl:
            arguments["ssl_context"] = gunicorn_sock.ssl_context(self.cfg)
        server = StreamServer(listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections), **arguments)
        if self.cfg.workers > 1:
            # One accept at a time spreads connections over the workers instead of filling the first that wakes.
            server.max_accept = 1
        server.start()
        return server

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve one client connection; runs in its own greenlet."""
        if isinstance(client, ssl.SSLSocket):
            if gunicorn_sock.is_http2_negotiated(client):
                super().handle(listener, client, addr)
                return
            stream: Any = TlsStream(client)
        else:
            try:
                no_delay(client)
            except OSError:
                client.close()
                return
            stream = plain_stream(client)
        peer = addr[0] if isinstance(addr, tuple) and addr else ""
        with contextlib.suppress(gevent.GreenletExit):
            ClientConnection(stream, peer, self._runtime).serve(self._call)

    def handle_usr1(self, sig: int, frame: Any) -> None:
        """Reopen the logs."""
        gevent.spawn(self._runtime.access.reopen)
        super().handle_usr1(sig, frame)
