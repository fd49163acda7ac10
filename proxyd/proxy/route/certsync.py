"""Follows the master in certificates: takes up new ones and challenges as soon as they are posted on the board."""

from __future__ import annotations

import logging
import time

from proxyd.base.jobs import Glance, Job
from proxyd.net.served import Served
from proxyd.store.memory.board import Board
from proxyd.store.sql import certificates, keptcerts
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.keybox import Keybox, KeyboxError

log = logging.getLogger("proxyd.tls")

_TICK = 0.02
_RETRY = 0.2


class CertificateSync:
    """Keeps `served` current. `challenges`: what is answered to a CA, by token; empty where nothing is on order. `poll`: seconds between
    two looks into the database for what nobody on this host posted."""

    def __init__(self, store: Store, board: Board, served: Served, key_file: str, poll: float, kept: str) -> None:
        """`kept`: file of certificates to start with where the database can't be read."""
        self._store = store
        self._board = board
        self._key_file = key_file
        self._kept = kept
        self._version = 0
        self._not_before = 0.0
        self.served = served
        self.challenges: dict[str, str] = {}
        self._glance = Glance(_TICK, self._look)
        self._job = Job("certificates", poll, self.follow, log, wakes=True, retry=_RETRY, expected=(StoreError, KeyboxError),
                        trouble="the certificates are taken up later", first=0.0)

    def start(self) -> None:
        """Begin, with what is there already if it can be read. What the file has is there at once, and the database may take its time."""
        try:
            kept = keptcerts.read(self._kept)
            if kept is not None:
                self._take_up(kept)
            else:
                self.follow()
        except (StoreError, KeyboxError) as error:
            log.debug("the certificates are taken up later: %s", error)
        self._glance.start()
        self._job.start()

    def stop(self) -> None:
        """End."""
        self._glance.stop()
        self._job.stop()

    def follow(self) -> None:
        """Read what is new. Raises StoreError, KeyboxError."""
        # After a failure nobody needs to look sooner than that.
        self._not_before = time.monotonic() + _RETRY
        # A poll is cheap: one number.
        version = self._store.read(certificates.current)
        if version != self._version:
            self._take(self._store.read(certificates.news, self._version))
        if self._board.certificates == self._version:
            self._not_before = 0.0

    def _look(self) -> None:
        """Called by the event loop."""
        if self._board.certificates != self._version and time.monotonic() >= self._not_before:
            self._job.wake()

    def _take(self, news: certificates.CertificateNews) -> None:
        self._take_up(news)
        self.challenges = {token: answer for token, (answer, _) in news.challenges.items()}
        self.served.prove({domain: answer for answer, domain in news.challenges.values()})
        self.served.expect(news.ordered)
        self._version = news.version
        self._board.report_certificates(news.version)

    def _take_up(self, news: certificates.CertificateNews) -> None:
        if news.fresh:
            box = Keybox(self._key_file)
            fresh = {(domain, kind): (chain, box.unlock(key)) for domain, kind, chain, key in news.fresh}
        else:
            fresh = {}
        from proxyd.net.localca import LocalAuthority

        local = next((LocalAuthority.of(*pair) for (domain, _), pair in fresh.items() if domain == certificates.LOCAL_CA), None)
        fresh = {key: pair for key, pair in fresh.items() if key[0] != certificates.LOCAL_CA}
        there = {key for key in news.there if key[0] != certificates.LOCAL_CA}
        if fresh or local is not None or self.served.names - {name for name, _ in there}:
            self.served.take(fresh, there, local)
            log.info("certificates taken up%s", f": {', '.join(sorted({name for name, _ in fresh})[:20])}" if fresh else "")
