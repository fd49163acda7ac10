"""HTTP clients of all kinds in a process of their own: `python -m tests.soak.load PORT TLS_PORT CA CLIENTS SEED`.

Every second it prints how many requests were answered as they should be, and how many were not. It ends with its standard input.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import gzip  # noqa: E402
import http.client  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import socket  # noqa: E402
import ssl  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Iterator  # noqa: E402

import gevent  # noqa: E402

from tests.support.websockets import ACCEPT, KEY, TEXT, close, frame  # noqa: E402

HOST = "soak.test"
#: Of a hundred requests, how many are of each kind.
KINDS = {"get": 62, "post": 12, "chunked": 6, "compressed": 10, "missing": 4, "events": 2, "websocket": 2, "tls": 2}
TIMEOUT = 30.0


class Wrong(Exception):
    """Another answer than there should be."""


class Client:
    """One client: request after request, of a kind by chance; most over a connection that is kept."""

    def __init__(self, port: int, tls_port: int, authority: str, chance: random.Random, counts: Counter[str]) -> None:
        self._port, self._tls_port, self._chance, self._counts = port, tls_port, chance, counts
        self._context = ssl.create_default_context(cafile=authority)
        self._kept: http.client.HTTPConnection | None = None

    def run(self) -> None:
        """For ever."""
        while True:
            kind = self._chance.choices(list(KINDS), list(KINDS.values()))[0]
            try:
                getattr(self, f"_{kind}")()
            except (OSError, http.client.HTTPException, Wrong) as error:
                self._counts[f"{kind}: {error!r}"] += 1
                self._close()
            else:
                self._counts["good"] += 1

    def _get(self) -> None:
        self._ask("GET", "/")
        if self._chance.random() < 0.02:
            self._close()

    def _post(self) -> None:
        size = self._chance.choice((0, 10, 1000, 50_000, 400_000))
        if not self._ask("POST", "/", b"x" * size).endswith(b" %d\n" % size):
            raise Wrong("not all of the body came")

    def _chunked(self) -> None:
        pieces = [b"x" * self._chance.randrange(1, 3000) for _ in range(self._chance.randrange(1, 8))]
        if not self._ask("POST", "/", iter(pieces)).endswith(b" %d\n" % sum(map(len, pieces))):
            raise Wrong("not all of the body came")

    def _compressed(self) -> None:
        size = self._chance.choice((1500, 20_000, 200_000))
        if len(gzip.decompress(self._ask("GET", f"/bytes/{size}", Accept_Encoding="gzip"))) != size:
            raise Wrong("not all of the answer came")

    def _missing(self) -> None:
        # Names that differ from each other: nothing may be kept of each.
        self._ask("GET", f"/{self._chance.random()}", host=f"h{self._chance.randrange(1 << 40)}.test", status=404)

    def _events(self) -> None:
        if self._ask("GET", "/events").count(b"data: ") != 10:
            raise Wrong("not all events came")

    def _websocket(self) -> None:
        with socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT) as sock, sock.makefile("rb") as reader:
            sock.sendall((f"GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                          f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n").encode())
            head = b""
            while (line := reader.readline()).strip():
                head += line
            if ACCEPT.encode() not in head:
                raise Wrong(f"no WebSocket: {head[:80]!r}")
            for number in range(5):
                sock.sendall(frame(TEXT, b"%05d" % number))
                if reader.read(7) != b"\x81\x05%05d" % number:
                    raise Wrong("another message came back")
            sock.sendall(close())
            reader.read()

    def _tls(self) -> None:
        connection = http.client.HTTPSConnection("127.0.0.1", self._tls_port, timeout=TIMEOUT, context=self._context)
        try:
            connection.request("GET", "/", headers={"Host": HOST})
            if connection.getresponse().read() != b"b /\n":
                raise Wrong("another answer")
        finally:
            connection.close()

    def _ask(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, host: str = HOST, status: int = 200,
             **fields: str) -> bytes:
        if self._kept is None:
            self._kept = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        self._kept.request(method, path, body, {"Host": host, **named}, encode_chunked=not isinstance(body, bytes | None))
        answer = self._kept.getresponse()
        data = answer.read()
        if answer.status != status:
            raise Wrong(f"{answer.status} {answer.getheader('X-Proxyd-Reason')}")
        if answer.will_close:
            self._close()
        return data

    def _close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def main() -> None:
    """The process."""
    port, tls_port, authority, clients, seed = sys.argv[1:]
    counts: Counter[str] = Counter()
    for number in range(int(clients)):
        gevent.spawn(Client(int(port), int(tls_port), authority, random.Random(f"{seed} {number}"), counts).run)
    while True:
        time.sleep(1.0)
        bad = "; ".join(f"{what} ({count})" for what, count in counts.items() if what != "good")
        try:
            print(f"{counts['good']} {sum(counts.values()) - counts['good']} {bad}", flush=True)
        except OSError:
            os._exit(0)


if __name__ == "__main__":
    main()
