"""One connection to the database per process, used by one native thread, so that no greenlet ever waits in SQL.

sqlite3 and psycopg block the thread that calls them; in a gevent process that would be everybody. `Store.call`
runs a function in the database thread and parks only the calling greenlet.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import gevent
import peewee
from gevent.lock import BoundedSemaphore
from gevent.threadpool import ThreadPool

from proxyd.base import private
from proxyd.base.fileid import identity
from proxyd.base.text import hide_password
from proxyd.base.threads import in_thread
from proxyd.store.sql import openfile, overwritten, postgres, rescue
from proxyd.store.sql.openfile import Files
from proxyd.store.sql.overwritten import Stamp

Result = TypeVar("Result")
#: Longest wait in SQLite itself for another process's lock, in milliseconds: it holds up the thread, and all who only read. And the same
#: on a server, where those who wait stand in line, in seconds.
_TURN, _SERVER_TURN = 20, 0.1
#: Bytes to which SQLite cuts its log when it has been brought into the database; a reader that stays open makes it grow.
_LOG_SIZE = 16 << 20
#: Between two such waits.
_PAUSE = 0.005
#: Between two attempts to reach a server: the first pause, and the longest one, which doubling leads to.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0
#: Seconds that a server gets to answer, beside those that it may wait for a lock itself.
_ANSWER = 1.0
#: How often a file is opened again that loses its place meanwhile.
_OPENINGS = 5

#: The models are bound to this; `Store.open` gives it the real database.
database = peewee.DatabaseProxy()


class StoreError(Exception):
    """The database can't be used as asked; the message says what, where, and what to do."""


class StoreEmpty(StoreError):
    """The database has no tables yet: the master makes them when it starts."""


class StoreBusy(StoreError):
    """Another process holds the database lock; nothing was changed, trying again later is right."""


class StoreUncertain(StoreError):
    """The connection to a server was lost while a change was being committed: nobody knows whether it was."""


class _ConnectionEnded(StoreError):
    """A connection that was there before has ended, and nothing was changed. What was asked for can be asked for again, by a new one."""


class StoreFenced(StoreError):
    """Another master leads, so this one may not write; nothing was changed. Whoever asked for it has to ask the other one."""


def sqlite_path(url: str) -> str | None:
    """The file of an `sqlite:///path` url (relative or absolute), None for another kind. Raises StoreError."""
    if not url.startswith("sqlite:"):
        return None
    if not url.startswith("sqlite:///") or len(url) == len("sqlite:///"):
        raise StoreError(f"[database] url: {url!r} names no file (like sqlite:///var/proxyd.db)")
    return url.removeprefix("sqlite:///")


def connect(url: str, busy_timeout: float, mode: str = "rwc") -> peewee.Database:
    """A peewee database for the url, not yet connected; `mode`: how an SQLite file is opened, `rwc` makes a missing one. Raises
    StoreError for one it can't be."""
    path = sqlite_path(url)
    if path is not None:
        return peewee.SqliteDatabase(
            f"file:{quote(os.path.abspath(path))}?mode={mode}", uri=True, timeout=busy_timeout,
            pragmas={**_of_a_new_file(path), "journal_mode": "wal", "busy_timeout": _TURN, "foreign_keys": 1, "synchronous": 1,
                     "journal_size_limit": _LOG_SIZE}, thread_safe=False)
    parts = urlsplit(url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise StoreError(f"[database] url: {hide_password(url)!r} is neither sqlite:///... nor postgresql://...")
    return postgres.server(url, busy_timeout, _SERVER_TURN)


def _of_a_new_file(path: str) -> dict[str, object]:
    """What must be said before the first table is made: free pages can be cut off the file (`chores/retention.py`). Said of a file that
    is there, it would wait for its writers."""
    try:
        return {} if os.path.getsize(path) else {"auto_vacuum": "INCREMENTAL"}
    except OSError:
        return {"auto_vacuum": "INCREMENTAL"}


class Store:
    """The database of this process. Use it after fork; `close` ends its thread.

    `open` tells at once whether it can be used; without it, the first call opens. `follow`: an SQLite file that another
    one took the place of (a corrupt one set aside, a backup brought back) is left for the new one, and `generation` counts
    these changes; only for a process that can begin anew with another content. It never makes a missing file, and reads one that
    it may not write.
    """

    def __init__(self, url: str, busy_timeout: float = 5.0, follow: bool = False) -> None:
        self.url = url
        #: What may be shown of the url.
        self.name = hide_password(url)
        self.busy_timeout = busy_timeout
        self.path = sqlite_path(url)
        self.generation = 0
        self._follow = follow and self.path is not None
        #: Opened without SQLite's own files beside it, which can't be made there, and so blind for changes.
        self._frozen = False
        #: Those of the database that is open, or was last.
        self.files = Files(None, None, None)
        self._pin: openfile.Pin | None = None
        self._database: peewee.Database | None = None
        #: While a server can't be reached: when it is tried again (monotonic seconds), after how many failures, and why it failed.
        self._again, self._failures, self._why = 0.0, 0, ""
        self._pool = ThreadPool(1)
        self._writing = BoundedSemaphore(1)
        self._durable = False
        #: Called first in each write transaction on a server; it raises StoreError if this process must not write.
        self.fence: Callable[[], None] | None = None
        #: The transaction on a server that is under way has come to its COMMIT.
        self._committing = False
        #: Another process holds the lock, as the last attempt to write has found.
        self.blocked = False
        #: Why no history is written now, empty where it is: see `call`.
        self.history_held = ""
        #: Why nothing is written now, empty where it is.
        self.held = ""
        #: What the SQLite file was like after the last step of this process, None where nobody watches that; what others did to it.
        self._stamp: Stamp | None = None
        self._touched = ""
        self._torn = False
        #: How much of the log was in the SQLite file then.
        self._brought_in = b""

    def open(self) -> None:
        """Connect. Raises StoreError where the file or server can't be used, and says what to do."""
        self._again = 0.0
        # Two that make a new file at once may find it locked, without the wait that SQLite was asked for: one of them says that it is WAL.
        self._insist(time.monotonic() + self.busy_timeout, False, self._open)

    def _open(self) -> None:
        if self.path is not None and not self._follow:
            folder = os.path.dirname(os.path.abspath(self.path))
            try:
                os.makedirs(folder, mode=0o750, exist_ok=True)
            except OSError as error:
                raise StoreError(f"can't make the directory {folder} of the database: {error.strerror}") from None
            if not os.access(folder, os.W_OK):
                raise StoreError(f"the directory {folder} of the database is not writable by this user")
            # SQLite gives the log and the index of the log the mode of the database.
            with contextlib.suppress(OSError):
                private.make(self.path)
            for suffix in ("", "-wal", "-shm"):
                private.regain(self.path + suffix, 0o400)
                private.tighten(self.path + suffix)
        if time.monotonic() < self._again:
            raise StoreError(self._why)
        if self.path is None and self._database is not None:
            self._leave()
        for _ in range(_OPENINGS):
            self._refuse_strangers()
            self._pin = openfile.pin(self.path) if self.path is not None else None
            try:
                self._database = self._connect()
            except StoreError:
                self._unpin()
                raise
            if self.path is None or self._pin is not None and self._pin.identity() == identity(self.path):
                break
            # The connection may be to either file, and has the log of the old one.
            self._leave(untouched=True)
        else:
            raise StoreBusy(f"the database {self.name} is replaced all the time; try again")
        database.initialize(self._database)
        if self.path is not None:
            self.files = Files.at(self.path)
        self._durable = False
        self._again, self._failures = 0.0, 0
        # Whoever writes into the file from now on is somebody else. Only workers do not care, who follow whatever there is.
        self._stamp, self._touched = Stamp.of(self.path) if self.path is not None and not self._follow else None, ""
        self._torn = False
        self.generation += 1

    def _refuse_strangers(self) -> None:
        """Raise StoreBusy if the log of another database lies beside this one."""
        if self.path is not None and any(files is not None and files.strangers(self.path)
                                         for files in (self.files, openfile.noted(f"{self.path}.lock"))):
            raise StoreBusy(f"the database {self.name} took the place of another one, whose log still lies beside it; the master takes "
                            "that away, try again")

    def _connect(self) -> peewee.Database:
        self._frozen = False
        opened = connect(self.url, self.busy_timeout, "rw" if self._follow else "rwc")
        try:
            with postgres.within(self.busy_timeout):
                opened.connect()
        except (peewee.PeeweeException, sqlite3.Error, postgres.ServerSilent) as error:
            opened.close()
            if self.path is None:
                raise self._unreachable(error) from None
            if self._follow and not os.path.exists(self.path or ""):
                raise StoreEmpty(f"there is no database {self.name}; the master makes it when it starts, or: proxyd migrate") from None
            frozen = self._open_frozen() if self._follow else None
            if frozen is None:
                raise explain(error, self.name) from None
            opened, self._frozen = frozen, True
        return opened

    def _leave(self, untouched: bool = False) -> None:
        """Close the connection. SQLite brings the log into the database then, unless that has lost its place; `untouched`: never."""
        opened, self._database = self._database, None
        other = openfile.pin(self.path) if untouched and self.path is not None else None
        if other is not None:
            with contextlib.suppress(OSError):
                other.keep()
        if self.path is not None:
            self.files = self.files.still_at(self.path)
        if opened is not None:
            opened.close()
        self._unpin()
        if other is not None:
            other.close()

    def _unpin(self) -> None:
        if self._pin is not None:
            self._pin.close()
            self._pin = None

    def _unreachable(self, error: Exception) -> StoreError:
        """The error for a server that can't be reached. Until it is tried again, all who ask get it at once: their waits must not
        add up, and a server that comes back must not find all its clients at the door."""
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**self._failures)
        self._failures = min(self._failures + 1, 10)
        self._again = time.monotonic() + pause * random.uniform(0.5, 1.0)
        found = explain(error, self.name)
        self._why = str(found)
        return found

    def _open_frozen(self) -> peewee.Database | None:
        """Open an SQLite file as it is where its `-shm` can't be made. None where that is not the trouble."""
        if not rescue.is_frozen(self.path or ""):
            return None
        opened: Any = connect(self.url, self.busy_timeout, "ro&immutable=1")
        try:
            opened.connect()
            opened.execute_sql("SELECT count(*) FROM sqlite_master")
        except (peewee.PeeweeException, sqlite3.Error):
            opened.close()
            return None
        found: peewee.Database = opened
        return found

    def displaced(self) -> str:
        """What became of the SQLite file that is open: "" where it is in its place, `deleted`, or `replaced` by another one."""
        if self._database is None or self.path is None:
            return ""
        found = self._look_again()
        if found.database is not None and found.database != self.files.database:
            return "replaced"
        # Without its log the file is an old state of itself, and whoever opens it begins another log.
        return "deleted" if found != self.files else ""

    def _look_again(self) -> Files:
        """The files that have the names now. SQLite makes log and index when it needs them for the first time."""
        assert self.path is not None
        own, found = self.files, Files.at(self.path)
        if found.database == own.database:
            self.files = Files(own.database, own.log or found.log, own.index or found.index)
        return found

    def touched(self) -> tuple[str, Stamp]:
        """What somebody else has done to the SQLite file since this was asked first, or since `untouched`: `written`, or `cut` if its log
        alone became shorter, or "". And what the file is like now."""
        found: tuple[str, Stamp] = self._run(self._was_touched)
        return found

    def _was_touched(self) -> tuple[str, Stamp]:
        if self._stamp is None:
            self._stamp = Stamp.of(self.path or "")
        self._note(True)
        # Found whole once, it is asked about again when it has become another.
        before, self._torn = self._torn, openfile.is_torn(self.path or "")
        if self._torn and not before:
            self._touched = "cut"
        return self._touched, self._stamp

    def untouched(self) -> None:
        """What was written by others does no harm."""
        self._touched = ""

    def _note(self, foreign: bool) -> None:
        """Note what the file is like; `foreign`: what has changed since the last time is not of this process."""
        before, self._stamp = self._stamp, Stamp.of(self.path or "")
        known, self._brought_in = self._brought_in, self._pin.brought_in() if self._pin is not None else b""
        if not foreign and self._touched != "cut" and before is not None and before[:2] != self._stamp[:2] and self._pin is not None \
                and (self._brought_in and self._brought_in == known or not self._pin.is_database()):
            # In the middle of a step of this process, which has brought none of its log into the file; or which has, and it is no database.
            self._touched = "written"
        if not foreign and before is not None and self._stamp.log < before.log and openfile.is_cut(self.path or ""):
            # In the middle of a step, too: the log that this process shortens itself is as long as its index says.
            self._touched = "cut"
        if foreign and before is not None and before != self._stamp and self._touched != "cut":
            self._touched = "cut" if before[:2] == self._stamp[:2] and self._stamp.log < before.log else "written"

    def _suspect(self, error: str) -> None:
        """Somebody may have written into the file in the middle of a step of this process: its own work looks the same from outside, and
        only what SQLite says afterwards tells."""
        if self._stamp is None or self._touched == "cut":
            return
        if "disk I/O" in error and openfile.is_cut(self.path or ""):
            self._touched = "cut"
        elif "malformed" in error or "not a database" in error:
            self._touched = "written"

    def give_up(self, aside: bool) -> str:
        """The SQLite file was overwritten: see `overwritten`. It takes its own place under another number, or is set `aside`. Returns
        where it is then, "" in the first case. Raises OSError."""
        if aside:
            return self._run(rescue.set_aside, self.path or "")  # type: ignore[no-any-return]
        self._run(overwritten.displace, self.path or "")
        return ""

    def put_back(self) -> None:
        """Write a deleted database again, as the open connection still has it, and go on with the new file. Raises StoreError."""
        self._run(self._put_back)

    def _put_back(self) -> None:
        assert self._database is not None and self.path is not None
        try:
            rescue.put_back(self._database.execute_sql, self.path, self.files.database)
        except (OSError, peewee.PeeweeException, sqlite3.Error) as error:
            raise StoreError(f"the database {self.name} was deleted while in use, and can't be written again: {error}") from None
        self._leave()
        self._open()

    def _usable(self) -> peewee.Database:
        """The open database. Raises StoreError."""
        if self._database is not None and self._follow:
            found, own = self._look_again(), self.files
            if found.database is not None and found.database != own.database or self._frozen and not rescue.is_frozen(self.path or ""):
                self._leave()
            elif found.database is not None and found.log is not None and own.log is not None and found.log != own.log:
                # Others write into another log by now. Closed last, this one must not be brought into the database, which has changed.
                self._leave(untouched=True)
        if self._database is None:
            self._open()
            assert self._database is not None
        return self._database

    def call(self, function: Callable[..., Result], *args: Any, durable: bool = False, patience: float | None = None,
             bound: float | None = None, history: bool = False, **kwargs: Any) -> Result:
        """Run `function(*args, **kwargs)` in the database thread, inside one write transaction, and return its result.

        `durable` commits with fsync, so that what is acknowledged survives a power cut; `patience` is the wait in
        seconds for another process's lock (default: the busy timeout), and `bound` the longest time in seconds that a server
        may take for all of it (default: a second more than the busy timeout). `history`: what is written can wait, or be lost, if the
        database must not grow now. Raises StoreBusy when the lock does not come
        free, StoreError for a database that fails, and what the function raises. Nothing is changed when it raises, but for
        StoreUncertain.
        """
        if self.held or history and self.history_held:
            raise StoreBusy(self.held or self.history_held)
        limit = self.busy_timeout if patience is None else patience
        deadline = time.monotonic() + limit
        with self.turn(self._writing, limit):
            result: Result = self._insist(deadline, True, self._transaction, function, args, kwargs, durable,
                                          self.busy_timeout + _ANSWER if bound is None else bound)
        return result

    @contextlib.contextmanager
    def turn(self, lock: Any, limit: float) -> Iterator[None]:
        """Hold a gevent lock of those who write one after the other. Raises StoreBusy after `limit` seconds in which another
        process's lock kept the one in front: all wait at the same time, not each after the other."""
        while not lock.acquire(timeout=limit):
            if self.blocked:
                raise busy(self.name)
        try:
            yield
        finally:
            lock.release()

    def read(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Run a function that only reads, in the database thread; never waits for writers (WAL). Raises as `call`."""
        deadline = time.monotonic() + self.busy_timeout
        result: Result = self._insist(deadline, False, self._guarded, self._snapshot, (function, args, kwargs), {},
                                      self.busy_timeout + _ANSWER)
        return result

    def plain(self, function: Callable[..., Result], *args: Any, bound: float | None = None) -> Result:
        """Run a function in the database thread, outside a transaction: for what is done to the file, or a table, as a whole. `bound` and
        what it raises are as for `call`."""
        result: Result = self._run(self._guarded, function, args, {}, self.busy_timeout + _ANSWER if bound is None else bound)
        return result

    def _insist(self, deadline: float, writes: bool, function: Callable[..., Any], *args: Any) -> Any:
        """Run in the database thread, again and again while another process has the lock; in between the thread is others'. And again
        at once where the server has ended the connection since its last use: it restarted, or this process was stopped in the middle of
        a transaction for longer than the server waits."""
        anew = False
        while True:
            try:
                result = self._run(function, *args)
            except _ConnectionEnded:
                if anew and time.monotonic() >= deadline:
                    raise
                anew = True
            except StoreBusy:
                self.blocked = self.blocked or writes
                if time.monotonic() >= deadline:
                    raise
                gevent.sleep(_PAUSE)
            else:
                self.blocked = self.blocked and not writes
                return result

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run in the database thread."""
        return in_thread(self._pool, function, *args)

    def _snapshot(self, function: Callable[..., Result], args: Any, kwargs: Any) -> Result:
        # SQLite's transactions see one state from their beginning to their end. A server's must be asked for it.
        with database.atomic() if self.path is not None else database.atomic("REPEATABLE READ"):
            return function(*args, **kwargs)

    def close(self) -> None:
        """Close the connection and end the thread."""
        if self._database is not None:
            self._pool.apply(self._leave)
        self._pool.kill()

    def _transaction(self, function: Callable[..., Result], args: Any, kwargs: Any, durable: bool,
                     bound: float) -> Result:
        def inside() -> Result:
            if self.path is None:
                with database.atomic():
                    if self.fence is not None:
                        self.fence()
                    result = function(*args, **kwargs)
                    self._committing = True
                return result
            if durable != self._durable:
                database.execute_sql(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            with database.atomic("IMMEDIATE"):
                return function(*args, **kwargs)

        return self._guarded(inside, (), {}, bound)

    def _guarded(self, function: Callable[..., Result], args: Any, kwargs: Any, bound: float) -> Result:
        before, opened = self._database, self._usable()
        self._committing = False
        if self._stamp is not None:
            self._note(True)
        try:
            if opened.is_closed():
                opened.connect()
            with postgres.within(bound):
                return function(*args, **kwargs)
        except (peewee.OperationalError, peewee.DatabaseError, peewee.InterfaceError, sqlite3.Error, postgres.ServerSilent) as error:
            if isinstance(error, peewee.IntegrityError):
                raise
            self._suspect(str(error))
            if self.path is None and postgres.lost(opened):
                # What it was connected to may be gone for good, so the next call connects anew, to whichever host answers.
                self._database = None
                first = _first(error)
                # The server says this of a transaction of which it waited to hear more: it has not heard of a COMMIT.
                uncertain = self._committing and "idle-in-transaction timeout" not in str(first)
                if before is opened and not uncertain and not isinstance(error, postgres.ServerSilent):
                    raise _ConnectionEnded(str(explain(first, self.name))) from error
                found = self._unreachable(first)
                if uncertain:
                    raise StoreUncertain(f"the database {self.name} was lost while it committed a change, and whether it did is not known "
                                         f"({found})") from error
                raise found from error
            raise explain(_first(error), self.name) from error
        finally:
            if self._stamp is not None:
                self._note(False)


def _first(error: Exception) -> Exception:
    """The error that others followed: SQLite ends the transaction by itself on a full disk, and a lost connection ends it, too. Rolling
    back fails then."""
    while re.search("cannot rollback|already closed", str(error)) and isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def busy(name: str) -> StoreBusy:
    """The error for a lock that does not come free."""
    return StoreBusy(f"the database {name} is locked by another process; nothing was changed, try again")


def explain(error: Exception, name: str) -> StoreError:
    """The StoreError that tells a person what a driver's error means and what to do."""
    message = " ".join(str(error).split())
    if re.search(r"locked|busy|lock timeout|deadlock|could not serialize", message):
        return busy(name)
    if isinstance(error, postgres.ServerSilent):
        return StoreError(f"the database {name} does not answer; nothing is known to have changed, try again")
    if re.search(r"no such table|(?:relation|column) .* does not exist", message):
        return StoreEmpty(f"the database {name} is not set up yet ({message}); the master does that, or: proxyd migrate")
    if "disk is full" in message or "disk I/O" in message:
        return StoreError(f"the database {name} can't be written ({message}); free space on its disk")
    if "malformed" in message or "not a database" in message:
        return StoreError(f"the database {name} is corrupt ({message}); restore a backup or set the file aside")
    if "readonly" in message:
        return StoreError(f"the database {name} is read-only for this user; check owner and mode of file and directory")
    if "unable to open" in message:
        return StoreError(f"the database {name} can't be opened; check owner and mode of file and directory, and that it is no directory")
    return StoreError(f"the database {name} failed: {message}")
