"""Keeps the last table in a file, from which workers start where the database can't be read (`store/sql/kept.py`).

The file follows each change within a second. With very many routes it follows more slowly, so that writing it takes a twentieth of the
master's time at most.
"""

from __future__ import annotations

import logging
import os
import time

import gevent
from gevent import get_hub

from proxyd.base.jobs import Job
from proxyd.base.threads import in_thread
from proxyd.registry.state import Registry
from proxyd.store.sql.kept import NAME, SLICE, KeptFile
from proxyd.store.sql.snapshot import record_of

log = logging.getLogger("proxyd.master")

_PERIOD = 1.0
#: Seconds between two slices of the file.
_SLICE_PAUSE = 0.001
#: The pause after a write, or after one that failed, is so many times the processor time that it took. The time in which this process was
#: stopped, or waited for the disk, is not its own.
_REST = 20


class Keeper:
    """A job that writes the file in `directory` after a change, and where somebody has removed it or written into it."""

    def __init__(self, registry: Registry, directory: str) -> None:
        self._registry = registry
        self._path = os.path.join(directory, NAME)
        self._written = 0
        #: The file that was written last, as it was then.
        self._stamp: tuple[int, ...] = ()
        self._not_before = 0.0
        #: Processor time (seconds) of the last write.
        self._spent = 0.0
        self._job = Job("kept-table", _PERIOD, self._look, log, first=0.0, retry=_PERIOD, expected=OSError,
                        trouble="the last table can't be kept in a file, and workers can't start without the database")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin."""
        self._job.start()

    def stop(self) -> None:
        """End, with the file as new as the registry if that is possible."""
        self._job.stop()
        self._not_before = 0.0
        try:
            self._look()
        except OSError as error:
            log.debug("the last table is not kept: %s", error)

    def _look(self) -> float | None:
        what = self._lost()
        if self._written == self._registry.version and not what:
            return None
        now = time.monotonic()
        if now < self._not_before:
            return self._not_before - now
        self._spent = 0.0
        try:
            self._write()
        finally:
            now = time.monotonic()
            self._not_before = now + _REST * self._spent
        if what:
            log.warning("the kept table %s was %s while in use: the master has written it again", self._path, what)
        return max(_PERIOD, self._not_before - now)

    def _lost(self) -> str:
        """What somebody has done to the file that was written last, "" for nothing."""
        if not self._stamp:
            return ""
        now = _stamp_of(self._path)
        return "" if now == self._stamp else "overwritten" if now else "made unreadable" if os.path.exists(self._path) else "deleted"

    def _write(self) -> None:
        registry = self._registry
        # Rows are replaced, never changed: this list stays the table of this version while it is written.
        version, rows = registry.version, list(registry.active.rows.values())
        tokens = {session.session_id: session.grant.name for session in registry.sessions.values() if session.grant.name}
        file = KeptFile(self._path, version, tokens)
        try:
            for first in range(0, len(rows), SLICE):
                began = time.thread_time()
                file.add(map(record_of, rows[first:first + SLICE]))
                self._spent += time.thread_time() - began
                gevent.sleep(_SLICE_PAUSE)
            in_thread(get_hub().threadpool, file.finish)
        finally:
            file.abandon()
        self._written, self._stamp = version, _stamp_of(self._path)


def _stamp_of(path: str) -> tuple[int, ...]:
    """What tells a file from others, and from itself at other times; empty where there is none, or where this user can't read it."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return (status.st_ino, status.st_size, status.st_mtime_ns) if os.access(path, os.R_OK) else ()
