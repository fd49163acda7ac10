"""The `proxyd` command: serve, check, migrate, database tools.

Nobody imports this room. Begin with `main`.
"""
