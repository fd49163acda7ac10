"""Pipes between sockets: every byte arrives once and in order, none of one body reaches another, and their number is bounded."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import gevent
import pytest
from gevent import socket as gevent_socket

from proxyd.net import pipes as module
from proxyd.net.pipes import Pipe, Pipes
from proxyd.net.stream import PlainStream, plain_stream


@pytest.fixture
def lent() -> Iterator[Pipes]:
    """Pipes of the test's own, whose descriptors are closed at its end."""
    own = Pipes()
    yield own
    for pipe in own._idle:
        pipe.close()


def pair() -> tuple[PlainStream, gevent_socket.socket]:
    """A stream over loopback, and its other end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = gevent_socket.create_connection(listener.getsockname())
        far = listener.accept()[0]
    return plain_stream(near), gevent_socket.socket(fileno=far.detach())


def test_a_long_body_arrives_as_it_was_sent_however_slowly_it_is_taken(lent: Pipes) -> None:
    body = os.urandom(8 << 20)
    source, sender = pair()
    target, taker = pair()
    came = bytearray()

    def take() -> None:
        while piece := taker.recv(70001):
            came.extend(piece)
            gevent.sleep(0)

    taking, sending = gevent.spawn(take), gevent.spawn(lambda: (sender.sendall(body), sender.close()))
    pipe = lent.borrow()
    assert pipe is not None
    while source.recv_pipe(pipe, 3 << 20):
        target.send_pipe(pipe)
        assert pipe.waiting == 0
    lent.give_back(pipe)
    target.close()
    gevent.joinall([taking, sending], timeout=30, raise_error=True)
    assert came == body
    source.close()
    taker.close()


def test_no_more_is_moved_than_was_asked_for(lent: Pipes) -> None:
    source, sender = pair()
    sender.sendall(b"0123456789GET / HTTP/1.1")
    pipe = lent.borrow()
    assert pipe is not None
    assert source.recv_pipe(pipe, 10) == 10
    assert source.recv() == b"GET / HTTP/1.1"
    assert os.read(pipe.reader, 100) == b"0123456789"
    pipe.waiting = 0
    lent.give_back(pipe)
    source.close()
    sender.close()


def test_what_one_transfer_left_behind_reaches_no_other(lent: Pipes) -> None:
    source, sender = pair()
    sender.sendall(b"somebody's secret")
    pipe = lent.borrow()
    assert pipe is not None
    assert source.recv_pipe(pipe, 100)
    lent.give_back(pipe)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe.reader)
    following = lent.borrow()
    assert following is not None
    assert following is not pipe
    with pytest.raises(BlockingIOError):
        os.read(following.reader, 1)
    lent.give_back(following)
    source.close()
    sender.close()


def test_an_empty_pipe_is_used_again_and_their_number_is_bounded(lent: Pipes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_MOST", 3)
    monkeypatch.setattr(module, "_KEPT", 1)
    taken = [pipe for _ in range(3) if (pipe := lent.borrow()) is not None]
    assert len(taken) == 3
    assert lent.borrow() is None
    for pipe in taken:
        lent.give_back(pipe)
    assert lent.borrow() is taken[0]
    os.fstat(taken[0].reader)
    for pipe in taken[1:]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(pipe.reader)
    lent.give_back(taken[0])


def test_there_is_none_while_no_descriptor_is_left(lent: Pipes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
    try:
        assert lent.borrow() is None
        assert lent.lent == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_pipe_that_the_kernel_keeps_small_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIZE", 4096)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="holds less than"):
        Pipe()
    assert len(os.listdir("/proc/self/fd")) == before
