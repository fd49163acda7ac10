"""Watches the certificates: publishes an event for each renewal, and warns before a certificate expires."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from proxyd.base.jobs import Job
from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.config.settings import Settings
from proxyd.net.tls import Certificate, CertificateError, days_left, read_certificate
from proxyd.store.sql import certhistory, certificates
from proxyd.store.sql.database import Store, StoreError

if TYPE_CHECKING:
    from proxyd.events.bus import EventBus

log = logging.getLogger("proxyd.tls")

_CHECK_SECONDS = 2.0
_WARN_DAYS = (1, 7, 30)
#: Seconds between two looks at the certificates in the database, and their `path`.
_ROWS_SECONDS, _ROWS = 60.0, "in the database"
#: Seconds that the database thread, which others need, waits for another process's lock; and rows that wait for the database.
_PATIENCE, _MOST_UNTOLD = 0.25, 1000


class CertificateWatch:
    """Reads the files every few seconds, the registry's own included, and now and then the certificates in the database (`store`), which
    are renewed by themselves, but for imported ones and where orders fail. `certificates`: what the files hold now, for metrics."""

    def __init__(self, settings: Settings, bus: EventBus, store: Store | None = None) -> None:
        served = settings.tls.certificates if settings.tls.bind else ()
        self._paths = tuple(dict.fromkeys(filter(None, (*served, settings.registry.tls_certificate))))
        self._bus = bus
        self._job = Job("certificates", _CHECK_SECONDS, lambda: self.check(time.time()), log)
        self._store = store if settings.acme.enabled and settings.tls.bind else None
        #: What the history is to be told, and where: a locked database gets it later.
        self._untold: list[dict[str, Any]] = []
        self._history = store
        self._rows = Job("stored-certificates", _ROWS_SECONDS, lambda: self.check_rows(time.time()), log, first=0.0, expected=StoreError,
                         trouble="the ends of certificates in the database are looked at later", level=logging.DEBUG)
        self.jobs = (self._job, self._rows)
        self._warned: dict[tuple[str, tuple[str, ...], int], int] = {}
        self._broken: set[str] = set()
        self.certificates: dict[str, Certificate] = {}

    def start(self) -> None:
        """Read them now, and then every few seconds."""
        self.check(time.time())
        if self._paths:
            self._job.start()
        if self._store is not None:
            self._rows.start()

    def stop(self) -> None:
        """Stop reading."""
        self._job.stop()
        self._rows.stop()

    def check(self, now: float) -> None:
        """Compare the files with what was read before. `now`: Unix seconds."""
        self._write_history()
        for path in self._paths:
            try:
                found = read_certificate(path)
            except CertificateError as error:
                if path not in self._broken:
                    log.error("%s", error)
                self._broken.add(path)
                continue
            self._broken.discard(path)
            known = self.certificates.get(path)
            self.certificates[path] = found
            if known is not None and known.serial != found.serial:
                log.info("certificate %s renewed, valid until %s", path, rfc3339(found.expires))
                self._bus.publish("cert_renewed", {"path": path, "names": list(found.names), "expires": rfc3339(found.expires)})
                self._tell(certhistory.RENEWED, found, now)
            self._warn(found, now)

    def check_rows(self, now: float) -> None:
        """Look at the certificates in the database. `now`: Unix seconds. Raises StoreError."""
        assert self._store is not None
        for row in self._store.read(certificates.certificates):
            if row["domain"] == certificates.LOCAL_CA:
                continue
            begins, ends = parse_rfc3339(row["not_before"]), parse_rfc3339(row["not_after"])
            # They are renewed when a third is left: half of that is late.
            lines = tuple(days for days in _WARN_DAYS if days <= (ends - begins) / 86400 / 6)
            self._warn(Certificate(_ROWS, (row["domain"],), ends, int(row["serial"], 16), row["key_type"]), now, lines)

    def _tell(self, what: str, certificate: Certificate, now: float) -> None:
        """Have the history tell of a certificate."""
        self._untold.append(certhistory.told(
            what, certificate.names[0] if certificate.names else certificate.path, certificate.kind, now, certificate.names,
            file="" if certificate.path == _ROWS else certificate.path, serial=f"{certificate.serial:x}",
            not_after=rfc3339(certificate.expires)))
        self._write_history()

    def _write_history(self) -> None:
        while self._untold and self._history is not None:
            try:
                self._history.call(certhistory.write, self._untold[0], patience=_PATIENCE)
            except StoreError as error:
                log.debug("the history of certificates is written later: %s", error)
                del self._untold[:-_MOST_UNTOLD]
                return
            del self._untold[0]

    def _warn(self, certificate: Certificate, now: float, lines: tuple[int, ...] = _WARN_DAYS) -> None:
        """Warn once at each of 30, 7 and 1 days left, and once when the certificate has expired."""
        left = days_left(certificate, now)
        line = 0 if left <= 0 else next((days for days in lines if left <= days), None)
        key = (certificate.path, certificate.names, certificate.serial)
        if line is None or self._warned.get(key, 1000) <= line:
            return
        self._warned[key] = line
        names = ", ".join(certificate.names)
        if line == 0:
            self._tell(certhistory.EXPIRED, certificate, now)
            log.error("the certificate %s for %s expired on %s", certificate.path, names, rfc3339(certificate.expires))
        else:
            log.warning("the certificate %s for %s expires in %.1f days", certificate.path, names, left)
        self._bus.publish("certificate_expiring", {"path": certificate.path, "names": list(certificate.names),
                                                   "expires": rfc3339(certificate.expires), "days": round(left, 1)})
