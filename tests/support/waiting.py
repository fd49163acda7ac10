"""Waiting for conditions instead of sleeping for luck."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def wait_for(condition: Callable[[], Value], seconds: float = 10.0, what: str = "the condition", pause: float = 0.02) -> Value:
    """The first true value of `condition()`; AssertionError when it does not come within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s (last: {value!r})"
        time.sleep(pause)


_given: set[int] = set()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now; never the same twice, since the kernel may offer it again before it is used."""
    while True:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
