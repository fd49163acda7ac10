"""One life of a whole proxyd for scripts/starts: it is started, gets signals, is looked at, and is ended."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from tests.chaos.signalled import Sending, workers_after
from tests.support.signalsets import caught, in_sets
from tests.support.system import ROOT, System
from tests.support.waiting import patience

#: Longest wait (seconds) for what should come of a signal.
_PATIENCE = 30.0
_WORKERS = 2
_SITE = "[route app]\ndomains = app.test\nbackends = {url}\n"
#: What no signal may bring into the log.
_WRONG = re.compile(r"(?m)^.*(?:Traceback \(most|Unhandled|internal error|can't start|was ended by SIG(?!KILL|TERM)|"
                    r"ended with status [1-9]).*$")


class Broken(Exception):
    """Something was not as docs say."""


class Life:
    """The lives of a proxyd on one folder, one after the other. A route from a site file is there in all of them."""

    def __init__(self, folder: Path, url: str) -> None:
        system = self._system = System(folder, workers=_WORKERS, start=False)
        # Executed anew by USR2, `python -m gunicorn` would look for modules in gunicorn's own directory.
        system.command = [str(Path(sys.executable).with_name("gunicorn"))]
        (folder / "sites").mkdir()
        (folder / "sites" / "app.ini").write_text(_SITE.format(url=url))
        self._process: subprocess.Popen[bytes] | None = None
        self._since = 0
        #: Whether the arbiter had no handlers yet when a signal came, and which statuses it may end with.
        self._held = False
        self._statuses = {0}
        self._failures: list[str] = []
        #: When a worker was last killed (time.monotonic() seconds).
        self._cut = 0.0
        self._asking = threading.Event()

    def log(self) -> str:
        """What this life has said."""
        return self._system.log()[self._since:]

    def live(self, kind: str, sendings: Sequence[Sending], boot: float) -> float:
        """Start, have the signals sent, look, and end. `boot`: seconds that a boot takes; returns those of this one. Raises Broken."""
        self._begin()
        began = time.monotonic()
        if kind != "boot":
            self._await(self._well, "a ready system")
            boot = time.monotonic() - began
        with self._traffic():
            self._happen(kind, sendings, boot)
        return boot

    def kill(self) -> None:
        """End all that is left of this life at once."""
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                process.kill()
        if self._process is not None:
            self._process.wait(10)
            self._process = None

    # -- its course

    def _begin(self) -> None:
        system = self._system
        with open(system.directory / "output.log", "ab") as log:
            self._since = log.tell()
            self._process = system.process = subprocess.Popen(
                [*system.command, "-c", str(system.gunicorn_config), "proxyd.wsgi:app"], env=system.environment, stdout=log,
                stderr=subprocess.STDOUT, cwd=ROOT, start_new_session=True)
        self._held = False
        self._statuses = {0}
        self._failures.clear()
        # Before it has read its configuration, it is any program of Python's.
        self._await(self._is_itself, "an arbiter that holds signals back")

    def _happen(self, kind: str, sendings: Sequence[Sending], boot: float) -> None:
        workers, master = set(self._workers()), self._master()
        killed = 0
        if kind == "reload":
            self._send(self._arbiter(), signal.SIGHUP)
        elif kind == "stop":
            self._asking.clear()
            self._send(self._arbiter(), signal.SIGTERM)
        elif kind == "killed":
            killed = master if any(sending.whom == "master" for sending in sendings) else min(workers)
            self._send(killed, signal.SIGKILL)
            # What a killed worker had in flight is lost.
            self._cut = time.monotonic()
        began, touched, hit = time.monotonic(), {**dict.fromkeys(workers, "worker"), master: "master"}, {killed}
        for sending in sendings:
            time.sleep(max(0.0, began + sending.part * boot - time.monotonic()))
            pid = self._find(sending.whom, killed)
            if sending.ends and sending.whom != "master":
                # What a worker that is ended at once has in flight is cut.
                self._asking.clear()
            if not caught(self._arbiter()):
                self._held = True
                self._statuses |= {-sending.number for sending in sendings if sending.ends and sending.whom == "arbiter"}
            if pid and self._send(pid, sending.number):
                touched[pid] = sending.whom
                if sending.ends:
                    hit.add(pid)
        ended = kind == "stop" or any(sending.ends and sending.whom == "arbiter" for sending in sendings)
        second = any(sending.number is signal.SIGUSR2 and sending.whom == "arbiter" for sending in sendings)
        if second and not ended:
            self._end_second()
        if not ended:
            counts = workers_after(sendings, _WORKERS, _WORKERS, self._held)
            self._await(lambda: len(self._workers()) in counts and self._well(), f"a ready system with {counts} workers")
            self._same(kind, sendings, {pid: whom for pid, whom in touched.items() if pid not in hit})
            self._look_at_log()
            self._asking.clear()
            self._send(self._arbiter(), signal.SIGTERM)
        self._end(second and ended)

    def _find(self, whom: str, killed: int) -> int:
        """The process to signal: the newest of its kind, waited for a little, because it may have to be born. 0 for none."""
        if whom == "arbiter":
            return self._arbiter()
        find = self._master if whom == "master" else (lambda: max(self._workers(), default=0))
        deadline = time.monotonic() + 1.0
        while (pid := find()) in (0, killed) and time.monotonic() < deadline and self._runs():
            time.sleep(0.005)
        return 0 if pid == killed else pid

    def _same(self, kind: str, sendings: Sequence[Sending], before: dict[int, str]) -> None:
        """Nobody has ended who was not told to."""
        told = {sending.number for sending in sendings if sending.whom == "arbiter"}
        workers_go = kind == "reload" or told & {signal.SIGHUP, signal.SIGTTOU}
        now = {0, self._arbiter(), self._master(), *self._workers()}
        if gone := [f"{whom} {pid}" for pid, whom in before.items() if pid not in now and not (whom == "worker" and workers_go)]:
            raise Broken(f"{', '.join(gone)} ended, which nothing had asked for")
        if self._failures:
            raise Broken(f"{len(self._failures)} requests failed, as {self._failures[0]}")

    def _end(self, second: bool) -> None:
        process = self._process
        assert process is not None
        try:
            process.wait(patience(_PATIENCE))
        except subprocess.TimeoutExpired:
            raise Broken("the arbiter did not end") from None
        if process.returncode not in self._statuses:
            raise Broken(f"the arbiter ended with status {process.returncode}")
        if second and (new := self._arbiters()):
            self._send(new[0], signal.SIGTERM)
        self._await(lambda: not self._family(), f"the end of all processes ({self._family()})")
        self._look_at_log()
        self._process = None

    def _end_second(self) -> None:
        """End the arbiter that USR2 started beside the old one."""
        self._await(lambda: len(self._arbiters()) > 1, "a second arbiter")
        new = next(pid for pid in self._arbiters() if pid != self._arbiter())
        self._await(lambda: caught(new), "its handlers")
        self._send(new, signal.SIGTERM)
        self._await(lambda: new not in self._arbiters(), "its end")

    def _look_at_log(self) -> None:
        if found := _WRONG.search(self.log()):
            raise Broken(f"the log says: {found[0]}")

    # -- looking

    def _await(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + patience(_PATIENCE)
        while True:
            with contextlib.suppress(OSError, AssertionError, psutil.Error):
                if condition():
                    return
            if time.monotonic() > deadline:
                raise Broken(f"{what} did not come within {patience(_PATIENCE):.0f} s")
            time.sleep(0.02)

    def _runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _is_itself(self) -> bool:
        """Whether signals that would end it are held back, or have handlers."""
        return in_sets(self._arbiter(), signal.SIGUSR1, "SigBlk", "SigCgt")

    def _well(self) -> bool:
        """Whether everything serves: the admin HTTP says so, the registry answers, and so does the backend behind the proxy."""
        assert self._runs(), "the arbiter has ended"
        if self._system.admin("/readyz").status != 200 or not self._asked():
            return False
        client = self._system.connect()
        with contextlib.closing(client):
            return client.command("PING|nobody").startswith("ERROR|no session")

    def _asked(self) -> bool:
        return self._system.get("/", timeout=5.0).status == 200

    @contextlib.contextmanager
    def _traffic(self) -> Iterator[None]:
        """Ask all the time, once somebody has answered, and note what fails."""
        over = threading.Event()

        def ask() -> None:
            served = False
            while not over.wait(0.03):
                begun, at = self._asking.is_set(), time.monotonic()
                try:
                    status = str(self._system.get("/", timeout=patience(10.0)).status)
                except (OSError, http.client.HTTPException) as error:
                    status = repr(error)
                served |= status == "200"
                if status != "200" and served and begun and self._asking.is_set() and at > self._cut:
                    self._failures.append(status)

        self._asking.set()
        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._asking.clear()
            over.set()
            thread.join(60)

    # -- its processes

    def _arbiter(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _family(self) -> list[psutil.Process]:
        """All processes of this life."""
        if self._process is None:
            return []
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if os.getsid(process.pid) == self._process.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _arbiters(self) -> list[int]:
        """The one that was started, and one that USR2 has made of it."""
        found = []
        for process in self._family():
            with contextlib.suppress(psutil.Error):
                if process.pid == self._arbiter() or ("GUNICORN_PID" in process.environ() and "master" not in process.cmdline()
                                                      and process.ppid() in (self._arbiter(), 1)):
                    found.append(process.pid)
        return found

    def _children(self) -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._arbiter()).children():
                with contextlib.suppress(psutil.Error):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        found.append(child)
        return found

    def _workers(self) -> list[int]:
        found = []
        for child in self._children():
            with contextlib.suppress(psutil.Error):
                if "master" not in child.cmdline() and "GUNICORN_PID" not in child.environ():
                    found.append(child.pid)
        return found

    def _master(self) -> int:
        for child in self._children():
            with contextlib.suppress(psutil.Error):
                if "master" in child.cmdline():
                    return child.pid
        return 0

    @staticmethod
    def _send(pid: int, number: int) -> bool:
        assert pid > 1, "a signal to 0 goes to this process and all of its group"
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return True
        return False
