"""What a fault excuses, and when: a fault says it while it happens, and the judge looks it up afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tests.chaos.history import Window

#: What can be excused. A fault that excuses something has to say which, and for how long.
KINDS = {
    "cut": "connections that are in flight break: the process that has them was killed",
    "down": "nothing listens: the arbiter was ended",
    "slow": "answers take longer: a process that is needed is stopped",
    "backend": "one backend does not answer, or not well",
    "refused": "registry commands may be refused: the database can't be written",
    "master": "registry connections end, or can't be made: there is no master",
    "away": "routes of services that are connected by one host may be refused: its master is stopped for so long that they count as gone",
    "late": "a host may answer by an older table, if a leader has named it: its master is away, or nothing reaches it",
    "forgotten": "sessions are not found again: the database was lost, or an older one was put back",
}


@dataclass(slots=True)
class Excuse(Window):
    """A window of one kind. `backend`: which one, for that kind alone. `host`: the only one that it is about, empty for all. `by`: how much
    older (seconds) an answer may be that comes late."""

    kind: str = ""
    fault: str = ""
    backend: str = ""
    host: str = ""
    by: float = math.inf


class Excuses:
    """All excuses of a run."""

    def __init__(self) -> None:
        self.all: list[Excuse] = []

    def begin(self, kind: str, fault: str, now: float, backend: str = "", host: str = "") -> Excuse:
        """Open one; its end is set later."""
        assert kind in KINDS, kind
        excuse = Excuse(now, kind=kind, fault=fault, backend=backend, host=host)
        self.all.append(excuse)
        return excuse

    def holds(self, kind: str, begin: float, end: float, backend: str = "", host: str = "") -> bool:
        """Whether something of this kind was excused at some instant of this time."""
        return bool(self.found(kind, begin, end, backend, host))

    def found(self, kind: str, begin: float, end: float, backend: str = "", host: str = "") -> list[Excuse]:
        """What excuses something of this kind at some instant of this time."""
        return [excuse for excuse in self.all if excuse.kind == kind and excuse.backend == backend and excuse.host in ("", host)
                and excuse.overlaps(begin, end)]

    def under_way(self, at: float) -> list[str]:
        """The faults that excused something at this instant: what to look at first."""
        return sorted({excuse.fault for excuse in self.all if excuse.overlaps(at, at)})

