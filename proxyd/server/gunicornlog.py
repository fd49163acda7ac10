"""Formats gunicorn's log lines like all others: one line for each event, as text or JSON, in the same place."""

from __future__ import annotations

import logging
import os

from proxyd.config.logs import formatter
from proxyd.net.gunicorn_inner import ErrorLogger


class GunicornLog(ErrorLogger):
    """gunicorn's logger. `form`: [log] format. It is set on the class, because gunicorn passes only its own settings."""

    form = "text"

    def error_handler(self, output: str) -> tuple[str, logging.Formatter, str]:
        failure = ""
        if output != "-":
            try:
                os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
                with open(output, "ab"):
                    pass
            except OSError as error:
                failure, output = f"[log] error: can't write {output} ({error.strerror}); logging to standard error", "-"
        return output, formatter(self.form), failure
