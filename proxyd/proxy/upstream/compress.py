"""Response compression: which responses are compressed, in which coding (RFC 9110 12.5.3), and encoders that flush in time.

The codings come from the libraries zlib, brotli and zstandard.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import brotli
import zstandard
from gevent.threadpool import ThreadPool

from proxyd.http1.response import ResponseHead

if TYPE_CHECKING:
    from proxyd.config.options import RouteOptions
    from proxyd.proxy.core.exchange import Exchange

#: A piece smaller than this is all that has arrived, so the client gets it now. After a larger piece more follows at once,
#: and a flush would cost size and time.
_FLUSH_BELOW = 16384
_DEFAULT_LEVEL = {"gzip": 6, "br": 4, "zstd": 3}
_HIGHEST_LEVEL = {"gzip": 9, "br": 11, "zstd": 19}
#: By highest level: the bytes that take about a millisecond (measured on text). A request may hold the worker for that long.
_INLINE = {
    "gzip": ((3, 65536), (6, 32768), (9, 16384)),
    "br": ((4, 49152), (9, 2048), (11, 512)),
    "zstd": ((3, 49152), (9, 32768), (15, 8192), (19, 1024)),
}
_THREADS = 2
_DROPPED = frozenset(("accept-ranges", "content-md5", "content-digest", "repr-digest"))


class Encoder:
    """A streaming encoder made of three functions of its library: feed, flush, end.

    A piece of up to `inline` bytes is encoded at once. A larger one goes to a native thread while other requests go on, because
    the libraries release the interpreter lock.
    """

    __slots__ = ("_compress", "_end", "_flush", "_inline", "coding")

    def __init__(self, coding: str, compress: Callable[[bytes], bytes], flush: Callable[[], bytes],
                 end: Callable[[], bytes], inline: int) -> None:
        self.coding = coding
        self._compress = compress
        self._flush = flush
        self._end = end
        self._inline = inline

    def flush(self, data: bytes) -> bytes:
        """Encode a piece. The output of a large piece may come with a later one."""
        return self._encode(data) if len(data) <= self._inline else _threads().apply(self._encode, (data,))

    def finish(self, data: bytes) -> bytes:
        """Encode the last piece and end."""
        return self._finish(data) if len(data) <= self._inline else _threads().apply(self._finish, (data,))

    def _encode(self, data: bytes) -> bytes:
        out = self._compress(data)
        return out + self._flush() if len(data) < _FLUSH_BELOW else out

    def _finish(self, data: bytes) -> bytes:
        return self._compress(data) + self._end()


@lru_cache(maxsize=1)
def _threads() -> Any:
    """The threads of this process for encoding. They are few, because encoding needs the processor. They are shared fairly,
    because each response has only one piece in the queue."""
    return ThreadPool(_THREADS)


def new_encoder(coding: str, level: int) -> Encoder:
    """An encoder for `gzip`, `br` or `zstd`. Level 0 means the default, which is fast enough while a client waits."""
    level = min(level or _DEFAULT_LEVEL[coding], _HIGHEST_LEVEL[coding])
    inline = next(size for highest, size in _INLINE[coding] if level <= highest)
    if coding == "gzip":
        gzip = zlib.compressobj(level, zlib.DEFLATED, 31)
        return Encoder(coding, gzip.compress, lambda: gzip.flush(zlib.Z_SYNC_FLUSH), gzip.flush, inline)
    if coding == "br":
        br = brotli.Compressor(quality=level)
        return Encoder(coding, br.process, br.flush, br.finish, inline)
    zstd = zstandard.ZstdCompressor(level=level).compressobj()
    return Encoder(coding, zstd.compress, lambda: zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK), zstd.flush, inline)


@lru_cache(maxsize=1024)
def choose_coding(accept_encoding: str, offered: tuple[str, ...]) -> str:
    """The offered coding that the client prefers. Among equal ones the first offered wins. Empty: none."""
    weights: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        name, _, parameters = item.partition(";")
        weight = 1.0
        for parameter in parameters.split(";"):
            key, _, value = parameter.partition("=")
            if key.strip() == "q":
                weight = _weight(value.strip())
        if name.strip():
            weights[{"x-gzip": "gzip"}.get(name.strip(), name.strip())] = weight
    anything = weights.get("*", 0.0)
    best, best_weight = "", 0.0
    for coding in offered:
        weight = weights.get(coding, anything)
        if weight > best_weight:
            best, best_weight = coding, weight
    return best if best_weight >= weights.get("identity", 0.0) else ""


def _weight(value: str) -> float:
    """A qvalue (RFC 9110 12.4.2). A malformed one counts as 0, so that a client gets only what it clearly accepts."""
    try:
        return min(max(float(value), 0.0), 1.0)
    except ValueError:
        return 0.0


@lru_cache(maxsize=1024)
def compressible(content_type: str, patterns: tuple[str, ...]) -> bool:
    """Whether a Content-Type value matches one of the patterns."""
    kind = content_type.partition(";")[0].strip().lower()
    return any(fnmatchcase(kind, pattern.lower()) for pattern in patterns)


def encoder_for(ex: Exchange, options: RouteOptions, response: ResponseHead, headers: list[tuple[str, str]]) -> Encoder | None:
    """The encoder for this response, or None. `headers` (without framing) are changed to describe what is sent."""
    status = response.status
    if status < 200 or status in (204, 206) or ex.client.version == 10:
        return None
    if 0 <= response.content_length < options.compression_min_size and status != 304:
        return None
    fields = {name.lower(): value for name, value in headers}
    if "content-range" in fields or fields.get("content-encoding", "identity").lower() != "identity":
        return None
    if len(fields) < len(headers) and sum(name.lower() == "etag" for name, _ in headers) > 1:
        # Nobody can tell which one names the body, so none can be made to name another one.
        return None
    # RFC 9111 5.2.1.6 and 5.2.2.6: either side can ask for it.
    if "no-transform" in fields.get("cache-control", "").lower() or "no-transform" in (ex.head.get("cache-control") or "").lower():
        return None
    # 304 mostly has no Content-Type. Then it is taken for one of a body that is compressed.
    if not (status == 304 and "content-type" not in fields) and not compressible(fields.get("content-type", ""), options.compression_types):
        return None
    # Even if it is not compressed now: caches must tell the variants apart (RFC 9110 12.5.5).
    if "vary" in fields:
        _add_to_vary(headers)
    else:
        headers.append(("Vary", "Accept-Encoding"))
    if ex.method == "HEAD":
        return None
    accept = ", ".join(ex.head.get_all("accept-encoding"))
    coding = choose_coding(accept, options.compression_algorithms) if accept else ""
    if not coding:
        return None
    # What is no quoted tag, nobody can compare weakly.
    headers[:] = [
        (name, f"W/{value}" if name.lower() == "etag" and value.startswith('"') else value)
        for name, value in headers
        if name.lower() not in _DROPPED and name.lower() != "content-encoding"
    ]
    if status == 304:
        return None
    headers.append(("Content-Encoding", coding))
    ex.compressed = True
    return new_encoder(coding, options.compression_level)


def _add_to_vary(headers: list[tuple[str, str]]) -> None:
    """Add to Vary what is missing there."""
    for name, value in headers:
        if name.lower() == "vary" and ("accept-encoding" in value.lower() or value.strip() == "*"):
            return
    headers.append(("Vary", "Accept-Encoding"))
