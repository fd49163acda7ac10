"""What it costs to write down the checks of many targets: processor time, and bytes by table.

`scripts/checks URL` feeds results into the writers that the master uses (`HealthRecords`, `HealthHistory`), as fast as they take them.
Their clock is that of the results, so each batch is what it is in a system that runs. Of every two thousand checks one fails, and now and
then a target is down for five minutes. The bytes of a week are reckoned from those of the rows that were written.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from proxyd.base import clock
from proxyd.base.text import rfc3339
from proxyd.cli.dbtool import row_counts, sizes
from proxyd.config.options import BackendTls
from proxyd.config.sections import DatabaseSettings, HealthSettings
from proxyd.health.history import HealthHistory
from proxyd.health.probe import Result, Target
from proxyd.health.records import HealthRecords
from proxyd.health.thresholds import Standing
from proxyd.store.sql import identity
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.models import Route, Session
from proxyd.store.sql.retained import RETAINED
from proxyd.store.sql.snapshot import RouteRecord

DAY, WEEK = 86400.0, 7 * 86400.0
#: Seconds between two batches of single checks.
_STEP = 0.1
_MISSED = 1 / 2000
#: An outage is this long in seconds; of so many targets, one has one in an hour.
_OUTAGE, _ONE_IN = 300.0, 200
_SESSION = "s1"
#: Seconds at the beginning whose rows do not count for the week: at a start each check has its own.
_BEGINNING = 120.0


class Told:
    """The clock of the story, which the writers go by."""

    def __init__(self) -> None:
        self.now = clock.now()


def _declare(count: int) -> list[RouteRecord]:
    """The routes, two of each service, with their rows. Runs in the database thread."""
    at = rfc3339(time.time())
    Session.create(session_id=_SESSION, service_name="svc", instance_name="i", state="connected", connected_at=at, last_activity=at)
    rows: list[dict[str, Any]] = []
    records = []
    for number in range(1, count + 1):
        service, instance, domain = f"svc{number // 2}", f"i{number}", f"svc{number // 2}.test"
        url = f"http://10.0.{number >> 8}.{number & 255}:8080"
        rows.append({"route_id": f"r{number}", "session": _SESSION, "service_name": service, "instance_name": instance,
                     "domains": f'["{domain}"]', "path": "/", "backend_url": url, "priority": 0, "enabled": True, "version": 1,
                     "created_at": at, "updated_at": at, "slot": number})
        records.append(RouteRecord(f"r{number}", _SESSION, service, instance, (domain,), "/", url, 0, True, number, 1, (), (), (), 0.0, "",
                                   0.0, 0.0))
    for first in range(0, count, 50):
        Route.insert_many(rows[first:first + 50]).execute()
    identity.came(rows, "checks")
    return records


def _target(record: RouteRecord, interval: float) -> Target:
    host = record.backend_url.removeprefix("http://").removesuffix(":8080")
    return Target("http", host, 8080, f"{host}:8080", "/", interval, 2.0, frozenset({200}), "", 2, 3, BackendTls())


def _results(told: Told, count: int, interval: float, seconds: float) -> Iterator[tuple[int, Result]]:
    """The number of each target that is checked, and its result. Those of a step have the same instant."""
    chance = random.Random(7)
    good = [Result(True, 200, 0.001 + number / 10_000, "") for number in range(100)]
    missed, refused = Result(False, 503, 0.004, "status 503, expected 200"), Result(False, None, 0.001, "Connection refused")
    down: dict[int, float] = {}
    begin, place, steps = told.now, 0.0, round(seconds / _STEP)
    for step in range(steps):
        told.now = begin + step * _STEP
        upto = place + count * _STEP / interval
        for number in range(int(place), int(upto)):
            target = number % count
            if chance.random() < _MISSED:
                yield target, missed
                continue
            if chance.random() < interval / 3600 / _ONE_IN:
                down[target] = told.now + _OUTAGE
            if target in down and down[target] > told.now:
                yield target, refused
            else:
                yield target, good[number % 100]
        place = upto


def feed(store: Store, count: int, interval: float, seconds: float) -> tuple[float, float, dict[str, int]]:
    """Write the checks of a span of time. Returns the seconds of processor time that writing took, those of judging, and the rows of each
    table after the beginning. Raises StoreError."""
    records = store.call(_declare, count, bound=600.0)
    told = Told()
    clock.now, clock.shift = lambda: told.now, lambda: 0.0
    written, history = HealthRecords(store, HealthSettings()), HealthHistory(store)
    targets = [_target(record, interval) for record in records]
    standings = [Standing(target.rise, target.fall, 100) for target in targets]
    for record, target, standing in zip(records, targets, standings, strict=True):
        history.outages.take(record, standing.status, standing.reason, told.now)
        written.current(record.route_id, target, standing, None, told.now)
    judging, next_batch, next_sums = 0.0, told.now, told.now
    end = told.now + min(_BEGINNING, seconds / 2)
    early: dict[str, int] = {}
    began = time.process_time()
    for number, result in _results(told, count, interval, seconds):
        record, standing = records[number], standings[number]
        before = time.thread_time()
        changed = standing.take(result.ok, result.error)
        judging += time.thread_time() - before
        written.result(record.route_id, result, told.now)
        written.current(record.route_id, targets[number], standing, result, told.now, changed)
        history.outages.judged(record.route_id, result.ok, standing.status, standing.reason, told.now, result.seconds)
        if changed:
            history.outages.settle(told.now)
        if told.now >= next_batch:
            written.flush()
            next_batch = told.now + _STEP
        if told.now >= next_sums:
            next_sums = told.now + history.write()
        if not early and told.now >= end:
            early = store.read(row_counts)
    written.stop()
    history.stop()
    whole = time.process_time() - began
    # What it took to make the results, without any writer.
    before = time.process_time()
    for _ in _results(Told(), count, interval, seconds):
        time.thread_time(), time.thread_time()
    return whole - judging - (time.process_time() - before), judging, early


def _week(name: str, size: int, rate: float, hours: float) -> float:
    """Bytes of a table after a week, by those that it takes now and those that it takes more each second: what is kept for less is
    pruned. `hours`: how many hours it has rows of."""
    kept = [item.age(DatabaseSettings()) for item in RETAINED if item.model._meta.table_name == name]
    if name.endswith("_days"):
        return size * 7.0
    if name.endswith("_hours"):
        return size * WEEK / 3600 / hours
    if name in ("health_results", "health_minutes", "incidents"):
        return rate * min([WEEK, *kept])
    return float(size)


def main(arguments: list[str]) -> int:
    """Feed, and say what it cost; exit status."""
    parser = argparse.ArgumentParser(prog="scripts/checks", description="Write the checks of many targets into a new database as the "
                                     "master does, and say what it costs.")
    parser.add_argument("url", help="as [database] url, of a new database")
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--interval", type=float, default=10.0, help="seconds between two checks of a target")
    parser.add_argument("--minutes", type=float, default=30.0, help="span of the history that is written")
    given = parser.parse_args(arguments)
    store = Store(given.url, busy_timeout=60.0)
    try:
        store.open()
        migrate(store)
        before = store.read(sizes)
        seconds = given.minutes * 60
        spent, judging, early = feed(store, given.targets, given.interval, seconds)
        rows, found = store.read(row_counts), store.read(sizes)
    except StoreError as error:
        print(f"scripts/checks: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()
    checks = given.targets / given.interval * seconds
    print(f"{given.targets} targets each {given.interval:g} s for {given.minutes:g} min: {spent:.1f} s of processor time for writing, "
          f"{100 * spent / seconds:.2f} % of a core, {1e6 * spent / checks:.1f} us a check ({1e6 * judging / checks:.1f} us for judging)")
    print(f"{'table':<20} {'rows':>10} {'bytes':>12} {'a row':>8} {'MB in a week':>13}")
    total, hours = 0.0, max(1.0, rows["health_hours"] / given.targets)
    for name, size in sorted(found.items(), key=lambda item: -item[1]):
        if name in rows and size > before.get(name, 0):
            more = (rows[name] - early[name]) / (seconds - min(_BEGINNING, seconds / 2))
            week = _week(name, size, more * size / max(1, rows[name]), hours)
            total += week
            print(f"{name:<20} {rows[name]:>10} {size:>12} {size / max(1, rows[name]):>8.0f} {week / 1e6:>13.1f}")
    print(f"{'all':<20} {'':>10} {'':>12} {'':>8} {total / 1e6:>13.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
