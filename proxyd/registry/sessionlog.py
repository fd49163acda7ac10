"""What became of sessions, as events: begun, lost, back, ended. Those of site files are told by their routes alone."""

from __future__ import annotations

from proxyd.events.bus import EventBus
from proxyd.store.sql.models import SITE_PREFIX


class SessionLog:
    """Publishes the events of one session, which is gone or has changed already."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    def registered(self, service: str, instance: str, session_id: str, address: str, token: str) -> None:
        """A session began."""
        self._bus.publish("session_registered", {"service": service, "instance": instance, "address": address, "token": token}, None,
                          session_id, address)

    def lost(self, service: str, instance: str, session_id: str, address: str, grace: float) -> None:
        """The connection of a session broke."""
        self._bus.publish("session_lost", {"service": service, "instance": instance, "address": address, "grace": grace}, None, session_id,
                          address)

    def back(self, service: str, instance: str, session_id: str, address: str, away: float) -> None:
        """A lost session was resumed, after so many seconds."""
        self._bus.publish("session_back", {"service": service, "instance": instance, "address": address, "away": round(max(0.0, away), 3)},
                          None, session_id, address)

    def ended(self, service: str, instance: str, session_id: str, by: str, why: str) -> None:
        """A session ended: who ended it, and the reason."""
        if not session_id.startswith(SITE_PREFIX):
            self._bus.publish("session_ended", {"service": service, "instance": instance, "reason": why}, None, session_id, by)
