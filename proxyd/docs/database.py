"""docs/database.md: tables and views as a freshly migrated database has them, and queries run against sample rows."""

from __future__ import annotations

import re
import sqlite3
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peewee import BooleanField

from proxyd.config.declare import declarations
from proxyd.config.sections import DatabaseSettings
from proxyd.docs.database_notes import COLUMN_NOTES, QUERIES, TABLE_NOTES, VIEW_NOTES
from proxyd.docs.markdown import code, fenced, generated, table
from proxyd.docs.samples import NOW, fill
from proxyd.store.sql import migrations, models
from proxyd.store.sql.columnkinds import Kind, kinds_of
from proxyd.store.sql.database import Store
from proxyd.store.sql.database import database as current
from proxyd.store.sql.readonly import HIDDEN
from proxyd.store.sql.retained import RETAINED
from proxyd.store.sql.views import VIEWS

_EPOCH = "The same in Unix seconds, for tools."

_HEAD = """# Database

Everything that proxyd knows is in one database: what is served now, and its history by the minute, hour and day. This page says how to
read it, [answers what people ask](#questions), and then describes every [view](#views), [table](#tables) and column.

## How to read it

```console
$ proxyctl sql 'SELECT what, why, since FROM v_unwell'
$ sqlite3 -readonly -box var/proxyd.db
$ PGOPTIONS='-c default_transaction_read_only=on' psql postgresql://proxyd@localhost/proxyd
```

`proxyctl sql` opens the database of the settings, whichever it is, for reading only. It asks for statements on a terminal, and takes them
from a pipe; `--json` is for programs. Columns with secrets are NULL there, and `proxyd db export` leaves them out.

Reading is safe while proxyd runs: SQLite is in WAL mode, so readers wait for nobody, and nobody waits for them. Only proxyd may write: it
does not see a change that you make by hand, or overwrites it. Do not leave a transaction open in a shell: it keeps SQLite's log (`-wal`).
proxyd names the process in `proxyctl status` when that grows, and writes no more history from `[database] max_log` on.

If `[database] url` names PostgreSQL, it has the same tables, with `text`, `bigint`, `double precision` and `boolean` columns. All views
and the queries below are the same for both. For a dashboard, make a role that reads all views and tables, without the columns with secrets:

```sql
{role}
```

It keeps what it was granted when a view changes with a newer proxyd. Run the statements after `CREATE` again after an upgrade that brings
new ones. Without `jit = off` (PostgreSQL 11 and later), the server may compile a question for a second that takes it ten milliseconds.

## What belongs together

History belongs to an **endpoint**: an instance of a service at a domain and path. It stays the same while sessions end, routes get new ids
and backends move. `route_history` leads from a route's id to its endpoint.

```
 services ──< endpoints ──< route_history ──  what is kept by route_id
                 │            one row a          route_minutes, route_stats, route_latency, route_status_codes
                 │            deploy             health_results, circuit_transitions, events
                 │                               slow_requests, rate_limit_rejections, websocket_connections
                 │
                 ├──< health_minutes, health_hours, health_days      seconds up, down, in maintenance
                 ├──< traffic_hours, traffic_days, latency_hours     requests, errors, how long they took
                 ├──< latency_minutes                                how long they took, in the last hour
                 ├──< maintenance_windows                            planned, going on, over: who, why
                 └──< incidents (endpoint)

 a service at a place (service, domain, path), whichever instance serves it
                 ├──< service_hours, service_days                    was anybody served?
                 ├──< incidents (service)
                 └──< objectives                                     what was promised: v_slo

 an instance of a service
                 └──< deploys, rollouts                              who changed what, from which version to which

 a service at a domain
                 └──< service_stats, service_latency,                what /metrics counts
                      service_status_codes

 now:   sessions ──< routes ── health_status, circuits, route_in_flight;   unwell, workers, hosts
```

## Objectives

`[slo]` in a site file, or the options `slo_availability` and `slo_latency`, say what a service promises:

```ini
[slo]
availability = 99.9%
latency = 99% in 300ms
```

`v_slo` counts the requests of the last 30 days, of all instances and deploys. The budget is how many of them may be bad. A burn rate is how
fast it is spent: 1 spends it in 30 days. Page somebody above 14 over an hour, and write a ticket above 6 over six hours. Where there are
few requests, a single bad one is above both, and a budget of less than one request has no share that is left. Answers of the maintenance
page are left out. An error is an answer with a status from 500, whoever made it; `backend_errors` and `proxy_errors` of
`v_traffic_by_hour` tell who. `proxyd db report` says whether a month met the objectives.

## Times and types

**Times** are text, RFC 3339 in UTC with milliseconds: `2026-03-02T07:59:30.125Z`. They sort as text, so `at >= '2026-03-02'`
works as expected, and SQLite's `strftime`, `julianday` and `unixepoch` read them. NULL means *never* or *not now*.
**Durations** are seconds or, if the name ends in `_ms`, milliseconds. **Lists and objects** are JSON text: SQLite's
`json_each` and `->>` (3.38 and later) read them. **Booleans** are 0 and 1.

**Compare times with times of the same form.** `v_now` has them: `at >= (SELECT hour_ago FROM v_now)`. SQLite's
`datetime('now', '-1 hour')` looks right and is wrong: it makes `2026-03-02 07:00:00`, with a blank where the columns have a `T`, and a
blank sorts before it, so that all of today is newer than an hour ago. Tools that want numbers find Unix seconds beside every instant of a
view, in the column of the same name that ends in `_epoch`; of `v_now`, in `now_epoch`.

## With other tools

- **pandas**: `pd.read_sql("SELECT * FROM v_traffic_by_hour", sqlite3.connect("file:var/proxyd.db?mode=ro", uri=True))`, then
  `pd.to_datetime(frame["hour"])`, or `pd.to_datetime(frame["hour_epoch"], unit="s", utc=True)`. With PostgreSQL, an SQLAlchemy engine
  takes the connection's place: `create_engine("postgresql+psycopg2://reader@localhost/proxyd")` (since SQLAlchemy 2.1, `postgresql://`
  alone means another driver).
- **DuckDB**: `ATTACH 'var/proxyd.db' AS proxyd (TYPE sqlite, READ_ONLY)`, or `ATTACH '...' (TYPE postgres, READ_ONLY)`, then
  `SELECT CAST(hour AS TIMESTAMPTZ), requests FROM proxyd.traffic_hours` (from Python, that needs `pytz`). Of PostgreSQL it reads tables and
  views. Of an SQLite file, tables alone: most views fail, and the others give numbers as text. What
  `proxyd db export v_uptime --format parquet --output uptime.parquet` has written has its types: `SELECT * FROM 'uptime.parquet'`.
- **Datasette**: `datasette backup.db` of a copy that `sqlite3 var/proxyd.db ".backup backup.db"` made. The copy changes no more, and has
  the columns with secrets, so serve the result of `proxyd db export` to others, not the copy.
- **Grafana**: import `conf/grafana/history-sqlite.json` with the plugin `frser-sqlite-datasource`, or
  `conf/grafana/history-postgresql.json`. In panels of your own, compare text with the span as text,
  `hour >= '${__from:date:iso}' AND hour <= '${__to:date:iso}'`, and select `hour_epoch AS time`. The macros `$__timeFilter` and
  `$__timeGroup` want timestamps, and give nothing, or 1970, for text.
- **Metabase**: add the file, or the server, as a database, and set the type of `_epoch` columns to *UNIX timestamp (seconds)* in the table
  metadata. Filter by those: a filter on a text column compares it with a date in another form.

## How long a question takes

`scripts/year fill URL` writes a year of 1,000 endpoints of 500 services into a new database (sums by the day for a year and by the hour
for 90 days, two days of single checks once a minute as the master writes them: 3 GB). It is thinner than a busy proxy's: traffic has a
row in one minute of ten, latencies of an hour lie in four buckets, and an endpoint has a slow request an hour. `v_traffic` and `v_slo`
take longer with more.
`scripts/year measure URL` asks each view. Milliseconds of processor time, all rows read, on SQLite 3.40 and on PostgreSQL 15 with 128 MB of
`shared_buffers` and without JIT; by the clock, on an idle machine it was the same, and beside other work up to five times as much.

| view | asked for | SQLite | PostgreSQL |
| --- | --- | --- | --- |
| `v_uptime` | five periods; one period; one service | 31; 6; 0.1 | 46; 9; 0.8 |
| `v_uptime_services` | five periods; one period; one service | 19; 4; 0.1 | 36; 7; 0.9 |
| `v_slo` | all; one service | 30; 29 | 45; 1.2 |
| `v_errors`, `v_slowest_endpoints` | all | 30, 13 | 16, 15 |
| `v_endpoints`, `v_unused`, `v_circuits` | all | 30, 4, 4 | 12, 19, 4 |
| `v_routes`, `v_slowest`, `v_flapping` | all | 2, 0.2, 0.2 | 1.6, 0.4, 0.6 |
| `v_incidents`, `v_deploys`, `v_events` | a day | 0.5, 0.4, 3 | 0.7, 0.4, 8 |
| `v_traffic` | an hour (5,000 rows) | 13 | 17 |
| `v_checks` | an hour (15,000 rows) | 46 | 41 |
| `v_uptime_24h` | all (it reads 420,000 rows of single checks, and never many more) | 180 | 184 |
| `v_health_by_hour`, `v_traffic_by_hour` | one service, a day; all, a day (24,000 rows) | 0.2; 75 | 0.6; 88 |
| `v_health_by_day`, `v_traffic_by_day` | one service, 30 days; all, 30 days (30,000 rows) | 0.2; 99 | 0.6; 53 |
| `v_health_by_minute` | an hour, one service; an hour, all (44,000 rows) | 18; 122 | 68; 140 |
| `v_latency_by_hour` | one service, a day; all, a day (24,000 rows) | 1.5; 630 | 1.9; 630 |

**Ask for a span, a service, or both**: `v_health_by_minute`, `_by_hour` and `_by_day`, `v_traffic`, `v_traffic_by_hour` and `_by_day`,
`v_latency_by_hour` and `v_checks` have a row for each endpoint and span, millions in all, and give them all if nothing is said.
Of `v_health_by_minute` and `v_checks`, ask for a span also where it is about one service.

No view reads a table of history as a whole, if it is asked for a span by the column of its time (the beginning of the minute, hour or day;
`at`, `started_at`, `opened_at`; `until` of `v_down_at`); `v_rollouts`, which is small, does. Tests hold the plans of both engines to it.
The views of uptime read two rows for each period, however long it is: every hour and day of health has beside its own sums what all
earlier rows of the endpoint, or the service, add up to (the columns that end in `_before`). Your own queries can do so, too. On SQLite, a
condition on a service reaches no further than the result where a view sums up over `GROUP BY` as a whole, as `v_slo` does.

PostgreSQL compiles queries that it expects to be expensive (its setting `jit`), and expects too much of those that compare with
`(SELECT day_ago FROM v_now)`, because it does not know that instant when it plans. `v_incidents` of a day took 300 ms so, and takes 1 ms
without. The role above and `proxyctl sql` have it off; for others, say `ALTER ROLE ... SET jit = off`. For the same reason it may read a
large table as a whole, if asked so for a span of all services. Write the instant, or join `v_now`: then it knows, and finds the span by its
index.

```sql
SELECT h.hour, h.instance_name, h.up_seconds, h.down_seconds
FROM v_now n JOIN v_health_by_hour h ON h.hour >= n.hour_ago ORDER BY h.hour, h.instance_name;
```

## What health checks cost

`scripts/checks URL` feeds the checks of many targets into the writers that the master uses, and says what that takes. Of 10,000 targets,
each checked every 10 s, one check in two thousand failing and 50 outages an hour, on SQLite and beside other work:

| | each check a row of its own | as it is |
| --- | --- | --- |
| processor time to write it down | 8.0 to 9.6 % of a core | 2.1 % |
| single checks, two days | 23 GB | 0.2 GB |
| `health_minutes`, two days | 3.5 GB | 1.8 GB, with how long checks took |
| all of it after a week | 27 GB | 2.4 GB |

Of single checks, the master writes `[health] results_per_second` rows a second (5). Where more are made, checks of a route in a row that
had the same outcome share a row: `SUM(checks)` counts them, and of those that were answered (`avg_ms IS NOT NULL`)
`SUM(avg_ms * checks) / SUM(checks)` is the mean time. What was found at an instant is the row with
`'2026-03-02T03:12' BETWEEN checked_at AND last_checked_at` in `v_checks`, or the last one before it. The rows of
`health_minutes` lie by their time: ask for a span, and ask `health_hours` for a long one.

## Looking after it

The schema has a version (`SELECT * FROM schema_version`). The master, or `proxyd migrate`, migrates an older database. proxyd
refuses a database that a newer proxyd wrote. `proxyd db check`, `proxyd db stats` and `proxyd db vacuum` maintain the file.
`proxyd db export events --since 2026-11-01 --output events.csv` writes the rows of any table or view as CSV, SQL or (extra `parquet`)
a Parquet file, in which instants are timestamps and numbers are numbers.
`proxyd db report shop --month 2026-11` tells uptime, outages, maintenance, deploys, traffic and
percentiles of a service, as text, HTML or JSON.
To back it up while proxyd runs: `sqlite3 var/proxyd.db ".backup proxyd-backup.db"`.

"""

_QUERIES_HEAD = f"""# Questions

You can run each query as it is. The output is that of a small sample database, at {NOW:%Y-%m-%d %H:%M} UTC.
"""

_KEPT_HEAD = """
## How long rows are kept

The master deletes what is older than these settings of `[database]` once a minute, a few hundred rows at a time. Rows of other
tables stay, or go with what they are about.

"""

_BUCKETS = """
## Latency buckets

`route_latency.bucket` is a bucket number of a log-linear histogram over microseconds. Below 32, a bucket is one microsecond wide. Above,
each power of two has 16 buckets, so a percentile is within 3.2 % of the true value. Bucket *b* begins at *b* µs for *b* < 32, otherwise at
`(16 + (b & 15)) << ((b >> 4) - 1)` µs. Rows of several routes can be added up. The question about the 95th percentile above shows how to
read the buckets.
"""


@contextmanager
def sample() -> Iterator[sqlite3.Connection]:
    """A migrated SQLite database with sample rows, in which it is always NOW."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "proxyd.db"))
        before = current.obj
        store = Store(f"sqlite:///{path}")
        store.open()
        try:
            migrations.migrate(store)
        finally:
            store.close()
            current.initialize(before)
        connection = sqlite3.connect(path)
        clock = sqlite3.connect(":memory:")
        try:
            # SQLite's own function with another idea of now, so that the document is the same whenever it is made.
            connection.create_function("strftime", -1, lambda *given: clock.execute(
                f"SELECT strftime({', '.join('?' * len(given))})",
                [NOW.strftime("%Y-%m-%dT%H:%M:%S") if item == "now" else item for item in given]).fetchone()[0])
            fill(connection)
            yield connection
        finally:
            clock.close()
            connection.close()


def queries(document: str) -> list[str]:
    """The SQL that a document asks, block by block."""
    return [sql for sql in re.findall(r"```sql\n(.*?)```", document, re.DOTALL) if not sql.startswith("CREATE")]


def reading_role(role: str = "reader") -> str:
    """Statements that make a role for PostgreSQL that reads all, but the columns with secrets."""
    with_secrets = {table for table, _ in HIDDEN}
    names = {model._meta.table_name: [field.column_name for field in model._meta.sorted_fields] for model in migrations.TABLES}
    free = [*VIEWS, *(name for name in names if name not in with_secrets)]
    parts = [f"CREATE ROLE {role} LOGIN;", f"ALTER ROLE {role} SET jit = off;", _wrapped(f"GRANT SELECT ON {', '.join(free)} TO {role};")]
    for name in sorted(with_secrets):
        columns = ", ".join(column for column in names[name] if (name, column) not in HIDDEN)
        parts.append(_wrapped(f"GRANT SELECT ({columns}) ON {name} TO {role};"))
    return "\n".join(parts)


def _wrapped(statement: str) -> str:
    return "\n".join(textwrap.wrap(statement, 138, subsequent_indent="    ", break_long_words=False))


def text() -> str:
    """The document."""
    with sample() as connection:
        head = _HEAD.replace("{role}", reading_role())
        parts = [generated("proxyd/store/sql/models.py, observed.py, rollups.py and views.py"), head, _QUERIES_HEAD]
        for question, remark, sql in QUERIES:
            parts += [f"\n## {question}\n\n", f"{remark}\n\n" if remark else "", fenced(sql.strip(), "sql"), "\n",
                      fenced(output(connection, sql))]
        parts.append("\n# Views\n\nViews join what people ask for most. The master makes those anew that an upgrade changed.\n")
        parts += [_view(connection, name) for name in VIEWS]
        parts += ["\n# Tables\n", *(_table(connection, model) for model in migrations.TABLES)]
        parts += [_KEPT_HEAD, _retention(), _BUCKETS]
    return "".join(parts)


def _retention() -> str:
    """Each retention with its default and the tables that it holds for."""
    tables: dict[str, list[str]] = {}
    for kept in RETAINED:
        tables.setdefault(kept.setting, []).append(f"[{kept.model._meta.table_name}](#{kept.model._meta.table_name})")
    declared = declarations(DatabaseSettings)
    return table(("setting", "default", "tables"), (
        (code(setting), code(declared[setting].default), ", ".join(names)) for setting, names in tables.items()))


def _table(connection: sqlite3.Connection, model: type[models.StoredTable]) -> str:
    meta = model._meta
    name = meta.table_name
    note = (model.__doc__ or "").strip() if model.__doc__ != models.StoredTable.__doc__ else ""
    kept = (kept.sentence() for kept in RETAINED if kept.model is model)
    prose = " ".join(filter(None, (" ".join(note.split()), TABLE_NOTES.get(name, ""), *kept)))
    by_column = {field.column_name: field for field in meta.sorted_fields}
    rows = []
    for _, column, kind, needed, _, key in connection.execute(f"PRAGMA table_info({name})"):
        field = by_column[column]
        # What a column refers to is a text here, and SQLite has no booleans of its own.
        marks = ["key"] * bool(key) + ["may be NULL"] * (not needed and not key)
        if hasattr(field, "rel_model"):
            marks.append(f"refers to `{field.rel_model._meta.table_name}`")
        shown = "text" if hasattr(field, "rel_model") else "boolean" if isinstance(field, BooleanField) else kind.lower()
        remark = COLUMN_NOTES.get(f"{name}.{column}") or COLUMN_NOTES.get(column, "")
        rows.append((code(column), shown, ", ".join(marks), remark))
    return f"\n## {name}\n\n{prose}\n\n" + table(("column", "type", "", "what it is"), rows)


def _view(connection: sqlite3.Connection, name: str) -> str:
    """A view's columns. An instant in Unix seconds stands beside its text, so one sentence does for all."""
    columns = [item[1] for item in connection.execute(f"PRAGMA table_info({name})")]
    rows = [(code(column), "text" if kind is Kind.INSTANT else kind.value,
             COLUMN_NOTES.get(f"{name}.{column}") or COLUMN_NOTES.get(column) or (_EPOCH if column.endswith("_epoch") else ""))
            for column, kind in zip(columns, kinds_of(name, columns), strict=True)]
    return f"\n## {name}\n\n{VIEW_NOTES[name]}\n\n" + table(("column", "type", "what it is"), rows)


def output(connection: sqlite3.Connection, sql: str) -> str:
    """What sqlite3's `.mode column` would print."""
    cursor = connection.execute(sql)
    head = [item[0] for item in cursor.description]
    rows = [["" if value is None else str(value) for value in row] for row in cursor]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
