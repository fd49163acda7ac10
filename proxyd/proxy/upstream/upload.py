"""Sends the request's body to the upstream, while another greenlet waits for the response."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent

from proxyd.http1 import LAST_CHUNK, ProtocolError, encode_last_chunk
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.phases import REQUEST_SEND, RESPONSE_HEAD

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange


class Upload:
    """A greenlet that sends the body. `done`: all of it was sent, at `done_at` (of time.monotonic). `error`: why the client's part
    could not be read."""

    def __init__(self, ex: Exchange, stream: Stream) -> None:
        self.done = False
        self.done_at = 0.0
        self.error: Exception | None = None
        self._ex = ex
        self._stream = stream
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        ex, stream = self._ex, self._stream
        client = ex.client
        kept = ex.kept
        chunked = ex.head.chunked and (kept is None or kept.length < 0)
        limit = ex.upstream_limit
        try:
            for data in kept.pieces() if kept is not None else ():
                ex.wait_for_body(REQUEST_SEND, time.monotonic() + ex.upstream_timeout)
                stream.send_all(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            while True:
                data = client.read_body()
                if not data:
                    break
                ex.bytes_received += len(data)
                if limit and ex.bytes_received > limit:
                    raise ProtocolError(413, "body_too_large", f"the request body is larger than {limit} bytes")
                ex.wait_for_body(REQUEST_SEND, time.monotonic() + ex.upstream_timeout)
                stream.send_all(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            if chunked:
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

    def stop(self) -> None:
        """End it. Harmless if it has ended."""
        self._greenlet.kill()
