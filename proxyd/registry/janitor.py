"""What has to happen though nobody asks: sessions whose grace is over end, stale staged changes go, and dead workers' rows."""

from __future__ import annotations

import logging
import time

import gevent

from proxyd.logs import Trouble
from proxyd.registry import staging
from proxyd.registry.state import Registry
from proxyd.store.database import StoreError
from proxyd.store.models import Worker
from proxyd.store.traffic import forget_worker
from proxyd.text import rfc3339

log = logging.getLogger("proxyd.registry")

_PERIOD = 0.25
_WORKER_SILENCE = 10.0


class Janitor:
    """A greenlet that looks a few times a second."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._greenlet: gevent.Greenlet | None = None
        self._workers_at = 0.0
        self._trouble = Trouble(log, "what is due waits for the database")

    def start(self) -> None:
        """Begin."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """End."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def _run(self) -> None:
        while True:
            gevent.sleep(_PERIOD)
            try:
                self.look(time.time())
                self._trouble.is_over()
            except StoreError as error:
                self._trouble.goes_on(error)
                gevent.sleep(1.0)
            except Exception:
                log.exception("janitor")
                gevent.sleep(1.0)

    def look(self, now: float) -> None:
        """Do what is due at `now` (Unix seconds)."""
        registry = self._registry
        over = registry.expired(now)
        if over:
            for session in over:
                log.info("session %s of %s/%s did not come back within the grace: its routes are removed", session.session_id[:8],
                         session.service, session.instance)
            registry.end(over)
        ttl = registry.settings.registry.staged_ttl
        for session in list(registry.sessions.values()):
            if session.staged and session.staged_at and now - session.staged_at > ttl:
                log.info("staged changes of %s/%s were left untouched for %g s and are dropped", session.service, session.instance, ttl)
                staging.rollback(registry, session)
        if now - self._workers_at > 2.0:
            self._workers_at = now
            alive = {worker.pid for worker in registry.board.workers()}
            registry.store.call(_drop_dead, alive, rfc3339(now - _WORKER_SILENCE), patience=0.25)


def _drop_dead(alive: set[int], silent_since: str) -> None:
    """Remove workers that are silent and not on this host's board; another host's beat keeps theirs."""
    for row in Worker.select().where(Worker.heartbeat_at < silent_since):
        if row.pid not in alive:
            forget_worker(row.pid)
            Worker.delete().where(Worker.pid == row.pid).execute()
