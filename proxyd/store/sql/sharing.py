"""How many hosts there are, as far as their workers' rows say. Everything here runs in the database thread."""

from __future__ import annotations

from peewee import fn

from proxyd.store.sql.observed import Worker


def live_hosts() -> int:
    """The hosts that have workers, at least one. The master that leads drops the rows of workers that died."""
    found: int = Worker.select(fn.COUNT(Worker.host.distinct())).scalar()
    return max(1, found)
