"""Which signals a process holds back, and for which it has handlers."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path


def caught(pid: int) -> bool:
    """Whether the process has handlers, and takes signals."""
    return in_sets(pid, signal.SIGUSR1, "SigCgt") and not in_sets(pid, signal.SIGUSR1, "SigBlk")


def in_sets(pid: int, number: int, *sets: str) -> bool:
    """Whether the signal is in one of these sets of the process (proc(5))."""
    with contextlib.suppress(OSError):
        found = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
        return any(int(found.get(name, "0"), 16) >> (number - 1) & 1 for name in sets)
    return False
