"""Insert or update by primary key, in the SQL that SQLite and PostgreSQL share.

Not REPLACE: that deletes the old row, and with it everything that refers to it.
"""

from __future__ import annotations

from typing import Any

from peewee import CompositeKey, chunked

from proxyd.store.sql.models import StoredTable

_CHUNK = 40


def upsert(model: type[StoredTable], rows: list[dict[str, Any]]) -> None:
    """Write rows, all with the same columns; a row that is there takes the new values."""
    if not rows:
        return
    meta: Any = model._meta
    key = list(meta.primary_key.field_names) if isinstance(meta.primary_key, CompositeKey) else [meta.primary_key.name]
    preserve = [meta.fields[name] for name in rows[0] if name not in key]
    target = [meta.fields[name] for name in key]
    for piece in chunked(rows, _CHUNK):
        query = model.insert_many(piece)
        (query.on_conflict(conflict_target=target, preserve=preserve) if preserve else query.on_conflict_ignore()).execute()
