"""Which processes have ended, as the log says, and which of them had a reason to."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

#: What the arbiter says of a worker, and the supervisor of a master, unless it ended with 0 or by TERM.
_WORKER = re.compile(r" worker (\d+) (?:was ended by (SIG\w+)|ended with status (\d+))")
_MASTER = re.compile(r"the master \(pid (\d+)\) ended after")


@dataclass(slots=True)
class MayEnd:
    """A part of the log, by its characters, in which workers may end by one signal, or the master by itself. The end is open until it is
    known. The time of day that lines begin with is one that faults set."""

    begin: int
    end: float = math.inf
    #: The signal by which workers may end, "" if none may.
    signal: str = ""
    master: bool = False
    #: Whether masters may be unable to start.
    starts: bool = False

    def holds(self, at: int) -> bool:
        """Whether something that was logged there is in it."""
        return self.begin <= at <= self.end


def without_reason(log: str, killed: Collection[int], may_end: Sequence[MayEnd]) -> Iterator[str]:
    """What ended that nobody killed (`killed`: the pids of those that SIGKILL was sent to) and that nothing excuses."""
    for found in _WORKER.finditer(log):
        pid, name, status = int(found[1]), found[2] or "", found[3]
        asked = name == "SIGKILL" and pid in killed
        if not asked and not any(part.signal and part.signal == name and part.holds(found.start()) for part in may_end):
            yield f"worker {pid} ended by itself: {name or f'exit status {status}'}"
    for found in _MASTER.finditer(log):
        unable = log.find(f"[{found[1]}] the master can't start: ")
        if int(found[1]) not in killed and not any(part.master and part.holds(found.start()) or part.starts and part.holds(unable)
                                                   for part in may_end):
            yield f"the master {found[1]} ended by itself"
