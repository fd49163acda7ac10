"""gunicorn's inner parts: what we use of gunicorn beyond what it documents is touched here and nowhere else.

Each function has a test on the pinned version (tests/net/test_gunicorn_inner.py): an upgrade has one place to break. The worker class
alone has to be where it is: it is a subclass of gunicorn's (server/worker).
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from gunicorn import sock, util
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger
from gunicorn.pidfile import Pidfile

from proxyd.base.processes import ignore
from proxyd.config.logs import SureFile
from proxyd.net.workerstart import failure, stands

#: Signals that mean something to an arbiter or a worker, and those that would end one that has no handler for them yet.
SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGWINCH)
#: Those that an arbiter without handlers holds back. The others end it, as they should.
EARLY = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)

#: Signals that end an arbiter at once.
_AT_ONCE = {signal.SIGINT, signal.SIGQUIT}
#: Seconds that workers have to end at once, and after which it is looked whether they have.
_QUICK_SECONDS, _STOP_TICK = 2.0, 0.1


@contextlib.contextmanager
def held_signals() -> Iterator[None]:
    """Hold signals back in this thread: they come when it is over. A process that is forked meanwhile has those held back that come
    to it, until it releases them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class OwnArbiter(Arbiter):  # type: ignore[misc]
    """gunicorn's arbiter, of which a subclass decides which workers are started and stopped, and what becomes of failures. It may have
    children that are no workers, too.

    gunicorn makes the arbiter, so `adopt` turns it into one of these before it begins. gunicorn's own would stop old workers before the
    new ones accept clients, wait in a reload for the end of the old ones with all signals unheard, and end when a worker can't start,
    when there is no room for another process, or when its configuration can't be read again.
    """

    #: Seconds for which signals are waited for while `busy`.
    TICK = 0.02
    LISTENERS: list[Any]
    reexec_pid: int
    pidfile: Any

    @classmethod
    def adopt(cls, arbiter: Arbiter) -> None:
        """Make an arbiter that was just made one of this class."""
        arbiter.__class__ = cls
        arbiter.asked = set()
        arbiter.ending = False
        arbiter.begin()

    # -- what a subclass says

    def begin(self) -> None:
        """The arbiter is one of this class now."""

    def manage(self) -> None:
        """Start and stop workers as is needed, by `spawn` and `ask_to_stop`."""
        raise NotImplementedError

    def busy(self) -> bool:
        """Whether something is waited for that comes without a signal."""
        return False

    def replace(self, age: int) -> None:
        """The configuration was read again: replace the workers up to this age."""

    def not_started(self, why: str) -> None:
        """A worker could not be started, or ended before it accepted clients without having been asked to."""

    def look_after(self) -> None:
        """See to children that are no workers. It is called as often as `manage`, and also while the workers stop."""

    def other_ended(self, pid: int) -> None:
        """A child has ended that is no worker: one of `fork`, or one that this process was given as it is the first of a container."""

    def not_reloaded(self, why: str) -> None:
        """The configuration could not be read again, and stays as it is."""

    # -- what it does

    def spawn(self) -> None:
        """Start a worker, whose signals are held back until it has its own handlers."""
        try:
            with held_signals():
                self.spawn_worker()
        except Exception as error:
            if os.getpid() != self.pid:
                os._exit(self.WORKER_BOOT_ERROR)
            self.not_started(f"{type(error).__name__}: {error}")

    def fork(self, run: Callable[[], int]) -> int:
        """Start a child that is no worker. It has nothing of the arbiter's open but standard output and error, runs `run`, and ends with
        the status that this returns. Signals are held back until it releases them. Returns its pid. Raises OSError."""
        with held_signals():
            pid = os.fork()
            if pid:
                return pid
            status = 1
            try:
                self._leave()
                status = run()
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                # Nothing of the arbiter, which is further up, is to go on here.
                with contextlib.suppress(Exception):
                    logging.shutdown()
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)

    def _leave(self) -> None:
        """In a child: be no arbiter any more."""
        for number in (*SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for listener in self.LISTENERS:
            listener.close()
        for worker in self.WORKERS.values():
            worker.tmp.close()
        # Its log files may be moved away, and would not be opened again here.
        for log in (self.log.error_log, self.log.access_log):
            for handler in list(log.handlers):
                log.removeHandler(handler)
                handler.close()
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)

    def ask_to_stop(self, pid: int) -> None:
        """Let a worker end what it has, and then end."""
        self.asked.add(pid)
        self.kill_worker(pid, signal.SIGTERM)

    def manage_workers(self) -> None:
        self.asked &= self.WORKERS.keys()
        self.manage()
        self.look_after()

    def init_signals(self) -> None:
        super().init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def wait_for_signals(self, timeout: float = 1.0) -> list[int]:
        found: list[int] = super().wait_for_signals(min(timeout, self.TICK) if self.busy() else timeout)
        # Those behind one that ends the arbiter would be lost, and INT after TERM means that there is no time.
        found.sort(key=lambda number: number not in _AT_ONCE)
        return found

    def reap_workers(self) -> None:
        """Bury the children that have ended. gunicorn's own ends the arbiter for a worker that could not start, and closes the file in
        which it says why."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.reexec_pid:
                self.reexec_pid = 0
            elif pid == self.dirty_arbiter_pid:
                self.handle_dirty_arbiter_exit(pid, status)
            elif (worker := self.WORKERS.pop(pid, None)) is not None:
                self._bury(pid, os.waitstatus_to_exitcode(status), worker)
            else:
                self.other_ended(pid)

    def _bury(self, pid: int, code: int, worker: Any) -> None:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        if code == -signal.SIGKILL:
            self.log.error("worker %d %s: by somebody, or because memory was short", pid, how)
        elif code not in (0, -signal.SIGTERM):
            self.log.error("worker %d %s", pid, how)
        if not (stands(worker) or pid in self.asked or self.ending):
            self.not_started(failure(worker) or f"it {how}")
        worker.tmp.close()
        self.cfg.child_exit(self, worker)

    def stop(self, graceful: bool = True) -> None:
        """Stop accepting and end the workers: gracefully, until `graceful_timeout` has passed or INT or QUIT comes, or at once. gunicorn's
        own waits by the time of day, so that a clock that is set cuts requests, or is waited for."""
        self.ending = True
        # A second arbiter, or the first one, goes on with the same listeners.
        unlink = self.reexec_pid == self.master_pid == 0 and not self.systemd and not self.cfg.reuse_port
        try:
            sock.close_sockets(self.LISTENERS, unlink)
        except FileNotFoundError:
            # Somebody has deleted the file of a UNIX socket.
            for listener in self.LISTENERS:
                listener.close()
        self.LISTENERS = []
        self.kill_workers(signal.SIGTERM if graceful else signal.SIGQUIT)
        limit = time.monotonic() + self.cfg.graceful_timeout
        while self.WORKERS and time.monotonic() < limit:
            if graceful and _AT_ONCE & {*self.wait_for_signals(_STOP_TICK)}:
                self.log.info("INT or QUIT: the workers stop at once")
                graceful = False
                self.kill_workers(signal.SIGQUIT)
                limit = time.monotonic() + _QUICK_SECONDS
            elif not graceful:
                self.wait_for_signals(_STOP_TICK)
            self.reap_workers()
            self.look_after()
        self.kill_workers(signal.SIGKILL)
        self.reap_workers()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        try:
            super().halt(reason, exit_status)
        finally:
            ignore(SIGNALS)

    def handle_usr1(self) -> None:
        try:
            super().handle_usr1()
        except OSError as error:
            self.log.error("USR1: can't open a log file again: %s", error)

    def reexec(self) -> None:
        """Start an arbiter beside this one. Until it has handlers, signals that would end it are held back."""
        with held_signals():
            super().reexec()

    def reload(self) -> None:
        """Read the configuration again, and have the workers replaced. What can't be read, or listened on, changes nothing."""
        self._stats["reloads"] += 1
        before = self.cfg
        try:
            self._put_environment_back()
            self.app.reload()
            self.app.cfg.worker_class  # noqa: B018 - it is imported here, and may not be there
            listeners = self._listeners(before)
        except (Exception, SystemExit) as error:
            # gunicorn prints what is wrong with its configuration, and then would exit.
            self.app.cfg = before
            os.environ.update(before.env)
            self.not_reloaded("" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}")
            return
        self.setup(self.app)
        for listener in self.LISTENERS:
            if listener not in listeners:
                listener.close()
        self.LISTENERS = listeners
        try:
            self.log.reopen_files()
            self._write_pid_file()
        except (OSError, RuntimeError) as error:
            self.log.error("HUP: %s", error)
        self.cfg.on_reload(self)
        util._setproctitle(f"master [{self.proc_name}]")
        self.replace(self.worker_age)
        self.manage_workers()

    def _put_environment_back(self) -> None:
        for name in self.cfg.env:
            if name in self.cfg.env_orig:
                os.environ[name] = self.cfg.env_orig[name]
            else:
                os.environ.pop(name, None)

    def _listeners(self, before: Any) -> list[Any]:
        """Listeners for the configuration that was just read: those that there are, and new ones where an address is new. Those that
        systemd gave stay."""
        wanted = self.app.cfg.address
        if self.systemd or wanted == before.address:
            return list(self.LISTENERS)
        kept = {listener.cfg_addr: listener for listener in self.LISTENERS}
        made: list[Any] = []
        try:
            for address in wanted:
                if address not in kept:
                    kept[address] = listener = sock._sock_type(address)(address, self.app.cfg, self.log)
                    made.append(listener)
        except BaseException:
            for listener in made:
                listener.close()
            raise
        for listener in made:
            self.log.info("Listening at: %s", listener)
        return [kept[address] for address in wanted]

    def _write_pid_file(self) -> None:
        path = self.cfg.pidfile
        if self.pidfile is not None and self.pidfile.fname != path:
            self.pidfile.unlink()
            self.pidfile = None
        if path is not None:
            self.pidfile = Pidfile(path)
            self.pidfile.create(self.pid)


class ErrorLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger, whose error log a subclass directs with `error_handler`."""

    def error_handler(self, output: str) -> tuple[str, logging.Formatter, str]:
        """Where the error log goes (a path, or `-`), in which form, and what is logged there first, if anything."""
        raise NotImplementedError

    def _set_handler(self, log: logging.Logger, output: str | None, fmt: Any, stream: TextIO | None = None) -> None:
        if log is not self.error_log or output is None:
            super()._set_handler(log, output, fmt, stream)
            return
        output, form, first = self.error_handler(output)
        super()._set_handler(log, output, form, stream)
        handler = self._get_gunicorn_handler(log)
        if type(handler) is logging.FileHandler:
            handler.__class__ = SureFile
        if first:
            log.error("%s", first)
