"""Who may end: those that were killed, by that signal, and those that a fault ends, for as long as it lasts."""

from __future__ import annotations

from tests.chaos.ends import MayEnd, without_reason

LOG = ("error gunicorn[1] worker 7 was ended by SIGBUS\n"
       "error gunicorn[1] worker 8 was ended by SIGKILL: by somebody, or because memory was short\n"
       "warning gunicorn[1] the master (pid 9) ended after 4.2 s; starting it again\n"
       "error gunicorn[1] worker 7 ended with status 1\n")
#: The first line alone.
FIRST = LOG.index("\n")


def found(log: str = LOG, killed: tuple[int, ...] = (), *may_end: MayEnd) -> list[str]:
    return [what.split(" ended by itself")[0] for what in without_reason(log, killed, may_end)]


def test_whoever_ends_without_a_reason_is_found() -> None:
    assert found() == ["worker 7", "worker 8", "worker 7", "the master 9"]
    assert found("info gunicorn[1] Worker exiting (pid: 7)\n") == []


def test_one_that_was_killed_may_end_by_that_alone() -> None:
    assert found(LOG, (8, 9)) == ["worker 7", "worker 7"]
    assert found(LOG, (7, 8, 9)) == ["worker 7", "worker 7"]


def test_a_file_that_was_cut_excuses_that_signal_until_nobody_maps_it() -> None:
    assert found(LOG, (8, 9), MayEnd(0, FIRST, "SIGBUS")) == ["worker 7"]
    # Before it was cut, and when it was healed.
    assert found(LOG, (8, 9), MayEnd(FIRST, signal="SIGBUS")) == ["worker 7", "worker 7"]
    assert found(LOG * 2, (8, 9), MayEnd(0, FIRST, "SIGBUS")) == ["worker 7"] * 3
    # By another signal.
    assert found(LOG.replace("SIGBUS", "SIGSEGV"), (8, 9), MayEnd(0, FIRST, "SIGBUS")) == ["worker 7", "worker 7"]
    # The master of files that it does not map.
    assert found(LOG, (8,), MayEnd(0, signal="SIGBUS")) == ["worker 7", "the master 9"]
    assert found(LOG, (8,), MayEnd(0, signal="SIGBUS", master=True)) == ["worker 7"]


def test_a_master_that_cannot_start_may_end_as_long_as_nothing_can_be_written() -> None:
    log = "error proxyd.master[9] the master can't start: can't open the lock file: Read-only file system\n" + LOG
    assert found(log, (7, 8), MayEnd(0, 50, "SIGBUS", starts=True)) == ["worker 7", "worker 7"]
    assert found(log, (7, 8), MayEnd(0, 5, "SIGBUS", starts=True)) == ["worker 7", "worker 7", "the master 9"]
    # One that ran.
    assert found(LOG, (7, 8), MayEnd(0, starts=True)) == ["worker 7", "worker 7", "the master 9"]
