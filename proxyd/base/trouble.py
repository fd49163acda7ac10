"""What lasts is said once: the one way in which something that fails again and again is told in the log."""

from __future__ import annotations

import errno
import logging

_LACKS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


def host_lacks(error: BaseException) -> bool:
    """Whether an error says that the host lacks something (descriptors, memory, room on a disk that works and can be written): it can
    come at any place, and no traceback helps."""
    return isinstance(error, OSError) and error.errno in _LACKS


class Trouble:
    """A failure that may last: said when it begins, when its reason changes, and when it is over, but not each time.

    `reason` is why it failed the last time, empty where it did not. `level` is that of a failure; what nobody expected is an error.
    """

    def __init__(self, log: logging.Logger, what: str, level: int = logging.WARNING) -> None:
        self.reason = ""
        self._log = log
        self._what = what
        self._level = level

    def goes_on(self, reason: object, unexpected: Exception | None = None) -> None:
        """It failed (again); `unexpected` is told with its traceback."""
        said = str(reason) or type(reason).__name__
        if said != self.reason:
            self.reason = said
            self._log.log(self._level if unexpected is None else logging.ERROR, "%s: %s", self._what, said, exc_info=unexpected)

    def is_over(self, more: str = "") -> None:
        """It works (again); `more` is added to what is said of that."""
        if self.reason:
            self.reason = ""
            self._log.log(min(self._level, logging.INFO), "%s: over%s", self._what, more)
