"""Turns the results of checks into a status. It is pure, and the same for every kind of check.

A target is `down` after `fall` failures in a row, or when fewer than half of the last checks succeeded. It is `healthy` again
after `rise` successes in a row. In between, fewer than nine successes in ten mean `degraded`: it takes traffic, but somebody
should look at it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

STATUSES = UNKNOWN, HEALTHY, DEGRADED, DOWN = "unknown", "healthy", "degraded", "down"
_HEALTHY_RATE, _DOWN_RATE = 0.9, 0.5
#: With fewer results than this, the rate says nothing.
_ENOUGH = 10


@dataclass(slots=True)
class Standing:
    """The standing of a target. `window`: the number of last results from which the success rate is computed."""

    rise: int
    fall: int
    window: int
    status: str = UNKNOWN
    reason: str = "not checked yet"
    failures: int = 0
    successes: int = 0
    results: deque[bool] = field(default_factory=deque)

    def take(self, ok: bool, error: str) -> bool:
        """Count one result. Returns whether the status changed."""
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
            # Results from before the recovery must not bring it down again.
            results.clear()
            results.extend([True] * min(self.successes, self.window))
        return self.status != before

    def under(self, rise: int, fall: int) -> Standing:
        """The same standing with other thresholds."""
        return replace(self, rise=rise, fall=fall, results=deque(self.results))

    def one_will_do(self) -> None:
        """Let the next success end `down`, because there is a sign that the upstream is back."""
        self.successes = max(self.successes, self.rise - 1)

    def restore(self, status: str, reason: str, failures: int, successes: int, rate: float | None, checks: int) -> None:
        """Take over a stored standing, which had made `checks` checks. `rate`: the share of successes among the last ones."""
        self.status, self.reason, self.failures, self.successes = status, reason, failures, successes
        if status == DOWN:
            self.failures = max(failures, 1)
        elif rate is not None:
            count = min(checks, self.window)
            good = round(rate * count)
            # Their order is not known. Spread evenly, they make no false row of failures.
            self.results.extend((place + 1) * good // count > place * good // count for place in range(count))

    def rate(self) -> float | None:
        """The share of successes among the last results. None without results."""
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
