"""Looks after the shared files that a process maps: one that was deleted or replaced is mapped anew, and told."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

from proxyd.base.trouble import Trouble
from proxyd.store.memory.shared import FILES, ForeignFile, SharedFile, SharedMemoryError

#: Seconds between two looks of a worker, and of the master.
WORKER_PERIOD, MASTER_PERIOD = 0.1, 0.25


class SharedWatch:
    """`level`: that of what is said of a file that was lost. All processes find the same, so one says it loudest."""

    def __init__(self, files: Iterable[SharedFile | ForeignFile], log: logging.Logger, level: int) -> None:
        self._files = [(file, Trouble(log, "a file that all processes share", logging.CRITICAL)) for file in files]
        self._log = log
        self._level = level

    def look(self) -> list[str]:
        """Look once. What was found, in sentences."""
        found = []
        for file, trouble in self._files:
            try:
                what = file.look()
            except SharedMemoryError as error:
                trouble.goes_on(error)
                continue
            trouble.is_over()
            if what:
                found.append(_said(file, what))
                self._log.log(self._level, "%s", found[-1])
        return found

    def problems(self) -> list[str]:
        """What is wrong now, and could not be put right."""
        return [trouble.reason for _, trouble in self._files if trouble.reason]


def _said(file: SharedFile | ForeignFile, what: str) -> str:
    if what == "unreadable":
        return f"the shared memory file {file.path} could not be opened by processes that start: its mode is 0640 again"
    again = "it is made again" if isinstance(file, ForeignFile) else "it is mapped anew"
    return (f"the shared memory file {file.path} was {what} while in use: {again}; workers that do not have the new one yet "
            f"{FILES[os.path.basename(file.path)]}")
