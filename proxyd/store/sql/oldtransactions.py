"""Who keeps PostgreSQL from cleaning up: transactions that are open for long, as the server tells. It can't use the space of rows that were
deleted since they began, so the files grow; it is what a reader that stays open is to SQLite's log (`walreaders.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from proxyd.store.sql.database import database

#: Sessions whose transaction keeps rows alive (`backend_xmin`), or may write (`backend_xid`), and transactions that were prepared and
#: left. The server hides the times of other users' sessions, unless the user is a member of pg_read_all_stats.
_OLD = """
    SELECT a.pid, COALESCE(a.usename, ''), COALESCE(a.application_name, ''), COALESCE(CAST(a.client_addr AS TEXT), 'its own host'),
           COALESCE(a.state, ''), CAST(a.xact_start AS TEXT), a.xact_start AS began
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() AND a.xact_start < now() - interval '1 second' * {seconds}
    UNION ALL
    SELECT 0, p.owner, p.gid, '', 'prepared', CAST(p.prepared AS TEXT), p.prepared
    FROM pg_prepared_xacts p
    WHERE p.database = current_database() AND p.prepared < now() - interval '1 second' * {seconds}
    ORDER BY began LIMIT 10"""


@dataclass(frozen=True, slots=True)
class Holder:
    """A transaction that is open since `began` (the server's text). `pid`: of the server's process; 0 for a prepared one."""

    pid: int
    user: str
    program: str
    address: str
    state: str
    began: str

    def __str__(self) -> str:
        if not self.pid:
            return f"the prepared transaction {self.program!r} of {self.user} (ROLLBACK PREPARED '{self.program}' ends it)"
        program = f" {self.program}" if self.program else ""
        return (f"{self.user}{program} from {self.address}, {self.state}, since {self.began} "
                f"(SELECT pg_terminate_backend({self.pid}) ends it)")


def holders(seconds: float) -> list[Holder]:
    """The transactions of this database that are older than so many seconds, the oldest first, at most 10. Runs in the database thread of a
    PostgreSQL store."""
    rows = database.execute_sql(_OLD.format(seconds=float(seconds))).fetchall()
    return [Holder(int(pid), *map(_shown, others[:5])) for pid, *others in rows]


def _shown(text: str) -> str:
    """A name that somebody else chose, safe to show."""
    return "".join(char if char.isprintable() else "?" for char in str(text))[:100]
