"""What goes wrong: each fault is declared in one of these modules, with its weight."""

from tests.chaos.faults import backends, database, files, host, processes
from tests.chaos.faults.declared import FAULTS, WHOLE, Fault

__all__ = ["FAULTS", "WHOLE", "Fault", "backends", "database", "files", "host", "processes"]
