"""The views of uptime: sums by the hour or the day over the periods that people ask for.

Each period is a part of its own that is grouped by itself, so that a condition on the service or the period reaches the keys of the tables:
SQLite brings none through a GROUP BY over several parts.
"""

from __future__ import annotations

#: Each period: its name, its span as the views' parts call it, table and column, how much of an instant names its beginning, and the rest.
_PERIODS = (("24h", "day", "hours", "hour", 13, ":00:00.000Z"), ("7d", "week", "hours", "hour", 13, ":00:00.000Z"),
            ("30d", "month", "days", "day", 10, "T00:00:00.000Z"), ("90d", "quarter", "days", "day", 10, "T00:00:00.000Z"),
            ("1y", "year", "days", "day", 10, "T00:00:00.000Z"))
_PLACE = ("service_name", "domain", "path")
_ENDPOINT = ("endpoint_id", "service_name", "instance_name", "domain", "path", "first_seen")


def _seconds(state: str) -> str:
    return f"CAST(ROUND(SUM(h.{state}_seconds)) AS {{whole_type}}) AS {state}"


def _parts(name: str, tables: str, where: str, key: tuple[str, ...], more: str) -> str:
    """The parts of all periods. `name`: how the table's name begins, which stands for $ in `tables`. `key`: the columns of `e` that name
    what is summed up."""
    keys = ", ".join(f"e.{column}" for column in key)
    parts = []
    for period, span, table, column, length, rest in _PERIODS:
        since = f"substr({{at:{span}}}, 1, {length}) || '{rest}'"
        parts.append(f"""
              SELECT '{period}' AS period, {keys}, {since} AS since, {_seconds('up')}, {_seconds('down')}, {_seconds('maintenance')}{more}
              FROM {tables.replace("$", f"{name}_{table}")} WHERE {where}h.{column} >= {since} GROUP BY {keys}""")
    return "\n              UNION ALL".join(parts)


_PERCENT = "ROUND(CAST(100.0 * y.up / NULLIF(y.up + y.down, 0) AS {decimal}), 3) AS uptime_percent"
_WATCHED = "CAST(ROUND(SUM(h.up_seconds + h.down_seconds + h.maintenance_seconds)) AS {whole_type}) AS watched"
_CHECKS = "CAST(SUM(h.good) AS {whole_type}) AS good, CAST(SUM(h.bad) AS {whole_type}) AS bad"
#: From the places to their sums: SQLite would read all sums in the order of their key, rather than sort those of the period.
_PLACES = "(SELECT DISTINCT p.service_name, p.domain, p.path FROM endpoints p) e CROSS JOIN $ h"
_AT_PLACE = "h.service_name = e.service_name AND h.domain = e.domain AND h.path = e.path AND "
#: Seconds since the period or the endpoint began.
_LENGTH = "({epoch_now} - CASE WHEN y.first_seen > y.since THEN {epoch:y.first_seen} ELSE {epoch:y.since} END)"

UPTIME = f"""
        SELECT y.period, y.endpoint_id, y.service_name, y.instance_name, y.domain, y.path, {_PERCENT},
               y.up AS up_seconds, y.down AS down_seconds, y.maintenance AS maintenance_seconds,
               CASE WHEN y.watched < {_LENGTH} THEN {_LENGTH} - y.watched ELSE 0 END AS unknown_seconds, y.good, y.bad
        FROM ({_parts("health", "$ h JOIN endpoints e ON e.endpoint_id = h.endpoint_id", "", _ENDPOINT, f", {_WATCHED}, {_CHECKS}")}) y"""
UPTIME_SERVICES = f"""
        SELECT y.period, y.service_name, y.domain, y.path, {_PERCENT},
               y.up AS up_seconds, y.down AS down_seconds, y.maintenance AS maintenance_seconds
        FROM ({_parts("service", _PLACES, _AT_PLACE, _PLACE, "")}) y"""
