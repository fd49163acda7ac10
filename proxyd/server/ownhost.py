"""What the master of a host that does not lead looks after, beside the applies: what is each host's own.

That is the circuits, which judge the way from this host to each upstream: it writes their rows, tells the leader of what happens to them,
and resets them when the leader asks all hosts to. And the admin HTTP: it reads here, and has the leader do what changes something. It
takes certificates and challenges to the workers, too, when the leader says that there are new ones, and keeps the last table in a file.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import gevent

from proxyd.admin.http import RequestRefused
from proxyd.admin.passing import Leader, Passing
from proxyd.admin.server import AdminServer
from proxyd.admin.state import MasterState
from proxyd.base import clock
from proxyd.base.text import route_number
from proxyd.base.trouble import Trouble
from proxyd.chores.keeper import Keeper, OfDatabase
from proxyd.config.settings import Settings
from proxyd.events.remote import ToLeader
from proxyd.health.checker import Checker
from proxyd.health.circuitwatch import CircuitWatch
from proxyd.health.ofleader import HealthOfLeader
from proxyd.net.listen import ListenError
from proxyd.registry.operations import Operations
from proxyd.registry.otherhosts import OtherHosts
from proxyd.registry.state import Registry
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import SLOTS, CircuitBoard
from proxyd.store.memory.watch import SharedWatch
from proxyd.store.sql import words
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.hostlist import is_drained, leader_admin
from proxyd.store.sql.membership import BEAT
from proxyd.store.sql.schema import HOSTS_CONNECTIONS, has_step
from proxyd.store.sql.wellness import Wellness

log = logging.getLogger("proxyd.master")

#: Seconds before another attempt to listen.
_LISTEN_AGAIN = 2.0
#: Longest wait, in seconds, for the workers to take certificates and challenges up, and the time between two looks.
_WORKERS_SECONDS, _TICK = 5.0, 0.005
_HIGHEST = 2**63 - 1


class OwnHost:
    """The host called `name`, which does not lead. It begins with the first look."""

    def __init__(self, settings: Settings, store: Store, board: Board, name: str) -> None:
        self._settings = settings
        self._store = store
        self._board = board
        self._name = name
        self._circuits: CircuitBoard | None = None
        self._files: SharedWatch | None = None
        self._others: OtherHosts | None = None
        self._bus = ToLeader(store, name)
        self._watch: CircuitWatch | None = None
        #: With `[health] from = each`; and the config version that it was told of.
        self._checker: Checker | None = None
        self._checked = 0
        self._keeper: Keeper | None = None
        self._admin: AdminServer | None = None
        self._listens_again = self._looked = 0.0
        self._no_admin = Trouble(log, "this host has no admin HTTP")
        self._stopping: list[Callable[[], None]] = []
        #: Since when it is known to be drained (monotonic seconds), 0.0: it is not.
        self._drained_since = 0.0
        self._asked = False

    @property
    def drained(self) -> bool:
        """Whether this host is drained."""
        if not self._asked:
            # Before the first look; the first attempt to lead may come earlier.
            with contextlib.suppress(StoreError):
                return self._store.read(is_drained, self._name)
        return bool(self._drained_since)

    @property
    def leaves(self) -> bool:
        """Whether it is drained, and has been for as long as fronts need to notice."""
        return bool(self._drained_since) and time.monotonic() - self._drained_since >= self._settings.hosts.drain_delay

    def look(self) -> None:
        """Do what is due. To be called a few times a second."""
        if self._circuits is None or self._files is None or self._others is None:
            self._circuits = CircuitBoard(self._settings.shared_memory_directory(), self._name)
            self._files = SharedWatch((self._circuits.file,), log, logging.WARNING)
            self._others = OtherHosts(self._store, self._name, self._bus)
            self._stopping.append(self._circuits.file.close)
        self._files.look()
        try:
            self._follow(self._circuits, self._others)
        except StoreError as error:
            # The leader may be of an older version, or the server away: that is told elsewhere.
            log.debug("what is this host's own waits for the database: %s", error)
        if self._settings.admin.enabled and self._admin is None and time.monotonic() >= self._listens_again:
            self._start_admin(self._circuits, self._others)

    def _follow(self, circuits: CircuitBoard, others: OtherHosts) -> None:
        now = time.monotonic()
        if now - self._looked < BEAT:
            return
        self._looked = now
        if not self._store.read(has_step, HOSTS_CONNECTIONS):
            return
        others.look(self._board.version)
        if self._checker is not None and self._checked != self._board.version:
            self._checked = self._board.version
            self._checker.changed(self._checked)
        self._drained_since, self._asked = (self._drained_since or now) if others.drained else 0.0, True
        if self._keeper is None:
            directory = self._settings.shared_memory_directory()
            self._keeper = Keeper(OfDatabase(self._store, self._board, directory), directory)
            self._keeper.start()
            self._stopping.append(self._keeper.drop)
        if self._watch is None:
            watch = CircuitWatch(self._store, self._bus, circuits, claims=False)
            watch.start()
            self._bus.start()
            self._watch = watch
            self._stopping += (self._bus.stop, watch.stop)
            self._start_health(circuits)

    def _start_health(self, circuits: CircuitBoard) -> None:
        settings = self._settings.health
        if settings.from_ == "each":
            self._checker = Checker(settings, self._store, self._bus, circuits, keeps=False)
            self._checker.start()
            self._checker.changed(self._board.version)
            self._stopping.append(self._checker.stop)
        elif settings.drive_circuits:
            of_leader = HealthOfLeader(self._store, circuits)
            of_leader.start()
            self._stopping.append(of_leader.stop)

    def _start_admin(self, circuits: CircuitBoard, others: OtherHosts) -> None:
        settings, store = self._settings, self._store
        registry = Registry(settings, store, self._board, self._bus, circuits)
        wellness = Wellness(store, self._board, circuits, clock.now(), list, list, None, others.findings)
        admin = AdminServer(settings, MasterState(
            store, self._bus, self._board, circuits, Operations(registry), wellness.started, jobs=self._bus.jobs, wellness=wellness,
            others=others, passing=Passing(self._name, self._leader)))
        try:
            admin.start()
        except ListenError as error:
            self._no_admin.goes_on(f"{error} ([admin] bind)")
            self._listens_again = time.monotonic() + _LISTEN_AGAIN
            return
        self._no_admin.is_over()
        self._admin = admin
        self._stopping.append(admin.stop)

    def _leader(self) -> Leader:
        try:
            return Leader(*self._store.read(leader_admin))
        except StoreError as error:
            raise RequestRefused(503, "database", str(error)) from None

    def stop(self) -> None:
        """End. After that it may begin again."""
        self._asked = False
        while self._stopping:
            self._stopping.pop()()
        self._circuits = self._files = self._others = self._watch = self._admin = self._checker = self._keeper = None

    def hear(self, news: list[tuple[str, str]]) -> None:
        """Do what the leader asks all hosts to do, and say that it is done. Raises StoreError."""
        for word in words.understood(news):
            if word.get("kind") == "reset" and self._circuits is not None:
                slot, number = word.get("slot"), route_number(str(word.get("route_id")))
                if isinstance(slot, int) and 0 <= slot < SLOTS and number:
                    self._circuits.move(slot, number, "reset", clock.now())
            if word.get("kind") == "certificates":
                # Others must not wait for workers that take long.
                gevent.spawn(self._take_certificates, word)
            elif word.get("kind") != "done":
                self._done(word)

    def _take_certificates(self, word: dict[str, Any]) -> None:
        version = word.get("version")
        if isinstance(version, int) and 0 < version <= _HIGHEST and self._settings.acme.enabled and self._settings.tls.bind:
            self._board.post_certificates(version)
            until = time.monotonic() + _WORKERS_SECONDS
            while self._board.without_certificates(version):
                if time.monotonic() > until:
                    return
                gevent.sleep(_TICK)
        try:
            self._done(word)
        except StoreError as error:
            log.info("the leader is not told that the certificates are taken up: %s", error)

    def _done(self, word: dict[str, Any]) -> None:
        if "mark" in word:
            self._store.call(words.say, {"kind": "done", "host": self._name, "mark": str(word["mark"])})
