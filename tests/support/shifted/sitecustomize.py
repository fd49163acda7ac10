"""Found by every Python process that has this folder in PYTHONPATH: the time of day is off by the seconds that the file SHIFT_FILE
holds (a double), and changes when the file does. SHIFT_BOOT, if set, is the mark of the boot that the process believes in, which began
a day before this one. The process is as it is otherwise."""

from __future__ import annotations

import mmap
import os
import pathlib
import struct
import time
from typing import Any

with open(os.environ["SHIFT_FILE"], "rb") as _file:
    _shift = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
_time, _time_ns = time.time, time.time_ns


def _seconds() -> float:
    return float(struct.unpack_from("<d", _shift)[0])


time.time = lambda: _time() + _seconds()
time.time_ns = lambda: _time_ns() + int(_seconds() * 1e9)

if _boot := os.environ.get("SHIFT_BOOT"):
    _read_text, _gettime = pathlib.Path.read_text, time.clock_gettime

    def _other_boot(path: pathlib.Path, *arguments: Any, **named: Any) -> str:
        return f"{_boot}\n" if str(path).endswith("/boot_id") else _read_text(path, *arguments, **named)

    pathlib.Path.read_text = _other_boot  # type: ignore[method-assign,assignment]
    time.clock_gettime = lambda which: _gettime(which) + (86400.0 if which == time.CLOCK_BOOTTIME else 0.0)
