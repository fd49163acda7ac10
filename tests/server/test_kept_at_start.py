"""What a master says of the kept table when it begins with a new database."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.server.master import take_up_kept
from proxyd.store.sql.database import Store
from proxyd.store.sql.kept import KeptFile
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.snapshot import RouteRecord

ROUTES = [RouteRecord(f"r{number}", "site:x", "page", "x", (f"{number}.test",), "/", "http://127.0.0.1:1", 0, False, number, 3, (), (),
                      (), 0.0, "", 0.0, 0.0, "2026-01-30T00:00:00.000Z") for number in (1, 2)]


@pytest.mark.parametrize(("count", "told"), [(0, ""), (1, "is new: 1 route goes on until"), (2, "is new: 2 routes go on until")])
def test_what_goes_on_is_said_and_nothing_where_there_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int,
                                                                 told: str) -> None:
    store = Store(f"sqlite:///{tmp_path}/p.db")
    store.open()
    try:
        migrate(store)
        caplog.clear()
        file = KeptFile(str(tmp_path / "proxyd.table"), 9, {})
        file.add(ROUTES[:count])
        file.finish()
        take_up_kept(store, str(tmp_path / "proxyd.table"), 0)
        assert told in caplog.text
        assert told or not caplog.records
    finally:
        store.close()
