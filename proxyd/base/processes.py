"""Other processes of this host, and the end of this one."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable

#: The variable that a master has which an arbiter looks after.
SUPERVISED = "PROXYD_SUPERVISED"
#: Signals that would end or stop a master that has no handlers yet, though they mean nothing to it or do not end it. They are held back
#: until it has.
HELD = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


def ignore(signals: Iterable[int]) -> None:
    """Ignore these signals from now on, in the main thread of a process that is about to end: Python takes its handlers away before
    that, and a signal would change the status. Holding them back would not do, because another thread can take them."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def call_itself(*words: str) -> None:
    """Show these words as the command line of this process, which was forked from another one: `ps` and `pgrep -f` tell them apart then.
    As many of them as there is room for where that of the other one is; none where the kernel does not let a process write there."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
            # The second field, the name in parentheses, may hold anything. proc(5) counts from 1.
            fields = file.read().rpartition(")")[2].split()
        begin, end = int(fields[48 - 3]), int(fields[49 - 3])
        line = b""
        for word in words:
            longer = line + os.fsencode(word) + b"\0"
            line = longer if len(longer) <= end - begin else line
        with open("/proc/self/mem", "r+b", buffering=0) as memory:
            memory.seek(begin)
            memory.write(line.ljust(end - begin, b"\0"))


def runs(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
