"""Launches, watches and stops processes: gunicorn's configuration, the worker class, the master and its supervisor.

May import: every room but cli, ctl and docs. Begin with `gunicorn_conf`, `worker` or `master`.
"""
