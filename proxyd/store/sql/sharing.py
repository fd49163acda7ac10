"""What the rows of workers say of all hosts: how many there are, and how far each has come with its counts. Everything here runs in the
database thread."""

from __future__ import annotations

from peewee import fn

from proxyd.store.sql.database import database
from proxyd.store.sql.observed import Worker


def live_hosts() -> int:
    """The hosts that have workers, at least one. The master that leads drops the rows of workers that died."""
    found: int = Worker.select(fn.COUNT(Worker.host.distinct())).scalar()
    return max(1, found)


def server_time() -> float:
    """The time of the database server in Unix seconds: workers of all hosts say by it up to when they have written their counts."""
    return float(database.execute_sql("SELECT EXTRACT(EPOCH FROM clock_timestamp())").fetchone()[0])


def counts_missing(moment: float) -> bool:
    """Whether a worker has yet to write what it had counted at `moment` (`server_time`). Those of an older version do not say."""
    return bool(Worker.select().where(Worker.counted_at < moment).exists())
