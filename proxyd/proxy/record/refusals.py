"""Counts requests that were refused or failed, by reason code, and hands the counts to the database in batches."""

from __future__ import annotations

from proxyd.store.sql.refusals import RefusalBatch


class Refusals:
    """The counts of this worker since the last batch."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def count(self, reason: str, requests: int = 1) -> None:
        """One more request ended for this reason."""
        counts = self._counts
        counts[reason] = counts.get(reason, 0) + requests

    def take(self) -> RefusalBatch | None:
        """A batch of what was counted since the last one, or None."""
        if not self._counts:
            return None
        batch = RefusalBatch(self._counts)
        self._counts = {}
        return batch

    def give_back(self, batch: RefusalBatch) -> None:
        """Add a batch that could not be written."""
        for reason, requests in batch.counts.items():
            self.count(reason, requests)
