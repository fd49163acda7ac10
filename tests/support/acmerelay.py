"""A CA in front of pebble that can what Debian's pebble can't yet: renewal information (RFC 9773), profiles, and having trouble."""

from __future__ import annotations

import base64
import datetime
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.pebble import Pebble

_KEPT = ("Content-Type", "Replay-Nonce", "Location", "Link", "Retry-After", "Cache-Control")


class Relay:
    """`window`: what is advised for a certificate by its id, as begin and end in Unix seconds. `trouble`: for a path, an answer
    (status, fields, body) in pebble's place, or None. `after`: called with a path when its answer is there, before it is sent."""

    def __init__(self, pebble: Pebble) -> None:
        self.window: Callable[[str], tuple[float, float]] = lambda _: (time.time() + 1e6, time.time() + 1e6)
        self.trouble: Callable[[str], tuple[int, Mapping[str, str], bytes] | None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        self.asked: list[str] = []
        #: What orders say that were placed.
        self.orders: list[dict[str, Any]] = []
        relay, onward = self, pebble.authority.trusting()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                relay._answer(self, pebble.port, onward)

            do_POST = do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pebble.authority.issue("relay.pem", "localhost", "127.0.0.1"))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = int(self._server.server_address[1])
        self.url = f"https://localhost:{self.port}/dir"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def _answer(self, handler: BaseHTTPRequestHandler, port: int, onward: ssl.SSLContext) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path = handler.path
        self.asked.append(path)
        fields: list[tuple[str, str]]
        if (found := self.trouble(path)) is not None:
            # With a nonce of pebble's own, without which no answer to a POST is one.
            nonces = [pair for pair in self._ask(handler, port, onward, body)[1] if pair[0] == "Replay-Nonce"]
            status, fields, answer = found[0], [*found[1].items(), *nonces], found[2]
        elif path.startswith("/renewal-info/"):
            begin, end = (datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat() for moment in self.window(path[14:]))
            status, fields = 200, [("Content-Type", "application/json"), ("Retry-After", "21600")]
            answer = json.dumps({"suggestedWindow": {"start": begin, "end": end}}).encode()
        else:
            status, fields, answer = self._ask(handler, port, onward, body)
        if path == "/dir" and status == 200:
            told = json.loads(answer)
            told["renewalInfo"] = f"https://localhost:{self.port}/renewal-info"
            told["meta"]["profiles"] = {"shortlived": "six days", "classic": "as ever"}
            answer = json.dumps(told).encode()
        if "order-plz" in path and status == 201:
            self.orders.append(_payload(body))
        self.after(path)
        handler.send_response(status)
        for name, value in fields:
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        if handler.command != "HEAD":
            handler.wfile.write(answer)

    @staticmethod
    def _ask(handler: BaseHTTPRequestHandler, port: int, onward: ssl.SSLContext, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=onward)
        try:
            connection.request(handler.command, handler.path, body or None,
                               {name: value for name, value in handler.headers.items() if name in ("Host", "Content-Type", "User-Agent")})
            answer = connection.getresponse()
            return answer.status, [pair for pair in answer.headers.items() if pair[0] in _KEPT], answer.read()
        finally:
            connection.close()


def _payload(body: bytes) -> dict[str, Any]:
    """What is signed in a JWS."""
    text = json.loads(body)["payload"]
    return dict(json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
