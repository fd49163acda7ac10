"""The last table in a file: what is read is what was written, or nothing, and a new database takes it up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxyd.base import clock
from proxyd.base.text import hash_of
from proxyd.store.sql import kept, models
from proxyd.store.sql.database import Store
from proxyd.store.sql.kept import KeptError, KeptFile, KeptTable
from proxyd.store.sql.observed import EventRow
from proxyd.store.sql.sessionids import hide_session_ids
from proxyd.store.sql.snapshot import RouteRecord, load_difference, load_snapshot

RECORD = RouteRecord("r7", "s1", "app", "i1", ("a.test", "*.b.test"), "/x", "http://127.0.0.1:3000", 2, True, 4, 9,
                     (("retry", "true"),), (("X-A", "b"),), ((5, 1.5),), 1700000000.25, "http://page/", clock.from_boot(1000.0), 30.0,
                     "2026-01-31T23:59:59.125Z", request_headers=(("X-C", "{host}"),))
PLAIN = RouteRecord("r12", "site:x", "page", "x", ("c.test",), "/", "http://127.0.0.1:1", 0, False, 0, 3, (), (), (), 0.0, "", 0.0, 0.0,
                    "2026-01-30T00:00:00.000Z")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proxyd.table"


def written(path: Path, *records: RouteRecord, version: int = 9) -> KeptTable:
    file = KeptFile(str(path), version, {"s1": "shops"})
    file.add(records)
    file.finish()
    found = kept.read(str(path))
    assert found is not None
    return found


def _whole(record: RouteRecord) -> RouteRecord:
    """With its drain in tenths of a second: the file has milliseconds."""
    return replace(record, drain_started_at=round(record.drain_started_at, 1))


def test_what_is_read_is_what_was_written(path: Path) -> None:
    found = written(path, RECORD, PLAIN)
    assert [_whole(record) for record in found.snapshot.routes] == [_whole(RECORD), PLAIN]
    assert (found.snapshot.version, found.snapshot.full, found.tokens) == (9, True, {"s1": "shops"})
    assert path.stat().st_mode & 0o777 == 0o640


def test_there_may_be_no_file(path: Path) -> None:
    assert kept.read(str(path)) is None


def test_a_file_that_is_given_up_leaves_the_old_one(path: Path) -> None:
    written(path, RECORD)
    file = KeptFile(str(path), 10, {})
    file.add([PLAIN])
    file.abandon()
    found = kept.read(str(path))
    assert found is not None and [_whole(record) for record in found.snapshot.routes] == [_whole(RECORD)]
    assert list(path.parent.iterdir()) == [path]


def test_no_byte_may_be_missing_or_different(path: Path) -> None:
    written(path, RECORD, PLAIN)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(KeptError):
            kept.read(str(path))
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1:])
        with pytest.raises(KeptError):
            kept.read(str(path))
    path.write_bytes(whole + b"x")
    with pytest.raises(KeptError):
        kept.read(str(path))


def test_a_table_of_another_layout_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(kept, "_FIELDS", kept._FIELDS[:-1])
        file = KeptFile(str(path), 9, {})
    file.finish()
    with pytest.raises(KeptError, match="another version of proxyd wrote it"):
        kept.read(str(path))


def test_a_directory_in_its_place_is_refused(path: Path) -> None:
    path.mkdir()
    with pytest.raises(KeptError, match="can't be read"):
        kept.read(str(path))


def test_a_new_database_takes_it_up_once(path: Path, store: Store) -> None:
    found = written(path, RECORD, PLAIN)
    assert store.call(kept.take_up, found)
    snapshot = store.read(load_snapshot, 0)
    assert snapshot.version == 10
    assert [replace(_whole(record), version=0, updated="") for record in snapshot.routes] == [
        replace(_whole(RECORD), session_id="kept:s1", version=0, updated=""), replace(PLAIN, version=0, updated="")]
    sessions = store.read(lambda: {row.session_id: (row.state, row.token_name) for row in models.Session.select()})
    assert sessions == {"kept:s1": ("connected", "shops"), "site:x": ("connected", "")}
    assert store.read(lambda: models.StoredCounter.get_by_id("next_route_number").value) > 12
    assert store.read(lambda: models.StoredCounter.get_by_id("next_session_number").value) > 1
    assert not store.call(kept.take_up, found)


def test_its_versions_go_on_above_all_that_the_lost_database_had(path: Path, store: Store) -> None:
    assert store.call(kept.take_up, written(path, RECORD), 14)
    assert store.read(load_snapshot, 0).version == 15
    assert store.read(load_snapshot, 14).full


def test_no_new_session_gets_the_number_of_a_kept_one(path: Path, store: Store) -> None:
    assert store.call(kept.take_up, written(path, replace(RECORD, session_id="kept:s4000"), replace(PLAIN, session_id="s17")))
    assert store.read(lambda: {row.session_id for row in models.Session.select()}) == {"kept:s4000", "kept:s17"}
    assert store.read(lambda: models.StoredCounter.get_by_id("next_session_number").value) > 4000


def test_the_secret_ids_in_a_file_of_an_older_version_do_not_get_into_the_database(path: Path, store: Store) -> None:
    secret = "0123456789abcdef" * 2
    assert store.call(kept.take_up, written(path, replace(RECORD, session_id=secret)))
    assert store.read(lambda: [(row.session_id, row.secret_hash) for row in models.Session.select()]) == [
        (f"kept:{hash_of(secret)}", "")]


def test_what_is_held_for_kept_sessions_stays_when_ids_are_hidden(path: Path, store: Store) -> None:
    store.call(kept.take_up, written(path, RECORD, PLAIN))
    store.call(lambda: models.StoredCounter.delete().where(models.StoredCounter.name == "next_session_number").execute())
    store.call(lambda: EventRow.create(at="2026-01-31T23:59:59.125Z", type="x", session_id="kept:s1", actor="", detail="{}"))
    store.call(hide_session_ids)
    assert store.read(lambda: {row.session_id for row in models.Session.select()}) == {"kept:s1", "site:x"}
    assert {record.session_id for record in store.read(load_snapshot, 0).routes} == {"kept:s1", "site:x"}
    assert store.read(lambda: [row.session_id for row in EventRow.select()]) == ["kept:s1"]


def test_a_table_is_compared_with_a_database_that_it_was_not_made_from(path: Path, store: Store) -> None:
    store.call(kept.take_up, written(path, RECORD, PLAIN))
    snapshot = store.read(load_snapshot, 0)
    known = {record.route_id: (record.version, record.updated) for record in snapshot.routes}
    same = store.read(load_difference, known, snapshot.version)
    assert (same.full, same.routes, same.removed) == (False, (), ())
    differs = store.read(load_difference, {**known, "r7": (9, "2026-01-31T23:59:59.125Z"), "r99": (1, "")}, snapshot.version)
    assert ([record.route_id for record in differs.routes], differs.removed) == (["r7"], ("r99",))
    assert store.read(load_difference, known, snapshot.version + 1).full
