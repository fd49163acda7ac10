"""Bodies that are kept: in memory, then in a file, within a bound; and what happens where there is no room."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest

from proxyd.proxy.core.spool import MEMORY, Spool, Storage

PIECES = [bytes([number]) * 30_000 for number in range(10)]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    """Room for a megabyte. All of it must be free in the end."""
    made = Storage(1 << 20, str(tmp_path))
    yield made
    assert (made.used, made.memory) == (0, 0)


def taken(spool: Spool) -> bytes:
    """All that can be taken."""
    found = b""
    while spool.waiting:
        found += spool.take()
    return found


def files_in(directory: str) -> int:
    """How many files without a name this process has open there."""
    links = (os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}"))
    return sum(link.startswith(directory) and link.endswith("(deleted)") for link in links)


def test_what_is_put_is_taken_in_order_and_can_be_read_again(storage: Storage) -> None:
    spool = Spool(storage, 1 << 20)
    assert all(spool.put(piece) for piece in PIECES)
    assert storage.memory == 60_000 <= MEMORY
    assert os.listdir(storage.directory) == []
    assert files_in(storage.directory) == 1
    assert [b"".join(spool.pieces()) for _ in range(2)] == [b"".join(PIECES)] * 2
    assert taken(spool) == b"".join(PIECES)
    spool.close()
    spool.close()


def test_a_spool_that_was_emptied_has_room_again(storage: Storage) -> None:
    spool = Spool(storage, 100_000)
    for _ in range(3):
        assert [spool.put(piece) for piece in PIECES[:4]] == [True, True, True, False]
        assert storage.used == 90_000
        assert taken(spool) == b"".join(PIECES[:3])
    assert not spool.denied
    spool.close()


def test_all_together_have_one_bound_and_what_ends_makes_room(storage: Storage) -> None:
    large, small = Spool(storage, 10 << 20), Spool(storage, 10 << 20)
    assert large.put(b"x" * 1_000_000)
    assert not small.put(b"y" * 100_000)
    assert small.denied and not large.denied
    large.close()
    assert small.put(b"y" * 100_000)
    small.close()


def test_without_a_directory_there_is_memory_alone(tmp_path: Path) -> None:
    storage = Storage(1 << 20, str(tmp_path / "missing"))
    spool = Spool(storage, 1 << 20)
    assert [spool.put(piece) for piece in PIECES[:3]] == [True, True, False]
    assert spool.denied
    assert taken(spool) == b"".join(PIECES[:2])
    spool.close()
    assert storage.used == 0


def test_a_full_disk_leaves_what_was_kept_before(storage: Storage) -> None:
    spool = Spool(storage, 1 << 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert [spool.put(piece) for piece in PIECES[:6]] == [True] * 5 + [False]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handled)
    assert spool.denied and storage.used == 150_000
    assert taken(spool) == b"".join(PIECES[:5])
    spool.close()


def test_one_that_is_ended_while_it_writes_gives_all_back(storage: Storage) -> None:
    spool = Spool(storage, 1 << 20)
    assert spool.put(b"x" * 100_000)
    greenlet = gevent.spawn(spool.put, b"y" * 500_000)
    gevent.sleep(0)
    greenlet.kill()
    spool.close()
