"""Reads a request's body before its upstream is asked (option request_buffer), so that a slow client holds no backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxyd.http1 import ProtocolError
from proxyd.proxy.core.spool import MEMORY, Spool

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.spool import Storage


class KeptBody:
    """A body, or the beginning of one for which there was no room. `length`: that of a whole body without trailers,
    else -1."""

    __slots__ = ("_last", "_spool", "length")

    def __init__(self, spool: Spool, last: bytes, whole: bool, trailers: bool) -> None:
        self._spool = spool
        self._last = last
        self.length = spool.size + len(last) if whole and not trailers else -1

    def pieces(self) -> Iterator[bytes]:
        """What was read, from the beginning. Raises ProtocolError 503 if the file can't be read."""
        yield from self._spool.pieces()
        if self._last:
            yield self._last

    def close(self) -> None:
        """Give back what it holds."""
        self._spool.close()


def read_ahead(storage: Storage, ex: Exchange, limit: int) -> None:
    """Read the body of `ex` up to its end, or as long as there is room: at most about `limit` bytes. A small whole one becomes
    `ex.body`, another one `ex.kept`, which the caller closes. Raises ClientGone, BodyTimeout, ProtocolError."""
    client = ex.client
    if client.expects_continue():
        client.send_continue()
    most = ex.upstream_limit
    spool = Spool(storage, limit)
    last = b""
    try:
        while client.has_body() and not last:
            data = client.read_body()
            ex.bytes_received += len(data)
            if most and ex.bytes_received > most:
                raise ProtocolError(413, "body_too_large", f"the request body is larger than {most} bytes")
            if data and not spool.put(data):
                last = data
    except BaseException:
        spool.close()
        raise
    if spool.denied and ex.counters is not None:
        ex.counters.unbuffered += 1
    kept = KeptBody(spool, last, not client.has_body(), bool(client.trailers()))
    if 0 <= kept.length <= MEMORY:
        ex.body = b"".join(kept.pieces())
        kept.close()
    else:
        ex.kept = kept
