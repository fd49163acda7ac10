"""That workers can't start is written into a file beside the shared memory, by the arbiter for the master's status.

The arbiter opens neither the database nor the shared memory, and the master need not be its child.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from proxyd.base import private

NAME = "proxyd.starts"
_MOST = 4096


def write(directory: str, said: str) -> None:
    """Say something of this process's workers; with nothing to say, the file goes. Raises OSError."""
    path = os.path.join(directory, NAME)
    if not said:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        return
    with open(f"{path}.new", "w", encoding="utf-8", errors="replace") as file:
        os.fchmod(file.fileno(), private.MODE)
        file.write(f"{os.getpid()}\n{said.splitlines()[0][:_MOST]}\n")
    os.replace(f"{path}.new", path)


def read(directory: str) -> list[str]:
    """What the arbiter says, if it lives."""
    try:
        with Path(directory, NAME).open(encoding="utf-8", errors="replace") as file:
            pid, said = int(file.readline(20)), file.readline(_MOST + 1).strip()
        os.kill(pid, 0)
    except PermissionError:
        return [said]
    except (OSError, ValueError, OverflowError):
        return []
    return [said] if said else []
