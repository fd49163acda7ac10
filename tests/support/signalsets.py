"""Which signals a process holds back, and for which it has handlers; and a process that waits for them."""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from typing import NoReturn


def caught(pid: int) -> bool:
    """Whether the process has handlers, and takes signals."""
    return in_sets(pid, signal.SIGUSR1, "SigCgt") and not in_sets(pid, signal.SIGUSR1, "SigBlk")


def in_sets(pid: int, number: int, *sets: str) -> bool:
    """Whether the signal is in one of these sets of the process (proc(5))."""
    with contextlib.suppress(OSError):
        found = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        return any(int(found.get(name, "0"), 16) >> (number - 1) & 1 for name in sets)
    return False


def handle_signals() -> NoReturn:
    """Do nothing but run the handlers of signals. Not by signal.pause(): one that comes just before it has its handler run after the next
    one, and there may be none."""
    while True:
        time.sleep(0.02)
