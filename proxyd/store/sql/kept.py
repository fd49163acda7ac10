"""The last table in a file beside the shared memory: workers, or the whole proxy, start from it where the database can't be read.

The file is a copy and nothing more. A worker goes on with the database as soon as that answers, and a file that is torn, or that
another version wrote, is not used. It is read many times faster than the rows: 100,000 routes in less than a second.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from hashlib import blake2b
from operator import attrgetter
from typing import Any

from proxyd.base import clock, private
from proxyd.base.lean import uncollected
from proxyd.base.text import hash_of, rfc3339, route_number
from proxyd.store.sql import identity, maintenance
from proxyd.store.sql.models import CLIENTLESS, Route, Session, StoredCounter
from proxyd.store.sql.snapshot import RouteRecord, Snapshot, counter
from proxyd.store.sql.upsert import upsert

NAME = "proxyd.table"
#: Sessions that are known only from the file. Nobody can resume them: what their clients declared is not in it.
PREFIX = "kept:"
#: The version of a database in which nothing was committed yet.
NEW = 1
#: Records of one part of the file, so that whoever writes it can do something else in between.
SLICE = 200

_MAGIC = b"proxyd table 1\n\0"
_HEAD = struct.Struct("<16s16sQ")
_LENGTH = struct.Struct("<I")
_NUMBER = re.compile(r"s\d+", re.ASCII)
_KEPT_NUMBER = re.compile(PREFIX + r"s(\d+)", re.ASCII)
_FIELDS = tuple(field.name for field in fields(RouteRecord))
_values = attrgetter(*_FIELDS)
_DRAIN = _FIELDS.index("drain_started_at")
#: Route numbers that are left out: routes that ended after the file was written may have had them, and circuits know them.
_GAP = 1000


class KeptError(Exception):
    """The file can't be used; the message says why."""


@dataclass(frozen=True, slots=True)
class KeptTable:
    """What the file has: all routes as of a version, when it was written (Unix seconds), and the token's name of each session that
    registered with one."""

    snapshot: Snapshot
    written: float
    tokens: Mapping[str, str]


class KeptFile:
    """The file being written, part by part. It takes its place, whole, with `finish`; without that nothing changes."""

    def __init__(self, path: str, version: int, tokens: Mapping[str, str]) -> None:
        self._path = path
        self._temporary = f"{path}.{os.getpid()}.new"
        self._digest = blake2b(digest_size=16)
        self._size = 0
        fd = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, private.MODE)
        os.fchmod(fd, private.MODE)
        self._file = os.fdopen(fd, "wb")
        try:
            self._file.write(bytes(_HEAD.size))
            self._add((_FIELDS, version, time.time(), tuple(tokens.items())))
        except BaseException:
            self.abandon()
            raise

    def add(self, records: Iterable[RouteRecord]) -> None:
        """Add routes, at most SLICE at a time."""
        self._add([_outside(record) if record.drain_started_at else _values(record) for record in records])

    def _add(self, value: Any) -> None:
        part = marshal.dumps(value, 4)
        part = _LENGTH.pack(len(part)) + part
        self._digest.update(part)
        self._size += len(part)
        self._file.write(part)

    def finish(self) -> tuple[int, int, int]:
        """Bring it to the disk and put it into its place. Blocks for as long as the disk takes. Returns what tells it from another one that
        has its place later: see `stamp`."""
        self._file.seek(0)
        self._file.write(_HEAD.pack(_MAGIC, self._digest.digest(), self._size))
        self._file.flush()
        os.fsync(self._file.fileno())
        found = stamp(os.fstat(self._file.fileno()))
        self._file.close()
        os.replace(self._temporary, self._path)
        return found

    def abandon(self) -> None:
        """Give up. Harmless after `finish`."""
        with contextlib.suppress(OSError):  # a full disk: closing writes what is left
            self._file.close()
        with contextlib.suppress(OSError):
            os.unlink(self._temporary)


def stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from others, and from itself at other times."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def read(path: str) -> KeptTable | None:
    """What the file has, or None if there is none. Raises KeptError."""
    private.regain(path, 0o400)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise KeptError(f"it can't be read: {error.strerror}") from None
    if len(content) < _HEAD.size or not content.startswith(_MAGIC):
        raise KeptError("it is not a table of this version")
    _, digest, size = _HEAD.unpack_from(content)
    body = memoryview(content)[_HEAD.size:]
    if len(body) != size or blake2b(body, digest_size=16).digest() != digest:
        raise KeptError("it is torn or was changed")
    parts = _parts(body)
    names, version, written, tokens = next(parts)
    if names != _FIELDS:
        raise KeptError("another version of proxyd wrote it")
    with uncollected():
        routes = tuple(RouteRecord(*values) if not values[_DRAIN] else _inside(values) for part in parts for values in part)
    return KeptTable(Snapshot(version, True, routes, ()), written, dict(tokens))


def _outside(record: RouteRecord) -> tuple[Any, ...]:
    """The values of a record, in which the beginning of a drain can be understood by other processes and after another boot."""
    values: tuple[Any, ...] = _values(record)
    began = record.drain_started_at
    return (*values[:_DRAIN], (clock.mark(began), clock.shown(began)), *values[_DRAIN + 1:])


def _inside(values: tuple[Any, ...]) -> RouteRecord:
    changed = list(values)
    changed[_DRAIN] = clock.remembered(*values[_DRAIN])
    return RouteRecord(*changed)


def _parts(body: memoryview) -> Iterator[Any]:
    at = 0
    while at < len(body):
        (length,) = _LENGTH.unpack_from(body, at)
        at += _LENGTH.size
        yield marshal.loads(body[at:at + length])
        at += length


def is_new() -> bool:
    """Whether nothing was ever committed to the database. Runs in the database thread."""
    return counter("config_version") <= NEW and not Session.select().exists() and not Route.select().exists()


def take_up(kept: KeptTable, newest: int = 0) -> bool:
    """Fill a new database with the kept routes, and with sessions that hold them until their services are back or the grace for
    reconnecting has passed. False if it is not new. `newest`: the highest version of the lost database that is known, for workers that
    have it still: a number must not stand for two configurations. Runs in the database thread, inside `Store.call`."""
    if not is_new():
        return False
    at = rfc3339(time.time())
    version = max(kept.snapshot.version, newest) + 1
    sessions: dict[str, dict[str, Any]] = {}
    rows = []
    for record in kept.snapshot.routes:
        session_id = kept_id(record.session_id)
        sessions[session_id] = {
            "session_id": session_id, "service_name": record.service, "instance_name": record.instance, "state": "connected",
            "token_name": kept.tokens.get(record.session_id, ""), "connected_at": at, "last_activity": at}
        rows.append(_row(record, session_id, version, at))
    upsert(Session, list(sessions.values()))
    for first in range(0, len(rows), SLICE):
        upsert(Route, rows[first:first + SLICE])
        identity.came(rows[first:first + SLICE], "kept table")
        maintenance.found(rows[first:first + SLICE])
    number = max((route_number(record.route_id) for record in kept.snapshot.routes), default=0) + _GAP
    # Ids that are kept must not meet those of new sessions, should this database be lost too.
    session_number = max((int(found[1]) for name in sessions if (found := _KEPT_NUMBER.fullmatch(name))), default=0) + _GAP
    for name, value in (("config_version", version), ("next_route_number", number), ("next_session_number", session_number),
                        ("removals_from", version)):
        StoredCounter.update(value=value).where(StoredCounter.name == name).execute()
    return True


def kept_id(session_id: str) -> str:
    """The id under which a session of the file is held. Those of sites and of routes by hand go on as they are.

    A file of an older proxyd has the secret ids of clients, which must not get into the database.
    """
    if session_id.startswith((*CLIENTLESS, PREFIX)):
        return session_id
    return PREFIX + (session_id if _NUMBER.fullmatch(session_id) else hash_of(session_id))


def _row(record: RouteRecord, session_id: str, version: int, at: str) -> dict[str, Any]:
    return {
        "route_id": record.route_id, "session": session_id, "service_name": record.service, "instance_name": record.instance,
        "domains": json.dumps(record.domains), "path": record.path, "backend_url": record.backend_url, "priority": record.priority,
        "enabled": record.enabled, "options": json.dumps(dict(record.options)), "headers": json.dumps(dict(record.headers)),
        "request_headers": json.dumps(dict(record.request_headers)),
        "rate_limits": json.dumps(record.rate_limits), "maintenance_since": _text(record.maintenance_since),
        "maintenance_page_url": record.maintenance_page_url or None, "drain_started_at": _text(clock.shown(record.drain_started_at)),
        "drain_clock": clock.mark(record.drain_started_at) if record.drain_started_at else None,
        "drain_seconds": record.drain_seconds or None,
        "rollout_share": None if record.rollout >= 1.0 else round(record.rollout * 100.0, 6),
        "slot": record.slot, "version": version, "created_at": at, "updated_at": at}


def _text(instant: float) -> str | None:
    return rfc3339(instant) if instant else None
