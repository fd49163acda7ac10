"""What the leader hears from the other hosts, and what it says about its own."""

from __future__ import annotations

import logging
import time

from proxyd.base.jobs import Job
from proxyd.events.remote import publish_word
from proxyd.registry.otherhosts import OtherHosts
from proxyd.registry.state import Registry
from proxyd.store.sql import words
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.membership import BEAT, Membership, reached_by
from proxyd.store.sql.observed import Circuit

log = logging.getLogger("proxyd.master")

#: Longest wait for news at a time: the sign of life has to wait for it, because both use one connection.
_WAIT = 0.1


class HostWatch:
    """A job that hears of each host that has taken a version as soon as it says so, and reads twice a second which hosts live."""

    def __init__(self, registry: Registry, member: Membership, others: OtherHosts) -> None:
        self._registry = registry
        self._member = member
        self._others = others
        self._looked = 0.0
        self._living: set[str] = set()
        self._job = Job("hosts", 0.0, self._look, log, first=0.0, retry=BEAT, expected=StoreError,
                        trouble="nothing is heard from the other hosts")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin."""
        self._job.start()

    def stop(self) -> None:
        """End."""
        self._job.stop()

    def _look(self) -> None:
        news = self._member.news(_WAIT)
        for name, version in reached_by(news):
            self._others.heard(name, version)
        for word in words.understood(news):
            if word.get("kind") == "done":
                self._others.did(str(word.get("host")), str(word.get("mark")))
            else:
                publish_word(self._registry.bus, word)
        now = time.monotonic()
        if now - self._looked >= BEAT:
            self._looked = now
            version, board = self._registry.version, self._registry.board
            if not board.behind(version):
                # It is written with the next sign of life.
                self._member.reached = version
            self._others.look(version)
            living = {self._member.name, *self._others.living()}
            if living != self._living:
                self._registry.store.call(_drop_others, living)
                self._living = living


def _drop_others(living: set[str]) -> None:
    """Drop the circuits of the hosts that are gone: nobody goes by them."""
    Circuit.delete().where(Circuit.host.not_in(list(living))).execute()
