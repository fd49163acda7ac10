"""The hosts of a PostgreSQL database with their workers and who leads, as people are shown them."""

from __future__ import annotations

from typing import Any

from peewee import fn

from proxyd.store.sql.models import Host, Lead
from proxyd.store.sql.observed import RouteInFlight, Worker
from proxyd.store.sql.query import dicts, tuples
from proxyd.store.sql.schema import HOSTS_DRAINED, has_step


def leader_admin() -> tuple[str, str]:
    """The name of the host that leads, and where its admin HTTP is reached; empty where that is not known. Runs in the database thread."""
    row = next(iter(tuples(Host.select(Host.name, Host.admin).join(Lead, on=Lead.host == Host.name).where(Lead.id == 1))), None)
    return (row[0], row[1] or "") if row is not None else ("", "")


def is_drained(name: str) -> bool:
    """Whether a host is drained. Runs in the database thread."""
    return has_step(HOSTS_DRAINED) and bool(Host.select().where(Host.name == name, Host.drained_at.is_null(False)).exists())


def set_drained(name: str, at: str | None, by: str | None) -> bool:
    """Say that a host is drained, since when and at whose wish, or that it is not (None). Whether there is such a host. Runs in the
    database thread."""
    return bool(Host.update(drained_at=at, drained_by=by).where(Host.name == name).execute())


def host_rows() -> list[dict[str, Any]]:
    """The hosts by name: `leads`, and since when and by which term; `workers`: their number. Runs in the database thread."""
    lead = Lead.get_or_none(Lead.id == 1)
    workers = dict(tuples(Worker.select(Worker.host, fn.COUNT(Worker.pid)).group_by(Worker.host)))
    open_now = {host: numbers for host, *numbers in tuples(RouteInFlight.select(
        RouteInFlight.host, fn.SUM(RouteInFlight.in_flight), fn.SUM(RouteInFlight.websocket_active)).group_by(RouteInFlight.host))}
    found = []
    for row in dicts(Host.select().order_by(Host.name)):
        own = lead if lead is not None and lead.host == row["name"] else None
        found.append({
            "name": row["name"], "leads": own is not None, "term": own.term if own else None, "leads_since": own.since if own else None,
            "release": row["release"], "config_version": row["config_version"], "workers": workers.get(row["name"], 0),
            "in_flight": int(open_now.get(row["name"], (0, 0))[0]), "websocket_active": int(open_now.get(row["name"], (0, 0))[1]),
            "connections": row["connections"] or 0, "drained_at": row["drained_at"], "drained_by": row["drained_by"],
            "started_at": row["started_at"], "heartbeat_at": row["heartbeat_at"]})
    return found
