"""proxy.py as a reverse proxy for one backend: `python -m benchmark.proxypy PORT UPSTREAM`."""

from __future__ import annotations

import sys
import time

import proxy
from proxy.http.server import ReverseProxyBasePlugin
from proxy.http.url import Url


class OneBackend(ReverseProxyBasePlugin):
    """Everything to the one backend, with the path that was asked for."""

    def routes(self):  # type: ignore[no-untyped-def]
        """Patterns of paths, which `handle_route` decides about."""
        return [r"/.*$"]

    def handle_route(self, request, pattern):  # type: ignore[no-untyped-def]
        """Where a request goes."""
        return Url.from_bytes(b"http://127.0.0.1:" + sys.argv[2].encode() + request.path)


if __name__ == "__main__":
    with proxy.Proxy(
        [
            "--hostname",
            "127.0.0.1",
            "--port",
            sys.argv[1],
            "--num-workers",
            "1",
            "--num-acceptors",
            "1",
            "--enable-reverse-proxy",
            "--disable-http-proxy",
            # Its event loop ends with an exception when many clients keep their connections.
            "--threaded",
            "--log-level",
            "ERROR",
        ],
        plugins=[OneBackend],
    ):
        while True:
            time.sleep(3600)
