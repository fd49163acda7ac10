"""What an operator has asked for is ordered, whatever happens before the order begins."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest

from proxyd.base.text import rfc3339
from proxyd.certs.orders import Orders
from proxyd.config.sections import AcmeSettings, DatabaseSettings, TlsSettings
from proxyd.config.settings import Settings
from proxyd.events.bus import EventBus
from proxyd.registry.auth import Grant
from proxyd.store.memory.board import Board
from proxyd.store.sql import certificates, models
from proxyd.store.sql.changes import bump
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import migrate
from tests.support.certificates import Authority
from tests.support.pebble import Pebble
from tests.support.waiting import free_port

NOW = rfc3339(1_700_000_000.0)


def until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.01)


def declare(number: int) -> None:
    """Another route."""
    if not number:
        models.Session.create(session_id="s1", service_name="app", instance_name="i1", state="connected", connected_at=NOW,
                              last_activity=NOW)
    version = bump("config_version")
    models.Route.create(route_id=f"r{number}", session="s1", service_name="app", instance_name="i1",
                        domains=f'["n{number}.example.com"]', path="/", backend_url="http://127.0.0.1:9", priority=0, enabled=True,
                        slot=number, version=version, created_at=NOW, updated_at=NOW)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/p.db", busy_timeout=0.2)
    store.open()
    migrate(store)
    yield store
    store.close()


Make = Callable[..., Orders]


@pytest.fixture
def make(database: Store, tmp_path: Path) -> Iterator[Make]:
    """Orders of a CA. The test looks in the job's place."""
    board = Board(str(tmp_path))
    made: list[Orders] = []

    def orders(**acme: str) -> Orders:
        settings = Settings(tls=TlsSettings(bind="127.0.0.1:1"), database=DatabaseSettings(shared_memory=str(tmp_path)),
                            acme=AcmeSettings(enabled=True, terms_agreed=True, renew_before=1.0, **acme))  # type: ignore[arg-type]
        made.append(Orders(settings, database, board, EventBus(database), lambda name: Grant(name, (), ())))
        return made[-1]

    yield orders
    for one in made:
        one.stop()
    board.close()


def begin(orders: Orders, folder: Path) -> None:
    """Let them have certificates for two names, so that none is due."""
    orders.look()
    authority = Authority(folder)
    for number in range(2):
        orders.by_hand.take(authority.issue(f"n{number}.pem", f"n{number}.example.com").read_text(), "an operator")


def ordered(store: Store) -> list[str]:
    return store.read(lambda: [row.domain for row in certificates.CertificateOrder.select()])


def test_a_renewal_is_not_forgotten_where_another_name_comes_before_it_begins(make: Make, database: Store,
                                                                                         tmp_path: Path) -> None:
    # A CA that is away: the order is noted as one that failed.
    orders = make(directory=f"https://127.0.0.1:{free_port()}/dir")
    begin(orders, tmp_path)
    database.call(declare, 0)
    orders.look()
    assert orders.order_now("n0.example.com") and not orders.order_now("other.example.com")
    database.call(declare, 1)
    orders.look()
    until(lambda: ordered(database) == ["n0.example.com"])


def test_a_renewal_that_can_not_be_noted_yet_is_not_forgotten_and_not_tried_all_the_time(
        make: Make, database: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("proxyd"), "propagate", True)
    (tmp_path / "pebble").mkdir()
    ca = Pebble(tmp_path / "pebble", free_port())
    other = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
    try:
        orders = make(directory=ca.url, ca_file=str(ca.ca_file))
        begin(orders, tmp_path)
        database.call(declare, 0)
        orders.look()
        # Its account is noted before.
        orders.authority()
        other.execute("BEGIN IMMEDIATE")
        assert orders.order_now("n0.example.com")
        began = time.monotonic()
        while time.monotonic() < began + 0.9 or "goes on later" not in caplog.text:
            orders.look()
            gevent.sleep(0.01)
        assert caplog.text.count("goes on later") <= 1 + time.monotonic() - began
        other.rollback()
        while ordered(database) != ["n0.example.com"]:
            assert time.monotonic() < began + 30
            orders.look()
            gevent.sleep(0.01)
    finally:
        other.close()
        ca.stop()
