"""The history of deploys: each apply that changed something. Everything here runs in the database thread, inside the transaction that
makes the change."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from peewee import BigAutoField, BigIntegerField, TextField, chunked

from proxyd.store.sql.database import database
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.upsert import insert

_CHUNK = 80
_LAST = "SELECT version_after FROM deploys WHERE service_name = ? AND instance_name = ? ORDER BY deploy_id DESC LIMIT 1"


class Deploy(StoredTable):
    """One apply that changed something: by a service, a site file, or an operator by hand. Places are counted, and not routes, which a
    new registration replaces even where nothing changes."""

    deploy_id = BigAutoField()
    at = TextField(index=True)
    service_name = TextField()
    instance_name = TextField()
    actor = TextField()
    version_before = TextField(null=True)
    version_after = TextField(null=True)
    config_version = BigIntegerField(null=True)
    places_added = BigIntegerField(null=True)
    places_changed = BigIntegerField(null=True)
    places_removed = BigIntegerField(null=True)
    routes_set = BigIntegerField()
    routes_removed = BigIntegerField()
    settings_changed = BigIntegerField()
    change = TextField(default="{}")

    class Meta:
        table_name = "deploys"
        indexes = ((("service_name", "instance_name", "deploy_id"), False),)


def write(row: dict[str, Any], config_version: int) -> None:
    """Note a deploy: all columns but its number, the version of the configuration, and the version before."""
    before = database.execute_sql(_LAST.replace("?", database.obj.param), (row["service_name"], row["instance_name"])).fetchone()
    insert(Deploy, [{**row, "config_version": config_version, "version_before": before[0] if before else None}])


def from_events(events: Iterable[dict[str, Any]]) -> None:
    """Note what rows of table events of type `config_applied`, the oldest first, tell of the time before this table."""
    for piece in chunked(events, _CHUNK):
        Deploy.insert_many([_of_event(row["at"], row["actor"], json.loads(row["detail"])) for row in piece]).execute()


def _of_event(at: str, actor: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {"at": at, "service_name": detail["service"], "instance_name": detail["instance"], "actor": actor,
            "routes_set": detail["routes"], "routes_removed": len(detail["removed"]), "settings_changed": detail["settings"]}
