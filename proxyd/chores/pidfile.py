"""The file that says which process the master is. Two proxies that are told the same one must not fight over it."""

from __future__ import annotations

import errno
import os

from proxyd.base.lockfile import LockFile, first_line, is_held, pid_in


class PidFile:
    """The file at `path`, where `setting` has put it. Who has written it holds it (base/lockfile)."""

    def __init__(self, path: str, setting: str = "[master] pid_file") -> None:
        self.path = path
        self._setting = setting
        self._file = LockFile(path)

    @property
    def written(self) -> bool:
        """Whether this process has written it."""
        return self._file.held

    def in_place(self) -> bool:
        """Whether the file is there, and says what this process wrote."""
        return self._file.in_place() and self._file.text() == _own()

    def write(self) -> None:
        """Write it, also where somebody has deleted or overwritten it. Raises OSError, with EBUSY if it is another process's."""
        while not self._file.in_place():
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            if not self._file.take(0o644):
                raise OSError(errno.EBUSY, f"it is that of another proxyd (pid {first_line(self.path)}); give this one a {self._setting} "
                                           "of its own")
        self._file.write(_own())

    def remove(self) -> None:
        """Remove it, if it is still this process's. Raises OSError."""
        if self.in_place():
            os.unlink(self.path)


def holder(path: str) -> int:
    """The pid of the process that has the pid file at `path`, 0 if none does."""
    return pid_in(path) if is_held(path) else 0


def _own() -> bytes:
    return f"{os.getpid()}\n".encode("ascii")
