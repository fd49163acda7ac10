"""Makes the secret of session tickets, and another one twice a day (`net/tickets.py`)."""

from __future__ import annotations

import logging
import os
import time

from proxyd.base.jobs import Job
from proxyd.net import tickets

log = logging.getLogger("proxyd.tls")

_PERIOD = 60.0
#: How long a secret is used, in seconds. OpenSSL's tickets live for two hours.
LIFETIME = 12 * 3600.0


class TicketKeeper:
    """A job for the file in `directory`. Without `enabled`, what is there is removed."""

    def __init__(self, enabled: bool, directory: str) -> None:
        self._enabled = enabled
        self._path = os.path.join(directory, tickets.NAME)
        self._tried = False
        #: When the secret was made, by time.monotonic(); None for one of an earlier master.
        self._made: float | None = None
        self._job = Job("session-tickets", _PERIOD, self._look, log, first=0.0, expected=OSError,
                        trouble="session tickets are not shared by the workers")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin."""
        if self._enabled:
            self._job.start()
        elif os.path.exists(self._path):
            os.unlink(self._path)

    def stop(self) -> None:
        """End. The secret stays for the next master."""
        self._job.stop()

    def _look(self) -> float | None:
        if not self._tried:
            if not tickets.works():
                log.warning("this Python's TLS library does not let session tickets be shared: clients resume their sessions at the same "
                            "worker alone")
                if os.path.exists(self._path):
                    os.unlink(self._path)
                return LIFETIME
            self._tried = True
        if not self._is_fresh():
            tickets.make(self._path)
            self._made = time.monotonic()
        return None

    def _is_fresh(self) -> bool:
        if tickets.read(self._path) is None:
            return False
        now = time.monotonic()
        if self._made is None:
            # Only what an earlier master has left is judged by the clock that somebody may have set.
            age = time.time() - os.stat(self._path).st_mtime
            self._made = now - age if age >= 0 else -LIFETIME
        return now - self._made < LIFETIME
