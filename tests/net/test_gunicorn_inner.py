"""gunicorn's inner parts are on the pinned version what our code takes them for. Each test fails when one is gone or does otherwise."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.sync import SyncWorker

from proxyd.net import gunicorn_inner as inner
from proxyd.net import workerstart
from tests.support.signalsets import handle_signals
from tests.support.waiting import free_port, wait_for


class _Application(BaseApplication):  # type: ignore[misc]
    def load_config(self) -> None:
        """The defaults."""

    def load(self) -> None:
        """Nothing to serve."""


class _Own(inner.OwnArbiter):
    """Starts what is lacking, and notes what it is told."""

    def begin(self) -> None:
        self.told: list[str] = []
        self.others: list[int] = []

    def other_ended(self, pid: int) -> None:
        self.others.append(pid)

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
        workerstart.tell_failure(self, f"{len(set(inner.SIGNALS) - blocked)} signals may come")
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


def test_a_child_that_is_no_worker_has_nothing_of_the_arbiters_open_and_its_end_is_told(own: _Own, tmp_path: Path) -> None:
    said = tmp_path / "said"
    signal.signal(signal.SIGTERM, own.signal)

    def look() -> int:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        found = [number for number in (*inner.SIGNALS, signal.SIGCHLD) if signal.getsignal(number) is not signal.SIG_DFL]
        sockets = [number for number in range(3, 256) if is_open(number) and stat.S_ISSOCK(os.fstat(number).st_mode)]
        said.write_text(f"{set(inner.SIGNALS) <= blocked} {found} {listener.fileno() in sockets} {os.readlink('/proc/self/fd/0')} "
                        f"{own.log.error_log.handlers}")
        return 7

    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            own.LISTENERS = [listener]
            pid = own.fork(look)
        wait_for(lambda: other_buried(own), what="the child's end")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        own.LISTENERS = []
    assert own.others == [pid]
    assert said.read_text() == "True [] False /dev/null []"


def other_buried(own: _Own) -> bool:
    own.reap_workers()
    return bool(own.others)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("ends", "status"), [(lambda: 5, 5), (lambda: sys.exit(4), 4), (lambda: sys.exit("why"), 1), (lambda: 1 // 0, 1)])
def test_it_ends_with_the_status_that_it_gives_and_never_goes_on_as_the_arbiter(own: _Own, ends: Callable[[], int], status: int) -> None:
    assert os.waitstatus_to_exitcode(os.waitpid(own.fork(ends), 0)[1]) == status


class _Gentle(SyncWorker):  # type: ignore[misc]
    """A worker that needs half a second to end after TERM, and ends with status 9 after QUIT."""

    def init_process(self) -> None:
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(9))
        signal.signal(signal.SIGTERM, self.end_slowly)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, inner.SIGNALS)
        workerstart.tell_accepting(self)
        handle_signals()

    def end_slowly(self, *told: object) -> None:
        time.sleep(0.5)
        os._exit(0)


@pytest.fixture
def gentle(own: _Own, monkeypatch: pytest.MonkeyPatch) -> _Own:
    """An arbiter with such a worker. It notes how its workers end, and the time of day is set ahead each time that it looks at it."""
    own.worker_class = _Gentle
    own.manage_workers()
    (worker,) = own.WORKERS.values()
    wait_for(lambda: workerstart.accepts(worker), what="the worker")
    monkeypatch.setattr(own, "_bury", lambda pid, code, worker: own.told.append(str(code)))
    now = itertools.count(time.time(), 3600.0)
    monkeypatch.setattr(time, "time", lambda: next(now))
    return own


def test_a_clock_that_is_set_does_not_cut_what_ends_gracefully(gentle: _Own) -> None:
    gentle.stop()
    assert gentle.told == ["0"]


def test_int_ends_a_graceful_stop_at_once_also_when_it_came_together_with_term(gentle: _Own) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        gentle.SIG_QUEUE.put(number)
    assert gentle.wait_for_signals(1.0) == [signal.SIGINT, signal.SIGTERM]
    gentle.SIG_QUEUE.put(signal.SIGINT)
    gentle.stop()
    assert gentle.told == ["9"]


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
