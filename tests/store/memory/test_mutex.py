"""Mutexes in memory that processes share: held by one at a time, free again when their holder dies, and never a dead end."""

from __future__ import annotations

import mmap
import os
import signal
import time
from collections.abc import Iterator

import pytest

from proxyd.store.memory.mutex import SIZE, Mutex, address_of, initialise, trylock, unlock
from tests.support.waiting import patience

from .forks import in_processes, kill, living


@pytest.fixture
def address() -> Iterator[int]:
    """Two mutexes, one behind the other, in memory that forked processes share."""
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    found = address_of(memory)
    initialise(found, 2)
    yield found


def test_a_held_mutex_is_refused_to_other_processes_and_its_neighbour_is_not(address: int) -> None:
    with Mutex(address):
        assert in_processes(2, lambda number: trylock(address) == 0) == [False, False]
        assert in_processes(1, lambda number: trylock(address + SIZE) == 0) == [True]
    assert in_processes(1, lambda number: trylock(address) == 0) == [True]


def test_a_mutex_whose_holder_was_killed_is_taken_over_and_works_on_for_everybody(address: int) -> None:
    for _ in range(2):
        with living(lambda: trylock(address)) as holder:
            assert trylock(address), "the child holds it"
            kill(holder)
        with Mutex(address):
            assert in_processes(1, lambda number: trylock(address) == 0) == [False]
        # One that is never made consistent can't be taken by anybody after its first owner behind the dead one.
        assert trylock(address) == 0
        unlock(address)


def test_a_stopped_holder_is_waited_for_once_and_then_passed_by_for_a_while(address: int) -> None:
    mutex = Mutex(address)
    with living(lambda: trylock(address)) as holder:
        os.kill(holder, signal.SIGSTOP)
        begun = time.monotonic()
        with mutex:
            first = time.monotonic() - begun
        begun = time.monotonic()
        for _ in range(10):
            with mutex:
                pass
        assert first > 0.4
        assert time.monotonic() - begun < patience(0.4)
        assert trylock(address), "who did not take it has not let it go"
