"""Sends the request's body to the upstream, while another greenlet waits for the response."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent

from proxyd.http1 import LAST_CHUNK, ProtocolError, encode_last_chunk
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.phases import REQUEST_SEND, RESPONSE_HEAD
from proxyd.proxy.upstream.piped import upload_piped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.upstream.http2leg import Leg


#: So much of a body is kept while an HTTP/2 upstream may still say that it has not looked at the request.
_REPLAYED = 65536


class Replay:
    """The beginning of a body that was sent to an upstream which has not looked at it."""

    __slots__ = ("_pieces",)

    length = -1

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def pieces(self) -> Iterator[bytes]:
        """What was sent."""
        return iter(self._pieces)

    def close(self) -> None:
        """Nothing to do: it is in memory."""


class Upload:
    """A greenlet that sends the body. `done`: all of it was sent, at `done_at` (of time.monotonic). `error`: why the client's part
    could not be read.

    `leg`: the stream where the upstream speaks HTTP/2, which frames bodies by itself."""

    def __init__(self, ex: Exchange, stream: Stream, leg: Leg | None = None) -> None:
        self.done = False
        self.done_at = 0.0
        self.error: Exception | None = None
        self._ex = ex
        self._stream = stream
        self._leg = leg
        # Only the reading of an HTTP/2 client can be ended without a loss (`stop`).
        can_replay = leg is not None and ex.client.version == 20 and (ex.kept is None or isinstance(ex.kept, Replay))
        self._sent: list[bytes] | None = [] if can_replay else None
        self._size = 0
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        ex, stream = self._ex, self._stream
        client = ex.client
        kept = ex.kept
        leg = self._leg
        chunked = leg is None and ex.head.chunked and (kept is None or kept.length < 0)
        limit = ex.upstream_limit
        try:
            for data in kept.pieces() if kept is not None else ():
                ex.wait_for_body(REQUEST_SEND, time.monotonic() + ex.upstream_timeout)
                if self._sent is not None:
                    self._keep(data)
                stream.send_all(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            while True:
                if not chunked:
                    upload_piped(ex, stream, limit)
                data = client.read_body()
                if not data:
                    break
                ex.bytes_received += len(data)
                if limit and ex.bytes_received > limit:
                    raise ProtocolError(413, "body_too_large", f"the request body is larger than {limit} bytes")
                ex.wait_for_body(REQUEST_SEND, time.monotonic() + ex.upstream_timeout)
                if self._sent is not None:
                    self._keep(data)
                stream.send_all(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            if leg is not None:
                leg.finish(client.trailers())
            elif chunked:
                trailers = client.trailers()
                stream.send_all(encode_last_chunk(trailers) if trailers else LAST_CHUNK)
            self.done = True
            self.done_at = time.monotonic()
            stream.moved()
            ex.wait_for_body(RESPONSE_HEAD, time.monotonic() + ex.upstream_timeout)
        except OSError:
            # The upstream stopped taking the body. The other greenlet reads its answer, or its end.
            ex.wait_for_body(RESPONSE_HEAD, time.monotonic() + ex.upstream_timeout)
        except (ClientGone, BodyTimeout, ProtocolError) as error:
            self.error = error
            stream.shutdown()

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._sent is None or self._size > _REPLAYED or self._ex.response_started:
            self._sent = None
        else:
            self._sent.append(data)

    def replay(self) -> Replay | None:
        """What was sent so far, if all of it is here: an upstream that has not looked at it says nothing about it."""
        return Replay(self._sent) if self._sent is not None else None

    def stop(self) -> None:
        """End it. Harmless if it has ended."""
        self._greenlet.kill()
