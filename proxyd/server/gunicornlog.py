"""gunicorn's own log lines in the form of all others: one line an event, as text or JSON, to the same place."""

from __future__ import annotations

import logging
import os
from typing import Any, TextIO

from gunicorn.glogging import Logger

from proxyd.config.logs import formatter


class GunicornLog(Logger):  # type: ignore[misc]
    """gunicorn's logger; `form` is [log] format, set before gunicorn makes one, as gunicorn hands it its own settings only."""

    form = "text"

    def _set_handler(self, log: logging.Logger, output: str | None, fmt: Any, stream: TextIO | None = None) -> None:
        if log is not self.error_log or output is None:
            super()._set_handler(log, output, fmt, stream)
            return
        failure = ""
        if output != "-":
            try:
                os.makedirs(os.path.dirname(os.path.abspath(output)), exist_ok=True)
                with open(output, "ab"):
                    pass
            except OSError as error:
                failure, output = f"[log] error: can't write {output} ({error.strerror}); logging to standard error", "-"
        super()._set_handler(log, output, formatter(self.form), stream)
        if failure:
            log.error("%s", failure)
