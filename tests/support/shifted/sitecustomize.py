"""Found by every Python process that has this folder in PYTHONPATH: the time of day is off by the seconds that the file SHIFT_FILE
holds (a double), and changes when the file does. All other clocks, and the process otherwise, are as they are."""

from __future__ import annotations

import mmap
import os
import struct
import time

with open(os.environ["SHIFT_FILE"], "rb") as _file:
    _shift = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
_time, _time_ns = time.time, time.time_ns


def _seconds() -> float:
    return float(struct.unpack_from("<d", _shift)[0])


time.time = lambda: _time() + _seconds()
time.time_ns = lambda: _time_ns() + int(_seconds() * 1e9)
