"""Starting, pinning, measuring and stopping the programs under test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil

SERVER_CORE = "0"
LOAD_CORE = "1"


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int, seconds: float = 60.0) -> None:
    """Return once something accepts on the port. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing accepts on port {port}")


class Program:
    """A program on one core; `usage()` is the CPU seconds and resident bytes of all its processes."""

    def __init__(self, command: list[str], folder: Path, core: str = SERVER_CORE, environment: dict[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", core, *command],
                stdout=log,
                stderr=log,
                cwd=folder,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )

    def family(self) -> list[psutil.Process]:
        """The process and its descendants."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def usage(self) -> tuple[float, int]:
        """CPU seconds so far and resident bytes now."""
        cpu, resident = 0.0, 0
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                cpu += times.user + times.system
                resident += process.memory_info().rss
        return cpu, resident

    def stop(self) -> None:
        """End it and everything it started."""
        family = self.family()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        _, alive = psutil.wait_procs(family, 5)
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


def need(tool: str) -> str:
    """The path of a tool. Raises RuntimeError where it is missing."""
    found = shutil.which(tool) or shutil.which(tool, path="/usr/sbin:/sbin:/usr/local/sbin")
    if not found:
        raise RuntimeError(f"{tool} is not installed")
    return found
