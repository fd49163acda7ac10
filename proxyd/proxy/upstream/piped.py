"""Long bodies through pipes (net/pipes), where both sides are plain HTTP/1 and nothing looks at the bytes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxyd.net.pipes import PIPED, pipes
from proxyd.net.stream import PlainStream
from proxyd.proxy.core.phases import REQUEST_SEND, RESPONSE_BODY
from proxyd.proxy.upstream.pieces import cut, missing

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange


def relay_piped(ex: Exchange, stream: Stream, left: int, length: int, timeout: float) -> int:
    """Pass on the `left` bytes that are missing of an answer of this length. Returns how many are still to come: 0, or all of them where
    they can't go through a pipe. The upstream may pause for `timeout` seconds. Raises ResponseCut, ClientGone."""
    client = ex.client.by_pipe
    if left < PIPED or client is None or not isinstance(stream, PlainStream) or (pipe := pipes.borrow()) is None:
        return left
    try:
        while left:
            ex.wait_for(RESPONSE_BODY, time.monotonic() + timeout)
            try:
                count = stream.recv_pipe(pipe, left)
            except OSError as error:
                raise cut(ex, str(error)) from None
            if not count:
                raise missing(ex, left, length)
            left -= count
            try:
                client.write_pipe(pipe)
            finally:
                ex.bytes_sent += count - pipe.waiting
    finally:
        pipes.give_back(pipe)
    return 0


def upload_piped(ex: Exchange, stream: Stream, limit: int) -> None:
    """Pass on what is left of the request's body, as far as it can go through a pipe and `limit` (0: none) allows. Raises OSError if the
    upstream takes no more, ClientGone, BodyTimeout."""
    client = ex.client.by_pipe
    if client is None or not isinstance(stream, PlainStream) or client.body_for_pipe() < PIPED:
        return
    if limit and ex.bytes_received + client.body_for_pipe() > limit:
        return
    if (pipe := pipes.borrow()) is None:
        return
    try:
        while client.body_for_pipe():
            client.read_body_to(pipe)
            ex.bytes_received += pipe.waiting
            ex.wait_for_body(REQUEST_SEND, time.monotonic() + ex.upstream_timeout)
            stream.send_pipe(pipe)
    finally:
        pipes.give_back(pipe)
