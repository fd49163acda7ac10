"""Rows of single checks: each has its own where there are few, and equal ones share where there are many; none is lost in either."""

from __future__ import annotations

import pytest

from proxyd.base import clock
from proxyd.base.text import rfc3339
from proxyd.health.probe import Result
from proxyd.health.runs import Run, Runs

GOOD, REFUSED = Result(True, 200, 0.002, ""), Result(False, None, 0.0, "Connection refused")
BEGIN = 1_000_000.0


class Story:
    """Checks of some routes every ten seconds, and the rows that are written."""

    def __init__(self, routes: int, rate: int = 10, queue: int = 100_000) -> None:
        self.runs = Runs(queue, rate)
        self.routes = routes
        self.now = BEGIN
        self.rows: dict[Run, int] = {}
        self.made = 0

    def pass_time(self, seconds: float, result: Result = GOOD, write: bool = True) -> None:
        end = self.now + seconds
        while self.now < end:
            for number in range(self.routes):
                self.check(f"r{number}", result, self.now + 10 * number / self.routes)
            self.now += 10
            if write:
                self.write()

    def check(self, route_id: str, result: Result, now: float) -> None:
        self.runs.take(route_id, result, now)
        self.made += 1

    def write(self) -> None:
        while batch := self.runs.batch(self.now):
            self.rows.update({run: run.checks for run in [*batch.new, *batch.grown]})

    def end(self) -> None:
        while batch := self.runs.last():
            self.rows.update({run: run.checks for run in [*batch.new, *batch.grown]})


def test_where_there_are_few_each_check_has_a_row_of_its_own() -> None:
    story = Story(100)
    story.pass_time(300)
    assert len(story.rows) == story.made == 3000 and set(story.rows.values()) == {1}
    row = next(iter(story.rows)).row()
    assert (row["checks"], row["response_time_ms"], row["last_checked_at"], row["response_time_ms_min"]) == (1, 2.0, None, None)


def test_checks_in_maintenance_share_no_row_with_others() -> None:
    story = Story(2000)
    story.pass_time(200)
    for number, planned in enumerate((False, True, True, False, False)):
        story.runs.take("r7", GOOD, story.now + number / 100, planned)
    story.end()
    rows = [run.row() for run in story.rows if run.route_id == "r7" and run.last >= story.now]
    assert [(row["planned"], row["checks"]) for row in rows[-2:]] == [(True, 2), (False, 2)]


def test_where_there_are_many_rows_come_at_the_rate_that_is_set_and_count_every_check() -> None:
    story = Story(2000)
    story.pass_time(200)
    begun = len(story.rows)
    story.pass_time(1000)
    assert 0.8 * 10_000 <= len(story.rows) - begun <= 1.1 * 10_000
    story.end()
    assert sum(story.rows.values()) == story.made == 240_000


def test_another_outcome_begins_a_row_at_once_and_the_old_one_is_completed() -> None:
    story = Story(1000)
    story.pass_time(60)
    # One whose row has grown, and which has its place in the span later: a row is over there at the latest, whatever the outcome.
    route_id = next(name for name, run in story.runs._open.items() if run.checks > 1 and story.runs._until(name, story.now) > story.now + 1)
    for number, result in enumerate((REFUSED, Result(True, 200, 0.004, ""), Result(True, 200, 0.006, ""))):
        story.check(route_id, result, story.now + number / 100)
    batch = story.runs.batch(story.now)
    failed, good = (run for run in batch.new if run.route_id == route_id)
    assert failed.row() == {
        "route_id": route_id, "checked_at": rfc3339(clock.shown(story.now)), "ok": False, "status_code": None, "response_time_ms": None,
        "error": "Connection refused", "checks": 1, "last_checked_at": None, "response_time_ms_min": None, "response_time_ms_max": None,
        "planned": False}
    row = good.row()
    assert (row["ok"], row["checks"], row["response_time_ms"], row["response_time_ms_min"], row["response_time_ms_max"]) == (
        True, 2, 5.0, 4.0, 6.0)
    assert row["last_checked_at"] == rfc3339(clock.shown(story.now + 0.02))
    assert [run.route_id for run in batch.grown].count(route_id) == 1


def test_rows_that_grow_are_written_once_a_minute() -> None:
    story = Story(3000)
    story.pass_time(40)
    story.write()
    before = dict(story.rows)
    story.pass_time(70)
    story.write()
    assert sum(1 for run, checks in before.items() if story.rows[run] > checks) > 2000


def test_a_row_is_found_again_when_the_time_of_day_was_set_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story(1000)
    story.pass_time(60)
    run = next(run for run in story.rows if run.checks > 1)
    at = run.row()["checked_at"]
    monkeypatch.setattr(clock, "shift", lambda: 3600.0)
    assert run.row()["checked_at"] == at and str(run.row()["last_checked_at"]) > at


def test_what_can_t_be_written_waits_and_the_oldest_go_first() -> None:
    story = Story(4, queue=10)
    story.pass_time(20, write=False)
    batch = story.runs.batch(story.now)
    story.check("r0", REFUSED, story.now)
    story.runs.back(batch)
    assert story.runs.waiting() == 9 and story.runs.dropped == 0
    story.pass_time(10, write=False)
    assert story.runs.waiting() == 10 and story.runs.dropped == 3
    story.end()
    assert sum(story.rows.values()) == story.made - 3 and REFUSED.error in {run.error for run in story.rows}


@pytest.mark.parametrize("written", [True, False])
def test_a_route_that_is_no_longer_checked_leaves_its_last_row_complete(written: bool) -> None:
    story = Story(1000)
    story.pass_time(60)
    if written:
        story.write()
    story.runs.forget("r5")
    story.write()
    assert sum(checks for run, checks in story.rows.items() if run.route_id == "r5") == 6
