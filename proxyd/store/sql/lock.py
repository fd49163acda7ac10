"""Exactly one master a database: a lock on a file beside it, which the kernel frees when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable

from proxyd.base import private
from proxyd.store.sql import openfile
from proxyd.store.sql.database import StoreError

#: Bytes of the file; there are fewer.
_MOST = 512


class MasterLock:
    """The lock file `<database>.lock` (in `directory` for a database server). Its first line is its holder's pid, the second one says
    which files an SQLite database consists of: of the last holder's, until this one notes its own."""

    def __init__(self, database_path: str | None, directory: str) -> None:
        self.path = f"{database_path}.lock" if database_path else os.path.join(directory, "proxyd.master.lock")
        self._fd = -1
        self.noted: openfile.Files | None = None

    def take(self) -> bool:
        """Take the lock; False if another process has it. Raises StoreError where the file can't be made."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            private.make(self.path)
            private.regain(self.path)
            private.tighten(self.path)
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, private.MODE)
        except OSError as error:
            raise StoreError(f"can't open the lock file {self.path}: {error.strerror}; is the directory writable?") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return False
        self.release()
        self._fd = fd
        self.noted = openfile.noted(self.path) or self.noted
        self._write()
        return True

    def note(self, files: openfile.Files) -> bool:
        """Say which files belong together, for those who open the database later. Returns whether somebody had overwritten what it said
        before."""
        overwritten = self._fd >= 0 and os.pread(self._fd, _MOST, 0) != self._text()
        if files == self.noted and not overwritten:
            return False
        self.noted = files
        return self._write() and overwritten

    def _text(self) -> bytes:
        return f"{os.getpid()}\n{self.noted or ''}\n".encode()

    def _write(self) -> bool:
        text = self._text()
        # On a full disk the lock holds without it.
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))
            return True
        return False

    def in_place(self) -> bool:
        """Whether the lock that is held is still the one that another master would try to take: its file may be deleted."""
        try:
            named, held = os.stat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def wait(self, sleep: Callable[[float], None], goes_on: Callable[[], bool]) -> bool:
        """Take the lock, waiting for its holder as long as `goes_on()`; whether it was taken."""
        while goes_on():
            if self.take():
                return True
            sleep(0.1)
        return False

    def holder(self) -> int | None:
        """The pid written in the file, if there is one."""
        try:
            with open(self.path, encoding="ascii") as file:
                return int(file.readline(32).strip() or 0) or None
        except (OSError, ValueError):
            return None

    def release(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
