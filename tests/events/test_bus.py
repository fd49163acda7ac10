"""The bus keeps order, also while the database can't be written, and loses the oldest first."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxyd.events import bus as bus_module
from proxyd.events.bus import Event, EventBus
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.observed import EventRow
from proxyd.store.sql.query import column


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/proxyd.db", busy_timeout=0.05)
    opened.open()
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many events wait at most: few enough to go beyond in a test."""
    monkeypatch.setattr(bus_module, "_MAX_PENDING", 5)
    return 5


@contextlib.contextmanager
def locked(tmp_path: Path) -> Iterator[None]:
    """The database's write lock, held by somebody else."""
    with contextlib.closing(sqlite3.connect(tmp_path / "proxyd.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def kept(store: Store) -> list[str]:
    return store.read(lambda: column(EventRow.select(EventRow.detail).order_by(EventRow.id)))


def publish(bus: EventBus, *numbers: int) -> None:
    for number in numbers:
        bus.publish("global_config_changed", {"file": number})


def rows(*numbers: int) -> list[str]:
    return [f'{{"file": {number}}}' for number in numbers]


def test_events_that_could_not_be_written_come_before_those_that_came_later(store: Store, tmp_path: Path) -> None:
    bus = EventBus(store)
    with locked(tmp_path):
        publish(bus, 1, 2, 3)
        bus.stop()
        assert kept(store) == []
        publish(bus, 4, 5)
    bus.stop()
    assert kept(store) == rows(1, 2, 3, 4, 5)


def test_the_oldest_go_where_more_wait_than_there_is_room_for(store: Store, tmp_path: Path, few: int) -> None:
    bus = EventBus(store)
    with locked(tmp_path):
        publish(bus, *range(1, few + 3))
        bus.stop()
    bus.stop()
    assert kept(store) == rows(3, 4, 5, 6, 7)


def test_what_comes_while_a_batch_can_not_be_written_is_not_lost_for_older_events(store: Store, tmp_path: Path, few: int) -> None:
    bus = EventBus(store)
    with locked(tmp_path):
        publish(bus, 1, 2, 3, 4, 5)
        flushing = gevent.spawn(bus.stop)
        # Until the batch is taken out and waits for the database.
        gevent.sleep(0)
        publish(bus, 6, 7)
        flushing.join()
    bus.stop()
    assert kept(store) == rows(3, 4, 5, 6, 7)


def test_subscribers_are_told_in_order_and_one_that_fails_keeps_none_from_it(store: Store) -> None:
    bus = EventBus(store)
    told: list[int] = []

    def fail(event: Event) -> None:
        raise ValueError("this subscriber fails")

    bus.subscribe(fail)
    end = bus.subscribe(lambda event: told.append(event.data["file"]))
    publish(bus, 1, 2)
    end()
    publish(bus, 3)
    assert told == [1, 2]
