"""A program on a terminal of its own: what it shows, and keys for it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Mapping, Sequence

from tests.support.waiting import wait_for

_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs a command on a pseudo terminal of so many columns and rows; `raw` is all it wrote."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], columns: int = 80, rows: int = 24) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(columns, rows)
        plain = {key: value for key, value in environment.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                        env={**plain, "TERM": "xterm-256color"}, start_new_session=True)
        self._pieces: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self._master, 65536):
                self._pieces.append(data)

    @property
    def raw(self) -> str:
        return b"".join(self._pieces).decode(errors="replace")

    @property
    def text(self) -> str:
        """Everything written, without colours and cursor movements."""
        return _SEQUENCE.sub("", self.raw).replace("\r", "")

    def resize(self, columns: int, rows: int) -> None:
        """Another size."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def echoes(self) -> bool:
        """Whether what is typed is shown, as a shell wants it."""
        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def end(self, seconds: float = 10) -> int:
        """Wait for the program's end, and for what it wrote; its exit code."""
        code = self.process.wait(seconds)
        with contextlib.suppress(AssertionError):
            size = -1
            while size != (size := len(self._pieces)):
                wait_for(lambda: len(self._pieces) > size, 0.1)  # noqa: B023 - called at once
        return code

    def close(self) -> None:
        """Kill what still runs."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(5)
        os.close(self.slave)
        os.close(self._master)
