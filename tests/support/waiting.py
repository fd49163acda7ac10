"""Waiting for conditions instead of sleeping for luck, and ports to wait at."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Literal, TypeVar

Value = TypeVar("Value")

#: A machine so many times too small is no reason to wait any longer.
_MOST = 4.0

#: Below the ports that the kernel gives to connections; each process of a test run in parallel has a part of its own.
_FIRST_PORT, _PORTS = 10_000, 2_500
_part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_offset = os.getpid() * 7 % _PORTS


def patience(seconds: float) -> float:
    """What `seconds` of a machine with a processor for each process that wants one become on this machine, now."""
    return seconds * min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), _MOST)


def wait_for(condition: Callable[[], Value | Literal[False] | None], seconds: float = 30.0, what: str = "the condition",
             pause: float = 0.02, sleep: Callable[[float], object] = time.sleep) -> Value:
    """The first true value of `condition()`; AssertionError when it does not come within `seconds`, more on a busy machine. Where greenlets
    of this process are to run meanwhile, `sleep` is gevent's."""
    seconds = patience(seconds)
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds:.1f} s (last: {value!r})"
        sleep(pause)


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody takes connections to this port."""
    with socket.socket() as sock:
        return sock.connect_ex((address, port)) == 0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that is free now, and that nobody else here is given before all others have been."""
    global _offset
    for _ in range(_PORTS):
        _offset = (_offset + 1) % _PORTS
        port = _FIRST_PORT + _part * _PORTS + _offset
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
                sock.listen(1)
            except OSError:
                continue
        return port
    raise RuntimeError("no port is free")
