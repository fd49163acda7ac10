"""What differs between database engines in the SQL of views: the texts that stand for names in braces."""

from __future__ import annotations


class Part:
    """A piece of SQL that differs between engines. `{name:a,b}` in a view is `text` with a for $1 and b for $2."""

    def __init__(self, text: str, **given: str) -> None:
        self._text = text
        self._given = given

    def replace(self, old: str, new: str) -> Part:
        """The same with another text in it, as str.replace."""
        return Part(self._text.replace(old, new), **self._given)

    def __format__(self, spec: str) -> str:
        text = self._text
        for number, value in enumerate(spec.split(","), 1):
            text = text.replace(f"${number}", self._given.get(value, value))
        return text


#: The upper end of the bucket that a share of the requests of a row `t` of traffic_hours do not exceed. Each row finds its buckets by
#: their key: window functions over all of them would be reckoned for every hour that is kept, whichever is asked for.
_PERCENTILE = Part("""(SELECT MIN(x.upper_ms) FROM (
                   SELECT (CASE WHEN l.bucket < 32 THEN l.bucket + 1
                                ELSE (17 + (l.bucket & 15)) << CAST((l.bucket >> 4) - 1 AS INTEGER) END) / 1000.0 AS upper_ms,
                          SUM(l.requests) OVER (ORDER BY l.bucket) AS so_far, SUM(l.requests) OVER () AS total
                   FROM latency_hours l WHERE l.endpoint_id = t.endpoint_id AND l.hour = t.hour) x
                WHERE x.so_far >= $1 * x.total)""")
#: Until when something lasts that goes on: it sorts behind every instant.
GOES_ON = "9999-12-31T23:59:59.999Z"
_SPANS = {"now": "0 seconds", "minute": "1 minute", "hour": "1 hour", "hours6": "6 hours", "day": "1 day", "week": "7 days",
          "month": "30 days", "quarter": "90 days", "year": "365 days"}
_JSON = "json_extract($1, '$.$2')"
#: `unindexed`: SQLite is not to walk through the whole history in the order of the routes, but to look at the last day alone. `not_by`: a
#: text, by whose index nothing is to be found.
SQLITE: dict[str, str | Part] = {
    "at": Part("strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-$1')", **_SPANS),
    "date": Part("strftime('%Y-%m-%d', 'now', '-$1 days')"),
    "epoch": Part("CAST(strftime('%s', $1) AS INTEGER)"),
    "epoch_now": "CAST(strftime('%s', 'now') AS INTEGER)",
    "json": Part(f"CAST({_JSON} AS TEXT)"),
    "decimal": "REAL",
    "whole_type": "INTEGER",
    "unindexed": "+",
    "not_by": Part("CAST($1 AS TEXT)"),
    "percentile": _PERCENTILE,
}
_TO_TEXT = "to_char((now() - interval '$1') at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
POSTGRES: dict[str, str | Part] = {
    "at": Part(_TO_TEXT, **_SPANS),
    "date": Part("to_char((now() - interval '$1 days') at time zone 'utc', 'YYYY-MM-DD')"),
    "epoch": Part("CAST(FLOOR(EXTRACT(EPOCH FROM CAST($1 AS TIMESTAMPTZ))) AS BIGINT)"),
    "epoch_now": "CAST(FLOOR(EXTRACT(EPOCH FROM now())) AS BIGINT)",
    "json": Part("(CAST($1 AS JSON) ->> '$2')"),
    "decimal": "NUMERIC",
    "whole_type": "BIGINT",
    "unindexed": "",
    "not_by": Part("$1 || ''"),
    "percentile": _PERCENTILE,
}
