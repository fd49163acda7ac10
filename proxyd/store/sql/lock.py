"""Exactly one master a database: a lock on a file beside it, which the kernel frees when its holder dies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

from proxyd.base import private
from proxyd.base.lockfile import LockFile, pid_in
from proxyd.store.sql import openfile
from proxyd.store.sql.database import StoreError


class MasterLock:
    """The lock file `<database>.lock` (in `directory` for a database server). Its first line is its holder's pid, the second one says
    which files an SQLite database consists of: of the last holder's, until this one notes its own."""

    def __init__(self, database_path: str | None, directory: str) -> None:
        self.path = f"{database_path}.lock" if database_path else os.path.join(directory, "proxyd.master.lock")
        self._file = LockFile(self.path)
        self.noted: openfile.Files | None = None

    def take(self) -> bool:
        """Take the lock; False if another process has it. Raises StoreError where the file can't be made."""
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            private.make(self.path)
            private.regain(self.path)
            private.tighten(self.path)
            if not self._file.take(private.MODE):
                return False
        except OSError as error:
            raise StoreError(f"can't open the lock file {self.path}: {error.strerror}; is the directory writable?") from None
        self.noted = openfile.noted(self.path) or self.noted
        self._write()
        return True

    def note(self, files: openfile.Files) -> bool:
        """Say which files belong together, for those who open the database later. Returns whether somebody had overwritten what it said
        before."""
        overwritten = self._file.held and self._file.text() != self._text()
        if files == self.noted and not overwritten:
            return False
        self.noted = files
        return self._write() and overwritten

    def _text(self) -> bytes:
        return f"{os.getpid()}\n{self.noted or ''}\n".encode()

    def _write(self) -> bool:
        # On a full disk the lock holds without it.
        with contextlib.suppress(OSError):
            self._file.write(self._text())
            return True
        return False

    def in_place(self) -> bool:
        """Whether the lock that is held is still the one that another master would try to take: its file may be deleted."""
        return self._file.in_place()

    def wait(self, sleep: Callable[[float], None], goes_on: Callable[[], bool]) -> bool:
        """Take the lock, waiting for its holder as long as `goes_on()`; whether it was taken."""
        while goes_on():
            if self.take():
                return True
            sleep(0.1)
        return False

    def holder(self) -> int | None:
        """The pid written in the file, if there is one."""
        return pid_in(self.path) or None

    def release(self) -> None:
        """Give the lock back."""
        self._file.release()
