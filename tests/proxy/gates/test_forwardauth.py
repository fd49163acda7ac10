"""The services that a worker asks whether requests may pass: how many it knows, and what becomes of their connections."""

from __future__ import annotations

import socket
from dataclasses import replace

from proxyd.config.options import DEFAULT_OPTIONS
from proxyd.config.optionvalues import AuthUrl, auth_url
from proxyd.net.stream import PlainStream
from proxyd.proxy.core.upstreams import Upstream
from proxyd.proxy.gates.forwardauth import AuthServers
from proxyd.proxy.upstream.pool import release, retire

MOST = 1000


def url(number: int) -> AuthUrl:
    found = auth_url(f"http://127.0.0.1:{10000 + number}/check")
    assert found is not None
    return found


def test_services_that_are_forgotten_keep_no_connection() -> None:
    servers, options = AuthServers(), replace(DEFAULT_OPTIONS, forward_auth_timeout=1.0)

    def asked(number: int) -> Upstream:
        return servers.of(options, url(number))[0]

    first = asked(0)
    assert asked(0) is first
    pairs = [socket.socketpair() for _ in range(3)]
    release(first, PlainStream(pairs[0][0]), 100.0)
    assert [asked(number).port for number in range(MOST)] == list(range(10000, 10000 + MOST))
    assert pairs[0][0].fileno() >= 0
    asked(MOST)
    assert servers.upstreams() == [asked(MOST)]
    assert pairs[0][0].fileno() < 0
    # A request that was under way leaves none either, and the next one of that service does.
    release(first, PlainStream(pairs[1][0]), 100.0)
    assert pairs[1][0].fileno() < 0
    again = asked(0)
    release(again, PlainStream(pairs[2][0]), 100.0)
    assert len(again.state.idle) == 1
    retire(again)
    for _, theirs in pairs:
        theirs.close()
