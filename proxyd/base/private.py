"""The modes of files that are nobody else's business: 0640, whatever the umask or the folder is."""

from __future__ import annotations

import contextlib
import logging
import os
import stat

log = logging.getLogger("proxyd")

MODE = 0o640
#: What everybody on the host may do with a file.
_OTHERS = 0o007


def make(path: str) -> None:
    """Make an empty file, if there is none. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            os.fchmod(fd, MODE)
        finally:
            os.close(fd)


def tighten(path: str) -> None:
    """Take a file's mode away from others, and log it. What an operator gave to owner and group stays. A missing file is none."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return
    if not mode & _OTHERS:
        return
    try:
        os.chmod(path, mode & ~_OTHERS)
    except OSError as error:
        log.warning("%s can be read by everybody (mode %04o), and its mode can't be changed (%s): as its owner, chmod o= %s", path, mode,
                    error.strerror, path)
    else:
        log.warning("%s was open to everybody (mode %04o): it has mode %04o now", path, mode, mode & ~_OTHERS)


def regain(path: str, needed: int = 0o600) -> bool:
    """Give the owner of a file, if that is this user, the right to read and write it again, where somebody took away what is `needed`
    (mode bits), and log it. Whether that was done. A missing file, and one of another user, stay as they are."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & needed == needed:
            return False
        os.chmod(path, mode | MODE)
    except OSError:
        return False
    log.warning("%s could not be opened by processes that start (mode %04o): it has mode %04o now", path, mode, mode | MODE)
    return True


def open_to_all(path: str) -> str | None:
    """What to tell of a file with a secret that everybody on the host may read, or None."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return None
    if not mode & _OTHERS:
        return None
    return f"{path} has mode {mode:04o}, so everybody on this host can read it: chmod {mode & 0o750:04o} {path}"
