"""The connection to a PostgreSQL server: what it is given, and a bound for every wait for an answer.

libpq waits for as long as the kernel thinks that the server is there. A server that hangs, or a host that is cut off, would keep
the database thread for ever. So psycopg2 is told to wait in `_wait`, which looks at a deadline.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import peewee
from gevent import monkey

from proxyd.base.text import hide_password

#: The thread that waits is a native one: gevent's poll would wait in a hub of its own.
_poll = monkey.get_original("select", "poll")
_POLLIN, _POLLOUT = 1, 4
_DATABASE = re.compile(r"postgres(?:ql)?://[^/?]*/[^/?]")
#: How the client looks after the server (seconds, seconds, times), and the server after its clients: else it keeps the locks of a host
#: that was cut off for two hours, like that on the host's name, unless it has something to tell it.
_KEEPALIVES: dict[str, Any] = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
_SERVERS_KEEPALIVES = " ".join(f"-c tcp_{name}={number}" for name, number in _KEEPALIVES.items())
#: Until when the statement that runs in a thread may wait (monotonic seconds).
_patience = threading.local()


class ServerSilent(Exception):
    """The server did not answer in time."""


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let no statement that this thread runs inside wait longer than until `seconds` from now. Raises ServerSilent at it."""
    before = getattr(_patience, "until", math.inf)
    _patience.until = min(before, time.monotonic() + seconds)
    try:
        yield
    finally:
        _patience.until = before


def _wait(connection: Any) -> None:
    """psycopg2's wait callback: until the connection has done what it was asked."""
    from psycopg2 import extensions

    until = getattr(_patience, "until", math.inf)
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return
        poll = _poll()
        poll.register(connection.fileno(), _POLLIN if state == extensions.POLL_READ else _POLLOUT)
        left = until - time.monotonic()
        if left <= 0 or not poll.poll(None if left == math.inf else math.ceil(left * 1000)):
            raise ServerSilent("the server does not answer")


def url_problem(url: str) -> str | None:
    """What is wrong with a `postgresql://` url, as far as it can be seen without a server; None for a sound one."""
    if not _DATABASE.match(url):
        return "names no database (like postgresql://user@host:5432/proxyd)"
    try:
        from psycopg2 import ProgrammingError
        from psycopg2.extensions import parse_dsn
    except ImportError:
        return "PostgreSQL needs the psycopg2 package: pip install psycopg2-binary"
    try:
        found = parse_dsn(url)
    except ProgrammingError as error:
        return f"{hide_password(url)!r} is not a url of PostgreSQL's: {str(error).strip()}"
    for port in filter(None, found.get("port", "").split(",")):
        if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            return f"{port} is no port (1 to 65535)"
    return None


def server(url: str, seconds: float, turn: float = 0.0) -> peewee.Database:
    """A peewee database for a `postgresql://` url of libpq's form (several hosts, sslmode and other parameters included), not yet
    connected. `seconds`: the longest wait for a connection, and for a lock; `turn`: that for a lock, if it is tried again after that.
    Needs psycopg2."""
    with contextlib.suppress(ImportError):
        from psycopg2 import extensions

        extensions.set_wait_callback(_wait)
        _give_driver()
    milliseconds, for_locks = max(1, round(seconds * 1000)), max(1, round((turn or seconds) * 1000))
    return peewee.PostgresqlDatabase(
        url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url, thread_safe=False,
        connect_timeout=max(2, math.ceil(seconds)), application_name="proxyd",
        # The server ends what its client has left, so that a frozen or lost process can't keep a lock for ever.
        options=f"-c lock_timeout={for_locks} -c idle_in_transaction_session_timeout={milliseconds} {_SERVERS_KEEPALIVES}",
        **_KEEPALIVES, tcp_user_timeout=max(2000, milliseconds))


def _give_driver() -> None:
    """Let peewee have psycopg2, as if it had been there when peewee was imported."""
    import psycopg2
    from psycopg2 import extensions, extras

    given: Any = peewee
    if given.psycopg2 is not None:
        return
    given.psycopg2, given.pg_extensions, given.Json_pg2 = psycopg2, extensions, extras.Json
    adapter = given.Psycopg2Adapter
    adapter.txn_idle, adapter.txn_inerror = extensions.TRANSACTION_STATUS_IDLE, extensions.TRANSACTION_STATUS_INERROR
    adapter.txn_unknown = extensions.TRANSACTION_STATUS_UNKNOWN


def await_news(opened: Any, seconds: float) -> None:
    """Wait until the server tells this connection something, or says anything else, at most `seconds`."""
    connection = opened.connection()
    if not connection.notifies:
        poll = _poll()
        poll.register(connection.fileno(), _POLLIN)
        poll.poll(max(0, math.ceil(seconds * 1000)))


def notified(opened: Any) -> list[tuple[str, str]]:
    """What the server has told this connection, which listens: channel and text of each. Raises peewee.OperationalError for a connection
    that is lost."""
    from psycopg2 import Error

    connection = opened.connection()
    try:
        connection.poll()
    except Error as error:
        raise peewee.OperationalError(str(error)) from None
    found = [(told.channel, told.payload) for told in connection.notifies]
    connection.notifies.clear()
    return found


def lost(opened: peewee.Database) -> bool:
    """Whether the connection is of no use any more: the server has ended it, it broke, or an answer did not come in time. It is
    closed then."""
    connection: Any = opened.connection() if not opened.is_closed() else None  # type: ignore[no-untyped-call]
    if connection is not None and not connection.closed:
        return False
    with contextlib.suppress(peewee.PeeweeException):
        opened.close()
    return True
