"""The listener of the admin HTTP, inside the registry master."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from gevent.pool import Pool
from gevent.pywsgi import WSGIHandler, WSGIServer, _InvalidClientInput

from proxyd.admin.context import Context
from proxyd.admin.crowd import PROBE_SLOTS, PROBES, Crowd, Guest, RequestReader
from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.feed import WhileAllowed
from proxyd.admin.http import SECURITY_HEADERS, Request, RequestRefused, Response, as_problem
from proxyd.admin.state import MasterState
from proxyd.admin.table import find
from proxyd.admin.validate import check_body, check_parameter
from proxyd.base.attempts import subject
from proxyd.config.settings import Settings
from proxyd.net.listen import Patient, listen

log = logging.getLogger("proxyd.admin")

#: Greenlets for connections that have been told to end, and have not ended yet.
_ENDING = 64
_SILENCE_SECONDS = 30.0
_BACKLOG = 128
#: pywsgi's form of an answer to a request that could not be read.
_LATE = ("408", b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
_PROBES_ONLY = "proxyd.probes_only"
_CROWDED = RequestRefused(503, "too_many_connections", "all connections of the admin HTTP, or those of this address, are in use "
                          "([admin] max_connections, max_connections_per_client); only /livez, /readyz and /metrics are answered",
                          {"Retry-After": "1"})


class AdminHandler(WSGIHandler):  # type: ignore[misc]
    """A connection that does not outlive its client: reads and writes give up after a silence, and a request must arrive in time.

    What a client does wrong is no error of ours. gevent would log each broken connection as one, some with a traceback.
    """

    def __init__(self, sock: Any, address: Any, server: Any) -> None:
        sock.settimeout(_SILENCE_SECONDS)
        self._reader = RequestReader(sock.makefile("rb", -1), server.request_timeout)
        super().__init__(sock, address, server, self._reader)
        self._guest = Guest(sock, subject(address[0]) if isinstance(address, tuple) and address else "", self._reader)

    def handle(self) -> None:
        """Serve the connection; that a client is gone or silent is nothing to report."""
        self.server.crowd.enter(self._guest)
        try:
            with contextlib.suppress(OSError):
                super().handle()
        finally:
            self.server.crowd.leave(self._guest)

    def read_requestline(self) -> str:
        """The first line of the next request. Raises OSError."""
        self._reader.begin()
        return str(super().read_requestline())

    def get_environ(self) -> dict[str, Any]:
        """The environ, with a note if this connection is for probes alone."""
        environ: dict[str, Any] = super().get_environ()
        environ[_PROBES_ONLY] = self._guest.probes_only
        return environ

    def log_error(self, msg: str, *args: Any) -> None:
        """gevent calls this for what clients send."""
        log.debug("admin client %s: %s", self.client_address, msg % args if args else msg)

    def handle_error(self, kind: type[BaseException], error: BaseException, trace: Any) -> None:
        """An exception that ends a response. `_answer` has caught our own, so an OSError is about the client's connection."""
        if issubclass(kind, OSError):
            self.close_connection = True
            log.debug("admin client %s: %s", self.client_address, error)
        else:
            super().handle_error(kind, error, trace)

    def _handle_client_error(self, ex: Exception) -> Any:
        """The answer to a request that can't be read; None for a client that is gone."""
        if isinstance(ex, OSError) and not isinstance(ex, _InvalidClientInput):
            log.debug("admin client %s: %s", self.client_address, ex)
            return _LATE if self._reader.closed else None
        # gevent prints a traceback for what is no ValueError.
        return super()._handle_client_error(ex if isinstance(ex, ValueError | OSError) else ValueError(str(ex)))


class AdminListener(Patient, WSGIServer):  # type: ignore[misc]
    """pywsgi's server."""


class AdminServer:
    """Serves the admin HTTP at [admin] bind once started."""

    def __init__(self, settings: Settings, state: MasterState) -> None:
        self.address = settings.admin.bind
        self._settings = settings.admin
        self._context = Context(settings, state)
        self._server: AdminListener | None = None

    @property
    def port(self) -> int:
        """The TCP port listened on; 0 on a Unix socket or before the start."""
        return self._server.server_port or 0 if self._server is not None and not self.address.startswith("unix:") else 0

    def start(self) -> None:
        """Listen. Raises ListenError."""
        listener = listen(self.address, _BACKLOG)
        settings = self._settings
        places = Pool(settings.max_connections + PROBE_SLOTS + _ENDING)
        self._server = AdminListener(listener, self._application, spawn=places, handler_class=AdminHandler, log=None, error_log=log)
        self._server.crowd = Crowd(settings.max_connections, settings.max_connections_per_client)
        self._server.request_timeout = settings.request_timeout
        self._server.start()

    def stop(self) -> None:
        """Stop, and cut what is still open."""
        if self._server is None:
            return
        self._server.stop(timeout=0.2)
        self._server = None
        if self.address.startswith("unix:"):
            with contextlib.suppress(OSError):
                os.unlink(self.address.removeprefix("unix:"))

    def _application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        probes_only = environ[_PROBES_ONLY]
        response = self._answer(request) if not probes_only or request.path in PROBES else as_problem(_CROWDED)
        headers = {**SECURITY_HEADERS, **response.headers}
        if probes_only:
            headers["Connection"] = "close"
        if response.content_type:
            headers["Content-Type"] = response.content_type
        fields = list(headers.items()) + [("Set-Cookie", cookie) for cookie in response.cookies]
        status = f"{response.status} {HTTPStatus(response.status).phrase}"
        if not isinstance(response.body, bytes):
            start_response(status, fields)
            return response.body
        if response.status != 204:
            fields.append(("Content-Length", str(len(response.body))))
        start_response(status, fields)
        return [] if request.method == "HEAD" else [response.body]

    def _answer(self, request: Request) -> Response:
        try:
            self._context.guard.check_host(request)
            endpoint, arguments = find(ENDPOINTS, request.method, request.path)
            if not (endpoint.public or endpoint.action):
                self._context.guard.check_read(request)
            for item in endpoint.parameters:
                check_parameter(item.name, item.schema, item.required, request.query)
            if endpoint.body is not None:
                request.check_body = partial(check_body, endpoint.body)
            if endpoint.action and self._context.state.passing is not None:
                return self._context.state.passing(self._context, request)
            response = endpoint.handler(self._context, request, **arguments)
            if isinstance(response.body, bytes):
                return response
            return replace(response, body=WhileAllowed(response.body, lambda: self._context.guard.may_read(request)))
        except RequestRefused as refusal:
            return as_problem(refusal)
        except Exception:
            mark = secrets.token_hex(4)
            log.exception("admin request %s %s failed (id %s)", request.method, request.path[:200], mark)
            return as_problem(RequestRefused(500, "internal", f"internal error (id {mark}); the log has more"))
