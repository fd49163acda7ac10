"""Exactly one master writes to a PostgreSQL database, whichever host it runs on: the server elects it.

The lead is an advisory lock of a session: the server gives it to one connection at a time, and takes it back when that connection ends.
A leader that was stopped or cut off may not know yet that it has lost the lead. So each lead has a number, its term, in the table
`leadership`, and each write transaction of the master looks at it first (`Store.fence`). The look locks the row: a new leader can begin
its term only when no such transaction is under way, and an older leader's next one fails.
"""

from __future__ import annotations

import os

from proxyd.store.sql.database import Store, StoreError, StoreFenced
from proxyd.store.sql.membership import Membership, NameTaken
from proxyd.store.sql.models import Lead


class LeadLost(Exception):
    """Another master leads, or has led meanwhile."""


class Leadership:
    """The lead over the database of `store`. `member`: this host's connection, which holds it."""

    def __init__(self, store: Store, member: Membership) -> None:
        self._store = store
        self._member = member
        #: The number of this lead; 0 before `begin`. And the host that led before, empty if none did.
        self.term, self.before = 0, ""
        #: Who leads instead, as a write of this master has found; empty if none has.
        self._overtaken = ""

    def take(self, spare: bool = False) -> bool:
        """Take the lead; False if another master has it. `spare`: only if no other host does for a while. Raises StoreError if the server
        can't be asked."""
        return self._member.look(lead=True, spare=spare)

    def newer_schema(self, known: int) -> int:
        """The version of the database's schema if it is newer than `known`, else 0. Raises StoreError if the server can't be asked."""
        found = self._member.schema()
        return found if found > known else 0

    def follow(self) -> None:
        """Give a sign of life, and leave the lead to others. Raises StoreError if the server can't be asked."""
        self._member.look()

    def begin(self, now: str) -> None:
        """Begin a term at `now` (RFC 3339), after `take`. Raises StoreError."""
        self.term, self.before = self._store.call(_next_term, self._member.name, os.getpid(), now, durable=True)
        self._store.fence = self._check

    def keep(self) -> None:
        """Make sure that this master still leads, and give a sign of life. A connection that was lost is made again. Raises LeadLost if
        the lead is another's, and StoreError if the server can't be asked: then nobody knows."""
        try:
            # A write that was refused says enough. Whoever had no turn for seconds may not get an answer in time.
            held = not self._overtaken and self.take()
        except NameTaken:
            # The server may think that this host's last connection is there still, which says nothing about the lead.
            held = False
        except StoreError:
            if not self._overtaken:
                raise
            held = False
        if self._overtaken:
            raise LeadLost(self._overtaken)
        if self._store.read(_newest_term) != self.term:
            raise LeadLost(self.holder())
        if not held:
            # Its own old connection may still have it, or another master that has yet to begin its term.
            raise StoreError("the lead is not held")

    def holder(self) -> str:
        """Who leads, in words."""
        try:
            row = self._store.read(Lead.get_or_none, Lead.id == 1)
        except StoreError:
            row = None
        return f"process {row.pid} of host {row.host}, since {row.since}" if row is not None else "another process"

    def _check(self) -> None:
        """At the beginning of each write transaction: fail with StoreFenced if another master has begun a term. Runs in the database
        thread."""
        row = Lead.select(Lead.term, Lead.host).where(Lead.id == 1).for_update("FOR SHARE").first()  # type: ignore[arg-type]
        if row is None or row.term != self.term:
            self._overtaken = f"host {row.host}" if row else "another process"
            raise StoreFenced(f"this master does not lead any more: {row.host if row else 'nobody'} does; nothing was changed")


def _next_term(host: str, pid: int, now: str) -> tuple[int, str]:
    """The number of the term that begins, and the host of the last one. Runs in the database thread."""
    row = Lead.select().where(Lead.id == 1).for_update().first()
    term, before = (row.term + 1, row.host) if row is not None else (1, "")
    Lead.insert(id=1, term=term, host=host, pid=pid, since=now).on_conflict(
        conflict_target=[Lead.id], update={Lead.term: term, Lead.host: host, Lead.pid: pid, Lead.since: now}).execute()
    return term, before


def _newest_term() -> int:
    row = Lead.get_or_none(Lead.id == 1)
    return row.term if row is not None else 0
