"""What an operator has done at a host that does not lead: the host passes it on to the leader, and the answer back."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from typing import NamedTuple

from gevent import Timeout

from proxyd.admin.context import Context
from proxyd.admin.guard import PASSED_ON
from proxyd.admin.http import MAX_BODY, Request, RequestRefused, Response
from proxyd.base.text import split_address
from proxyd.net.dial import resolver

#: Seconds to reach the leader, and for all of it: to enter maintenance, it waits for a page.
_CONNECT, _WHOLE = 3.0, 40.0
_MOST = 1 << 20


class Leader(NamedTuple):
    """The host that leads, empty where none does, and where its admin HTTP is reached, empty where that is not known."""

    name: str
    admin: str


class Passing:
    """Passes on from the host called `own`. `leader` may raise RequestRefused."""

    def __init__(self, own: str, leader: Callable[[], Leader]) -> None:
        self._own = own
        self._leader = leader

    def __call__(self, context: Context, request: Request) -> Response:
        """Pass an action on, if the request may have it done. Raises RequestRefused."""
        actor = context.guard.check_action(request)
        found = self._leader()
        if not found.name or request.header(PASSED_ON):
            raise RequestRefused(503, "no_leader", "no host leads now; try again in a moment", {"Retry-After": "2"})
        if not found.admin:
            raise RequestRefused(503, "not_leader", f"this host does not lead, and changes nothing: host {found.name} leads, and does not "
                                 "say where its admin HTTP is ([hosts] admin); do it there")
        headers = {"Authorization": f"Bearer {context.guard.token()}", "Accept": "application/json", PASSED_ON: f"{self._own}: {actor}"}
        body = request.body()
        if body:
            headers["Content-Type"] = "application/json"
        try:
            with Timeout(_WHOLE, OSError(f"no answer within {_WHOLE:g} s")):
                return _ask(found.admin, request, body[:MAX_BODY], headers)
        except (OSError, http.client.HTTPException) as error:
            raise RequestRefused(503, "leader_unreachable", f"this host does not lead, and host {found.name}, which does, can't be "
                                 f"asked at {found.admin}: {error}") from None
        finally:
            context.forget()


def _ask(address: str, request: Request, body: bytes, headers: dict[str, str]) -> Response:
    name, port = split_address(address)
    failed: OSError = OSError("no address")
    for place in resolver().addresses(name):
        # By its address: a name may be one that the leader's own guard does not know.
        connection = http.client.HTTPConnection(place, port, timeout=_CONNECT)
        try:
            connection.connect()
            connection.sock.settimeout(_WHOLE)
            connection.request(request.method, request.target, body, headers)
            response = connection.getresponse()
            kept = {field: value for field in ("Retry-After", "WWW-Authenticate") if (value := response.headers.get(field))}
            return Response(response.status, response.read(_MOST), response.headers.get("Content-Type", ""), kept)
        except ConnectionError as error:
            failed = error
        finally:
            connection.close()
    raise failed
