"""gunicorn's inner parts: what we use of gunicorn beyond what it documents is touched here and nowhere else.

Each function has a test on the pinned version (tests/net/test_gunicorn_inner.py): an upgrade has one place to break. The worker class
alone has to be where it is: it is a subclass of gunicorn's (server/worker).
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Iterator
from typing import Any, TextIO

from gunicorn.glogging import Logger


def queued_signals(arbiter: Any) -> Iterator[int]:
    """Take out the signals that wait in an arbiter's queue; in a worker that was just forked, those of its copy."""
    while True:
        try:
            yield arbiter.SIG_QUEUE.get_nowait()
        except queue.Empty:
            return


class ErrorLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger, whose error log a subclass directs with `error_handler`."""

    def error_handler(self, output: str) -> tuple[str, logging.Formatter, str]:
        """Where the error log goes (a path, or `-`), in which form, and what is logged there first, if anything."""
        raise NotImplementedError

    def _set_handler(self, log: logging.Logger, output: str | None, fmt: Any, stream: TextIO | None = None) -> None:
        if log is not self.error_log or output is None:
            super()._set_handler(log, output, fmt, stream)
            return
        output, form, first = self.error_handler(output)
        super()._set_handler(log, output, form, stream)
        if first:
            log.error("%s", first)
