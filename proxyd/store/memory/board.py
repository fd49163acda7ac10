"""The notice board of a host: which config version is current, and which one each worker routes by.

The master posts a version after its commit and waits until every live worker has posted the same one; nobody
asks the database. A worker holds its slot's lock while it lives, so a dead one is known at once.

Order matters for a worker that starts: `join` first, load the snapshot then, and `accept` clients last. A
commit after `join` waits for it; one before `join` is in the snapshot that it loads.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from proxyd.base import clock
from proxyd.store.memory.shared import BOARD, SharedFile, put

MAX_WORKERS = 256
_WORKER = struct.Struct("<IIQdd")
#: All of a worker's row that the master reads: the same, and what it has counted.
_ROW = struct.Struct("<IIQddd24x")
_COUNTED = struct.Struct("<d")
_COUNTED_AT = _WORKER.size
_CONNECTIONS = struct.Struct("<I")
_CONNECTIONS_AT = _COUNTED_AT + _COUNTED.size
#: The version of the certificates that a worker has.
_CERTIFICATES = struct.Struct("<Q")
_CERTIFICATES_AT = 48
_TAKES_NONE = 0xFFFFFFFF
_WORKER_SIZE = 64
_WORKERS_AT = 4096
_ALIVE_SECONDS = 3.0
_VERSION = struct.Struct("<Q")
_VERSION_AT = 64
#: The marks of the database (see store.sql.restored), and the boot in which they were written.
_MARKS = struct.Struct("<QQ16s")
_MARKS_AT = _VERSION_AT + _VERSION.size
#: The version of the certificates and challenges that was posted last.
_POSTED_AT = _MARKS_AT + _MARKS.size
#: Seconds in which every process that runs has looked at the file: one that was just mapped may not be everybody's yet. A worker that
#: did not look because it was stopped looks before it answers.
SETTLED = 0.3
#: No version: something has overwritten the file.
_NONSENSE = 1 << 53
_SIZE = _WORKERS_AT + MAX_WORKERS * _WORKER_SIZE


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A live worker: process id, config version it routes by, start and last heartbeat as instants of `base.clock`; `counted`: the instant
    (time.monotonic() seconds) up to which the database has what it counted, requests in flight among it."""

    slot: int
    pid: int
    version: int
    started: float
    heartbeat: float
    counted: float


class Board:
    """The board in `directory`; every process of the host maps the same file."""

    def __init__(self, directory: str) -> None:
        self._file = SharedFile(os.path.join(directory, BOARD), _SIZE, b"board1",
                                carried=slice(_VERSION_AT, _POSTED_AT + _CERTIFICATES.size))
        self._file.mapped_anew = self._come_back
        self._slot: int | None = None
        #: There may be workers that do not have this file yet.
        self.awaited = False
        self._mapped_at = clock.now()
        #: What this process has written, for a board that takes the place of a lost one.
        self._posted = 0
        self._has_certificates = 0
        self._worker = (0, 0.0, 0.0)
        self._counted = 0.0
        self._connections: int | None = None

    @property
    def file(self) -> SharedFile:
        """The mapped file."""
        return self._file

    @property
    def version(self) -> int:
        """The config version that was last posted."""
        value: int = _VERSION.unpack_from(self._file.data, _VERSION_AT)[0]
        return value

    def post(self, version: int) -> None:
        """Tell the workers that `version` is committed."""
        self._posted = version
        put(self._file.data, _VERSION_AT, _VERSION.pack(version))

    @property
    def certificates(self) -> int:
        """The version of the certificates and challenges that was posted last."""
        value: int = _CERTIFICATES.unpack_from(self._file.data, _POSTED_AT)[0]
        return value

    def post_certificates(self, version: int) -> None:
        """Tell the workers that this version of the certificates and challenges is committed."""
        put(self._file.data, _POSTED_AT, _CERTIFICATES.pack(version))

    def report_certificates(self, version: int) -> None:
        """This worker has the certificates and challenges of `version`."""
        self._has_certificates = version
        if self._slot is not None:
            put(self._file.data, _WORKERS_AT + self._slot * _WORKER_SIZE + _CERTIFICATES_AT, _CERTIFICATES.pack(version))

    def without_certificates(self, version: int) -> list[WorkerState]:
        """The live workers that do not have that version yet."""
        return [worker for worker in self.workers() if _CERTIFICATES.unpack_from(
            self._file.data, _WORKERS_AT + worker.slot * _WORKER_SIZE + _CERTIFICATES_AT)[0] < version]

    def newest(self) -> int:
        """The highest version that was posted, or that a live worker routes by, of whichever database. Not for a worker: see `workers`."""
        return max(number for number in (0, self.version, *(worker.version for worker in self.workers())) if number < _NONSENSE)

    def mark(self, marks: tuple[int, int]) -> None:
        """Note the marks that the database may have."""
        put(self._file.data, _MARKS_AT, _MARKS.pack(*marks, clock.BOOT_MARK))

    def marks(self) -> tuple[int, int]:
        """The marks that were noted last; 0 where there is none."""
        first, second, _ = _MARKS.unpack_from(self._file.data, _MARKS_AT)
        return first, second

    def is_of_this_boot(self) -> bool:
        """Whether the marks were noted since the machine started: what a power cut leaves of the file may be newer than the database."""
        found: bool = _MARKS.unpack_from(self._file.data, _MARKS_AT)[2] == clock.BOOT_MARK
        return found

    def join(self, now: float) -> int:
        """Take a worker slot for this process, at version 0; returns it. `now`: an instant of `base.clock`, here and below. Raises
        RuntimeError when all are taken."""
        for slot in range(MAX_WORKERS):
            if self._file.hold(slot):
                begun = clock.to_boot(now)
                put(self._file.data, _WORKERS_AT + slot * _WORKER_SIZE,
                    _WORKER.pack(os.getpid(), 0, 0, begun, begun) + _COUNTED.pack(0.0) + _CONNECTIONS.pack(_TAKES_NONE) +
                    bytes(4) + _CERTIFICATES.pack(0))
                self._slot = slot
                self._worker = (0, begun, begun)
                return slot
        raise RuntimeError(f"more than {MAX_WORKERS} workers on one host")

    def report(self, version: int, now: float) -> None:
        """This worker routes by `version`, and lives."""
        assert self._slot is not None, "join first"
        at = _WORKERS_AT + self._slot * _WORKER_SIZE
        self._worker = version, self._worker[1], clock.to_boot(now)
        put(self._file.data, at, _WORKER.pack(os.getpid(), 0, *self._worker))

    def count(self, now: float) -> None:
        """All that this worker counted before `now` (time.monotonic() seconds) is in the database."""
        self._counted = now
        if self._slot is not None:
            put(self._file.data, _WORKERS_AT + self._slot * _WORKER_SIZE + _COUNTED_AT, _COUNTED.pack(now))

    @property
    def counted(self) -> float:
        """Up to when all that this worker counted is in the database (time.monotonic() seconds); 0.0: since never."""
        return self._counted

    def connections(self, count: int | None) -> None:
        """This worker has `count` client connections; None: it takes none."""
        self._connections = count
        if self._slot is not None:
            put(self._file.data, _WORKERS_AT + self._slot * _WORKER_SIZE + _CONNECTIONS_AT,
                _CONNECTIONS.pack(_TAKES_NONE if count is None else count))

    def accepting(self, now: float) -> list[int]:
        """The slots of the other workers that take clients, and have given a sign of life in the last seconds before `now`. A worker
        can ask this, who may not try the locks."""
        found, now = [], clock.to_boot(now)
        for slot in range(MAX_WORKERS):
            pid, _, _, _, heartbeat = _WORKER.unpack_from(self._file.data, _WORKERS_AT + slot * _WORKER_SIZE)
            if pid and slot != self._slot and abs(now - heartbeat) < _ALIVE_SECONDS and self.fewest([slot]) != _TAKES_NONE:
                found.append(slot)
        return found

    def fewest(self, slots: list[int]) -> int:
        """The connections of that worker of `slots` which has fewest."""
        data = self._file.data
        found: int = min(_CONNECTIONS.unpack_from(data, _WORKERS_AT + slot * _WORKER_SIZE + _CONNECTIONS_AT)[0] for slot in slots)
        return found

    def leave(self) -> None:
        """Give the slot back."""
        if self._slot is not None:
            put(self._file.data, _WORKERS_AT + self._slot * _WORKER_SIZE, bytes(_WORKER.size))
            self._file.release(self._slot)
            self._slot = None

    def workers(self) -> list[WorkerState]:
        """The live workers. Only for a process that is no worker itself: it tries the locks."""
        live = []
        for slot, (pid, _, version, started, heartbeat, counted) in enumerate(_ROW.iter_unpack(self._file.data[_WORKERS_AT:_SIZE])):
            if not pid:
                continue
            if self._file.hold(slot):
                put(self._file.data, _WORKERS_AT + slot * _WORKER_SIZE, bytes(_WORKER.size))
                self._file.release(slot)
                continue
            live.append(WorkerState(slot, pid, version, clock.from_boot(started), clock.from_boot(heartbeat), counted))
        return live

    def behind(self, version: int) -> list[WorkerState]:
        """The live workers that do not yet route by `version`: one beyond what was posted still has another database's table."""
        return [worker for worker in self.workers() if not version <= worker.version <= max(version, self.version)]

    def settled(self) -> bool:
        """Whether the board is everybody's: it is in its place, and was mapped long enough ago for all to have found it."""
        return self._file.in_place() and (not self.awaited or clock.now() - self._mapped_at >= SETTLED)

    def _come_back(self) -> None:
        """Put what this process wrote on a board that takes the place of a lost one."""
        self.awaited, self._mapped_at = True, clock.now()
        if self._posted > self.version:
            self.post(self._posted)
        if self._slot is not None:
            known, counted, connections = self._worker, self._counted, self._connections
            at = _WORKERS_AT + self.join(clock.now()) * _WORKER_SIZE
            self._worker = known
            put(self._file.data, at, _WORKER.pack(os.getpid(), 0, *known))
            self.count(counted)
            self.connections(connections)
            self.report_certificates(self._has_certificates)

    def close(self) -> None:
        """Leave and unmap."""
        self.leave()
        self._file.close()
