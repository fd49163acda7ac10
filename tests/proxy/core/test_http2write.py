"""The writer of an HTTP/2 connection, over real sockets."""

from __future__ import annotations

import gevent
import pytest
from gevent import socket

from proxyd.http2.sender import Sender
from proxyd.net.stream import plain_stream
from proxyd.proxy.core.http2write import FrameWriter

LARGE = 8 << 20


def begun() -> tuple[FrameWriter, Sender, socket.socket]:
    """A writer with much more to send than a socket holds, and the peer's socket."""
    ours, peer = socket.socketpair()
    sender = Sender(lambda _: None)
    writer = FrameWriter(sender, plain_stream(ours))
    writer.start()
    for _ in range(LARGE >> 16):
        sender.put(b"x" * 65536)
    return writer, sender, peer


@pytest.mark.parametrize("wait", ["wait_below", "wait_for_all"])
def test_who_waits_for_the_writer_goes_on_when_the_peer_is_gone(wait: str) -> None:
    writer, sender, peer = begun()
    waits = gevent.spawn(writer.wait_for_all) if wait == "wait_for_all" else gevent.spawn(writer.wait_below, -1)
    gevent.sleep(0.05)
    assert not waits.ready()
    peer.close()
    waits.get(timeout=5)
    assert writer.over and not writer.idle and sender.backlog == 0


def test_who_waits_for_the_writer_goes_on_when_all_was_sent() -> None:
    writer, _, peer = begun()
    waits = gevent.spawn(writer.wait_for_all)
    got = 0
    while got < LARGE:
        got += len(peer.recv(1 << 20))
    waits.get(timeout=5)
    assert writer.idle and not writer.over
    writer.closing = True
    writer.wake()
    assert peer.recv(1) == b"" and writer.over
