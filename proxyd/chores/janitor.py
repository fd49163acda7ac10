"""Cleans up what nobody asks to have cleaned up: sessions whose grace has passed, stale staged changes, and dead workers' rows."""

from __future__ import annotations

import logging
from math import inf

from proxyd.base import clock
from proxyd.base.hosts import BOOT, WorkerKey
from proxyd.base.jobs import Job
from proxyd.base.processes import runs
from proxyd.registry import staging
from proxyd.registry.state import Registry
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.observed import RouteInFlight, Worker
from proxyd.store.sql.traffic import forget_worker

log = logging.getLogger("proxyd.registry")

_PERIOD = 0.25
#: Workers write a heartbeat a second. Who has not for so long is gone.
_WORKER_SILENCE = 3.5
#: If the last look was longer ago than this, the database could not be read, or written: silence since then says nothing.
_LONGEST_GAP = 1.0
_NOT_BACK = "did not reconnect within reconnect_grace"
_NOT_REPLACED = "was replaced, and its successor did not apply within replace_grace"


class Janitor:
    """A job that cleans up a few times a second."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: What the heartbeat of each worker's row said, and since when it has said that.
        self._beats: dict[WorkerKey, tuple[str, float]] = {}
        self._looked = -inf
        self._host = registry.settings.host_name()
        self._job = Job("janitor", _PERIOD, lambda: self.look(clock.now()), log, expected=StoreError,
                        trouble="the cleanup waits for the database")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin."""
        self._job.start()

    def stop(self) -> None:
        """End."""
        self._job.stop()

    def look(self, now: float) -> None:
        """Do what is due at `now` (an instant of `base.clock`)."""
        registry = self._registry
        over = registry.expired(now)
        if over:
            for why, sessions in ((_NOT_REPLACED, [item for item in over if item.replaced]),
                                  (_NOT_BACK, [item for item in over if not item.replaced])):
                registry.end(sessions, "proxyd", why)
                for session in sessions:
                    log.info("session %s of %s/%s %s: its routes are removed", session.session_id, session.service, session.instance, why)
        ttl = registry.settings.registry.staged_ttl
        for session in list(registry.sessions.values()):
            if session.staged and session.staged_at and now - session.staged_at > ttl:
                staging.rollback(registry, session)
                log.info("the staged changes of %s/%s were untouched for %g s and are dropped", session.service, session.instance, ttl)
        alive = {worker.pid for worker in registry.board.workers()}
        dead = registry.store.read(self._dead, alive, now)
        if dead:
            registry.store.call(_drop, dead, patience=0.25)

    def _dead(self, alive: set[int], now: float) -> list[WorkerKey]:
        """Dead workers that left rows behind. A worker lives if it is on this host's board, or if its heartbeat still changes and, on
        this host, its process runs. Runs in the database thread."""
        own = self._host, BOOT
        kept: set[WorkerKey] = {(*own, pid) for pid in alive}
        dead: set[WorkerKey] = set()
        beats: dict[WorkerKey, tuple[str, float]] = {}
        gap, self._looked = now - self._looked, now
        for row in Worker.select():
            key = row.host, row.boot, row.pid
            # Another host's clock may be wrong, so what the heartbeat says is not compared with ours.
            known = self._beats.get(key)
            said, since = known if known and known[0] == row.heartbeat_at else (row.heartbeat_at, now)
            if gap > _LONGEST_GAP:
                since = now
            beats[key] = said, since
            lives = key in kept or (now - since <= _WORKER_SILENCE and (key[:2] != own or runs(row.pid)))
            (kept if lives else dead).add(key)
        self._beats = beats
        # A worker that was killed before its first heartbeat has counts but no row.
        open_now = RouteInFlight.select(RouteInFlight.host, RouteInFlight.boot, RouteInFlight.pid).distinct()
        dead.update(key for row in open_now if (key := (row.host, row.boot, row.pid)) not in kept)
        return sorted(dead)


def _drop(keys: list[WorkerKey]) -> None:
    """Remove what dead workers left, so that none of their requests count as open any more."""
    for key in keys:
        forget_worker(key)
