"""A Redis for tests: the real redis-server, on a port of its own, that a test can stop and start."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.waiting import free_port, wait_for

_PLACES = os.pathsep.join((os.environ.get("PATH", ""), "/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"))


class Redis:
    """Keeps nothing on disk; what is counted is gone when it stops."""

    def __init__(self, directory: Path, address: str = "127.0.0.1") -> None:
        program = shutil.which("redis-server", path=_PLACES)
        if program is None:
            pytest.fail("redis-server is not installed; Debian's package redis-server has it", pytrace=False)
        self.port = free_port()
        self._address = address
        self.url = f"redis://{address}:{self.port}/0"
        self._command = [program, "--port", str(self.port), "--bind", address, "--save", "", "--appendonly", "no",
                         "--protected-mode", "no", "--dir", str(directory)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: self.says(b"PING").startswith(b"+PONG"), what="an answer of redis-server")

    @property
    def pid(self) -> int:
        """Its process. Only while it runs."""
        assert self._process is not None
        return self._process.pid

    def says(self, command: bytes) -> bytes:
        """The beginning of its answer to a command, nothing where there is none."""
        try:
            with socket.create_connection((self._address, self.port), 1.0) as connection:
                connection.sendall(command + b"\r\n")
                return connection.recv(65536)
        except OSError:
            return b""

    def stop(self) -> None:
        """Kill -9: connections are reset, nothing is said."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
