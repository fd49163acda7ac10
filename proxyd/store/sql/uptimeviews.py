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


def _inner(kind: Kind) -> str:
    """What all rows up to `l` add up to."""
    return ", ".join([f"l.{before(name)} + l.{name} AS {_all(name)}" for name in kind.sums])


def _since(span: str, length: int, rest: str) -> str:
    """The beginning of a period."""
    return f"substr({{at:{span}}}, 1, {length}) || '{rest}'"


def _sum(name: str) -> str:
    """A sum over the period: that of all rows, without what came before the first of the period."""
    difference = f"e.{_all(name)} - f.{before(name)}"
    if not name.endswith("_seconds"):
        return f"{difference} AS {name}"
    return f"CAST(ROUND({difference}) AS {{whole_type}}) AS {name.removesuffix('_seconds')}"


def _parts(kind: Kind, shown: tuple[str, ...]) -> str:
    """The parts of all periods. `shown`: the columns of what is summed up. CROSS JOIN lets SQLite begin with that, rather than read all
    sums in the order of their key."""
    columns = ", ".join(f"e.{column}" for column in shown)
    inner = ", ".join([*(f"d.{column}" for column in shown), _inner(kind)])
    sums = ", ".join(map(_sum, kind.sums))
    parts = []
    for period, span, number, length, rest in _PERIODS:
        model, column = kind.tables[number]
        table = model._meta.table_name
        since = _since(span, length, rest)
        parts.append(f"""
              SELECT '{period}' AS period, {columns}, {since} AS since, {sums}
              FROM (SELECT {inner},
                           (SELECT MIN(x.{column}) FROM {table} x WHERE {same(kind, 'x', 'd')} AND x.{column} >= {since}) AS oldest
                    FROM {kind.whole} d CROSS JOIN {table} l
                    WHERE {same(kind, 'l', 'd')} AND l.{column} = (SELECT MAX(x.{column}) FROM {table} x WHERE {same(kind, 'x', 'd')})
                   ) e CROSS JOIN {table} f
              WHERE {same(kind, 'f', 'e')} AND f.{column} = e.oldest""")
    return "\n              UNION ALL".join(parts)


def _lateral_parts(kind: Kind, shown: tuple[str, ...]) -> str:
    """The same for PostgreSQL, which finds each of both rows by one look into the key, and only those of the services that are asked for:
    SQLite has no LATERAL. A fence (OFFSET 0) keeps it from reckoning the beginning of the period for each row."""
    columns, sums = ", ".join(f"d.{column}" for column in shown), ", ".join(map(_sum, kind.sums))
    parts = []
    for period, span, number, length, rest in _PERIODS:
        model, column = kind.tables[number]
        table, since = model._meta.table_name, _since(span, length, rest)
        parts.append(f"""
              SELECT '{period}' AS period, {columns}, s.since, s.since_epoch, s.now_epoch, {sums}
              FROM (SELECT r.since, {{epoch:r.since}} AS since_epoch, {{epoch_now}} AS now_epoch FROM (SELECT {since} AS since OFFSET 0) r
                    OFFSET 0) s
              CROSS JOIN {kind.whole} d
              CROSS JOIN LATERAL (SELECT {_inner(kind)} FROM {table} l WHERE {same(kind, 'l', 'd')} ORDER BY l.{column} DESC LIMIT 1) e
              CROSS JOIN LATERAL (SELECT {", ".join(f"x.{before(name)}" for name in kind.sums)} FROM {table} x
                                  WHERE {same(kind, 'x', 'd')} AND x.{column} >= s.since ORDER BY x.{column} LIMIT 1) f""")
    return "\n              UNION ALL".join(parts)


_PERCENT = "ROUND(CAST(100.0 * y.up / NULLIF(y.up + y.down, 0) AS {decimal}), 3) AS uptime_percent"

_ENDPOINT = ("endpoint_id", "service_name", "instance_name", "domain", "path", "first_seen")


def _unknown(now: str, since: str) -> str:
    """Seconds since the period or the endpoint began in which nobody watched. `now` and `since` in Unix seconds."""
    return f"{now} - CASE WHEN y.first_seen > y.since THEN {{epoch:y.first_seen}} ELSE {since} END - y.up - y.down - y.maintenance"


def _uptime(parts: str, unknown: str) -> str:
    return f"""
        SELECT y.period, y.endpoint_id, y.service_name, y.instance_name, y.domain, y.path, {_PERCENT},
               y.up AS up_seconds, y.down AS down_seconds, y.maintenance AS maintenance_seconds,
               {unknown} AS unknown_seconds, y.good, y.bad, y.in_maintenance
        FROM ({parts}) y"""


def _uptime_services(parts: str) -> str:
    return f"""
        SELECT y.period, y.service_name, y.domain, y.path, {_PERCENT},
               y.up AS up_seconds, y.down AS down_seconds, y.maintenance AS maintenance_seconds
        FROM ({parts}) y"""


_REST = _unknown("{epoch_now}", "{epoch:y.since}")
UPTIME = _uptime(_parts(ENDPOINTS, _ENDPOINT), f"CASE WHEN {_REST} > 0 THEN {_REST} ELSE 0 END")
UPTIME_SERVICES = _uptime_services(_parts(SERVICES, SERVICES.key))
LATERAL_UPTIME = _uptime(_lateral_parts(ENDPOINTS, _ENDPOINT), f"GREATEST({_unknown('y.now_epoch', 'y.since_epoch')}, 0)")
LATERAL_UPTIME_SERVICES = _uptime_services(_lateral_parts(SERVICES, SERVICES.key))
