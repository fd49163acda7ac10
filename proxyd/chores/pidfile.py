"""The file that says which process the master is. Two proxies that are told the same one must not fight over it."""

from __future__ import annotations

import errno
import fcntl
import os

_MOST = 20


class PidFile:
    """The file at `path`, where `setting` has put it. Who has written it holds a lock on it, which the kernel frees when that process
    ends."""

    def __init__(self, path: str, setting: str = "[master] pid_file") -> None:
        self.path = path
        self._setting = setting
        self._fd = -1

    @property
    def written(self) -> bool:
        """Whether this process has written it."""
        return self._fd >= 0

    def in_place(self) -> bool:
        """Whether the file is there, and says what this process wrote."""
        return self._is_there() and os.pread(self._fd, _MOST, 0) == _own()

    def write(self) -> None:
        """Write it, also where somebody has deleted or overwritten it. Raises OSError, with EBUSY if it is another process's."""
        while not self._is_there():
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            self._take(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        os.pwrite(self._fd, _own(), 0)
        os.ftruncate(self._fd, len(_own()))

    def remove(self) -> None:
        """Remove it, if it is still this process's. Raises OSError."""
        if self.in_place():
            os.unlink(self.path)

    def _is_there(self) -> bool:
        """Whether the file that has the name is the one that this process has the lock of."""
        try:
            return self._fd >= 0 and os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return False

    def _take(self, fd: int) -> None:
        """Have the lock of an open file, in place of the one before. Raises OSError."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(fd, _MOST, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if not isinstance(error, BlockingIOError):
                raise
            raise OSError(errno.EBUSY, f"it is that of another proxyd (pid {pid}); give this one a {self._setting} of its own") from None
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd


def holder(path: str) -> int:
    """The pid of the process that has the pid file at `path`, 0 if none does."""
    try:
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read(_MOST) or 0)
    except (OSError, ValueError):
        pass
    return 0


def _own() -> bytes:
    return f"{os.getpid()}\n".encode("ascii")
