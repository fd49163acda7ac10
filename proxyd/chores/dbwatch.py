"""The master's eye on the files it holds open: nobody should delete or replace them while they are in use, but people do.

A deleted SQLite file goes on living for the processes that have it open, and is lost with them; a worker that starts meanwhile
would find nothing. So it is written again at once. Another file in its place is what the master starts anew with.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable

import gevent

from proxyd.base.jobs import Job, JobOver
from proxyd.store.memory.shared import FILES, ForeignFile, SharedFile
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.lock import MasterLock

log = logging.getLogger("proxyd.master")

_PERIOD = 0.25
_FAILURE_PAUSE = 2.0


class DatabaseWatch:
    """A job that looks four times a second; `opened`: the shared memory files of `directory` that this
    process maps; of the others it sees that they go. `stop` is called where the master can't go on with what it has open."""

    def __init__(self, store: Store, lock: MasterLock, directory: str, opened: Iterable[SharedFile], stop: Callable[[], None]) -> None:
        self._store = store
        self._lock = lock
        known = {os.path.basename(file.path): file for file in opened}
        self._shared: list[SharedFile | ForeignFile] = [known.get(name) or ForeignFile(os.path.join(directory, name)) for name in FILES]
        self._end = stop
        self._failed = ""
        self._job = Job("open-files", _PERIOD, self._look_after, log, retry=_FAILURE_PAUSE, trouble="looking after the database file")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin."""
        self._job.start()

    def stop(self) -> None:
        """End."""
        self._job.stop()

    def _look_after(self) -> None:
        if not self._look():
            self._end()
            raise JobOver

    def _look(self) -> bool:
        """Look once; False where this master has to end."""
        what = self._store.displaced()
        if what == "replaced":
            log.critical("another file took the place of the database %s while it was in use: the master starts again with that one",
                         self._store.name)
            return False
        if what == "deleted":
            self._put_back()
        if not self._lock.in_place() and not self._taken_again():
            return False
        for file in list(self._shared):
            if not file.in_place():
                self._shared.remove(file)
                log.critical("the shared memory file %s was deleted while in use: workers that start from now on %s; restart proxyd when "
                             "you can", file.path, FILES[os.path.basename(file.path)])
        return True

    def _put_back(self) -> None:
        try:
            self._store.put_back()
        except StoreError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.critical("%s; it is tried again, and lost if the master ends before", error)
            gevent.sleep(_FAILURE_PAUSE)
            return
        self._failed = ""
        log.critical("the database %s or its log was deleted while in use: written again as it was", self._store.name)

    def _taken_again(self) -> bool:
        try:
            taken = self._lock.take()
        except StoreError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.critical("the lock file was deleted while in use: %s", error)
            return True
        if taken:
            log.critical("the lock file %s was deleted while in use: made again", self._lock.path)
        else:
            log.critical("the lock file %s was deleted while in use, and another master (pid %s) took it: this one ends",
                         self._lock.path, self._lock.holder())
        return taken
