"""What the clocks of other hosts say, for what one of them declared and all of them wait for: drains, holds, the end of maintenance.

Each master leaves in its row of `hosts` what its clock says (`base.clock`), twice a second, and when, by the clock of the database server.
Of that one only the age of what was left counts, so it need not be right. No host's time of day counts at all.
"""

from __future__ import annotations

from proxyd.base import clock
from proxyd.store.sql.database import database
from proxyd.store.sql.query import is_sqlite
from proxyd.store.sql.schema import HOSTS_TOGETHER, has_step

_CLOCKS = "SELECT clock, EXTRACT(EPOCH FROM clock_timestamp()) - clock_at FROM hosts WHERE clock IS NOT NULL AND clock_at IS NOT NULL"


def is_foreign(marked: str | None) -> bool:
    """Whether another boot's clock made a mark."""
    return bool(marked) and (marked or "").partition(" ")[0] != clock.BOOT_ID


def learn() -> None:
    """Learn the clocks of the hosts that share the database. Runs in the database thread."""
    if is_sqlite() or not has_step(HOSTS_TOGETHER):
        return
    rows = list(database.execute_sql(_CLOCKS))
    now = clock.now()
    clock.learn((marked, now - float(age)) for marked, age in rows)
