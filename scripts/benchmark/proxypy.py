"""proxy.py as a reverse proxy for one backend: `python -m benchmark.proxypy PORT UPSTREAM`."""

from __future__ import annotations

import sys
import time

import proxy
from proxy.http.server import ReverseProxyBasePlugin


class OneBackend(ReverseProxyBasePlugin):
    """Everything to the one backend."""

    def routes(self):  # type: ignore[no-untyped-def]
        """Path patterns and the upstreams behind them."""
        return [(r"/.*$", [f"http://127.0.0.1:{sys.argv[2]}".encode()])]


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
