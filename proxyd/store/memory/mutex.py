"""Locks in shared memory that cost no system call while nobody else holds them: pthread's robust, process-shared mutexes.

The kernel marks a mutex whose holder died, however it died, and the next one to lock it goes on (EOWNERDEAD). A byte-range
lock of fcntl would do as well, at two system calls a hit: for the rate limits, which lock on every request, those were a
tenth of the whole request.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import time
from types import TracebackType

#: Room for one pthread_mutex_t of any libc, on a cache line of its own.
SIZE = 64
_ATTRIBUTE_SIZE = 64
_SHARED, _ROBUST = 1, 1
#: A holder that runs gives it back in microseconds; one that has lost its processor on a busy machine needs a little longer.
_PATIENCE = 0.5
#: How long nobody waits again for a mutex that was waited for in vain: its holder is stopped.
_STUCK_SECONDS = 5.0
_SPINS = 200
_NAP_MICROSECONDS = 200

_libc = ctypes.PyDLL(None)
# Not time.sleep, which in a worker lets other greenlets run; and without the interpreter's lock, which other threads may need.
_usleep = ctypes.CDLL(None).usleep
#: For one who can't afford a `with`: 0 where the mutex at the address is taken now, else ask `Mutex.wait`.
trylock = _libc.pthread_mutex_trylock
unlock = _libc.pthread_mutex_unlock
_consistent = _libc.pthread_mutex_consistent
for _function in (trylock, unlock, _consistent):
    _function.argtypes = [ctypes.c_void_p]
    _function.restype = ctypes.c_int


def address_of(data: mmap.mmap) -> int:
    """The address of a mapping. The mapping can't be closed while its memory is used."""
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


def initialise(address: int, count: int) -> None:
    """Make `count` unlocked mutexes from `address` on. Only while no other process uses the memory. Raises OSError."""
    attribute = ctypes.create_string_buffer(_ATTRIBUTE_SIZE)
    pointer = ctypes.c_void_p(ctypes.addressof(attribute))
    for failed in (_libc.pthread_mutexattr_init(pointer), _libc.pthread_mutexattr_setpshared(pointer, _SHARED),
                   _libc.pthread_mutexattr_setrobust(pointer, _ROBUST)):
        if failed:
            raise OSError(failed, "this system's libc has no robust, process-shared mutexes")
    for index in range(count):
        failed = _libc.pthread_mutex_init(ctypes.c_void_p(address + index * SIZE), pointer)
        if failed:
            raise OSError(failed, "pthread_mutex_init")


class Mutex:
    """One mutex at an address, for use in `with`; held for microseconds, without a switch of greenlets.

    Waits at most half a second: a stopped holder must not stop everybody. Then the section runs without the lock, and so
    do the next ones for a while.
    """

    __slots__ = ("_held", "_stuck_until", "address")

    def __init__(self, address: int) -> None:
        self.address = address
        self._held = False
        self._stuck_until = 0.0

    def __enter__(self) -> None:
        result = trylock(self.address)
        if result:
            result = self.wait(result)
        self._held = not result

    def wait(self, result: int) -> int:
        """Take a mutex that was not simply free, as `result` of `trylock` says; 0 once it is taken."""
        now = time.monotonic()
        deadline = now + _PATIENCE if now >= self._stuck_until else now
        spins = 0
        while True:
            if result == errno.EOWNERDEAD:
                return int(_consistent(self.address))
            if result != errno.EBUSY:
                return result
            if spins > _SPINS:
                if time.monotonic() >= deadline:
                    self._stuck_until = deadline + _STUCK_SECONDS
                    return result
                _usleep(_NAP_MICROSECONDS)
            spins += 1
            result = int(trylock(self.address))

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._held:
            self._held = False
            unlock(self.address)
