"""A proxyd whose time of day can be set while it runs, without the right to set that of the host."""

from __future__ import annotations

import os
import struct
from pathlib import Path

from tests.support.system import System

SHIFTED = Path(__file__).parent / "shifted"


class ShiftedSystem(System):
    """Its processes have a time of day of their own."""

    @property
    def environment(self) -> dict[str, str]:
        found = super().environment
        self.set_time(0.0)
        return {**found, "SHIFT_FILE": str(self.directory / "shift"),
                "PYTHONPATH": os.pathsep.join((str(SHIFTED), found["PYTHONPATH"]))}

    def set_time(self, shift: float) -> None:
        """Set the time of day to `shift` seconds off the true one, for all processes at once."""
        path = self.directory / "shift"
        with open(path, "r+b" if path.exists() else "wb") as file:
            file.write(struct.pack("<d", shift))
