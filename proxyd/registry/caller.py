"""The caller of a command: what its handler sees of the registry, and of the connection that the command came from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from proxyd.registry.protocol import Answer, CommandError, CommandLine
from proxyd.registry.state import MOVE, LiveSession, Registry

if TYPE_CHECKING:
    from proxyd.events.bus import Event
    from proxyd.registry.auth import Gatekeeper
    from proxyd.registry.operations import Operations


log = logging.getLogger("proxyd.registry")


class Caller:
    """One connection's view of the registry; `address` is the client's."""

    def __init__(self, registry: Registry, operations: Operations, gate: Gatekeeper, address: str) -> None:
        self.registry = registry
        self.operations = operations
        self.gate = gate
        self.address = address
        self.closing = False
        #: Whether the master is stopping. Its clients then lose a connection but keep their routes, and the next master takes over.
        self.stopping = False
        self.subscriptions: set[str] = set()
        #: Told whether there are subscriptions, each time that they change.
        self.listens: Callable[[bool], None] = lambda listens: None
        self.deliver: Callable[[Event], None] = lambda event: None
        self.unhurried: Callable[[], AbstractContextManager[None]] = nullcontext
        #: Waits for so many seconds at most, and returns whether a MAINT_EXIT of this connection waits for its turn.
        self.exit_waits: Callable[[float], bool] = lambda seconds: False
        self._session: LiveSession | None = None
        self.secret = ""

    @property
    def session(self) -> LiveSession:
        """The connection's session. To be used only after `require`."""
        assert self._session is not None
        return self._session

    @property
    def has_session(self) -> bool:
        """Whether the connection holds a session that has not ended."""
        return self._session is not None and self._session.holder is self

    @property
    def actor(self) -> str:
        """The name of the caller for the audit trail."""
        session = self._session
        return f"{session.service}/{session.instance}@{self.address}" if session is not None else self.address

    def require(self, session_id: str) -> None:
        """Check that this is the id with which the connection got its session. Raises CommandError."""
        if self._session is None:
            raise CommandError("no session")
        if self.secret != session_id or not self.has_session:
            raise CommandError("invalid session")
        self._session.last_activity = time.time()

    def hold(self, session: LiveSession, secret: str) -> None:
        """From now on this connection holds the session. `secret`: the id that its client has."""
        self._session = session
        self.secret = secret

    def lost(self, moves: bool = False) -> None:
        """The connection is gone, so the session's routes take no traffic. `moves`: not by the client's doing, who has a moment to come
        back by another host."""
        if self._session is not None and self.has_session and not self.stopping:
            soon = self.registry.disconnect(self._session, self, moves)
            log.info("%s/%s lost its connection: its %d routes take no traffic %suntil it reconnects", self._session.service,
                     self._session.instance, len(self._session.routes), f"in {MOVE:g} s " if soon else "")
        self._session = None


def carry_out(caller: Caller, line: CommandLine) -> Answer:
    """Run the handler. Raises CommandError, and what the handler raises."""
    if line.command.session:
        caller.require(line.values[0])
    return line.command.handler(caller, *line.parsed())
