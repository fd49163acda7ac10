"""What workers count reaches the database through the master, each batch once."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxyd.store.sql import outbox as outbox_module
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.observed import RefusalCount
from proxyd.store.sql.outbox import FOLDER, Intake, Outbox
from proxyd.store.sql.refusals import RefusalBatch, refusal_counts
from proxyd.store.sql.traffic import RejectionBatch, RowBatch, Traffic, TrafficBatch, route_stats


def refused(count: int) -> RefusalBatch:
    return RefusalBatch({"no_route": count})


def counts(store: Store) -> int:
    return store.read(refusal_counts).get("no_route", 0)


def lying(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / FOLDER).iterdir())


def test_every_kind_of_batch_arrives_as_it_was(store: Store, tmp_path: Path) -> None:
    at = "2026-01-31T12:00:00.000Z"
    slow = {"route_id": "r1", "at": at, "level": "warning", "method": "GET", "url": "a/ä", "status_code": 200, "total_ms": 1.5,
            "queue_ms": 0.0, "connect_ms": 0.0, "first_byte_ms": 1.0, "body_ms": 0.5, "request_id": "q", "upstream": "u:1"}
    batches = [TrafficBatch(("web1", "b1", os.getpid()), at, {"r1": Traffic({"requests": 3}, {200: 2, 503: 1}, {7: 3})}, {"r1": (1, 2, 3)}),
               RejectionBatch({("r1", at, "192.0.2.1"): 4}), RowBatch([], [slow]), refused(5)]
    Outbox(str(tmp_path)).write(batches, 0.0)
    assert Intake(str(tmp_path), store).take(1.0)
    found = store.read(route_stats, ["r1"])["r1"]
    assert (found["requests"], found["status_codes"], found["in_flight"], found["websocket_active"]) == (3, {"200": 2, "503": 1}, 1, 2)
    assert counts(store) == 5
    assert lying(tmp_path) == []


def test_a_worker_goes_on_when_the_master_has_written(store: Store, tmp_path: Path) -> None:
    intake = Intake(str(tmp_path), store)
    writing = gevent.spawn(Outbox(str(tmp_path)).write, [refused(2)], None)
    gevent.sleep(0.05)
    assert not writing.dead and len(lying(tmp_path)) == 1
    assert intake.take(1.0)
    writing.get(timeout=5)
    assert counts(store) == 2
    assert not intake.take(1.0)


def test_what_could_not_be_committed_waits_and_is_written_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(batches: object, number: int) -> None:
        RefusalCount.delete().execute()
        raise StoreError("no room")

    for _ in range(3):
        Outbox(str(tmp_path)).write([refused(1)], 0.0)
    intake = Intake(str(tmp_path), store)
    with monkeypatch.context() as patched:
        patched.setattr(outbox_module, "_write", fail)
        for _ in range(2):
            with pytest.raises(StoreError):
                intake.take(1.0)
    assert len(lying(tmp_path)) == 3
    Outbox(str(tmp_path)).write([refused(1)], 0.0)
    # A master that took over.
    assert Intake(str(tmp_path), store).take(1.0)
    assert (counts(store), lying(tmp_path)) == (4, [])


def test_a_master_killed_after_its_commit_leaves_nothing_that_is_written_twice(store: Store, tmp_path: Path,
                                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    Outbox(str(tmp_path)).write([refused(1)], 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", lambda path: None)
        assert Intake(str(tmp_path), store).take(1.0)
    assert len(lying(tmp_path)) == 1
    Outbox(str(tmp_path)).write([refused(1)], 0.0)
    assert Intake(str(tmp_path), store).take(1.0)
    assert (counts(store), lying(tmp_path)) == (2, [])


@pytest.mark.parametrize("data", [b"", b"junk", b"\xe9"])
def test_a_file_that_no_worker_wrote_holds_up_nothing(store: Store, tmp_path: Path, data: bytes) -> None:
    Outbox(str(tmp_path)).write([refused(1)], 0.0)
    (tmp_path / FOLDER / "1-ab-0").write_bytes(data)
    assert Intake(str(tmp_path), store).take(1.0)
    assert (counts(store), lying(tmp_path)) == (1, [])


def test_files_are_bounded_and_one_that_cant_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_MOST_FILES", 2)
    for _ in range(2):
        Outbox(str(tmp_path)).write([refused(1)], 0.0)
    with pytest.raises(StoreError, match="full"):
        Outbox(str(tmp_path)).write([refused(1)], 0.0)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="can't write"):
        Outbox(str(tmp_path / "file")).write([refused(1)], 0.0)


def test_a_folder_in_which_nothing_can_be_renamed_is_an_error_of_the_store_and_what_lies_there_waits(store: Store, tmp_path: Path) -> None:
    Outbox(str(tmp_path)).write([refused(2)], 0.0)
    file = lying(tmp_path)[0]
    obstacle = file.with_name(f"{file.name}.1")
    obstacle.mkdir()
    (obstacle / "full").touch()
    intake = Intake(str(tmp_path), store)
    with pytest.raises(StoreError, match="can't write into"):
        intake.take(1.0)
    (obstacle / "full").unlink()
    obstacle.rmdir()
    assert intake.take(1.0)
    assert counts(store) == 2
    assert lying(tmp_path) == []


@contextlib.contextmanager
def no_descriptor() -> Iterator[None]:
    """This process can open no file more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_without_a_descriptor_nothing_that_was_counted_is_lost(store: Store, tmp_path: Path) -> None:
    outbox = Outbox(str(tmp_path))
    outbox.write([refused(3)], 0.0)
    file, intake = lying(tmp_path)[0], Intake(str(tmp_path), store)
    with no_descriptor():
        with pytest.raises(StoreError, match="Too many open files"):
            intake.take(1.0)
        with pytest.raises(StoreError, match="Too many open files"):
            outbox_module._read(str(file))
        assert outbox._is_there(file.name)
    assert intake.take(1.0)
    assert (counts(store), lying(tmp_path)) == (3, [])
