"""The database: connection, models, migrations, and the reads and writes of each part of the system.

May import: base and store.memory. Begin with `database` (one connection and its thread), then `models` and `observed`.
"""

from proxyd.base.lean import without

# peewee takes all drivers along that are installed. `postgres.server` gives it psycopg2 where a server is used.
with without("psycopg2", "psycopg2cffi", "psycopg", "pymysql", "MySQLdb"):
    import peewee as peewee
