"""The history of certificates: ordered, obtained, renewed, failed, revoked, expired. Everything here runs in the database thread, inside
the transaction of the caller. No key is in it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from peewee import BigAutoField, BigIntegerField, TextField

from proxyd.base.text import rfc3339
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.query import dicts

ORDERED, OBTAINED, RENEWED, IMPORTED, FAILED = "ordered", "obtained", "renewed", "imported", "failed"
REVOKED, REMOVED, EXPIRED = "revoked", "removed", "expired"


class CertificateHistory(StoredTable):
    """What became of the certificates of a name: by `[acme]`, by an operator, and of the files in `[tls] certificates`."""

    id = BigAutoField()
    at = TextField(index=True)
    what = TextField()
    domain = TextField()
    key_type = TextField()
    names = TextField(default="[]")
    file = TextField(default="")
    serial = TextField(default="")
    issuer = TextField(default="")
    not_before = TextField(null=True)
    not_after = TextField(null=True)
    challenge = TextField(default="")
    why = TextField(default="")
    actor = TextField(default="")
    times = BigIntegerField(default=1)
    last_at = TextField()

    class Meta:
        table_name = "certificate_history"
        indexes = ((("domain", "key_type", "id"), False),)


def told(what: str, domain: str, key_type: str, now: float, names: Sequence[str] = (), **columns: str | None) -> dict[str, Any]:
    """A row for `write`. `now`: Unix seconds; `columns`: what else is known."""
    return {"at": rfc3339(now), "last_at": rfc3339(now), "what": what, "domain": domain, "key_type": key_type,
            "names": json.dumps(list(names) or [domain]), **columns}


def write(row: dict[str, Any]) -> None:
    """Note what happened. A failure with the words of the last one counts there, and an end is told once."""
    model = CertificateHistory
    last = next(iter(dicts(model.select(model.id, model.what, model.why, model.serial).where(
        model.domain == row["domain"], model.key_type == row["key_type"]).order_by(model.id.desc()).limit(1))), None)
    if last is not None and row["what"] == FAILED == last["what"] and row["why"] == last["why"]:
        model.update(times=model.times + 1, last_at=row["at"]).where(model.id == last["id"]).execute()
        return
    ended = (model.domain == row["domain"]) & (model.key_type == row["key_type"]) & (model.what == EXPIRED)
    if row["what"] != EXPIRED or not model.select().where(ended, model.serial == row["serial"]).exists():
        model.insert(**row).execute()
