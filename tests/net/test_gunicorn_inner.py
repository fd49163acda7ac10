"""gunicorn's inner parts are on the pinned version what our code takes them for. Each test fails when one is gone or does otherwise."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.sync import SyncWorker
from gunicorn.workers.workertmp import WorkerTmp

from proxyd.net import gunicorn_inner as inner
from tests.support.waiting import free_port, wait_for


class _Application(BaseApplication):  # type: ignore[misc]
    def load_config(self) -> None:
        """The defaults."""

    def load(self) -> None:
        """Nothing to serve."""


class _Worker:
    """What the arbiter makes before it forks: a file that both have."""

    def __init__(self) -> None:
        self.tmp = WorkerTmp(Config())

    def notify(self) -> None:
        """As gunicorn's does."""
        self.tmp.notify()


def test_a_worker_tells_the_arbiter_that_it_accepts_or_why_it_cannot_start() -> None:
    worker = _Worker()
    assert not inner.accepts(worker) and inner.failure(worker) == ""
    inner.tell_failure(worker, "no memory")
    assert not inner.accepts(worker) and inner.failure(worker) == "no memory"
    inner.tell_accepting(worker)
    assert inner.accepts(worker) and inner.failure(worker) == ""
    # Its last sign of life is still by the arbiter's clock.
    assert 0 <= time.monotonic() - worker.tmp.last_update() < 60
    worker.tmp.close()
    assert not inner.accepts(worker)


class _Own(inner.OwnArbiter):
    """Starts what is lacking, and notes what it is told."""

    def begin(self) -> None:
        self.told: list[str] = []

    def manage(self) -> None:
        for _ in range(self.num_workers - len(self.WORKERS)):
            self.spawn()

    def not_started(self, why: str) -> None:
        self.told.append(why)

    def not_reloaded(self, why: str) -> None:
        self.told.append(f"not reloaded: {why}")


class _Ending(SyncWorker):  # type: ignore[misc]
    """A worker that ends at once, with status 3, by which gunicorn's arbiter ends as well."""

    def init_process(self) -> None:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        inner.tell_failure(self, f"{len(set(inner.SIGNALS) - blocked)} signals may come")
        # Not by SystemExit, which pytest would take for its own.
        os._exit(Arbiter.WORKER_BOOT_ERROR)


def buried(own: _Own) -> bool:
    own.reap_workers()
    return not own.WORKERS


@pytest.fixture
def own() -> Iterator[_Own]:
    """gunicorn's arbiter, adopted, without listeners and handlers of signals."""
    application = _Application()
    application.cfg.set("worker_class", _Ending)
    arbiter = Arbiter(application)
    arbiter.WORKERS = {}
    arbiter.pid = os.getpid()
    _Own.adopt(arbiter)
    yield arbiter
    Logger(Config())


def test_a_worker_that_cannot_start_ends_no_arbiter_and_signals_wait_for_its_handlers(own: _Own) -> None:
    own.manage_workers()
    (worker,) = own.WORKERS.values()
    wait_for(lambda: buried(own), what="the worker's end")
    assert own.told == ["0 signals may come"]
    assert worker.tmp._tmp.closed
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(inner.SIGNALS)


def test_no_room_for_another_process_is_told(own: _Own) -> None:
    own.cfg.set("worker_tmp_dir", "/nowhere/at/all")
    own.manage_workers()
    assert len(own.told) == 1 and "/nowhere/at/all" in own.told[0]


def test_a_worker_that_was_asked_to_stop_has_not_failed(own: _Own) -> None:
    own.manage_workers()
    (pid,) = own.WORKERS
    own.ask_to_stop(pid)
    wait_for(lambda: buried(own), what="the worker's end")
    assert own.told == []
    own.num_workers = 0
    own.manage_workers()
    assert own.asked == set()


def test_a_configuration_that_cannot_be_read_again_or_listened_on_leaves_the_old_one(own: _Own) -> None:
    before, address = own.cfg, "127.0.0.1:1"
    with socket.create_server(("127.0.0.1", 0)) as other:
        for listeners in ([f"127.0.0.1:{other.getsockname()[1]}"], [address, "unix:/nowhere/at/all"]):
            own.app.load_config = lambda listeners=listeners: own.app.cfg.set("bind", listeners)
            own.reload()
            assert own.cfg is before and own.app.cfg is before and own.LISTENERS == []
    assert [text.partition(":")[0] for text in own.told] == ["not reloaded"] * 2


def test_a_reload_keeps_the_listeners_that_are_still_wanted(own: _Own) -> None:
    own.num_workers = 0
    first, second = free_port(), free_port()
    kept: list[object] = []
    for ports in ([first], [second, first], [second]):
        own.app.load_config = lambda ports=ports: (own.app.cfg.set("workers", 0),
                                                   own.app.cfg.set("bind", [f"127.0.0.1:{port}" for port in ports]))
        own.reload()
        assert [listener.getsockname()[1] for listener in own.LISTENERS] == ports
        kept.append({listener.getsockname()[1]: listener.fileno() for listener in own.LISTENERS})
    assert kept[1] == {**kept[0], **kept[2]}  # type: ignore[dict-item]
    assert own.told == []
    for listener in own.LISTENERS:
        listener.close()


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
