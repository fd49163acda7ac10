"""This host among those that share a PostgreSQL database: what the server knows of its master while that lives.

A master has one connection beside that of its store, in a thread of its own, so that nothing that the store does delays it. It holds

- the name of the host, an advisory lock: a second host of that name is refused;
- the sign of life, a row of the table `hosts` that changes with each beat. Others compare it with what they saw before, never with
  their clocks. While the master is too busy to give it, another thread does (`lifesign.py`);
- what the server tells by NOTIFY: that a config version was committed, and that the workers of a host route by one;
- the lead, an advisory lock too, if no other host has it (`leadership.py`).

The server takes the locks back when the connection ends. A process that is stopped keeps its connection, and so does a host that was
cut off, until the server notices. So a host that waits for the lead ends the connection of a leader that gives no sign of life.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, TypeVar

import peewee
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from proxyd import __version__
from proxyd.base import clock
from proxyd.base.hosts import BOOT
from proxyd.base.text import rfc3339
from proxyd.base.threads import in_thread
from proxyd.store.sql import postgres, words
from proxyd.store.sql.database import Store, StoreError, explain

log = logging.getLogger("proxyd.master")

Result = TypeVar("Result")
#: The lead's lock, the same for every proxyd; advisory locks are each database's own.
_LEAD = 0x70726F78796431
#: Seconds that the server may take to answer.
_ANSWER = 2.0
#: Seconds between two signs of life.
BEAT = 0.5
#: A host that gave no sign of life for so long is gone.
LEASE = 2.0
#: After so many times BEAT a sign of life is late.
_LATE = 1.5
#: How often the lead is tried for after a leader was deposed, and the seconds before each time.
_TRIES, _TRY_SECONDS = 10, 0.02
#: Seconds without a leader that lives after which a host that is drained leads all the same.
_SPARE = 5.0
#: Seconds of silence that one look stands for at most: if the last one was longer ago, this host was away, or the server.
_LONGEST_STEP = 0.5
_SIGN = """
INSERT INTO hosts (name, boot, pid, backend, release, config_version, started_at, heartbeat_at, beat)
VALUES (%s, %s, %s, pg_backend_pid(), %s, %s, %s, %s, %s)
ON CONFLICT (name) DO UPDATE SET boot = EXCLUDED.boot, pid = EXCLUDED.pid, backend = EXCLUDED.backend,
    release = EXCLUDED.release, config_version = EXCLUDED.config_version,
    started_at = EXCLUDED.started_at, heartbeat_at = EXCLUDED.heartbeat_at, beat = EXCLUDED.beat"""
_SCHEMA = "SELECT MAX(version) FROM schema_version"
_VERSION = "SELECT value FROM counters WHERE name = 'config_version'"
_REACHED = f"WITH said AS (UPDATE hosts SET config_version = %s WHERE name = %s) SELECT pg_notify('{words.REACHED}', %s)"
_LEADER = """
SELECT h.name, h.boot, h.pid, h.beat, h.backend FROM leadership l JOIN hosts h ON h.name = l.host WHERE l.id = 1"""
#: Only the connection that the leader named as its own, and only if that has the lead.
_END = """
SELECT pg_terminate_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND granted AND classid = %s AND objid = %s AND objsubid = 1 AND pid = %s
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""
#: Its store's connections, too: each write of a master looks at the lead first, and so holds this lock until its end. One that was
#: stopped or cut off in the middle would keep the rows for as long as the server waits for it.
_END_WRITES = """
SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation
WHERE c.relname = 'leadership' AND l.mode = 'RowShareLock' AND l.granted AND l.pid <> pg_backend_pid()
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


#: Statements of their own: until the first leader of this version has made the columns, the sign of life must be written without them.
_CLOCK = "UPDATE hosts SET clock = %s, clock_at = EXTRACT(EPOCH FROM clock_timestamp()) WHERE name = %s"
_REGISTRY = "UPDATE hosts SET registry = %s WHERE name = %s"
_CONNECTIONS = "UPDATE hosts SET connections = %s WHERE name = %s"
_ADMIN = "UPDATE hosts SET admin = %s WHERE name = %s"
_LEADERS_REGISTRY = """
SELECT h.name, COALESCE(h.registry, '') FROM leadership l JOIN hosts h ON h.name = l.host WHERE l.id = 1"""


class NameTaken(StoreError):
    """Another host has this one's name."""


class Membership:
    """The connection of this host's master, whose registry and admin HTTP others reach at `registry` and `admin`. Use it after
    fork; `close` ends its thread. Methods raise StoreError if the server can't be asked, and NameTaken."""

    def __init__(self, store: Store, name: str, registry: str = "", admin: str = "") -> None:
        self._store = store
        self.name = name
        self._registry, self._admin = registry, admin
        self._registry_told = self._admin_told = False
        self._server: peewee.Database | None = None
        self._pool = ThreadPool(1)
        #: Who has the connection: the pool's thread, or that of `lifesign.py`.
        self._turn = get_original("_thread", "allocate_lock")()
        self._leads = False
        self._started = rfc3339(time.time())
        #: The config version that all workers of this host route by.
        self.reached = 0
        #: The registry connections that are open here.
        self.connections = 0
        self._beat, self._beaten = 0, 0.0
        #: What the leader's row said, for how many seconds it has been seen to say that, and when it was read last (monotonic seconds).
        self._leader: tuple[Any, ...] = ()
        self._silent = self._looked = 0.0
        #: The same as a host sees it that leads only if no other does.
        self._spared: tuple[Any, ...] = ()
        self._spared_since = time.monotonic()

    def look(self, lead: bool = False, spare: bool = False) -> bool:
        """Make sure that the connection is there, and give a sign of life. `lead`: take the lead, too, if it is free; `spare`: only if no
        other host has taken it for a while. Returns whether this host has the lead. A connection that was lost is made again, and the lead
        with it."""
        return self._asked(self._look, lead, spare)

    def news(self, seconds: float) -> list[tuple[str, str]]:
        """What others have told since the last call, by channel and text. Waits for the first at most `seconds`."""
        return self._run(self._news, seconds)

    def version(self) -> int:
        """The config version that was committed last; 0 while there is none."""
        return self._asked(self._version)

    def schema(self) -> int:
        """The version of the database's schema; 0 for an empty database."""
        return self._asked(self._schema)

    def leaders_registry(self) -> str:
        """Where the registry of the other host that leads is reached; empty if that is not known, or if this one led last."""
        return self._asked(self._leaders_registry)

    def report(self, version: int) -> None:
        """Tell the leader that all workers of this host route by `version`."""
        self.reached = version
        self._asked(self._report, version)

    def sign_late(self) -> None:
        """Give the sign of life that `look` has not given in time, if the connection is there. For any native thread; raises nothing."""
        with self._turn:
            if self._server is None or time.monotonic() - self._beaten < BEAT * _LATE:
                return
            try:
                with postgres.within(_ANSWER):
                    self._sign(self._server)
            except (peewee.PeeweeException, postgres.ServerSilent):
                # The next look finds out what there is to tell.
                self._drop()

    def drop(self) -> None:
        """End the connection, and all that it holds."""
        self._pool.apply(self._alone, (self._drop,))

    def close(self) -> None:
        """End the connection for good."""
        self.drop()
        self._pool.kill()

    def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        try:
            found: Result = in_thread(self._pool, self._guarded, function, *args)
            return found
        except (peewee.PeeweeException, postgres.ServerSilent) as error:
            raise explain(error, self._store.name) from None

    def _guarded(self, function: Callable[..., Result], *args: Any) -> Result:
        """Runs in the thread. After any error the connection is dropped: what it was about is not known."""
        try:
            with postgres.within(_ANSWER):
                return function(*args)
        except BaseException:
            self._alone(self._drop)
            raise

    def _asked(self, function: Callable[..., Result], *args: Any) -> Result:
        found: Result = self._run(self._alone, function, *args)
        return found

    def _alone(self, function: Callable[..., Result], *args: Any) -> Result:
        with self._turn:
            return function(*args)

    def _look(self, lead: bool, spare: bool) -> bool:
        server = self._server or self._connect()
        self._sign(server)
        if not self._leads and lead and (not spare or self._is_vacant(server)):
            self._leads = _take(server)
            if not self._leads and self._depose(server):
                # The server gives the lock back when the other process has noticed.
                for _ in range(_TRIES):
                    server.execute_sql("SELECT pg_sleep(%s)", (_TRY_SECONDS,))
                    if _take(server):
                        self._leads = True
                        break
        return self._leads

    def _connect(self) -> Any:
        server: Any = postgres.server(self._store.url, _ANSWER)
        self._server = server
        server.connect()
        # A sign of life need not survive a crash of the server.
        server.execute_sql("SET synchronous_commit = off")
        for channel in (words.COMMITTED, words.REACHED, words.CHANNEL):
            server.execute_sql(f"LISTEN {channel}")
        # A lock that is held counts how often it was taken, so each is taken once a connection.
        if not server.execute_sql("SELECT pg_try_advisory_lock(%s)", (_key(self.name),)).fetchone()[0]:
            raise NameTaken(f"another host of the database {self._store.name} is called {self.name}: give each a [hosts] name of its own")
        return server

    def _news(self, seconds: float) -> list[tuple[str, str]]:
        with self._turn:
            server = self._server or self._connect()
        # Meanwhile the connection is free for a sign of life.
        postgres.await_news(server, seconds)
        with self._turn:
            return postgres.notified(server) if self._server is server else []

    def _version(self) -> int:
        row = _first(_known(self._server or self._connect(), _VERSION))
        return int(row[0]) if row else 0

    def _schema(self) -> int:
        row = _first(_known(self._server or self._connect(), _SCHEMA))
        return int(row[0] or 0) if row else 0

    def _leaders_registry(self) -> str:
        row = _first(_known(self._server or self._connect(), _LEADERS_REGISTRY))
        return str(row[1]) if row is not None and row[0] != self.name else ""

    def _report(self, version: int) -> None:
        _known(self._server or self._connect(), _REACHED, (version, self.name, f"{version} {self.name}"))

    def _sign(self, server: Any) -> None:
        now = time.monotonic()
        if now - self._beaten < BEAT * 0.9:
            # Nothing else may be asked of the connection in this look.
            server.execute_sql("SELECT 1")
            return
        self._beat += 1
        values = (self.name, BOOT, os.getpid(), __version__, self.reached, self._started, rfc3339(clock.shown(clock.now())), self._beat)
        if _known(server, _SIGN, values):
            self._beaten = now
            _known(server, _CLOCK, (clock.mark(clock.now()), self.name))
            _known(server, _CONNECTIONS, (self.connections, self.name))
            self._registry_told = self._registry_told or bool(_known(server, _REGISTRY, (self._registry, self.name)))
            self._admin_told = self._admin_told or bool(_known(server, _ADMIN, (self._admin, self.name)))

    def _is_vacant(self, server: Any) -> bool:
        """Whether no other host that lives has had the lead for some time."""
        now = time.monotonic()
        row = _first(_known(server, _LEADER))
        found = tuple(row[:4]) if row is not None and row[0] != self.name else ()
        if found != self._spared:
            self._spared, self._spared_since = found, now
        return now - self._spared_since > _SPARE

    def _depose(self, server: Any) -> bool:
        """End the connection of a leader that gives no sign of life. Whether that was done."""
        now = time.monotonic()
        step, self._looked = min(now - self._looked, _LONGEST_STEP), now
        row = _first(_known(server, _LEADER))
        if row is None or row[:4] != self._leader:
            self._leader, self._silent = tuple(row[:4]) if row is not None else (), 0.0
            return False
        self._silent += step
        if self._silent > LEASE and row[0] != self.name:
            ended = server.execute_sql(_END, (_LEAD >> 32, _LEAD & 0xFFFFFFFF, row[4])).fetchall()
            self._silent = 0.0
            if ended:
                server.execute_sql(_END_WRITES)
                log.warning("host %s leads, but has given no sign of life for %.1f s: it is deposed", row[0], LEASE)
                return True
        return False

    def _drop(self) -> None:
        self._leads = self._registry_told = self._admin_told = False
        # The next connection has to be named at once: who deposes this host ends the one that is named.
        self._beaten = 0.0
        if self._server is not None:
            with contextlib.suppress(peewee.PeeweeException):
                self._server.close()
            self._server = None


def _take(server: Any) -> bool:
    """Take the lead if it is free."""
    return bool(server.execute_sql("SELECT pg_try_advisory_lock(%s)", (_LEAD,)).fetchone()[0])


def _known(server: Any, sql: str, values: tuple[Any, ...] = ()) -> Any:
    """Execute a statement about tables that the first leader has yet to make; None where there are none."""
    try:
        return server.execute_sql(sql, values or None)
    except peewee.ProgrammingError as error:
        if "does not exist" not in str(error):
            raise
        return None


def _first(found: Any) -> Any:
    """The first row of what `_known` gave; None where there is none."""
    return found.fetchone() if found else None


def _key(name: str) -> int:
    """The number of the lock that stands for a host's name."""
    return int.from_bytes(blake2b(f"proxyd host {name}".encode(), digest_size=8).digest(), "little", signed=True)
