"""What one party took from another: a session from its live holder, a domain and path from another service's route.

Each is told in the log, as an event and in the status. Two programs that take a session from each other without end are told once
in a while, with how often it happened.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from proxyd.base import clock
from proxyd.events.bus import EventBus

log = logging.getLogger("proxyd.registry")

#: Seconds in which a second loss of the same kind is counted and not told anew.
_QUIET = 10.0
#: Seconds for which the status shows a loss.
SHOWN_SECONDS = 600.0
#: So many losses in that time are a fight.
_FIGHT = 3
_MAX_KNOWN = 1000
_MAX_SHOWN = 20


@dataclass(slots=True)
class _Known:
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    told: float = -_QUIET
    untold: int = 0
    sentence: str = ""


class Takeovers:
    """The losses of the last time, by what was lost. Those that were lost longest ago are forgotten first."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def session(self, service: str, instance: str, session_id: str, how: str, before: str, address: str, token: str) -> dict[str, object]:
        """A live holder (at `before`) lost its session to a client. Returns the event's data, for the holder."""
        by = f"{address} (token {token})" if token else address
        data: dict[str, object] = {"service": service, "instance": instance, "how": how, "address": address, "token": token,
                                   "previous_address": before}
        sentence = f"{service}/{instance} lost its session at {before} to {by} ({how})"
        count = self._count(f"session {service}/{instance}", sentence)
        if count:
            data["count"] = count
            log.warning("%s%s", sentence, f"; {count} times since this was logged last" if count > 1 else "")
            self._bus.publish("session_replaced", data, None, session_id, address)
        return data

    def route(self, route_id: str, service: str, place: str, winner: str, winner_service: str, actor: str) -> None:
        """A route gets no more traffic at a place, because another service's route there has a higher priority."""
        sentence = f"route {route_id} of {service} gets no traffic at {place}: route {winner} of {winner_service} has a higher priority"
        count = self._count(f"route {route_id} {place}", sentence)
        if count:
            log.warning("%s (%s)", sentence, actor)
            self._bus.publish("route_overridden", {"service": service, "place": place, "by_route": winner, "by_service": winner_service,
                                                   "count": count}, route_id, None, actor)

    def _count(self, what: str, sentence: str) -> int:
        """How many losses there are to be told now; 0: it was told a moment ago."""
        now = clock.now()
        known = self._known.setdefault(what, _Known())
        self._known.move_to_end(what)
        while len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
        known.losses.append(now)
        known.sentence = sentence
        known.untold += 1
        if now - known.told < _QUIET:
            return 0
        count, known.untold, known.told = known.untold, 0, now
        return count

    def fights(self) -> list[str]:
        """Sessions that programs take from each other again and again."""
        return [text for text, count in self._recent("session ") if count >= _FIGHT][:_MAX_SHOWN]

    def sentences(self) -> list[str]:
        """The losses of sessions in the last time, the newest first."""
        return [text for text, _ in self._recent("session ")][:_MAX_SHOWN]

    def _recent(self, kind: str) -> list[tuple[str, int]]:
        since = clock.now() - SHOWN_SECONDS
        found = []
        for what, known in reversed(self._known.items()):
            count = sum(1 for at in known.losses if at >= since)
            if count and what.startswith(kind):
                found.append((f"{known.sentence}; {count} times in {SHOWN_SECONDS / 60:.0f} min: two programs have the same names"
                              if count >= _FIGHT else known.sentence, count))
        return found
