"""What every endpoint works with: the master's state, the guard, and answers kept for a moment."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from gevent.lock import BoundedSemaphore

from proxyd.admin.follow import Followers
from proxyd.admin.guard import Guard
from proxyd.admin.http import RequestRefused
from proxyd.admin.state import MasterState
from proxyd.admin.tail import Tails
from proxyd.config.settings import Settings
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.wellness import Wellness

Result = TypeVar("Result")

_KEPT_SECONDS = 0.5
_KEPT = 64


class Context:
    """One admin server's. `read` runs a function in the database thread."""

    def __init__(self, settings: Settings, state: MasterState) -> None:
        self.settings = settings
        self.state = state
        self.guard = Guard(settings, self._refused)
        self.followers = Followers(state.bus)
        self.tails = Tails(os.path.dirname(os.path.abspath(state.board.file.path)))
        self.wellness = state.wellness or Wellness(state.store, state.board, state.circuits, state.started, state.problems,
                                                   state.certificates, state.health_alive)
        self._kept: OrderedDict[Hashable, tuple[float, int, Any]] = OrderedDict()
        self._reading: dict[Hashable, BoundedSemaphore] = {}

    def _refused(self, address: str, reason: str) -> None:
        self.state.bus.publish("login_refused", {"to": "admin", "reason": reason}, actor=address)

    def read(self, function: Callable[..., Result], *args: Any) -> Result:
        """Read from the database. Raises RequestRefused where it fails."""
        try:
            return self.state.store.read(function, *args)
        except StoreError as error:
            raise RequestRefused(503, "database", str(error)) from None

    def kept(self, key: Hashable, read: Callable[[], Result]) -> Result:
        """What `read` gives, at most half a second old, and not from before the last apply: many open status pages cost the database what
        one does."""
        version = self.state.board.version
        lock = self._reading.setdefault(key, BoundedSemaphore(1))
        with lock:
            try:
                found = self._kept.get(key)
                if found is None or found[1] != version or time.monotonic() - found[0] > _KEPT_SECONDS:
                    found = self._kept[key] = (time.monotonic(), version, read())
                    self._kept.move_to_end(key)
                    while len(self._kept) > _KEPT:
                        self._kept.popitem(last=False)
            finally:
                self._reading.pop(key, None)
        value: Result = found[2]
        return value

    def forget(self) -> None:
        """Keep nothing: something was changed."""
        self._kept.clear()
        self.wellness.forget()
