"""Keeps the last table in a file, from which workers start where the database can't be read (`store/sql/kept.py`). Every host has one: the
master that leads writes what it has in memory, and one that waits reads the routes for it.

The file follows each change within a second. With very many routes it follows more slowly, so that writing it takes a twentieth of the
master's time at most.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import gevent
from gevent import get_hub

from proxyd.base.jobs import Job
from proxyd.base.threads import in_thread
from proxyd.registry.state import Registry
from proxyd.store.memory.board import Board
from proxyd.store.sql import kept
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.kept import NAME, SLICE, KeptFile
from proxyd.store.sql.models import Session
from proxyd.store.sql.query import tuples
from proxyd.store.sql.snapshot import RouteRecord, load_difference, load_snapshot, record_of

log = logging.getLogger("proxyd.master")

_PERIOD = 1.0
#: Seconds between two slices of the file.
_SLICE_PAUSE = 0.001
#: The pause after a write, or after one that failed, is so many times the processor time that it took. The time in which this process was
#: stopped, or waited for the disk, is not its own.
_REST = 20


class Routes(Protocol):
    """Where the routes are that are kept, with the config version that they have."""

    @property
    def version(self) -> int: ...

    def look(self) -> None:
        """Find out what is new. Raises StoreError."""

    def rows(self) -> list[Any]:
        """All routes now, in whatever form. Each is replaced when it changes, and not changed itself."""

    def records(self, rows: list[Any]) -> Iterable[RouteRecord]:
        """Some of these, as they are kept."""

    def tokens(self) -> Mapping[str, str]:
        """The token's name of each session that registered with one."""


class OfRegistry:
    """Those that the registry of the master that leads has in memory."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @property
    def version(self) -> int:
        """The config version."""
        return self._registry.version

    def look(self) -> None:
        """Nothing is to be read."""

    def rows(self) -> list[Any]:
        """The rows of all routes."""
        return self._registry.everything()[1]

    def records(self, rows: list[Any]) -> Iterable[RouteRecord]:
        """The records of rows."""
        return map(record_of, rows)

    def tokens(self) -> Mapping[str, str]:
        """The names of tokens by session."""
        return {session.session_id: session.grant.name for session in self._registry.sessions.values() if session.grant.name}


class OfDatabase:
    """Those that the database has, for a master that does not lead: what has changed is read when another version is posted on the board.
    `directory`: that of the kept table, so that not all of them are read after a start."""

    def __init__(self, store: Store, board: Board, directory: str) -> None:
        self._store = store
        self._board = board
        self._path = os.path.join(directory, NAME)
        self.version = 0
        self._records: dict[str, RouteRecord] = {}
        self._tokens: Mapping[str, str] = {}

    def look(self) -> None:
        """Read what has changed. Raises StoreError."""
        if self.version and self.version == self._board.version:
            return
        version, records = self.version, self._records
        if not version:
            with contextlib.suppress(kept.KeptError):
                found = kept.read(self._path)
                if found is not None:
                    version, records = found.snapshot.version, {record.route_id: record for record in found.snapshot.routes}
        if version and not self.version:
            known = {route_id: (record.version, record.updated) for route_id, record in records.items()}
            snapshot = self._store.read(load_difference, known, version)
        else:
            snapshot = self._store.read(load_snapshot, version)
        self._tokens = self._store.read(_tokens)
        records = {} if snapshot.full else records
        records.update((record.route_id, record) for record in snapshot.routes)
        for route_id in snapshot.removed:
            records.pop(route_id, None)
        self.version, self._records = snapshot.version, records

    def rows(self) -> list[Any]:
        """The records of all routes."""
        return list(self._records.values())

    def records(self, rows: list[Any]) -> Iterable[RouteRecord]:
        """They are records already."""
        return rows

    def tokens(self) -> Mapping[str, str]:
        """The names of tokens by session."""
        return self._tokens


def _tokens() -> dict[str, str]:
    """Runs in the database thread."""
    return dict(tuples(Session.select(Session.session_id, Session.token_name).where(Session.state != "ended", Session.token_name != "")))


class Keeper:
    """A job that writes the file in `directory` after a change, and where somebody has removed it or written into it."""

    def __init__(self, routes: Routes, directory: str) -> None:
        self._routes = routes
        self._path = os.path.join(directory, NAME)
        self._written = 0
        #: The file that was written last, as it was then.
        self._stamp: tuple[int, ...] = ()
        self._not_before = 0.0
        #: Processor time (seconds) of the last write.
        self._spent = 0.0
        # The last master's followed within a second, too. Others have more to do when this one has just begun.
        first = _PERIOD if os.path.exists(self._path) else 0.0
        self._job = Job("kept-table", _PERIOD, self._look, log, first=first, retry=_PERIOD, expected=(OSError, StoreError),
                        trouble="the last table can't be kept in a file, and workers can't start without the database")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin."""
        self._job.start()

    def drop(self) -> None:
        """End at once."""
        self._job.stop()

    def stop(self) -> None:
        """End, with the file as new as the registry if that is possible."""
        self._job.stop()
        self._not_before = 0.0
        try:
            self._look()
        except (OSError, StoreError) as error:
            log.debug("the last table is not kept: %s", error)

    def _look(self) -> float | None:
        self._routes.look()
        what = self._lost()
        if self._written == self._routes.version and not what:
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
        routes = self._routes
        # This list stays the table of this version while it is written.
        version, rows = routes.version, routes.rows()
        file = KeptFile(self._path, version, routes.tokens())
        try:
            for first in range(0, len(rows), SLICE):
                began = time.thread_time()
                file.add(routes.records(rows[first:first + SLICE]))
                self._spent += time.thread_time() - began
                gevent.sleep(_SLICE_PAUSE)
            # Taken before it had its place: somebody may have removed it by now.
            found = in_thread(get_hub().threadpool, file.finish)
        finally:
            file.abandon()
        self._written, self._stamp = version, found


def _stamp_of(path: str) -> tuple[int, ...]:
    """As `kept.stamp`; empty where there is no file, or where this user can't read it."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return kept.stamp(status) if os.access(path, os.R_OK) else ()
