"""Connections to a name with several addresses: one that swallows packets costs one attempt's delay, and is not tried first again."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.net.dial import ATTEMPT_DELAY, dial, resolver, use_resolver
from proxyd.net.resolver import Resolver
from tests.support.waiting import patience


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A port whose connections 127.0.0.1 takes and ::1 swallows: its queue is full, so the kernel drops the packets. `two.test` has
    both addresses."""
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 two.test\n127.0.0.1 two.test\n")
    before = resolver()
    use_resolver(Resolver(hosts_file=str(hosts)))
    with contextlib.ExitStack() as stack:
        answering = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        full = stack.enter_context(socket.socket(socket.AF_INET6))
        full.bind(("::1", answering.getsockname()[1]))
        full.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket(socket.AF_INET6))
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        probe = stack.enter_context(socket.socket(socket.AF_INET6))
        probe.settimeout(0.3)
        with pytest.raises(TimeoutError):
            probe.connect(full.getsockname())
        yield answering.getsockname()[1]
    use_resolver(before)


def test_an_address_that_swallows_packets_delays_and_does_not_prevent(port: int) -> None:
    begun = time.monotonic()
    with contextlib.closing(dial("two.test", port)) as sock:
        assert sock.getpeername()[0] == "127.0.0.1"
    assert ATTEMPT_DELAY <= time.monotonic() - begun < patience(2)
    assert resolver().known("two.test") == ("127.0.0.1", "::1")
