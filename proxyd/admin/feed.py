"""What a client is sent as it happens, as server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator

from gevent.queue import Empty, Full, Queue

HEARTBEAT_SECONDS = 15.0
_MAX_WAITING = 1000
_ASK_SECONDS = 1.0

#: The type of what is sent, and what it says.
Item = tuple[str, dict[str, object]]


class Feed:
    """The body of an answer that goes on until the client leaves. A client that is too slow misses some, and is told how many. `of`: what
    it is a feed of, in a word."""

    def __init__(self, of: str, heartbeat: float) -> None:
        self._of = of
        self._heartbeat = heartbeat
        self._waiting: Queue[Item] = Queue(_MAX_WAITING)
        self._missed = 0

    def put(self, type_: str, data: dict[str, object]) -> None:
        """Send this next, if there is room. Never waits."""
        try:
            self._waiting.put_nowait((type_, data))
        except Full:
            self._missed += 1

    def miss(self, count: int) -> None:
        """So many were lost before they came here."""
        self._missed += count

    def __iter__(self) -> Iterator[bytes]:
        yield f"retry: 2000\n: proxyd {self._of}\n\n".encode()
        while True:
            try:
                item = self._waiting.get(timeout=self._heartbeat)
            except Empty:
                yield b": heartbeat\n\n"
                continue
            if self._missed:
                yield _block("missed", {"type": "missed", "missed": self._missed})
                self._missed = 0
            yield _block(*item)


class WhileAllowed:
    """The body of an answer that goes on, until its reader may not read any more: the token was changed, or the login is over. `allowed` is
    asked once a second at most, and with each heartbeat."""

    def __init__(self, body: Iterable[bytes], allowed: Callable[[], bool]) -> None:
        self._body = body
        self._allowed = allowed

    def __iter__(self) -> Iterator[bytes]:
        asked = time.monotonic()
        for piece in self._body:
            now = time.monotonic()
            if now - asked >= _ASK_SECONDS:
                if not self._allowed():
                    return
                asked = now
            yield piece

    def close(self) -> None:
        """The client is gone, or was sent away."""
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _block(type_: str, data: dict[str, object]) -> bytes:
    """One event; JSON text holds no line break, and neither may the type."""
    name = "".join(char for char in type_ if char.isprintable())
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, default=str)}\n\n".encode()
