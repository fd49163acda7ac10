"""Exactly one master writes to a PostgreSQL database, whichever host it runs on: the server elects it.

The lead is an advisory lock of a session: the server gives it to one connection at a time, and takes it back when that connection ends.
A leader that was stopped or cut off may not know yet that it has lost the lead. So each lead has a number, its term, in the table
`leadership`, and each write transaction of the master looks at it first (`Store.fence`). The look locks the row: a new leader can begin
its term only when no such transaction is under way, and an older leader's next one fails.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import peewee
from gevent.threadpool import ThreadPool

from proxyd.base.threads import in_thread
from proxyd.store.sql import postgres
from proxyd.store.sql.database import Store, StoreError, explain
from proxyd.store.sql.models import Lead

#: The lock's number, the same for every proxyd; advisory locks are each database's own.
_LOCK = 0x70726F78796431
#: Seconds that the server may take to answer the question who leads.
_ANSWER = 2.0


class LeadLost(Exception):
    """Another master leads, or has led meanwhile."""


class Leadership:
    """The lead over the database of `store`, and the connection that holds it. Use it after fork; `release` ends its thread."""

    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host
        #: The number of this lead; 0 before `begin`.
        self.term = 0
        self._server: peewee.Database | None = None
        self._pool = ThreadPool(1)

    def take(self) -> bool:
        """Take the lead; False if another master has it. Raises StoreError if the server can't be asked."""
        try:
            return in_thread(self._pool, self._take)
        except (peewee.PeeweeException, postgres.ServerSilent) as error:
            raise explain(error, self._store.name) from None

    def begin(self, now: str) -> None:
        """Begin a term at `now` (RFC 3339), after `take`. Raises StoreError."""
        self.term = self._store.call(_next_term, self._host, os.getpid(), now, durable=True)
        self._store.fence = self._check

    def keep(self) -> None:
        """Make sure that this master still leads. A connection that was lost is made again. Raises LeadLost if the lead is another's,
        and StoreError if the server can't be asked: then nobody knows."""
        if not self.take() or self._store.read(_newest_term) != self.term:
            raise LeadLost(self.holder())

    def holder(self) -> str:
        """Who leads, in words."""
        try:
            row = self._store.read(Lead.get_or_none, Lead.id == 1)
        except StoreError:
            row = None
        return f"process {row.pid} of host {row.host}, since {row.since}" if row is not None else "another process"

    def drop(self) -> None:
        """End the connection, and the lead with it."""
        self._pool.apply(self._drop)

    def release(self) -> None:
        """Give the lead back, for good."""
        self.drop()
        self._pool.kill()

    def _take(self) -> bool:
        """Runs in the thread of the lead. A connection that fails, or that has not got the lock, is dropped."""
        held = False
        try:
            with postgres.within(_ANSWER):
                held = self._holds()
        finally:
            if not held:
                self._drop()
        return held

    def _holds(self) -> bool:
        server: Any = self._server
        if server is not None:
            # The connection that took the lock is there: so is the lock.
            server.execute_sql("SELECT 1")
            return True
        # A lock that is held counts how often it was taken, so it is taken once a connection.
        server = self._server = postgres.server(self._store.url, _ANSWER)
        server.connect()
        return bool(server.execute_sql("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).fetchone()[0])

    def _drop(self) -> None:
        if self._server is not None:
            with contextlib.suppress(peewee.PeeweeException):
                self._server.close()
            self._server = None

    def _check(self) -> None:
        """At the beginning of each write transaction: fail if another master has begun a term. Runs in the database thread."""
        row = Lead.select(Lead.term, Lead.host).where(Lead.id == 1).for_update("FOR SHARE").first()  # type: ignore[arg-type]
        if row is None or row.term != self.term:
            raise StoreError(f"this master does not lead any more: {row.host if row else 'nobody'} does; nothing was changed")


def _next_term(host: str, pid: int, now: str) -> int:
    """Runs in the database thread."""
    row = Lead.select().where(Lead.id == 1).for_update().first()
    term = row.term + 1 if row is not None else 1
    Lead.insert(id=1, term=term, host=host, pid=pid, since=now).on_conflict(
        conflict_target=[Lead.id], update={Lead.term: term, Lead.host: host, Lead.pid: pid, Lead.since: now}).execute()
    return term


def _newest_term() -> int:
    row = Lead.get_or_none(Lead.id == 1)
    return row.term if row is not None else 0
