"""What the leader hears from the other hosts, and what it says about its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from proxyd.base.jobs import Job, JobOver
from proxyd.events.remote import publish_word
from proxyd.health.circuitwatch import drop_others
from proxyd.registry.otherhosts import OtherHosts
from proxyd.registry.server import RegistryServer
from proxyd.registry.state import Registry
from proxyd.store.sql import words
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.membership import BEAT, Membership

log = logging.getLogger("proxyd.master")

#: Longest wait for news at a time: the sign of life has to wait for it, because both use one connection.
_WAIT = 0.1
#: Seconds in which the clients of a host that is drained come back by another one.
_MOVING = 20.0


class HostWatch:
    """A job that hears of each host that has taken a version as soon as it says so, and reads twice a second which hosts live.

    `server` has the registry connections. `hand_over` ends this master, so that another host leads."""

    def __init__(self, registry: Registry, member: Membership, others: OtherHosts, server: RegistryServer,
                 hand_over: Callable[[], None]) -> None:
        self._registry = registry
        self._member = member
        self._others = others
        self._server, self._hand_over = server, hand_over
        self._looked = 0.0
        #: Since when this host is drained (monotonic seconds), 0.0: it is not; and the other hosts that are.
        self._drained_since = 0.0
        self._drains: set[str] = set()
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
        for name, version in words.reached_by(news):
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
            self._member.connections = len(self._server.connections)
            self._others.look(version)
            self._look_at_drains(now)
            living = {self._member.name, *self._others.living()}
            if living != self._living:
                self._server.cut(self._living - living)
                self._registry.store.call(drop_others, living)
                self._living = living

    def _look_at_drains(self, now: float) -> None:
        delay, drains = self._registry.settings.hosts.drain_delay, self._others.drains()
        if drains - self._drains:
            # The clients of these hosts come back by another one in a moment.
            self._registry.expect_moves(delay + _MOVING)
        self._drains = drains
        if not self._others.drained:
            self._drained_since = 0.0
            return
        self._drained_since = self._drained_since or now
        if now - self._drained_since >= delay and (able := self._others.could_lead()):
            log.warning("%s, and hands the lead over: %s can lead", self._others.drained, ", ".join(sorted(able)))
            self._hand_over()
            raise JobOver
