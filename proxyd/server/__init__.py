"""How processes are launched, watched and stopped: gunicorn's side, our worker class, the master and its supervisor.

May import: every room but cli, ctl and docs. Begin with `gunicorn_conf`, `worker` or `master`.
"""
