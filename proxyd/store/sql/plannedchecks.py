"""Marks the single checks of an older database that were made in maintenance. Everything here runs in the database thread, inside one
transaction of the caller."""

from __future__ import annotations

from proxyd.store.sql.database import database
from proxyd.store.sql.viewparts import GOES_ON


class PlannedChecks:
    """Goes through the windows of maintenance from which there are checks. Another one begins again where this one was cut off: what is
    marked already is not written again. Nobody knows when older versions drained."""

    #: Rows that a piece is to mark; one window at least is done in each.
    rows = 5000

    def __init__(self) -> None:
        self._last = 0
        #: Rows that were marked.
        self.done = 0

    def piece(self) -> bool:
        """Mark the checks of some windows. Returns whether more is left."""
        mark, enough = database.obj.param, self.done + self.rows
        oldest = database.execute_sql("SELECT MIN(checked_at) FROM health_results").fetchone()[0]
        while oldest is not None and self.done < enough:
            window = database.execute_sql(
                f"SELECT window_id, route_id, started_at, COALESCE(ended_at, '{GOES_ON}') FROM maintenance_windows "
                f"WHERE window_id > {mark} AND started_at IS NOT NULL AND COALESCE(ended_at, '{GOES_ON}') >= {mark} "
                "ORDER BY window_id LIMIT 1", [self._last, oldest]).fetchone()
            if window is None:
                return False
            self._last = window[0]
            self.done += database.execute_sql(
                f"UPDATE health_results SET planned = TRUE WHERE route_id = {mark} AND checked_at >= {mark} AND checked_at <= {mark} "
                "AND NOT planned", list(window[1:])).rowcount
        return oldest is not None
