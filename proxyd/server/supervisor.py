"""Keeps a master alive in gunicorn's arbiter: a thread starts it, notices when it ends, and starts it again with backoff.

The arbiter reaps every child itself (`waitpid(-1)`). So the thread watches a pidfd, which shows the end of that very process
whoever reaps it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time

# The arbiter's log exists before any other.
log = logging.getLogger("gunicorn.error")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: A master that lived longer than this (seconds) was able to start, so it was killed or crashed. It is started again at once,
#: however often that happens.
_GOOD_LIFE = 1.5
SUPERVISED = "PROXYD_SUPERVISED"
_STOP_SECONDS = 8.0
#: Signals that would end or stop a master that has no handlers yet, though they mean nothing to it or do not end it. They are held back
#: until it has.
HELD = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


class Supervisor:
    """Supervises the master of this arbiter. There is one per process. `start` is harmless if it runs already."""

    def __init__(self, config: str | None) -> None:
        self._config = config
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._pid = 0
        self._owner = os.getpid()

    def start(self) -> None:
        """Start the master and keep it alive from now on."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="proxyd master supervisor", daemon=True)
            self._thread.start()

    def signal(self, number: int) -> None:
        """Send a signal to the master, if there is one."""
        if self._pid and os.getpid() == self._owner:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def stop(self) -> None:
        """Stop the master for good. Does nothing in a process other than the one that started it."""
        if os.getpid() != self._owner or self._thread is None:
            return
        self._stopping.set()
        self.signal(signal.SIGTERM)
        self._thread.join(_STOP_SECONDS)
        if self._thread.is_alive():
            self.signal(signal.SIGKILL)
            self._thread.join(1.0)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                pid = self._spawn()
            except OSError as error:
                log.error("can't start the master: %s", error)
            else:
                self._await_end(pid)
            lived = time.monotonic() - started
            pause = _FIRST_PAUSE if lived > _GOOD_LIFE else min(_LONGEST_PAUSE, pause * 2)
            if self._stopping.wait(pause):
                return
            log.warning("the master (pid %d) ended after %.1f s; starting it again", self._pid, lived)

    def _spawn(self) -> int:
        """Start a master. Not with subprocess: it waits for the end of a pipe which the workers that the arbiter forks
        meanwhile keep open. `proxyd master` closes by itself what it inherits, and takes the signals HELD when it has handlers for them."""
        command = self._command()
        environment = {**os.environ, SUPERVISED: "1"}
        return os.posix_spawn(command[0], command, environment,
                              file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)], setsigmask=HELD)

    def _await_end(self, pid: int) -> None:
        self._pid = pid
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            if self._stopping.is_set():
                os.kill(pid, signal.SIGTERM)
            select.select([pidfd], [], [])
        finally:
            os.close(pidfd)
        # While the arbiter runs, it reaps children, too. It no longer does so when it calls `stop`.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "proxyd", "master", "--wait", "--parent", str(os.getpid())]
        return [*command, "--config", self._config] if self._config else command
