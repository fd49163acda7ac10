"""Files of the operator that gates go by, such as lists of networks: read before clients come, and again when they change.

They are read in a native thread, so that no request waits for a large one. If a file can't be used any more, what was read of it before
stays in use, and the log says so.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from gevent import get_hub

from proxyd.base.jobs import Job
from proxyd.base.trouble import Trouble

log = logging.getLogger("proxyd.proxy")

LOOK_SECONDS = 1.0
Value = TypeVar("Value")
#: What tells one state of a file from another: inode, time of change and size.
Mark = tuple[int, int, int]


class _Found(NamedTuple):
    """What a look at a file has found: its mark, and what is in it, or why it can't be used."""

    mark: Mark | None
    value: Any
    problem: str


def read_whole(path: str, most: int) -> str:
    """The text of a file. Raises ValueError, also for one of more than `most` bytes, and OSError."""
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most} bytes")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text (byte {error.start})") from None


class FollowedFile(Generic[Value]):
    """One file. `value`: what was read of it last; None until it could be read. `parse` raises ValueError for what can't be used."""

    def __init__(self, path: str, what: str, most: int, parse: Callable[[str], Value]) -> None:
        self.path = path
        self.value: Value | None = None
        self._most = most
        self._parse = parse
        self._mark: Mark | None = None
        self._what = what
        self._trouble = Trouble(log, f"the {what} {path} can't be used", logging.ERROR)

    def look(self) -> _Found | None:
        """Read the file if it has changed. Touches nothing else, so that a thread may call it. None if it is as it was."""
        try:
            status = os.stat(self.path)
            mark = (status.st_ino, status.st_mtime_ns, status.st_size)
            if mark == self._mark:
                return None
            return _Found(mark, self._parse(read_whole(self.path, self._most)), "")
        except OSError as error:
            return _Found(None, None, error.strerror or str(error))
        except ValueError as error:
            return _Found(mark, None, str(error))

    def take(self, found: _Found) -> None:
        """Go by what a look has found."""
        self._mark = found.mark
        if found.problem:
            stays = "; what was read of it before stays in use" if self.value is not None else ""
            self._trouble.goes_on(f"{found.problem}{stays}")
            return
        if self.value is not None:
            log.info("the %s %s has changed and is in use", self._what, self.path)
        self.value = found.value
        self._trouble.is_over()


class Follower:
    """The files of a worker."""

    def __init__(self, files: Sequence[FollowedFile[Any]]) -> None:
        self._files = tuple(files)
        self._job = Job("followed-files", LOOK_SECONDS, self._look, log)

    def start(self) -> None:
        """Read all files, then follow them. Without any there is nothing to do."""
        if self._files:
            self.read()
            self._job.start()

    def read(self) -> None:
        """Read what has changed, at once."""
        self._take(self._look_at_all())

    def stop(self) -> None:
        """Follow them no more."""
        self._job.stop()

    def _look(self) -> None:
        self._take(get_hub().threadpool.apply(self._look_at_all))

    def _look_at_all(self) -> list[_Found | None]:
        return [file.look() for file in self._files]

    def _take(self, found: list[_Found | None]) -> None:
        for file, one in zip(self._files, found, strict=True):
            if one is not None:
                file.take(one)
