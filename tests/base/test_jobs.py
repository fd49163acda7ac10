"""The loop of background jobs."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable, Iterator

import gevent
import pytest

from proxyd.base.jobs import Glance, Job, JobOver

log = logging.getLogger("tests.jobs")


def until(condition: Callable[[], object]) -> None:
    """Let the job's greenlet run until something is so."""
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.001)


@pytest.fixture
def make() -> Iterator[Callable[..., Job]]:
    """Start a job, and stop it in the end."""
    made: list[Job] = []

    def start(interval: float | None, function: Callable[[], float | None], **more: object) -> Job:
        made.append(Job("tidying", interval, function, log, **more))  # type: ignore[arg-type]
        made[-1].start()
        return made[-1]

    yield start
    for job in made:
        job.stop()


def test_it_runs_again_and_again_until_it_is_stopped(make: Callable[..., Job]) -> None:
    before = time.time()
    job = make(0.001, lambda: gevent.sleep(0.01))
    until(lambda: job.runs == 3)
    assert job.alive() and job.errors == 0 and job.error == ""
    assert job.duration >= 0.01 and before <= job.last_run <= time.time()
    job.stop()
    runs = job.runs
    gevent.sleep(0.03)
    assert job.runs == runs and not job.alive()


def test_an_error_never_ends_it_and_is_said_once_a_kind_and_when_it_is_over(
        make: Callable[..., Job], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    outcomes: list[Exception | None] = [OSError("full"), OSError("full"), OSError("gone"), KeyError("x"), None, None]

    def work() -> None:
        outcome = outcomes.pop(0) if outcomes else None
        if outcome is not None:
            raise outcome

    job = make(0.001, work, retry=0.001, expected=OSError, trouble="nothing is tidy")
    until(lambda: job.runs >= 6)
    assert job.errors == 4 and job.error == ""
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is tidy: full", "nothing is tidy: gone", "nothing is tidy: 'x'", "nothing is tidy: over"]
    assert [bool(record.exc_info) for record in caplog.records] == [False, False, True, False]


def test_what_the_host_lacks_is_said_in_a_line_wherever_it_comes(make: Callable[..., Job], caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        raise OSError(errno.EMFILE, "Too many open files", "some/file")

    job = make(0.001, work, retry=0.001)
    until(lambda: job.runs >= 2)
    (record,) = caplog.records
    assert "Too many open files: 'some/file'" in record.getMessage() and not record.exc_info


def test_what_fails_is_shown_and_tried_again_though_nobody_wakes_it(make: Callable[..., Job]) -> None:
    def work() -> None:
        raise OSError("full")

    job = make(None, work, retry=0.001)
    job.wake()
    until(lambda: job.runs >= 3)
    assert job.errors >= 3 and job.error == "full"


def test_without_an_interval_it_runs_when_woken_alone(make: Callable[..., Job]) -> None:
    job = make(None, lambda: None)
    gevent.sleep(0.02)
    assert job.runs == 0 and job.last_run == 0
    job.wake()
    until(lambda: job.runs == 1)
    gevent.sleep(0.02)
    assert job.runs == 1


def test_being_woken_does_not_shorten_the_gap(make: Callable[..., Job]) -> None:
    at: list[float] = []
    job = make(None, lambda: at.append(time.monotonic()), gap=0.05)
    job.wake()
    until(lambda: job.runs == 1)
    job.wake()
    until(lambda: job.runs == 2)
    assert at[1] - at[0] >= 0.05


def test_the_function_may_say_when_it_is_called_again_and_that_it_is_over(make: Callable[..., Job]) -> None:
    pauses = [0.0, 0.0]

    def work() -> float:
        if not pauses:
            raise JobOver
        return pauses.pop()

    job = make(600, work, first=0.0)
    until(lambda: not job.alive())
    assert job.runs == 2 and job.errors == 0


def test_a_glance_is_taken_by_the_event_loop_until_it_is_stopped_whatever_it_raises() -> None:
    seen: list[float] = []

    def look() -> None:
        seen.append(time.monotonic())
        if len(seen) == 2:
            raise ValueError("once")

    before = gevent.get_hub().exception_stream
    gevent.get_hub().exception_stream = None
    glance = Glance(0.01, look)
    began = time.monotonic()
    glance.start()
    try:
        with gevent.Timeout(10):
            while len(seen) < 5:
                gevent.sleep(0.01)
    finally:
        glance.stop()
        gevent.get_hub().exception_stream = before
    # A loop that was late may make up for it, but not more than that.
    assert len(seen) <= (seen[-1] - began) / 0.01 + 3
    taken = len(seen)
    gevent.sleep(0.05)
    assert len(seen) == taken
    glance.stop()
