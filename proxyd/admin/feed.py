"""What a client is sent as it happens, as server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator

from gevent.queue import Empty, Full, Queue

HEARTBEAT_SECONDS = 15.0
_MAX_WAITING = 1000

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


def _block(type_: str, data: dict[str, object]) -> bytes:
    """One event; JSON text holds no line break, and neither may the type."""
    name = "".join(char for char in type_ if char.isprintable())
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, default=str)}\n\n".encode()
