"""What a command starts ends with it, even if it is killed: a guard outlives the command, and kills what it has left."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

#: What a command starts has this in its environment. Other sessions, groups and parents do not change that.
_MARK = "STARTED_UNDER_GUARD"


@contextlib.contextmanager
def guarded(prefix: str) -> Iterator[Path]:
    """A new folder. It is removed, and whatever this process has started meanwhile is killed, when the block or this process ends, in
    whatever way."""
    mark, folder = uuid4().hex, tempfile.mkdtemp(prefix=prefix)
    # A database server that runs as another user has its own folder in it.
    os.chmod(folder, 0o711)
    # The guard notices the end of this process by the pipe, which nobody else has: what this process starts does not inherit it.
    guard = subprocess.Popen([sys.executable, __file__, mark, folder], stdin=subprocess.PIPE, start_new_session=True)
    before = os.environ.get(_MARK)
    os.environ[_MARK] = mark
    try:
        yield Path(folder)
    finally:
        if before is None:
            del os.environ[_MARK]
        else:
            os.environ[_MARK] = before
        guard.communicate()


def _marked(mark: str) -> list[int]:
    """The pids of the processes that were started with the mark."""
    line, found = f"{_MARK}={mark}".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if line in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _end(mark: str, folder: str) -> None:
    sys.stdin.read()
    # Again, until none is left: what is being killed may be starting others.
    until = time.monotonic() + 30
    while (found := _marked(mark)) and time.monotonic() < until:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The end of the command ends it, and nothing else does.
        signal.signal(number, signal.SIG_IGN)
    _end(*sys.argv[1:])
