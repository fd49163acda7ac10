"""Shared memory: one file mapped by all processes, and locks that die with their holder."""

from __future__ import annotations

import os
import resource
import signal
import struct
import time
from pathlib import Path

import pytest

from proxyd.store.memory.shared import ForeignFile, SharedFile, SharedMemoryError
from tests.support.waiting import patience, wait_for

from .forks import in_processes, kill, living

SIZE = 8192
COUNT = struct.Struct("<Q")


def opened(directory: Path, size: int = SIZE, layout: bytes = b"test1") -> SharedFile:
    return SharedFile(str(directory / "deep" / "shared"), size, layout)


def test_what_one_process_writes_the_others_read(tmp_path: Path) -> None:
    ours = opened(tmp_path)
    ours.data[100:105] = b"hello"
    assert in_processes(2, lambda number: bytes(opened(tmp_path).data[100:105])) == [b"hello", b"hello"]


def test_the_file_is_allocated_in_full_so_that_a_full_disk_kills_nobody(tmp_path: Path) -> None:
    opened(tmp_path, 1 << 20).close()
    status = (tmp_path / "deep" / "shared").stat()
    assert status.st_size == 1 << 20
    assert status.st_blocks * 512 >= 1 << 20
    assert status.st_mode & 0o007 == 0


def test_content_outlives_the_processes_but_not_a_change_of_layout_or_size(tmp_path: Path) -> None:
    first = opened(tmp_path)
    first.data[100] = 7
    first.close()
    assert opened(tmp_path).data[100] == 7
    assert opened(tmp_path, layout=b"test2").data[100] == 0
    opened(tmp_path, layout=b"test2").data[100] = 9
    assert opened(tmp_path, SIZE * 2, b"test2").data[100] == 0


def test_a_process_with_the_old_layout_keeps_its_own_memory(tmp_path: Path) -> None:
    old = opened(tmp_path)
    old.data[100] = 7
    new = opened(tmp_path, layout=b"test2")
    new.data[100] = 1
    assert (old.data[100], new.data[100]) == (7, 1)


def test_processes_that_open_at_once_all_get_the_same_file(tmp_path: Path) -> None:
    def work(number: int) -> int:
        shared = opened(tmp_path, layout=b"race")
        for _ in range(200):
            with shared.lock(0):
                COUNT.pack_into(shared.data, 64, COUNT.unpack_from(shared.data, 64)[0] + 1)
        return os.stat(tmp_path / "deep" / "shared").st_ino

    assert len(set(in_processes(8, work))) == 1
    assert COUNT.unpack_from(opened(tmp_path, layout=b"race").data, 64)[0] == 1600


def test_a_place_that_cant_be_written_is_told_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "deep").write_text("in the way")
    with pytest.raises(SharedMemoryError, match="shared_memory"):
        opened(tmp_path)


def test_a_file_that_cant_be_allocated_is_not_left_behind(tmp_path: Path) -> None:
    def work(number: int) -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            opened(tmp_path)
        except SharedMemoryError as error:
            return str(error)
        return ""

    assert "can't set up the shared memory file" in in_processes(1, work)[0]
    assert not (tmp_path / "deep" / "shared").exists()


def test_a_held_lock_is_refused_to_others_until_its_holder_is_killed(tmp_path: Path) -> None:
    shared = opened(tmp_path)
    with living(lambda: (held := opened(tmp_path)).hold(3) and held) as pid:
        assert not shared.hold(3)
        assert shared.hold(4)
        kill(pid)
        assert shared.hold(3)
    assert in_processes(1, lambda number: opened(tmp_path).hold(3)) == [False]
    shared.release(3)
    assert in_processes(1, lambda number: opened(tmp_path).hold(3)) == [True]


def test_a_short_lock_whose_holder_was_killed_is_free_at_once(tmp_path: Path) -> None:
    shared = opened(tmp_path)

    def enter() -> object:
        held = opened(tmp_path)
        held.lock(1).__enter__()
        return held

    with living(enter) as pid:
        kill(pid)
        began = time.monotonic()
        with shared.lock(1):
            assert time.monotonic() - began < patience(0.03)


def test_a_stopped_holder_makes_others_wait_for_a_moment_only(tmp_path: Path) -> None:
    shared = opened(tmp_path)

    def enter() -> object:
        held = opened(tmp_path)
        held.lock(1).__enter__()
        return held

    with living(enter) as pid:
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        with shared.lock(1):
            waited = time.monotonic() - began
        assert 0.4 < waited < 2.0
        began = time.monotonic()
        with shared.lock(1):
            waited = time.monotonic() - began
        assert waited < 0.2, "once is enough"
        with shared.lock(2):
            pass


# -- a file that is lost to others

def lose(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "replaced":
        copy = path.with_name("copy")
        copy.write_bytes(b"\1" * SIZE)
        copy.replace(path)
    elif how == "truncated":
        os.truncate(path, 0)
    elif how == "overwritten":
        with path.open("r+b") as file:
            file.write(b"\1" * SIZE)
    else:
        path.chmod(0)


@pytest.mark.parametrize("how", ["deleted", "replaced", "truncated", "overwritten"])
def test_a_lost_file_is_mapped_anew_by_all_and_shared_again(tmp_path: Path, how: str) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    seen: list[str] = []
    first.mapped_anew = lambda: seen.append("first")
    assert first.look() == second.look() == ""
    lose(Path(first.path), how)
    assert how == "truncated" or not first.in_place()
    assert first.look() == how
    assert first.in_place() and not second.in_place()
    assert second.look() in ("replaced", "deleted")
    assert (first.look(), second.look(), seen) == ("", "", ["first"])
    first.data[5000] = 77
    assert second.data[5000] == 77
    assert in_processes(1, lambda number: opened(tmp_path).data[5000]) == [77]
    assert first.in_place()


def test_the_part_that_is_carried_is_in_the_new_file_unless_the_old_one_was_cut_or_overwritten(tmp_path: Path) -> None:
    for how, kept in (("deleted", 7), ("truncated", 0), ("overwritten", 0)):
        path = str(tmp_path / how)
        shared = SharedFile(path, SIZE, b"test1", carried=slice(200, None))
        shared.data[100] = shared.data[300] = 7
        lose(Path(path), how)
        shared.look()
        assert (shared.data[100], shared.data[300]) == (0, kept)


def test_a_file_of_processes_of_another_version_is_left_to_them(tmp_path: Path) -> None:
    old = opened(tmp_path)
    old.data[100] = 7
    new = opened(tmp_path, SIZE * 2, b"test2")
    assert old.look() == new.look() == ""
    assert new.in_place() and not old.in_place()
    assert old.data[100] == 7


def test_a_file_that_others_could_not_open_gets_its_mode_back(tmp_path: Path) -> None:
    shared = opened(tmp_path)
    Path(shared.path).chmod(0)
    assert shared.look() == "unreadable"
    assert Path(shared.path).stat().st_mode & 0o777 == 0o640
    assert shared.look() == ""


def test_a_file_that_cant_be_made_again_is_told_and_the_memory_stays(tmp_path: Path) -> None:
    shared = opened(tmp_path)
    shared.data[100] = 7
    Path(shared.path).unlink()
    Path(shared.path).mkdir()
    with pytest.raises(SharedMemoryError, match="shared_memory"):
        shared.look()
    assert shared.data[100] == 7
    Path(shared.path).rmdir()
    assert shared.look() == "deleted"


def test_locks_hold_over_the_new_file(tmp_path: Path) -> None:
    shared = opened(tmp_path)
    assert shared.hold(3)
    Path(shared.path).unlink()
    shared.look()
    assert shared.hold(3)
    assert in_processes(1, lambda number: opened(tmp_path).hold(3)) == [False]


def test_a_file_of_others_that_is_made_again_is_told_although_it_gets_the_same_number(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    opened(path).close()
    path = path / "deep" / "shared"
    foreign = ForeignFile(str(path))
    assert foreign.look() == ""
    made, probe = path.stat().st_mtime_ns, tmp_path / "probe"

    def later() -> bool:
        """The kernel's clock for files moves on every few milliseconds."""
        probe.touch()
        return probe.stat().st_mtime_ns > made

    wait_for(later, what="another time")
    path.unlink()
    opened(tmp_path / "shared").close()
    assert foreign.look() == "replaced"
    assert foreign.look() == ""
