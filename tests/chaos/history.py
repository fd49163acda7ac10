"""What a service declared, when it was sent and when it was acknowledged: and so which versions are legal at an instant.

All times are of the one clock that the whole suite reads (time.monotonic).
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["ok", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Config:
    """A version of what a service serves. `backend` names the backend of the main route, empty if the service serves nothing; `extra` says
    whether there is a second route."""

    version: int
    backend: str = ""
    extra: bool = False

    def has(self, extra: bool) -> bool:
        """Whether the main route, or the extra one, exists in this version."""
        return self.extra if extra else bool(self.backend)


@dataclass(slots=True)
class Attempt:
    """One CONFIG_APPLY (or CLIENT_SHUTDOWN). Its outcome stays unknown when the answer was lost: it may hold or not."""

    version: int
    sent: float
    ended: float = math.inf
    outcome: Outcome = "unknown"

    def end(self, outcome: Outcome, now: float) -> None:
        """Note the answer."""
        self.outcome, self.ended = outcome, now


@dataclass(slots=True)
class Window:
    """A time in which something is the case; its end is open until it is known."""

    begin: float
    end: float = math.inf

    def overlaps(self, begin: float, end: float) -> bool:
        """Whether it has an instant in common with another time."""
        return self.begin <= end and begin <= self.end


@dataclass(slots=True)
class History:
    """All that one service did. Its own thread writes, and the judge reads when all is over."""

    service: str
    configs: dict[int, Config] = field(default_factory=lambda: {0: Config(0)})
    attempts: list[Attempt] = field(default_factory=list)
    #: From a disconnect to the OK of the RECONNECT: requests may be refused with `route_disabled`.
    away: list[Window] = field(default_factory=list)
    #: From a REGISTER to the OK of its first apply: there may be no routes.
    gone: list[Window] = field(default_factory=list)
    #: When an older state was put back, and of when it is at least: what was acknowledged in between may not hold until the next apply is.
    restored: list[tuple[float, float]] = field(default_factory=list)

    def declare(self, config: Config) -> None:
        """Make a version known, before anything of it is sent."""
        self.configs[config.version] = config

    def send(self, version: int, now: float) -> Attempt:
        """Note that an apply is being sent."""
        attempt = Attempt(version, now)
        self.attempts.append(attempt)
        return attempt

    def legal(self, begin: float, end: float) -> set[int]:
        """The versions that may answer a request of this time: the last one that was acknowledged before it, and all that were sent since.

        A service sends one apply at a time, so that attempts are in the order of their versions and of their times."""
        restored = [(at, since) for at, since in self.restored if at <= end]
        found = set()
        for at in range(bisect.bisect_right(self.attempts, end, key=lambda attempt: attempt.sent) - 1, -1, -1):
            attempt = self.attempts[at]
            if attempt.outcome != "refused":
                found.add(attempt.version)
            if attempt.outcome == "ok" and attempt.ended <= begin and all(
                    attempt.sent >= at or attempt.ended <= since for at, since in restored):
                return found
        return found | {0}

    def may_lack(self, extra: bool, begin: float, end: float) -> bool:
        """Whether a request of this time may find no route."""
        return (any(not self.configs[version].has(extra) for version in self.legal(begin, end))
                or any(window.overlaps(begin, end) for window in self.gone))

    def may_be_away(self, begin: float, end: float) -> bool:
        """Whether the service may have been disconnected at this time: it was, or an older state of when it was has been put back, and no
        apply was acknowledged since."""
        return any(window.overlaps(begin, end) for window in self.away) or any(
            at <= end and any(window.overlaps(since, at) for window in self.away)
            and not any(attempt.outcome == "ok" and attempt.sent >= at and attempt.ended <= begin for attempt in self.attempts)
            for at, since in self.restored)
