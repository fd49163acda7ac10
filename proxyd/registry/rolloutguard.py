"""Whether the instance that is rolled out does as well as the others: pure, from what was counted of both in a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxyd.base.histogram import percentile
from proxyd.store.sql.rollouts import Counted

#: A single failure tells nothing.
_FEWEST_ERRORS = 3
#: Requests that a p95 needs, and milliseconds by which one must be the longer: below that, it is the machine's own noise.
_FEWEST_REQUESTS, _NOISE_MS = 40, 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one side answered in a step."""

    requests: int = 0
    errors: int = 0
    latency: Mapping[int, int] = field(default_factory=dict)

    @property
    def error_percent(self) -> float:
        """The share of errors, in percent."""
        return 100.0 * self.errors / self.requests if self.requests else 0.0

    @property
    def p95_ms(self) -> float | None:
        """Milliseconds that 95 % of the requests did not exceed, None without requests."""
        return round(percentile(self.latency, 0.95) * 1000, 3) if self.latency else None

    def timed(self) -> int:
        """How many requests have a latency."""
        return sum(self.latency.values())

    def to_json(self) -> dict[str, Any]:
        """For the row's memory."""
        return {"requests": self.requests, "errors": self.errors, "latency": {str(bucket): count for bucket, count in self.latency.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Figures:
        """The reverse."""
        return cls(value["requests"], value["errors"], {int(bucket): count for bucket, count in value["latency"].items()})


def since(route_ids: Iterable[str], now: Mapping[str, Counted], before: Mapping[str, Figures]) -> Figures:
    """What routes counted since `before`, summed. A route that is not there counted nothing yet."""
    requests = errors = 0
    latency: dict[int, int] = {}
    for route_id in route_ids:
        found, old = now.get(route_id), before.get(route_id, Figures())
        if found is None:
            continue
        requests += max(0, found.requests - old.requests)
        errors += max(0, found.errors - old.errors)
        for bucket, count in found.latency.items():
            if (more := count - old.latency.get(bucket, 0)) > 0:
                latency[bucket] = latency.get(bucket, 0) + more
    return Figures(requests, errors, latency)


def objection(ours: Figures, others: Figures, max_errors: float, max_slower: float, at_end: bool) -> str:
    """Why an instance does worse than the others by more than it may; empty if it does not, or if too little was counted to tell.

    `max_errors`: percentage points by which its share of errors may be the greater. `max_slower`: how many times theirs its p95 may be,
    which is looked at when the step is over (`at_end`).
    """
    if ours.errors >= _FEWEST_ERRORS and ours.error_percent > others.error_percent + max_errors:
        return (f"{ours.errors} of its {ours.requests} requests failed ({ours.error_percent:.1f} %), {others.errors} of the others' "
                f"{others.requests} ({others.error_percent:.1f} %): more than {max_errors:g} percentage points worse")
    mine, theirs = ours.p95_ms, others.p95_ms
    if not at_end or mine is None or theirs is None or min(ours.timed(), others.timed()) < _FEWEST_REQUESTS:
        return ""
    if mine > theirs * max_slower and mine > theirs + _NOISE_MS:
        return f"its p95 was {mine:.1f} ms, that of the others {theirs:.1f} ms: more than {max_slower:g} times as long"
    return ""
