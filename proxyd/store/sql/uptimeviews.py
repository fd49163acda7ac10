"""The views of uptime over the periods that people ask for: the difference of two rows of sums that run on (`running.py`), the newest and
the first of the period.

Each period is a part of its own that finds its rows by the keys of the tables, so that a condition on the service or the period reaches
those: SQLite brings none through a join with a list of periods.
"""

from __future__ import annotations

from proxyd.store.sql.running import ENDPOINTS, SERVICES, Kind, before, same

#: Each period: its name, its span as the views' parts call it, which of the tables has it, how much of an instant names its beginning, and
#: the rest.
_PERIODS = (("24h", "day", 0, 13, ":00:00.000Z"), ("7d", "week", 0, 13, ":00:00.000Z"), ("30d", "month", 1, 10, "T00:00:00.000Z"),
            ("90d", "quarter", 1, 10, "T00:00:00.000Z"), ("1y", "year", 1, 10, "T00:00:00.000Z"))


def _all(name: str) -> str:
    """The column for what all rows up to the newest add up to."""
    return f"{name}_all"


def _sum(name: str) -> str:
    """A sum over the period: that of all rows, without what came before the first of the period."""
    difference = f"e.{_all(name)} - f.{before(name)}"
    if not name.endswith("_seconds"):
        return f"{difference} AS {name}"
    return f"CAST(ROUND({difference}) AS {{whole_type}}) AS {name.removesuffix('_seconds')}"


def _parts(kind: Kind, shown: tuple[str, ...]) -> str:
    """The parts of all periods. `shown`: the columns of what is summed up. CROSS JOIN lets SQLite begin with that, rather than read all
    sums in the order of their key. A fence keeps PostgreSQL from joining the first row of a period by the key of the newest one alone: it
    would read all rows of the key."""
    columns = ", ".join(f"e.{column}" for column in shown)
    inner = ", ".join([*(f"d.{column}" for column in shown), *(f"l.{before(name)} + l.{name} AS {_all(name)}" for name in kind.sums)])
    sums = ", ".join(map(_sum, kind.sums))
    parts = []
    for period, span, number, length, rest in _PERIODS:
        model, column = kind.tables[number]
        table = model._meta.table_name
        since = f"substr({{at:{span}}}, 1, {length}) || '{rest}'"
        parts.append(f"""
              SELECT '{period}' AS period, {columns}, {since} AS since, {sums}
              FROM (SELECT {inner},
                           (SELECT MIN(x.{column}) FROM {table} x WHERE {same(kind, 'x', 'd')} AND x.{column} >= {since}) AS oldest
                    FROM {kind.whole} d CROSS JOIN {table} l
                    WHERE {same(kind, 'l', 'd')} AND l.{column} = (SELECT MAX(x.{column}) FROM {table} x WHERE {same(kind, 'x', 'd')})
                    {{fence}}) e CROSS JOIN {table} f
              WHERE {same(kind, 'f', 'e')} AND f.{column} = e.oldest""")
    return "\n              UNION ALL".join(parts)


_PERCENT = "ROUND(CAST(100.0 * y.up / NULLIF(y.up + y.down, 0) AS {decimal}), 3) AS uptime_percent"
#: Seconds since the period or the endpoint began.
_LENGTH = "{epoch_now} - CASE WHEN y.first_seen > y.since THEN {epoch:y.first_seen} ELSE {epoch:y.since} END"
#: Those of them in which nobody watched.
_UNKNOWN = f"{_LENGTH} - y.up - y.down - y.maintenance"

UPTIME = f"""
        SELECT y.period, y.endpoint_id, y.service_name, y.instance_name, y.domain, y.path, {_PERCENT},
               y.up AS up_seconds, y.down AS down_seconds, y.maintenance AS maintenance_seconds,
               CASE WHEN {_UNKNOWN} > 0 THEN {_UNKNOWN} ELSE 0 END AS unknown_seconds, y.good, y.bad, y.in_maintenance
        FROM ({_parts(ENDPOINTS, ("endpoint_id", "service_name", "instance_name", "domain", "path", "first_seen"))}) y"""
UPTIME_SERVICES = f"""
        SELECT y.period, y.service_name, y.domain, y.path, {_PERCENT},
               y.up AS up_seconds, y.down AS down_seconds, y.maintenance AS maintenance_seconds
        FROM ({_parts(SERVICES, SERVICES.key)}) y"""
