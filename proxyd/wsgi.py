"""What gunicorn is told to run: `gunicorn -c gunicorn.conf.py proxyd.wsgi:app`. Everything is in proxyd.server.application."""

from proxyd.server.application import app

__all__ = ["app"]
