"""The schedule alone: that turns keep their interval, and that those which hang hold up nobody else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent
import pytest

from proxyd.health.schedule import Schedule, Turn
from tests.support.waiting import patience, wait_for


@pytest.fixture
def new_schedule() -> Iterator[Callable[..., Schedule]]:
    """Make running schedules."""
    made: list[Schedule] = []

    def make(size: int = 10, jitter: float = 0.0) -> Schedule:
        made.append(Schedule(size, jitter))
        made[-1].start()
        return made[-1]

    yield make
    for schedule in made:
        schedule.stop()


class Work:
    """A turn that notes when it was done; `seconds` is how long it takes."""

    def __init__(self, interval: float, seconds: float = 0.0) -> None:
        self.turn = Turn(interval, self)
        self.seconds = seconds
        self.times: list[float] = []

    def __call__(self) -> None:
        self.times.append(time.monotonic())
        gevent.sleep(self.seconds)


def test_a_turn_comes_each_interval_without_drift(new_schedule: Callable[..., Schedule]) -> None:
    def keeps_time() -> bool:
        schedule, work = new_schedule(jitter=0.02), Work(0.1, 0.03)
        schedule.add(work.turn, 0.05)
        gevent.sleep(1.5)
        schedule.end(work.turn)
        # The first two are spread by chance.
        steps = [later - earlier for earlier, later in zip(work.times[1:], work.times[2:], strict=False)]
        told.append(steps)
        # Behind a turn that a busy machine made late, the next one comes sooner.
        return ((patience(1.0) > 1.0 or 12 <= len(work.times) <= 16)
                and all(0.07 / patience(1.0) < step < patience(0.2) for step in steps)
                and abs(sum(steps) / len(steps) - 0.1) < 0.01 * patience(1.0))

    told: list[list[float]] = []
    # One try may meet a moment in which this process has no turn; what drifts does so each time.
    assert any(keeps_time() for _ in range(4)), told


def test_turns_that_hang_hold_up_neither_those_that_answer_nor_new_ones(new_schedule: Callable[..., Schedule]) -> None:
    schedule = new_schedule(size=10)
    quick = [Work(0.1) for _ in range(20)]
    for work in quick:
        schedule.add(work.turn, 0.1)
    gevent.sleep(0.3)
    hanging = [Work(0.1, 1.2) for _ in range(40)]
    for work in hanging:
        schedule.add(work.turn, 0.0)
    gevent.sleep(1.5)
    before = [len(work.times) for work in quick]
    # Now it is known of the first that they hang, and the others wait for them.
    begun = time.monotonic()
    fresh = Work(0.1)
    schedule.add(fresh.turn, 0.0)
    gevent.sleep(1.0)
    assert all(len(work.times) - known >= 7 / patience(1.0) for work, known in zip(quick, before, strict=True))
    assert sum(len(work.times) for work in hanging) <= 30
    assert schedule.lag > 0.5
    # Behind all that hang, it would have its turn after five seconds.
    until = begun + patience(2.0)
    while not fresh.times:
        assert time.monotonic() < until, "the new one is held up"
        gevent.sleep(0.01)


def test_a_turn_that_fails_in_itself_comes_again(new_schedule: Callable[..., Schedule]) -> None:
    schedule = new_schedule()
    times = []

    def fail() -> None:
        times.append(1)
        raise ZeroDivisionError

    schedule.add(Turn(0.05, fail), 0.0)
    wait_for(lambda: len(times) >= 4, 5.0, "its next turns", 0.01, gevent.sleep)
    assert schedule.alive()


def test_a_hurried_turn_is_done_at_once_and_its_schedule_goes_on(new_schedule: Callable[..., Schedule]) -> None:
    schedule, work = new_schedule(), Work(3600.0)
    schedule.add(work.turn, 0.0)
    gevent.sleep(0.05)
    assert len(work.times) == 1
    schedule.hurry(work.turn)
    schedule.hurry(work.turn)
    gevent.sleep(0.05)
    assert len(work.times) == 2
    assert work.turn.ticket


def test_one_that_is_hurried_while_it_is_done_is_done_once_more(new_schedule: Callable[..., Schedule]) -> None:
    schedule, work = new_schedule(), Work(3600.0, 0.1)
    schedule.add(work.turn, 0.0)
    gevent.sleep(0.03)
    schedule.hurry(work.turn)
    gevent.sleep(0.3)
    assert len(work.times) == 2


def test_a_turn_that_ended_is_done_no_more(new_schedule: Callable[..., Schedule]) -> None:
    schedule, work = new_schedule(), Work(0.05)
    schedule.add(work.turn, 0.0)
    gevent.sleep(0.12)
    schedule.end(work.turn)
    done = len(work.times)
    gevent.sleep(0.15)
    assert len(work.times) == done
