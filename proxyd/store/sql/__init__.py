"""The database: connection, models, migrations, and the reads and writes of each part of the system.

May import: base and store.memory. Begin with `database` (one connection and its thread), then `models` and `observed`.
"""
