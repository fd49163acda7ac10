"""Watches the files that the master holds open. Nobody should delete or replace them while they are in use, but people do.

A deleted SQLite file lives on for the processes that have it open, and is lost when they end. A worker that starts meanwhile
would find nothing. So the watch writes the file again at once. If another file took its place, the master starts again with that.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable

import gevent

from proxyd.base import clock, private
from proxyd.base.jobs import Job, JobOver
from proxyd.base.trouble import Trouble
from proxyd.chores.pidfile import PidFile
from proxyd.store.memory.shared import FILES, ForeignFile, SharedFile
from proxyd.store.memory.watch import MASTER_PERIOD, SharedWatch
from proxyd.store.sql import openfile, overwritten, restored
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.lock import MasterLock

log = logging.getLogger("proxyd.master")

#: What was put right is shown as a problem for so long.
_TOLD_SECONDS, _MOST_TOLD = 60.0, 16
_FAILURE_PAUSE = 2.0


def part_log(path: str | None, files: openfile.Files | None) -> None:
    """Take away the log of `files`, if it lies beside another database, which is at `path`. Raises OSError."""
    if path is not None and (aside := openfile.part(path, files)):
        log.warning("the log of the old database is %s now; if you kept that file, rename the log as well (old.db, old.db-wal)", aside)


class DatabaseWatch:
    """A job that looks four times a second.

    `opened`: the shared memory files in `directory` that this process maps. Files that it does not map are watched only for
    their deletion: workers make them again. `stop`: called when the master can't go on with the files that it has open. `committed`: the
    config version that is committed, and what each route is in it.
    """

    def __init__(self, store: Store, lock: MasterLock, directory: str, opened: Iterable[SharedFile], stop: Callable[[], None],
                 committed: Callable[[], tuple[int, dict[str, overwritten.Stamped]]] = lambda: (0, {})) -> None:
        self._store = store
        self._lock = lock
        known = {os.path.basename(file.path): file for file in opened}
        self._shared = SharedWatch((known.get(name) or ForeignFile(os.path.join(directory, name)) for name in FILES), log,
                                   logging.CRITICAL)
        self._mark = store.read(restored.mark) if store.path is not None else 0
        self._committed = committed
        if store.path is not None:
            # From now on it is watched.
            store.touched()
        #: What the database was like when it was last found overwritten.
        self._overwritten: overwritten.Stamp | None = None
        self._told: deque[tuple[float, str]] = deque(maxlen=_MOST_TOLD)
        self._end = stop
        self._failed = ""
        self._pid_file: PidFile | None = None
        self._pid_trouble = Trouble(log, "can't write the pid file", logging.ERROR)
        self._job = Job("open-files", MASTER_PERIOD, self._look_after, log, retry=_FAILURE_PAUSE, trouble="can't watch the database file")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin."""
        self._job.start()

    def stop(self) -> None:
        """End."""
        self._job.stop()

    def write_pid(self, pid_file: PidFile) -> None:
        """Write the pid file of this master, and look after it from now on. Where it can't be written, that is tried again."""
        self._pid_file = pid_file
        self._look_after_pid()

    def _look_after(self) -> None:
        if not self._look():
            self._end()
            raise JobOver

    def _look(self) -> bool:
        """Look once. False if this master has to end."""
        self._make_readable()
        what = self._store.displaced()
        if what == "replaced":
            log.critical("the database %s was replaced by another file while in use: the master restarts with the new file",
                         self._store.name)
            self._part()
            return False
        if what == "deleted" and not self._is_empty():
            self._put_back()
        elif not self._is_sound():
            return False
        if not self._lock.in_place() and not self._taken_again():
            return False
        if self._lock.note(self._store.files):
            self._tell([f"the lock file {self._lock.path} was overwritten while in use: the master has written it again"])
            log.critical("%s", self._told[-1][1])
        self._tell(self._shared.look())
        self._look_after_pid()
        return True

    def _make_readable(self) -> None:
        """Workers, and another master, that start from now on must be able to open what this one has open."""
        path = self._store.path
        own = [*((path, path + openfile.LOG, path + openfile.INDEX) if path is not None else ()), self._lock.path,
               *([self._pid_file.path] if self._pid_file is not None and self._pid_file.written else [])]
        self._tell([f"{name} could not be opened by processes that start: its mode lets its owner read it again"
                    for name in own if private.regain(name, 0o400)])

    def _is_empty(self) -> bool:
        """Whether the database was emptied: whoever opens it then deletes its log, and it can't be written again from that."""
        try:
            return self._store.path is not None and not os.path.getsize(self._store.path)
        except OSError:
            return False

    def _is_sound(self) -> bool:
        """Whether nobody has written into the database but this master, or only what does no harm. If not, this master has to end."""
        if self._store.path is None:
            return True
        how, now = self._store.touched()
        if not how:
            # It may have been written again meanwhile, because its log was deleted.
            self._overwritten, self._store.held = None, ""
            return True
        why = self._store.plain(overwritten.damage, self._store.path or "", self._mark, *self._committed())
        if why is None:
            return True
        if not why:
            self._store.untouched()
            self._overwritten, self._store.held = None, ""
            log.info("another process has written into the database %s, and it is whole", self._store.name)
            return True
        if not self._store.held:
            # What is written now would be lost, or mixed with the other content.
            self._store.held = f"the database {self._store.name} was overwritten while in use: {why}"
            log.critical("%s; nothing is written until another master has begun with what there is", self._store.held)
        settled, self._overwritten = now == self._overwritten, now
        if not settled:
            # Whoever writes it may still be at it.
            return True
        # Without its log it is an old state of itself, and the kept table is newer.
        if aside := self._store.give_up(aside=how == "cut"):
            log.critical("the log of the database was cut: what is left is set aside as %s, and the kept table goes on", aside)
        else:
            self._part()
        return False

    def _part(self) -> None:
        try:
            part_log(self._store.path, self._store.files)
        except OSError as error:
            log.error("can't move the log of the old database away: %s; the next master tries again before it opens the new one", error)

    def problems(self) -> list[str]:
        """What is wrong with the files now, and what was put right in the last minute."""
        wrong = [*self._shared.problems(), *filter(None, (self._failed, self._store.held))]
        return [*wrong, *(said for at, said in self._told if clock.now() - at < _TOLD_SECONDS)]

    def _tell(self, said: list[str]) -> None:
        self._told.extend((clock.now(), sentence) for sentence in said)

    def _look_after_pid(self) -> None:
        if self._pid_file is None or self._pid_file.in_place():
            return
        again = self._pid_file.written
        try:
            self._pid_file.write()
        except OSError as error:
            self._pid_trouble.goes_on(f"{self._pid_file.path}: {error.strerror}")
            return
        self._pid_trouble.is_over()
        if again:
            self._tell([f"the pid file {self._pid_file.path} was deleted or overwritten while in use: the master has written it again"])
            log.warning("%s", self._told[-1][1])

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
        self._tell([f"the database {self._store.name} or its log was deleted while in use: the master has written it again, unchanged"])
        log.critical("%s", self._told[-1][1])

    def _taken_again(self) -> bool:
        try:
            taken = self._lock.take()
        except StoreError as error:
            if str(error) != self._failed:
                self._failed = str(error)
                log.critical("the lock file was deleted while in use: %s", error)
            return True
        if taken:
            self._failed = ""
            self._tell([f"the lock file {self._lock.path} was deleted while in use: the master has made it again"])
            log.critical("%s", self._told[-1][1])
        else:
            log.critical("the lock file %s was deleted while in use, and another master (pid %s) holds it now: this master stops",
                         self._lock.path, self._lock.holder())
        return taken
