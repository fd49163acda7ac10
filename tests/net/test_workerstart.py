"""A worker tells the arbiter of its start in the file that both have."""

from __future__ import annotations

import time

from gunicorn.config import Config
from gunicorn.workers.workertmp import WorkerTmp

from proxyd.net import workerstart


class _Worker:
    """What the arbiter makes before it forks: a file that both have."""

    def __init__(self) -> None:
        self.tmp = WorkerTmp(Config())

    def notify(self) -> None:
        """As gunicorn's does."""
        self.tmp.notify()


def lives(worker: _Worker) -> bool:
    """Whether its last sign of life is by the arbiter's clock."""
    return bool(0 <= time.monotonic() - worker.tmp.last_update() < 60)


def test_a_worker_tells_the_arbiter_that_it_accepts_or_why_it_cannot_start() -> None:
    worker = _Worker()
    assert not workerstart.accepts(worker) and not workerstart.stands(worker) and workerstart.failure(worker) == ""
    workerstart.tell_failure(worker, "no memory")
    assert not workerstart.accepts(worker) and not workerstart.stands(worker) and workerstart.failure(worker) == "no memory"
    workerstart.tell_accepting(worker)
    assert workerstart.accepts(worker) and workerstart.stands(worker) and workerstart.failure(worker) == "" and lives(worker)
    worker.tmp.close()
    assert not workerstart.accepts(worker)


def test_one_that_was_asked_to_stop_before_has_not_failed() -> None:
    worker = _Worker()
    workerstart.tell_stopped(worker)
    assert workerstart.stands(worker) and not workerstart.accepts(worker) and workerstart.failure(worker) == "" and lives(worker)
    worker.tmp.close()
