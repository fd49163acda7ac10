"""What tells a file from every other one, deleted ones included: many file systems give the number of a deleted file to the next one."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any

#: A file's device, number, and when it was made (nanoseconds, 0 where that is not known). None where there is no file.
Identity = tuple[int, int, int] | None

#: statx(2): struct statx, its mask, and the constants of linux/stat.h and linux/fcntl.h.
_STATX = struct.Struct("=I28xQ40xqI44xII")
_BYTES, _STATX_INO, _STATX_BTIME, _AT_FDCWD, _AT_EMPTY_PATH = 256, 0x100, 0x800, -100, 0x1000

#: None with a C library that is older than the call: numbers have to do.
_statx: Any = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def identity(path: str) -> Identity:
    """The identity of the file that has this name now. The file is not opened: closing it would free the locks that SQLite has on it."""
    found = _ask(_AT_FDCWD, os.fsencode(path), 0)
    if found is not None:
        return found
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, 0


def identity_of(descriptor: int) -> Identity:
    """The identity of an open file. Raises OSError."""
    found = _ask(descriptor, b"", _AT_EMPTY_PATH)
    if found is not None:
        return found
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, 0


def same(one: Identity, other: Identity) -> bool:
    """Whether both are the same file. Where one of them does not know when it was made, the number has to do."""
    return one is not None and other is not None and one[:2] == other[:2] and (one[2] == other[2] or not one[2] or not other[2])


def _ask(directory: int, path: bytes, flags: int) -> Identity:
    if _statx is None:
        return None
    answer = ctypes.create_string_buffer(_BYTES)
    # Refused where a sandbox does not know the call.
    if _statx(directory, path, flags, _STATX_INO | _STATX_BTIME, answer) != 0:
        return None
    mask, number, seconds, nanoseconds, major, minor = _STATX.unpack_from(answer)
    return os.makedev(major, minor), number, seconds * 10**9 + nanoseconds if mask & _STATX_BTIME else 0
