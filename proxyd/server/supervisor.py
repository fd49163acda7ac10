"""Keeps a master alive beside gunicorn's workers: the arbiter forks it, is told when it has ended, and forks another one with backoff.

Like the workers, a master has what the arbiter has imported: it starts in a part of the time that an interpreter of its own would take,
and most of its code is memory that all of them share.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from proxyd.base.lean import patch_all, preload
from proxyd.base.processes import HELD, SUPERVISED, call_itself
from proxyd.config.settings import SettingsError, load

# The arbiter's log exists before any other.
log = logging.getLogger("gunicorn.error")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: A master that lived longer than this (seconds) was able to start, so it was killed or crashed. It is started again at once,
#: however often that happens.
_GOOD_LIFE = 1.5
#: Seconds that a master has to stop, and to end when it was killed.
_STOP_SECONDS, _KILL_SECONDS = 8.0, 1.0
#: What a master imports.
MASTER_NEEDS = ("proxyd.server.master",)


class Supervisor:
    """Supervises the master of this arbiter. `config`: the file that it reads its settings from each time that it starts."""

    def __init__(self, config: str | None) -> None:
        self._config = config
        self._owner = os.getpid()
        self._pid = 0
        self._begun = 0.0
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0
        self._imported = False

    @property
    def waits(self) -> bool:
        """Whether there is no master, and one is to be started as soon as its time has come."""
        return not self._pid

    def look(self, fork: Callable[[Callable[[], int]], int]) -> None:
        """Start a master, if there is none and its time has come. `fork` starts a child that runs a function, whose result is its exit
        status, and returns its pid."""
        self._import()
        now = time.monotonic()
        if self._pid or now < self._not_before:
            return
        self._begun = now
        try:
            self._pid = fork(self._live)
        except OSError as error:
            log.error("can't start the master: %s", error)
            self._wait(now)

    def ended(self, pid: int) -> None:
        """A child of the arbiter has ended. If it was the master, another one is due."""
        if pid != self._pid:
            return
        self._pid = 0
        now = time.monotonic()
        lived = now - self._begun
        if lived > _GOOD_LIFE:
            self._pause = _FIRST_PAUSE
        self._wait(now)
        log.warning("the master (pid %d) ended after %.1f s; starting it again", pid, lived)

    def signal(self, number: int) -> None:
        """Send a signal to the master, if there is one."""
        if self._pid and os.getpid() == self._owner:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def stop(self) -> None:
        """Stop the master for good, and wait for its end. Does nothing in a process other than the arbiter."""
        if os.getpid() != self._owner or not self._pid:
            return
        self.signal(signal.SIGTERM)
        if not self._await_end(_STOP_SECONDS):
            self.signal(signal.SIGKILL)
            self._await_end(_KILL_SECONDS)

    def _await_end(self, seconds: float) -> bool:
        pidfd = os.pidfd_open(self._pid)
        try:
            over = bool(select.select([pidfd], [], [], seconds)[0])
        finally:
            os.close(pidfd)
        if over:
            os.waitpid(self._pid, 0)
            self._pid = 0
        return over

    def _wait(self, now: float) -> None:
        """Let some time pass until the next start, and twice as much before the one after."""
        self._not_before = now + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _import(self) -> None:
        """Import once what every master needs. One that can't be imported is no reason for the arbiter to end: the workers go on."""
        if self._imported:
            return
        self._imported = True
        try:
            preload(*MASTER_NEEDS)
        except Exception as error:  # a master that can't import it either ends with a traceback
            log.warning("can't import in advance what the master needs (%s: %s)", type(error).__name__, error)

    def _live(self) -> int:
        """Be a master, in a process that was just forked from the arbiter. Returns the exit status."""
        os.environ[SUPERVISED] = "1"
        call_itself("proxyd", "master", *((f"--config={self._config}",) if self._config else ()))
        # TERM, too: what ends it gently must not come before it can.
        signal.pthread_sigmask(signal.SIG_SETMASK, (*HELD, signal.SIGTERM))
        patch_all()
        from proxyd.server.master import main

        try:
            settings = load(self._config)
        except SettingsError as error:
            for problem in error.problems:
                print(problem, file=sys.stderr)
            return 2
        return main(settings, wait=True, parent=self._owner)
