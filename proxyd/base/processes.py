"""Other processes of this host, and the end of this one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable


def ignore(signals: Iterable[int]) -> None:
    """Ignore these signals from now on, in the main thread of a process that is about to end: Python takes its handlers away before
    that, and a signal would change the status. Holding them back would not do, because another thread can take them."""
    for number in signals:
        signal.signal(number, signal.SIG_IGN)


def runs(pid: int) -> bool:
    """Whether this host has a process of that number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
