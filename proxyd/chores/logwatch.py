"""Watches the size of SQLite's log (`-wal`). A reader that stays open, like a forgotten shell, makes it grow: proxyd says who it is, and
writes no more history when the log has reached its bound. What routes traffic is written all the same.

On PostgreSQL, a transaction that is left open keeps the server from using the space of deleted rows: proxyd says who has it."""

from __future__ import annotations

import logging

from proxyd.base.jobs import Job, Working
from proxyd.base.text import format_size
from proxyd.base.trouble import Trouble
from proxyd.store.sql import oldtransactions, walreaders
from proxyd.store.sql.database import Store, StoreError

log = logging.getLogger("proxyd.master")

_PERIOD = 1.0
#: The log is told of from this share of the bound on: in the usual way of things it has some megabytes.
_TOLD_SHARE = 4
_MOST_NAMED = 3
#: On a server: how often it is asked, and how old a transaction is that is told of, in seconds. A large backup takes minutes.
_SERVER_PERIOD, _OLD = 30.0, 600.0


class LogWatch(Working):
    """A job that looks once a second, at a server twice a minute. `bound`: bytes (`[database] max_log`)."""

    def __init__(self, store: Store, bound: int) -> None:
        self._store, self._bound = store, bound
        self._said = ""
        self._trouble = Trouble(log, "the database's log grows")
        self._held = Trouble(log, "the database can't be cleaned up")
        period, look = (_PERIOD, self.look) if store.path is not None else (_SERVER_PERIOD, self.look_at_server)
        self.jobs = (Job("database-log", period, look, log, retry=period, expected=StoreError, trouble="can't look at the database's log",
                         level=logging.INFO),)

    def problems(self) -> list[str]:
        """Who makes the log grow, and what proxyd does about it."""
        return [said for said in (self._said, self._held.reason) if said]

    def look(self) -> None:
        """Look once. Raises StoreError."""
        path = self._store.path
        assert path is not None
        size = walreaders.log_size(path)
        if size <= self._bound // _TOLD_SHARE or self._store.plain(walreaders.shorten):
            self._store.history_held = ""
            self._said = ""
            self._trouble.is_over()
            return
        readers = walreaders.readers(path)
        who = ", ".join(map(str, readers[:_MOST_NAMED])) or "a process that can't be seen from here"
        kept = f"the log of the database {self._store.name} is kept by a reader that stays open: {who}; end it"
        full = size >= self._bound
        self._store.history_held = kept if full else ""
        # Without the size, which changes all the time: what is said is logged when it changes.
        bound = f"{format_size(self._bound)} ([database] max_log)"
        self._said = f"{kept}. The log has reached {bound}: no history is written until then" if full else f"{kept} before it has {bound}"
        self._trouble.goes_on(self._said)

    def look_at_server(self) -> None:
        """Look once for transactions that are open for long. Raises StoreError."""
        holders = self._store.read(oldtransactions.holders, _OLD)
        if not holders:
            self._held.is_over()
            return
        who = "; ".join(map(str, holders[:_MOST_NAMED]))
        self._held.goes_on(f"a transaction that stays open keeps the database {self._store.name} from using the space of deleted rows: "
                           f"{who}")
