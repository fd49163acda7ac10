"""What is each host's own, and what the master of a host that does not lead looks after: the circuits, which judge the way from this host
to each upstream. It writes their rows, tells the leader of what happens to them, and resets them when the leader asks all hosts to."""

from __future__ import annotations

import logging
from typing import Any

from proxyd.base import clock
from proxyd.base.text import route_number
from proxyd.config.settings import Settings
from proxyd.events.remote import ToLeader
from proxyd.health.circuitwatch import CircuitWatch
from proxyd.store.memory.circuits import SLOTS, CircuitBoard
from proxyd.store.memory.watch import SharedWatch
from proxyd.store.sql import words
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.schema import HOSTS_TOGETHER, has_step

log = logging.getLogger("proxyd.master")


class OwnHost:
    """The host called `name`. It begins when the database has what it needs: the leader may be of an older version."""

    def __init__(self, settings: Settings, store: Store, name: str) -> None:
        self._settings = settings
        self._store = store
        self._name = name
        self._circuits: CircuitBoard | None = None
        self._files: SharedWatch | None = None
        self._parts: list[Any] = []

    def look(self) -> None:
        """Begin if that has not happened and can. To be called a few times a second."""
        if self._files is not None:
            self._files.look()
            return
        try:
            if not self._store.read(has_step, HOSTS_TOGETHER):
                return
        except StoreError:
            return
        self._circuits = CircuitBoard(self._settings.shared_memory_directory(), self._name)
        self._files = SharedWatch((self._circuits.file,), log, logging.WARNING)
        to_leader = ToLeader(self._store, self._name)
        for part in (to_leader, CircuitWatch(self._store, to_leader, self._circuits, claims=False)):
            try:
                part.start()
            except StoreError as error:
                log.info("what is this host's own waits for the database: %s", error)
                self.stop()
                return
            self._parts.append(part)

    def stop(self) -> None:
        """End."""
        while self._parts:
            self._parts.pop().stop()
        if self._circuits is not None:
            self._circuits.file.close()
        self._circuits = self._files = None

    def hear(self, news: list[tuple[str, str]]) -> None:
        """Do what the leader asks all hosts to do, and say that it is done. Raises StoreError."""
        for word in words.understood(news):
            if word.get("kind") == "reset" and self._circuits is not None:
                slot, number = word.get("slot"), route_number(str(word.get("route_id")))
                if isinstance(slot, int) and 0 <= slot < SLOTS and number:
                    self._circuits.move(slot, number, "reset", clock.now())
            if "mark" in word and word.get("kind") != "done":
                self._store.call(words.say, {"kind": "done", "host": self._name, "mark": str(word["mark"])})
