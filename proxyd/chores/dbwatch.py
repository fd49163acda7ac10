"""Watches the files that the master holds open. Nobody should delete or replace them while they are in use, but people do.

A deleted SQLite file lives on for the processes that have it open, and is lost when they end. A worker that starts meanwhile
would find nothing. So the watch writes the file again at once. If another file took its place, the master starts again with that.
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
    """A job that looks four times a second.

    `opened`: the shared memory files in `directory` that this process maps. Files that it does not map are watched only for
    their deletion. `stop`: called when the master can't go on with the files that it has open.
    """

    def __init__(self, store: Store, lock: MasterLock, directory: str, opened: Iterable[SharedFile], stop: Callable[[], None]) -> None:
        self._store = store
        self._lock = lock
        known = {os.path.basename(file.path): file for file in opened}
        self._shared: list[SharedFile | ForeignFile] = [known.get(name) or ForeignFile(os.path.join(directory, name)) for name in FILES]
        self._end = stop
        self._failed = ""
        self._job = Job("open-files", _PERIOD, self._look_after, log, retry=_FAILURE_PAUSE, trouble="can't watch the database file")
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
        """Look once. False if this master has to end."""
        what = self._store.displaced()
        if what == "replaced":
            log.critical("the database %s was replaced by another file while in use: the master restarts with the new file",
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
                             "possible", file.path, FILES[os.path.basename(file.path)])
        return True

    def _put_back(self) -> None:
        try:
            self._store.put_back()
        except StoreError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.critical("%s; the master tries again, and the database is lost if the master ends first", error)
            gevent.sleep(_FAILURE_PAUSE)
            return
        self._failed = ""
        log.critical("the database %s or its log was deleted while in use: the master has written it again, unchanged", self._store.name)

    def _taken_again(self) -> bool:
        try:
            taken = self._lock.take()
        except StoreError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.critical("the lock file was deleted while in use: %s", error)
            return True
        if taken:
            log.critical("the lock file %s was deleted while in use: the master has made it again", self._lock.path)
        else:
            log.critical("the lock file %s was deleted while in use, and another master (pid %s) holds it now: this master stops",
                         self._lock.path, self._lock.holder())
        return taken
