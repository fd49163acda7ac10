"""Greenlets that are used again: one does jobs after each other, and what is meant for a job reaches no later one."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event
from gevent.hub import get_hub

from proxyd.net.crew import begin


def test_one_greenlet_does_the_next_job_and_a_kill_that_comes_late_ends_nothing() -> None:
    seen: list[object] = []
    first = begin(lambda _: seen.append(gevent.getcurrent()), None)
    first.join()
    gone_on = Event()

    def second(argument: str) -> None:
        seen.append(gevent.getcurrent())
        gone_on.wait()
        seen.append(argument)

    later = begin(second, "ended")
    first.kill()
    gevent.sleep(0)
    assert seen[0] is seen[1]
    gone_on.set()
    later.join()
    assert seen[2] == "ended"


def test_a_job_is_killed_where_it_waits_and_who_joins_it_goes_on() -> None:
    ends: list[str] = []

    def wait(argument: str) -> None:
        try:
            Event().wait()
        finally:
            ends.append(argument)

    job = begin(wait, "killed")
    gevent.sleep(0)
    job.kill()
    job.join()
    assert ends == ["killed"]
    # The next one has a greenlet that lives.
    begin(ends.append, "next").join()
    assert ends == ["killed", "next"]


def test_an_error_of_a_job_is_told_and_the_next_one_has_a_greenlet_that_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda context, kind, error, trace: told.append(f"{kind.__name__}: {error}"))

    def fail(argument: str) -> None:
        raise ValueError(argument)

    begin(fail, "of this job").join()
    # It is told after the job counts as over.
    with gevent.Timeout(10):
        while not told:
            gevent.sleep(0)
    assert told == ["ValueError: of this job"]
    ends: list[str] = []
    begin(ends.append, "next").join()
    assert ends == ["next"]
