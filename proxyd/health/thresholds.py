"""From the results of checks to a status: pure, the same for every kind of check.

`down` after `fall` failures in a row, or when fewer than half of the last checks were good; `healthy` again after `rise`
good ones in a row. In between, fewer than nine in ten good ones mean `degraded`: it takes traffic, and somebody should look.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

STATUSES = UNKNOWN, HEALTHY, DEGRADED, DOWN = "unknown", "healthy", "degraded", "down"
_HEALTHY_RATE, _DOWN_RATE = 0.9, 0.5
#: Fewer results than this say nothing about a rate.
_ENOUGH = 10


@dataclass(slots=True)
class Standing:
    """Where a target stands; `window` bounds the results that the success rate looks back on."""

    rise: int
    fall: int
    window: int
    status: str = UNKNOWN
    reason: str = "not checked yet"
    failures: int = 0
    successes: int = 0
    results: deque[bool] = field(default_factory=deque)

    def take(self, ok: bool, error: str) -> bool:
        """Count one result; whether the status changed."""
        results = self.results
        results.append(ok)
        if len(results) > self.window:
            results.popleft()
        if ok:
            self.successes += 1
            self.failures = 0
        else:
            self.failures += 1
            self.successes = 0
        before = self.status
        self.status, self.reason = self._judged(ok, error)
        if before == DOWN and self.status != DOWN:
            # What was before the recovery must not bring it down again.
            results.clear()
            results.extend([True] * min(self.successes, self.window))
        return self.status != before

    def under(self, rise: int, fall: int) -> Standing:
        """The same standing to be judged by other thresholds from now on."""
        return replace(self, rise=rise, fall=fall, results=deque(self.results))

    def one_will_do(self) -> None:
        """The next good result ends being down: there is a sign that the upstream is back."""
        self.successes = max(self.successes, self.rise - 1)

    def restore(self, status: str, reason: str, failures: int, successes: int, rate: float | None, checks: int) -> None:
        """Stand where another one stood, which looked back on `checks` results of which the share `rate` was good."""
        self.status, self.reason, self.failures, self.successes = status, reason, failures, successes
        if status == DOWN:
            self.failures = max(failures, 1)
        elif rate is not None:
            count = min(checks, self.window)
            good = round(rate * count)
            # In which order they came is not known: evenly spread, no row of failures is made up.
            self.results.extend((place + 1) * good // count > place * good // count for place in range(count))

    def rate(self) -> float | None:
        """Share of good results among the last ones, None without any."""
        return sum(self.results) / len(self.results) if self.results else None

    def _judged(self, ok: bool, error: str) -> tuple[str, str]:
        if self.failures >= self.fall:
            return DOWN, f"{self.failures} checks in a row failed: {error}"
        if self.status == DOWN:
            if self.successes < self.rise:
                return DOWN, self.reason
            return HEALTHY, f"{self.successes} checks in a row passed"
        if self.status == UNKNOWN and not ok:
            return UNKNOWN, f"no check passed yet: {error}"
        rate = self.rate() or 0.0
        if len(self.results) < _ENOUGH or rate >= _HEALTHY_RATE:
            return HEALTHY, "checks pass" if ok else f"a check failed: {error}"
        shown = f"{rate:.0%} of the last {len(self.results)} checks passed"
        return (DOWN if rate < _DOWN_RATE else DEGRADED), shown
