"""How many requests were refused or failed, by reason code: written by workers in batches, read for the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from proxyd.store.sql.observed import RefusalCount
from proxyd.store.sql.upsert import add


@dataclass(slots=True)
class RefusalBatch:
    """Requests by reason code since a worker's last batch."""

    counts: dict[str, int]

    def write(self) -> None:
        """Add them to the table."""
        add(RefusalCount, ("reason", "requests"), list(self.counts.items()), ("requests",))


def refusal_counts() -> dict[str, int]:
    """Requests by reason code, over all workers and since the database was made. Runs in the database thread."""
    return {row.reason: row.requests for row in RefusalCount.select().order_by(RefusalCount.reason)}
