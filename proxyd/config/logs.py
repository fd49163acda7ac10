"""Logging of every process alike: one line an event, as text or JSON, to standard error or a file that can be rotated."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from logging.handlers import WatchedFileHandler

from proxyd.base.text import rfc3339
from proxyd.config.sections import LogSettings

#: gunicorn calls its log of everything the error log.
_NAMES = {"gunicorn.error": "gunicorn"}


class TextFormatter(logging.Formatter):
    """`2026-01-31T23:59:59.125Z warning proxyd.registry[123] message`; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        name = _NAMES.get(record.name, record.name)
        line = f"{rfc3339(record.created)} {record.levelname.lower()} {name}[{record.process}] {message}"
        return "\n    ".join((line, *self.formatException(record.exc_info).splitlines())) if record.exc_info else line


class JsonFormatter(logging.Formatter):
    """The same as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {"at": rfc3339(record.created), "level": record.levelname.lower(), "logger": _NAMES.get(record.name, record.name),
                 "pid": record.process, "message": record.getMessage()}
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


class SureFile(logging.FileHandler):
    """A log file. While it can't be opened again, its lines go to standard error. Python's own handlers raise the error in whoever
    logs something, and so end what goes on logging for ever."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:
            # Whatever is wrong with the file: the next line tries again.
            self.stream = None
            if sys.stderr is not None:
                sys.stderr.write(f"{self.format(record)}\n")


class WatchedFile(SureFile, WatchedFileHandler):
    """A log file that is opened anew when it was rotated away."""


def formatter(form: str) -> logging.Formatter:
    """The formatter of a [log] format."""
    return JsonFormatter() if form == "json" else TextFormatter()


def configure(settings: LogSettings) -> None:
    """Send this process's log where the settings say; a file that can't be written is said so on standard error.

    Safe to call again: the old handler is replaced. The file is opened anew when it was rotated away.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    failure = ""
    if settings.error != "-":
        try:
            os.makedirs(os.path.dirname(os.path.abspath(settings.error)), exist_ok=True)
            handler = WatchedFile(settings.error, encoding="utf-8")
        except OSError as error:
            failure = f"[log] error: can't write {settings.error} ({error.strerror}); logging to standard error"
    handler.setFormatter(formatter(settings.format))
    root = logging.getLogger("proxyd")
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(settings.level.upper())
    root.propagate = False
    logging.Formatter.converter = time.gmtime
    if failure:
        root.error("%s", failure)
