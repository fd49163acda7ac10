"""What the history costs, and which of its rows go first when that is too much (`[database] max_size`). Everything here runs in the
database thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peewee import OP, SQL, Expression, Tuple, fn

from proxyd.base.text import rfc3339
from proxyd.store.sql.database import database
from proxyd.store.sql.query import is_sqlite
from proxyd.store.sql.retained import RETAINED, Early, Retained

#: Free pages of an SQLite file that stay for what is written next (`chores/retention.py`): a share of all, and no less than these bytes.
SPARE_SHARE, LEAST_SPARE = 10, 8 << 20
#: A row of PostgreSQL costs so many bytes beside its columns: its head, and the pointer to it.
_ROW = 28
#: What the rows that live cost, their share of the indexes included: deleted rows leave a server's files as large as they were. A table
#: that was never analyzed counts with all of its files.
_LIVE = f"""
    SELECT s.relname, CAST(CASE WHEN w.width IS NULL THEN pg_total_relation_size(s.relid) ELSE LEAST(pg_total_relation_size(s.relid),
           s.n_live_tup * (w.width + {_ROW}) * (1 + pg_indexes_size(s.relid) / GREATEST(1.0, pg_relation_size(s.relid)))) END AS BIGINT),
           s.n_live_tup
    FROM pg_stat_user_tables s LEFT JOIN (
        SELECT schemaname, tablename, SUM(avg_width) AS width FROM pg_stats GROUP BY schemaname, tablename) w
        ON w.schemaname = s.schemaname AND w.tablename = s.relname
    WHERE s.schemaname = current_schema()"""


def used() -> int:
    """Bytes that the tables and indexes of the database take, without what is free in its files. SQLite counts pages; for a server it is
    an estimate from its statistics."""
    if is_sqlite():
        pages, free, size = (int(database.execute_sql(f"PRAGMA {name}").fetchone()[0])
                             for name in ("page_count", "freelist_count", "page_size"))
        return (pages - free) * size
    return sum(size for _, size, _ in live_tables())


def row_sizes() -> dict[str, float]:
    """Bytes of a row by table, for a server; nothing for SQLite, whose `used` tells at once what a deletion has brought."""
    if is_sqlite():
        return {}
    return {name: size / rows for name, size, rows in live_tables() if rows}


def live_tables() -> list[tuple[str, int, int]]:
    """Name, bytes and rows of each table of a server, by its statistics."""
    return [(name, size, rows) for name, size, rows in database.execute_sql(_LIVE).fetchall()]


def analyze() -> None:
    """Let a server count the rows whose sizes are to be reckoned with. SQLite needs none of it."""
    if not is_sqlite():
        for kept in RETAINED:
            if kept.early is not None:
                database.execute_sql(f"ANALYZE {kept.model._meta.table_name}")


def room(max_size: int) -> int:
    """How many bytes may be in use so that the database stays within `max_size`: an SQLite file keeps some that are free."""
    return max_size - max(LEAST_SPARE, max_size // SPARE_SHARE) if is_sqlite() else max_size


def first_to_go(now: float) -> tuple[Retained, str] | None:
    """The kind of rows that goes next, and the instant of its oldest one: raw rows before sums, and of these the oldest. None if all that
    is there must stay. `now`: Unix seconds."""
    found: list[tuple[int, str, Retained]] = []
    for kept in RETAINED:
        if kept.early is not None:
            oldest = kept.model.select(fn.MIN(kept.early.column)).scalar()
            if oldest is not None and oldest < _youngest(kept.early, now):
                found.append((kept.early.tier, oldest, kept))
    if not found:
        return None
    _, oldest, kept = min(found, key=lambda item: item[:2])
    return kept, oldest


def drop(kept: Retained, now: float) -> int:
    """Delete the oldest rows of a kind, at most a batch. Returns how many."""
    assert kept.early is not None
    column = kept.early.column
    return delete(kept, lambda query: query.where(column < _youngest(kept.early, now)).order_by(column))


def delete(kept: Retained, choose: Callable[[Any], Any]) -> int:
    """Delete the rows that `choose` makes of a select, at most a batch. Returns how many."""
    # These tables have different kinds of keys, but every row has a place where it lies, or lies by its key.
    meta: Any = kept.model._meta
    if is_sqlite() and getattr(meta, "lies_by_key", False):
        key = [meta.fields[name] for name in meta.primary_key.field_names]
        place: Any = Tuple(*key)
        batch = choose(kept.model.select(*key))
    else:
        place = SQL("rowid" if is_sqlite() else "ctid")
        batch = choose(kept.model.select(place))
    count: int = kept.model.delete().where(Expression(place, OP.IN, batch.limit(kept.batch))).execute()
    return count


def _youngest(early: Early | None, now: float) -> str:
    assert early is not None
    return rfc3339(now - early.least)
