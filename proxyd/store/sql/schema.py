"""Whether the open database has what this proxyd wants of it: while hosts are upgraded one after the other, the leader may be of the
version before, and the database with it. Everything here runs in the database thread."""

from __future__ import annotations

from typing import Any

from proxyd.store.sql.database import database

#: The step (`migrations.STEPS`) that brought circuits by host, the clocks of hosts, and the words between them.
HOSTS_TOGETHER = 25
#: The step that brought where a host's admin HTTP is, and whether the host is drained.
HOSTS_DRAINED = 26
#: The step that brought how many registry connections a host has.
HOSTS_CONNECTIONS = 29
#: That which brought latencies by the minute.
LATENCY_BY_MINUTE = 31
#: That which brought rows that several checks share.
SHARED_RESULTS = 33
#: That which brought which checks, and which answers of a minute, fell into planned maintenance.
PLANNED_APART = 34
_NEWEST = "SELECT MAX(version) FROM schema_version"
#: The newest step that the database was seen to have. It never goes back while a process runs.
_seen = 0


def has_step(number: int) -> bool:
    """Whether a step was carried out; asks the database until it was."""
    global _seen
    if _seen < number:
        row: Any = database.execute_sql(_NEWEST).fetchone()
        _seen = max(_seen, row[0] or 0)
    return _seen >= number
