"""The registry as a client in production speaks to it: one socket, one line a command."""

from __future__ import annotations

import contextlib
import json
import socket
from typing import Any


class RegistryClient:
    """A raw connection. `command` sends a line (with `SID` for the session id) and returns the answer line."""

    def __init__(self, port: int, timeout: float = 15.0, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((address, port), timeout=timeout)
        self._file = self.socket.makefile("rb")
        self.session_id = ""

    def register(self, service: str = "app", instance: str = "i1", metadata: str = "null") -> RegistryClient:
        """REGISTER, and keep the session id."""
        answer = self.command(f"REGISTER|{service}|{instance}|0|{metadata}")
        assert answer.startswith("ACK|"), answer
        self.session_id = answer.split("|")[1]
        return self

    def send(self, line: str) -> None:
        """Send a line and read nothing."""
        self.socket.sendall(line.replace("SID", self.session_id).encode() + b"\n")

    def line(self) -> str:
        """The next line; an empty text at the end of the connection."""
        return self._file.readline().decode().rstrip("\n")

    def command(self, line: str) -> str:
        """Send a line and return the answer."""
        self.send(line)
        return self.line()

    def ok(self, line: str) -> str:
        """Like `command`, and what is behind the first `|`; AssertionError for an error."""
        answer = self.command(line)
        assert answer and not answer.startswith("ERROR"), f"{line} -> {answer}"
        return answer.partition("|")[2]

    def json(self, line: str) -> Any:
        """Like `ok`, read as JSON."""
        return json.loads(self.ok(line))

    def route(self, domain: str, url: str, path: str = "/", priority: int = 0, apply: bool = True) -> str:
        """Add a route, apply it, and return its id."""
        route_id = self.ok(f"ROUTE_ADD|SID|{domain}|{path}|{url}|{priority}")
        if apply:
            self.apply()
        return route_id

    def apply(self) -> None:
        """CONFIG_APPLY, which must be OK."""
        answer = self.command("CONFIG_APPLY|SID")
        assert answer == "OK", answer

    def options(self, target: str, **values: object) -> None:
        """Set options and apply."""
        for key, value in values.items():
            self.ok(f"OPTIONS_SET|SID|{target}|{key}|{value}")
        self.apply()

    def end(self) -> None:
        """End the session, if it is still there and this still its connection, and close."""
        with contextlib.suppress(OSError):
            self.socket.settimeout(5)
            self.send("CLIENT_SHUTDOWN|SID")
            self.socket.shutdown(socket.SHUT_WR)
            # Closed before all is read, the connection would be reset, and the command might be lost.
            while self.socket.recv(65536):
                pass
        self.close()

    def close(self) -> None:
        """Close the connection without a word."""
        with contextlib.suppress(OSError):
            # A reader in another thread holds the file until it has read an end.
            self.socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self.socket.close()
