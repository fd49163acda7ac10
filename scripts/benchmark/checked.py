"""A backend for health checks: answers on its first port, accepts and says nothing on its second."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import cast

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Answering(asyncio.Protocol):
    """Answers whatever comes, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER)
        self._transport.close()


async def main(answering: int, hanging: int) -> None:
    """Serve both ports."""
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(Answering, "127.0.0.1", answering, backlog=4096),
        await loop.create_server(asyncio.Protocol, "127.0.0.1", hanging, backlog=4096),
    ]
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
