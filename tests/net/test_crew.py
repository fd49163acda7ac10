"""Greenlets that are used again: one does jobs after each other, and what is meant for a job reaches no later one."""

from __future__ import annotations

import gevent
from gevent.event import Event

from proxyd.net.crew import begin


def test_one_greenlet_does_the_next_job_and_a_kill_that_comes_late_ends_nothing() -> None:
    seen: list[object] = []
    first = begin(lambda: seen.append(gevent.getcurrent()))
    first.join()
    gone_on = Event()

    def second() -> None:
        seen.append(gevent.getcurrent())
        gone_on.wait()
        seen.append("ended")

    later = begin(second)
    first.kill()
    gevent.sleep(0)
    assert seen[0] is seen[1]
    gone_on.set()
    later.join()
    assert seen[2] == "ended"


def test_a_job_is_killed_where_it_waits_and_who_joins_it_goes_on() -> None:
    ends: list[str] = []

    def wait() -> None:
        try:
            Event().wait()
        finally:
            ends.append("killed")

    job = begin(wait)
    gevent.sleep(0)
    job.kill()
    job.join()
    assert ends == ["killed"]
    # The next one has a greenlet that lives.
    begin(ends.append, "next").join()
    assert ends == ["killed", "next"]
