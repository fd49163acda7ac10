"""Which workers are started and stopped."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.server.replacing import Plan, Replacing, Seen


def worker(age: int, accepts: bool = True, asked: bool = False) -> Seen:
    return Seen(1000 + age, age, accepts, asked)


def test_a_start_starts_as_many_as_are_wanted_and_stops_none() -> None:
    assert Replacing().plan([], 3, 0.0) == Plan(3, [])
    assert Replacing().plan([worker(1, accepts=False)], 3, 0.0) == Plan(2, [])


def test_an_old_worker_ends_for_each_new_one_that_accepts_and_not_before() -> None:
    replacing = Replacing()
    replacing.replace(2)
    old = [worker(1), worker(2)]
    assert replacing.plan(old, 2, 0.0) == Plan(2, [])
    assert replacing.plan([*old, worker(3, False), worker(4, False)], 2, 0.0) == Plan(0, [])
    assert replacing.plan([*old, worker(3), worker(4, False)], 2, 0.0) == Plan(0, [1001])
    assert replacing.plan([worker(1, asked=True), worker(2), worker(3), worker(4)], 2, 0.0) == Plan(0, [1002])


def test_what_was_not_ready_when_the_settings_changed_again_never_has_to_be() -> None:
    replacing = Replacing()
    replacing.replace(4)
    assert replacing.plan([worker(1), worker(2), worker(3, False), worker(4, False)], 2, 0.0) == Plan(2, [1003, 1004])


def test_one_more_and_one_less() -> None:
    assert Replacing().plan([worker(1), worker(2)], 3, 0.0) == Plan(1, [])
    assert Replacing().plan([worker(1), worker(2), worker(3)], 2, 0.0) == Plan(0, [1001])
    # The one that starts is not waited for.
    assert Replacing().plan([worker(1), worker(2), worker(3, False)], 2, 0.0) == Plan(0, [1003])


def test_an_old_worker_that_died_is_replaced_by_a_new_one_however_many_end() -> None:
    replacing = Replacing()
    replacing.replace(9)
    ending = [worker(age, asked=True) for age in range(1, 9)]
    assert replacing.plan([*ending, worker(8), worker(9)], 2, 0.0).start == 0
    assert replacing.plan([*ending, worker(9)], 2, 0.0).start == 1


def test_starts_that_fail_are_ever_further_apart_and_new_settings_are_tried_at_once() -> None:
    replacing = Replacing()
    pauses, now = [], 0.0
    for _ in range(8):
        pauses.append(replacing.failed(now))
        assert replacing.failed(now) == pytest.approx(pauses[-1]), "two that fail together count twice"
        assert replacing.plan([], 2, now).start == 0
        now += pauses[-1]
        assert replacing.plan([], 2, now).start == 2
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    replacing.failed(now)
    replacing.replace(0)
    assert replacing.plan([], 2, now).start == 2
    assert replacing.failed(now) == pytest.approx(0.1)


WORKERS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=16).map(
    lambda states: [worker(age, *state) for age, state in enumerate(states, 1)])


@given(WORKERS, st.integers(1, 4), st.integers(0, 16))
def test_the_number_of_those_that_serve_never_falls_below_what_is_wanted_by_a_stop(workers: list[Seen], wanted: int, before: int) -> None:
    replacing = Replacing()
    replacing.replace(before)
    plan = replacing.plan(workers, wanted, 0.0)
    serving = {item.pid for item in workers if item.accepts and not item.asked}
    assert len(serving - set(plan.stop)) >= min(wanted, len(serving))
    assert not set(plan.stop) & {item.pid for item in workers if item.asked}
    assert len(set(plan.stop)) == len(plan.stop)
    going_on = [item for item in workers if not item.asked]
    assert len(workers) + plan.start <= max(4 * wanted, len(workers) + max(0, wanted - len(going_on)))


@given(st.integers(1, 4), st.data())
def test_it_settles_whatever_there_was(wanted: int, data: st.DataObject) -> None:
    workers = data.draw(WORKERS)
    replacing = Replacing()
    replacing.replace(data.draw(st.integers(0, len(workers))))
    age = len(workers)
    for _ in range(40):
        plan = replacing.plan(workers, wanted, 0.0)
        # Those that were asked to stop end; one that starts is ready.
        workers = [item._replace(accepts=True, asked=item.pid in plan.stop) for item in workers if not item.asked]
        workers += [worker(age := age + 1, accepts=False) for _ in range(plan.start)]
        if replacing.settled(workers, wanted):
            return
    raise AssertionError(workers)
