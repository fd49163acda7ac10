"""What each column of a table or view holds, for files that have types (`proxyd db export`) and for docs/database.md: SQLite knows the type
of a view's column only where it is a table's, and all instants are text."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from peewee import BooleanField, DoubleField, IntegerField

from proxyd.store.sql.migrations import TABLES


class Kind(Enum):
    """A truth value, a whole number, another number, an instant (RFC 3339), or any text."""

    TRUTH, WHOLE, REAL, INSTANT, TEXT = "boolean", "integer", "real", "instant", "text"


#: Columns that hold instants, wherever they are.
INSTANTS = frozenset((
    "added_at", "applied_at", "at", "changed_at", "checked_at", "closed_at", "connected_at", "created_at", "day", "day_ago",
    "disconnected_at", "drain_started_at", "drained_at", "ended_at", "first_failed_at", "first_hour", "first_seen", "heartbeat_at",
    "hold_until", "hour", "hour_ago", "last_activity", "last_added", "last_apply", "last_at", "last_check", "last_checked_at",
    "last_failure", "last_outage", "last_removed", "last_success", "maintenance_since", "maintenance_until", "minute", "minute_ago",
    "month_ago", "next_attempt", "not_after", "not_before", "now", "opened_at", "planned_end", "planned_start", "posted_at", "removed_at",
    "since", "staged_at", "started_at", "step_at", "until", "updated_at", "week_ago"))
#: What views reckon: whole numbers, beside all that ends in `_epoch` or `seconds`, and others, beside all that ends in `_ms` or `_percent`.
_WHOLE = frozenset(("backend_errors", "changed_routes", "changed_settings", "days_left", "failed_requests", "late_24h", "opened_24h",
                    "outages_24h", "removed_routes", "requests_24h", "routes_ever", "routes_now", "spent"))
_REAL = frozenset(("budget", "budget_left", "burn_1h", "burn_6h"))
_FIELDS = ((BooleanField, Kind.TRUTH), (IntegerField, Kind.WHOLE), (DoubleField, Kind.REAL))


def _kind(field: object, name: str) -> Kind:
    """The kind of a table's column. peewee's big integers are integers, too."""
    if hasattr(field, "rel_field"):
        return _kind(field.rel_field, name)
    return next((kind for made, kind in _FIELDS if isinstance(field, made)), Kind.INSTANT if name in INSTANTS else Kind.TEXT)


_TABLES = {model._meta.table_name: {field.column_name: _kind(field, field.column_name) for field in model._meta.sorted_fields}
           for model in TABLES}
#: Names that tables have, for views: what is a truth value there is `yes` or `no` here.
_SHARED = {name: Kind.TEXT if kind is Kind.TRUTH else kind for columns in _TABLES.values() for name, kind in columns.items()}


def kinds_of(name: str, columns: Sequence[str]) -> list[Kind]:
    """The kinds of columns of a table or view."""
    of_table = _TABLES.get(name)
    return [of_table[column] if of_table is not None else _of_view(column) for column in columns]


def _of_view(column: str) -> Kind:
    if column.endswith(("_epoch", "seconds")) or column in _WHOLE:
        return Kind.WHOLE
    if column.endswith(("_ms", "_percent")) or column in _REAL:
        return Kind.REAL
    return Kind.INSTANT if column in INSTANTS else _SHARED.get(column, Kind.TEXT)
