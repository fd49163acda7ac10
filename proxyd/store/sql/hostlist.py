"""The hosts of a PostgreSQL database with their workers and who leads, as people are shown them."""

from __future__ import annotations

from typing import Any

from peewee import fn

from proxyd.store.sql.models import Host, Lead
from proxyd.store.sql.observed import Worker
from proxyd.store.sql.query import dicts, tuples


def leader_admin() -> tuple[str, str]:
    """The name of the host that leads, and where its admin HTTP is reached; empty where that is not known. Runs in the database thread."""
    row = next(iter(tuples(Host.select(Host.name, Host.admin).join(Lead, on=Lead.host == Host.name).where(Lead.id == 1))), None)
    return (row[0], row[1] or "") if row is not None else ("", "")


def host_rows() -> list[dict[str, Any]]:
    """The hosts by name: `leads`, and since when and by which term; `workers`: their number. Runs in the database thread."""
    lead = Lead.get_or_none(Lead.id == 1)
    workers = dict(tuples(Worker.select(Worker.host, fn.COUNT(Worker.pid)).group_by(Worker.host)))
    found = []
    for row in dicts(Host.select().order_by(Host.name)):
        own = lead if lead is not None and lead.host == row["name"] else None
        found.append({
            "name": row["name"], "leads": own is not None, "term": own.term if own else None, "leads_since": own.since if own else None,
            "release": row["release"], "config_version": row["config_version"], "workers": workers.get(row["name"], 0),
            "started_at": row["started_at"], "heartbeat_at": row["heartbeat_at"]})
    return found
