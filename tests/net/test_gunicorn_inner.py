"""gunicorn's inner parts are on the pinned version what our code takes them for. Each test fails when one is gone or does otherwise."""

from __future__ import annotations

import logging
import signal
from pathlib import Path

from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger

from proxyd.net import gunicorn_inner as inner


class _Application(BaseApplication):  # type: ignore[misc]
    def load_config(self) -> None:
        """The defaults."""

    def load(self) -> None:
        """Nothing to serve."""


def test_the_signals_that_wait_for_an_arbiter_can_be_taken_out() -> None:
    arbiter = Arbiter(_Application())
    arbiter.signal(signal.SIGTERM, None)
    arbiter.signal(signal.SIGHUP, None)
    assert list(inner.queued_signals(arbiter)) == [signal.SIGTERM, signal.SIGHUP]
    assert list(inner.queued_signals(arbiter)) == []


def test_the_error_log_goes_where_the_subclass_says_in_its_form(tmp_path: Path) -> None:
    class Directed(inner.ErrorLogger):
        def error_handler(self, output: str) -> tuple[str, logging.Formatter, str]:
            return output + ".other", logging.Formatter("form: %(message)s"), "said first"

    config = Config()
    config.set("errorlog", str(tmp_path / "log"))
    logger = Directed(config)
    logger.error("later")
    assert (tmp_path / "log.other").read_text() == "form: said first\nform: later\n"
    assert not (tmp_path / "log").exists()
    # Logging is the process's own: leave it as gunicorn makes it by itself.
    Logger(Config())
