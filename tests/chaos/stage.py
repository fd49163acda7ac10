"""What a fault may use: the running system, the backends, and a way to say what it does and what it excuses."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from tests.chaos.ends import MayEnd
from tests.chaos.excuses import Excuse, Excuses
from tests.chaos.history import History
from tests.chaos.judge import Judge
from tests.support.program import BackendProcess
from tests.support.shift import ShiftedSystem

#: A master starts in two or three seconds of processor time. On a machine with much else to do that was half a minute.
MASTER_STARTS = 90.0

#: Seconds after which the end of a process is in the log.
_TOLD_AFTER = 1.5


class Scene:
    """What all faults need, whatever they see of the world."""

    def __init__(self, judge: Judge, said: Callable[[str], None]) -> None:
        self.judge = judge
        self.killed: set[int] = set()
        self.ending = False
        self._said = said

    @property
    def excuses(self) -> Excuses:
        return self.judge.excuses

    def say(self, name: str, text: str) -> None:
        """A line of the run's log."""
        self._said(f"{name:<20} {text}")

    @contextlib.contextmanager
    def excuse(self, fault: str, *kinds: str, after: float = 0.0, backend: str = "", host: str = "") -> Iterator[list[Excuse]]:
        """Excuse something for as long as the block lasts, and `after` seconds more."""
        excuses = [self.excuses.begin(kind, fault, time.monotonic(), backend if kind == "backend" else "", host) for kind in kinds]
        try:
            yield excuses
        finally:
            for excuse in excuses:
                excuse.end = time.monotonic() + after

    def kill(self, pid: int) -> None:
        """SIGKILL, and wait until it is gone."""
        assert pid > 1, "a signal to 0 goes to this process and all of its group"
        self.killed.add(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.wait(lambda: not _lives(pid), 10, f"the end of {pid}")

    def stop(self, pid: int, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after a while."""
        assert pid > 1, "a signal to 0 goes to this process and all of its group"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(seconds)
            finally:
                os.kill(pid, signal.SIGCONT)

    def wait(self, condition: Callable[[], object], seconds: float, what: str, invariant: str = "settled") -> bool:
        """Wait for something to come true; a breach of the invariant if it does not."""
        begin = time.monotonic()
        while time.monotonic() < begin + seconds:
            with contextlib.suppress(OSError, AssertionError, psutil.Error):
                if condition():
                    return True
            time.sleep(0.02)
        self.judge.breach(invariant, begin, f"{what} did not come within {seconds:g} s")
        return False


class Stage(Scene):
    """One host: the part of the world that faults see."""

    def __init__(self, system: ShiftedSystem, backends: Sequence[BackendProcess], histories: dict[str, History], judge: Judge, disk: str,
                 said: Callable[[str], None]) -> None:
        super().__init__(judge, said)
        self.system = system
        self.backends = backends
        #: What the folder of the database is: "tmpfs" where a file system of its own could be mounted, else "folder".
        self.disk = disk
        self.may_end: list[MayEnd] = []
        self._histories = histories

    @property
    def var(self) -> Path:
        """The folder of the database and of the shared memory."""
        return Path(self.system.database).parent

    @contextlib.contextmanager
    def ends(self, signal: str = "", master: bool = False, starts: bool = False) -> Iterator[None]:
        """For as long as the block lasts, workers may end by this signal, the master by itself, or masters because they can't start."""
        part = MayEnd(len(self.system.log()), signal=signal, master=master, starts=starts)
        self.may_end.append(part)
        try:
            yield
        finally:
            # The arbiter looks after its children once a second at least, and says then how they ended.
            time.sleep(_TOLD_AFTER)
            part.end = len(self.system.log())

    def worker(self, number: float) -> int:
        """The pid of a worker, chosen by a number from 0 to 1; waits until there is one. Raises TimeoutError."""
        deadline = time.monotonic() + 20
        while not (pids := sorted(self.system.worker_pids())):
            if time.monotonic() > deadline:
                raise TimeoutError("no worker within 20 s")
            time.sleep(0.02)
        return pids[int(number * len(pids))]

    def expect(self, text: str, since: int, seconds: float = 3.0) -> None:
        """Hold the log against what should be told in it."""
        begin = time.monotonic()
        while text not in self.system.log()[since:]:
            if time.monotonic() > begin + seconds:
                self.judge.breach("told", begin, f"the log does not say {text!r} within {seconds:g} s")
                return
            time.sleep(0.05)

    def registry_answers(self) -> bool:
        """Whether a master takes connections and answers."""
        client = self.system.connect()
        try:
            client.socket.settimeout(5)
            return client.command("PING|nobody").startswith("ERROR|no session")
        finally:
            client.close()

    def wait_for_master(self) -> None:
        """Wait until a master answers, after one was killed; a breach of `settled` if none does."""
        self.wait(self.registry_answers, MASTER_STARTS, "a master that answers")

    def restored(self, since: float = -math.inf) -> None:
        """From now on an earlier version may hold, though none of before `since` (time.monotonic() seconds), until each service has
        applied again."""
        for history in self._histories.values():
            history.restored.append((time.monotonic(), since))


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
