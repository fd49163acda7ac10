"""The one loop of everything that runs in the background: a function called again and again, whatever becomes of it.

An error is logged when it begins and when its reason changes, not each time, and never ends the loop. What a job has done is counted:
the master's jobs are shown by /metrics and `proxyctl status`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event as Signal

from proxyd.base.trouble import Trouble, host_lacks


class Working:
    """Something whose work is done by jobs alone."""

    jobs: tuple[Job, ...] = ()

    def start(self) -> None:
        """Begin."""
        for job in self.jobs:
            job.start()

    def stop(self) -> None:
        """End."""
        for job in self.jobs:
            job.stop()


class JobOver(Exception):
    """Raised by a job's function that must not be called again."""


class Glance:
    """A function that the event loop calls every `interval` seconds, for a look that hardly ever sees something: a memory access, or two.

    That costs a tenth of a job that does the same, which starts a timer and switches greenlets each time. The function runs in the hub: it
    must not wait, and what takes longer it leaves to a job that it wakes. What it raises is logged as gevent does, and it is called again.
    """

    def __init__(self, interval: float, function: Callable[[], None]) -> None:
        self._interval, self._function = interval, function
        self._timer: Any = None

    def start(self) -> None:
        """Begin. Call it after the fork, in the thread whose event loop it is."""
        self._timer = gevent.get_hub().loop.timer(self._interval, self._interval)
        self._timer.start(self._function)

    def stop(self) -> None:
        """Look no more. Harmless for one that never started."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None


class Job:
    """A function and the greenlet that calls it.

    `interval`: seconds between the end of one run and the next; None for a job that runs only when `wake` is called. `wakes`: `wake`
    may be called though there is an interval, which makes waiting a little dearer. `first`: seconds until the first run, `interval` if
    None. `gap`: seconds after each run in which `wake` has no effect yet. `retry`: seconds after a run that failed. The function may
    return the seconds until the next run, in place of `interval`. Errors of the types `expected`, and what the host lacks, are
    said in one line after `trouble`, at `level`; others with a traceback.
    """

    def __init__(self, name: str, interval: float | None, function: Callable[[], float | None], log: logging.Logger, *,
                 wakes: bool = False, first: float | None = None, gap: float = 0.0, retry: float = 1.0,
                 expected: type[Exception] | tuple[type[Exception], ...] = (), trouble: str = "",
                 level: int = logging.WARNING) -> None:
        self.name = name
        #: Runs that ended, those of them that failed, and how long the last one took in seconds.
        self.runs, self.errors, self.duration = 0, 0, 0.0
        #: Unix seconds of the last run's beginning; 0 before the first.
        self.last_run = 0.0
        self._interval, self._first, self._gap, self._retry = interval, first, gap, retry
        self._function = function
        self._wakes = wakes or interval is None
        self._expected, self._trouble = expected, Trouble(log, trouble or name, level)
        self._news = Signal()
        self._greenlet: gevent.Greenlet | None = None

    @property
    def error(self) -> str:
        """Why the last run failed; empty where it did not."""
        return self._trouble.reason

    def start(self) -> None:
        """Begin to run in the background."""
        self._greenlet = gevent.spawn(self._loop)

    def stop(self) -> None:
        """Run no more; a run under way is cut where it waits. Harmless for one that never started."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def alive(self) -> bool:
        """Whether it runs in the background."""
        return self._greenlet is not None and not self._greenlet.dead

    def wake(self) -> None:
        """Run as soon as may be."""
        self._news.set()

    def _loop(self) -> None:
        pause = self._interval if self._first is None else self._first
        while True:
            if self._wakes:
                self._news.wait(pause)
                self._news.clear()
            else:
                gevent.sleep(pause)
            try:
                failed, pause = self._run()
            except JobOver:
                return
            if failed or self._gap:
                gevent.sleep(self._retry if failed else self._gap)
            if failed:
                # Nobody wakes it for what was left undone.
                pause = 0.0

    def _run(self) -> tuple[bool, float | None]:
        """Call the function; whether that failed, and the seconds until the next run."""
        self.last_run = time.time()
        began = time.monotonic()
        failed, pause = False, None
        try:
            pause = self._function()
        except JobOver:
            raise
        except Exception as error:
            failed = True
            self.errors += 1
            self._trouble.goes_on(error, None if isinstance(error, self._expected) or host_lacks(error) else error)
        else:
            self._trouble.is_over()
        self.runs += 1
        self.duration = time.monotonic() - began
        return failed, self._interval if pause is None else pause
