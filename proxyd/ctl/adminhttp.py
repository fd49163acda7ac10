"""A client of the admin HTTP API: JSON in and out, and two exceptions for what goes wrong."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

_PAGE = 1000


class CannotConnect(Exception):
    """Nothing answers at that address."""


class Refused(Exception):
    """The server refused: not found, not allowed or not possible."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Admin:
    """The API at `http(s)://host:port` or `unix:/path`. `token` is sent along, unless it is empty."""

    def __init__(self, url: str, token: str = "", timeout: float = 10.0) -> None:
        self.url = as_url(url)
        self._token = token
        self._timeout = timeout

    def get(self, path: str) -> Any:
        """The JSON at a path below /api/v1. Raises CannotConnect, Refused."""
        return self._json("GET", path)[0]

    def get_with_date(self, path: str) -> tuple[Any, str]:
        """The JSON at a path below /api/v1, and the field Date of the answer. Raises CannotConnect, Refused."""
        connection, response = self._open("GET", path, None, self._timeout, {})
        try:
            return json.loads(response.read()), response.headers.get("Date", "")
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CannotConnect(f"{self.url} does not answer like proxyd's admin HTTP server: {error}") from None
        finally:
            connection.close()

    def all(self, name: str, query: str = "") -> list[dict[str, Any]]:
        """The whole list of routes, sessions, health, circuits, events or stats, from all its pages."""
        items: list[dict[str, Any]] = []
        while True:
            answer, total = self._json("GET", f"{name}?limit={_PAGE}&offset={len(items)}{query}")
            page = answer.get(name, []) if isinstance(answer, dict) else []
            items += page
            if not page or len(items) >= total:
                return items

    def act(self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None) -> Any:
        """POST or DELETE a path below /api/v1. Raises CannotConnect, Refused."""
        return self._json(method, path, body, timeout)[0]

    def follow(self, path: str = "events") -> Iterator[dict[str, Any]]:
        """Events as they happen, or what else a path below /api/v1 streams, until the server ends the stream."""
        connection, response = self._open("GET", f"{path}?follow=1", None, None, {"Accept": "text/event-stream"})
        try:
            data: list[str] = []
            for raw in response:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield json.loads("\n".join(data))
                    data = []
        except (OSError, http.client.HTTPException) as error:
            raise CannotConnect(f"the stream from {self.url} broke off: {error}") from None
        finally:
            connection.close()

    def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout: float | None = None,
    ) -> tuple[Any, int]:
        connection, response = self._open(method, path, body, timeout or self._timeout, {})
        try:
            content = response.read()
            total = int(response.headers.get("X-Total-Count") or 0)
            return json.loads(content or b"{}"), total
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CannotConnect(f"{self.url} does not answer like proxyd's admin HTTP server: {error}") from None
        finally:
            connection.close()

    def _open(
        self, method: str, path: str, body: dict[str, Any] | None, timeout: float | None, headers: dict[str, str],
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        sent = {"Accept": "application/json", **headers}
        if self._token:
            sent["Authorization"] = f"Bearer {self._token}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = self._connection(timeout)
        base = "" if self.url.startswith("unix:") else urlsplit(self.url).path
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, f"{base}/api/v1/{path}", content, sent)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise CannotConnect(f"can't reach proxyd's admin HTTP at {self.url}: {error}") from None
        if response.status >= 300:
            message = _reason(response)
            connection.close()
            raise Refused(message)
        return connection, response

    def _connection(self, timeout: float | None) -> http.client.HTTPConnection:
        if self.url.startswith("unix:"):
            return _UnixConnection(self.url.removeprefix("unix:"), timeout)
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise CannotConnect(f"--admin {self.url}: {error}") from None
        if parts.scheme not in ("http", "https") or not host:
            raise CannotConnect(f"--admin {self.url}: not an address (like 127.0.0.1:8282, http://127.0.0.1:8282 or unix:/path)")
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, port, timeout=timeout)


def _reason(response: http.client.HTTPResponse) -> str:
    """The message of a refusal: the problem's detail, else its title, else the status."""
    try:
        problem = json.loads(response.read(65536))
        message = str(problem.get("detail") or problem.get("title") or problem.get("error") or "")
    except (OSError, http.client.HTTPException, ValueError, AttributeError):
        message = ""
    message = message or f"{response.status} {response.reason}"
    if response.status in (401, 403):
        message += " (give the admin token with --token-file, or set [admin] token_file)"
    return message


def as_url(address: str) -> str:
    """The url of an admin HTTP server that a person named: host:port is how people write an address."""
    return (address if "://" in address or address.startswith("unix:") else f"http://{address}").rstrip("/")


def segment(text: str) -> str:
    """A text, quoted as one segment of a url's path."""
    return quote(text, safe="")


def read_token(path: str) -> str:
    """The token in a file: its first line, as the server reads it. Raises Refused if it can't be read or is no token."""
    if not path:
        return ""
    try:
        with Path(path).open(encoding="ascii") as file:
            token = file.readline(4096).strip()
    except OSError as error:
        raise Refused(f"can't read the token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        token = ""
    if not token.isprintable() or not token:
        raise Refused(f"the first line of the token file {path} is not a token (printable ASCII)")
    return token
