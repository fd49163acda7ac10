"""`proxyctl run`: start any program, register it once its port answers, and take its traffic away before it stops."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from types import FrameType

from proxyd.base.text import rfc3339
from proxyd.client import Client, ClientError

_STOPPING = (signal.SIGTERM, signal.SIGINT)
_PASSED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT, signal.SIGWINCH, signal.SIGCONT)
_TICK = 0.05
# Seconds between two looks at the requests under way, and how long there must be none: workers write their counts twice a second.
_LOOK, _NONE_FOR = 0.2, 1.2
# Seconds that requests wait for the next start of a program that has no replica, beyond the time of its stop.
_HELD = 30.0
# A program that ran this long was healthy: after its next end, the delays begin with the shortest again.
_STABLE = 30.0
# Seconds before another attempt to register; doubled each time.
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0
CANNOT_EXECUTE, NOT_FOUND = 126, 127
# What stands for the port in the command, and what the name of a program ends with while it overlaps with the one before.
_PORT, _NEXT = "{port}", ".next"


class ServiceRunner:
    """One program and its session. The thread that calls `run` does all the work; signal handlers only set flags."""

    def __init__(self, options: argparse.Namespace, token: str) -> None:
        self._options = options
        if not options.service:
            options.service = options.domain[0].removeprefix("*.").split(".")[0].strip("*") or "app"
        self._token = token
        self._instance = options.instance or f"{socket.gethostname()}-{options.port or options.service}"
        if options.unique:
            self._instance = f"{self._instance}-{secrets.token_hex(3)}"
        #: Whether the program is told its port, so that two of it can run at once.
        self._overlaps = any(_PORT in word for word in options.command)
        self._port: int = options.port or 0
        self._program: subprocess.Popen[bytes] | None = None
        self._route = ""
        #: What the signal handlers set: whether to stop, and at once; signals for the program. Plain values, because a handler runs between
        #: any two steps of the main thread. If that one just holds the lock of a threading.Event, the handler waits for it for ever.
        self._stopping = self._hurry = False
        self._signals: list[int] = []

    def run(self) -> int:
        """Run the program until the restart policy ends it. Returns its exit code (128 + n if signal n ended it)."""
        program = self._options.command[0]
        if shutil.which(program) is None:
            self._say(f"{program}: no such program")
            return NOT_FOUND
        previous = {number: signal.signal(number, self._on_signal) for number in (*_STOPPING, *_PASSED)}
        try:
            return self._rounds()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @property
    def _place(self) -> str:
        host = self._options.host
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    def _start(self) -> subprocess.Popen[bytes] | None:
        """Start the program, in a group of its own, so that Ctrl-C at the terminal reaches only proxyctl, and the drain comes first."""
        command = [word.replace(_PORT, str(self._port)) for word in self._options.command] if self._overlaps else self._options.command
        try:
            return subprocess.Popen(command, process_group=0)
        except OSError as error:
            self._say(f"can't start {command[0]}: {error}")
            return None

    def _rounds(self) -> int:
        failures = 0
        while True:
            started = time.monotonic()
            code = self._once()
            if not self._starts_again(code):
                return code
            failures = 0 if time.monotonic() - started >= _STABLE else failures + 1
            delay = min(self._options.backoff * 2 ** min(failures - 1, 10), 60.0) if failures else self._options.backoff
            delay *= random.uniform(0.75, 1.0)
            self._say(f"the program exited with code {code}; starting it again in {delay:.1f}s")
            if not self._pause(delay):
                return code

    def _starts_again(self, code: int | None) -> bool:
        """Whether a program that ended with `code` (None: it runs) is started again."""
        policy = self._options.restart
        return code is not None and not self._stopping and policy != "never" and (policy != "on-failure" or code != 0)

    def _once(self) -> int:
        if self._overlaps and (not self._options.port or self._listens()):
            self._port = _free_port(self._options.host)
        if not self._await_free_port():
            return CANNOT_EXECUTE
        # Signals that came while nothing ran were meant for the program that has ended.
        self._signals.clear()
        self._program = self._start()
        if self._program is None:
            return CANNOT_EXECUTE
        client: Client | None = None
        alone = False
        try:
            ready = self._await_port()
            if ready:
                client = self._register()
            while ready and self._program.poll() is None and not self._stopping:
                if self._overlaps and client is not None and signal.SIGHUP in self._signals:
                    client = self._overlap(client, self._program)
                    continue
                self._pass_signals()
                time.sleep(_TICK)
            if client is not None and self._program.poll() is None:
                alone = self._take_traffic_away(client)
        finally:
            # Before the program is told to stop, so that no request meets a closed port. If the program will be back, and nobody
            # takes its place, its routes stay: requests wait for it, or are told to come again.
            if client is not None:
                client.close(shutdown=not alone and not self._starts_again(self._program.poll()))
            code = self._end(self._program)
            self._program = None
        return code

    def _overlap(self, client: Client, program: subprocess.Popen[bytes]) -> Client:
        """Start the program once more. When that one is up, healthy and has its route, this one goes. Otherwise this one goes on. Returns
        the client of the one that runs."""
        while signal.SIGHUP in self._signals:
            self._signals.remove(signal.SIGHUP)
        before = self._instance, self._port, self._route
        self._instance, self._port = _other_name(self._instance), _free_port(self._options.host)
        self._say(f"starting the program again on {self._place}")
        newer, after = self._start(), (self._instance, self._port, "")
        following: Client | None = None
        if newer is not None:
            self._program = newer
            if self._await_port() and self._await_health():
                following = self._register()
            after = self._instance, self._port, self._route
        self._program, (self._instance, self._port, self._route) = program, before
        if following is None:
            self._say("the new program is not up; the one that runs goes on")
            if newer is not None:
                self._end(newer)
            return client
        self._take_traffic_away(client)
        client.close(shutdown=True)
        self._end(program)
        self._program, (self._instance, self._port, self._route) = newer, after
        return self._renamed(following, before[0])

    def _renamed(self, client: Client, instance: str) -> Client:
        """Register the program that has taken over under the name of the one before. Whoever starts proxyctl again takes that name, and so
        leaves no routes of another one behind, which would be waited for. Also when it is to stop: its requests may have to wait under
        that name. Returns the client of the session that stays."""
        before = self._instance, self._route
        self._instance = instance
        renamed = None if instance.endswith(_NEXT) else self._register(once=True)
        if renamed is None:
            self._instance, self._route = before
            return client
        client.close(shutdown=True)
        return renamed

    def _await_health(self) -> bool:
        """Whether the program that has just been started answers its health check well in time."""
        assert self._program is not None
        deadline = time.monotonic() + self._options.start_timeout
        while not _is_well(self._options.host, self._port, self._options.health):
            if time.monotonic() >= deadline or not self._pause(_LOOK):
                self._say(f"{self._place}{self._options.health} does not answer as a healthy program does")
                return False
        return True

    def _listens(self) -> bool:
        """Whether somebody answers at the port."""
        with contextlib.suppress(OSError), socket.create_connection((self._options.host, self._port), 1.0):
            return True
        return False

    def _await_free_port(self) -> bool:
        """Whether nobody listens at the port yet: another program there would get the traffic meant for ours."""
        deadline, told = time.monotonic() + self._options.start_timeout, False
        while self._listens():
            if time.monotonic() >= deadline or self._stopping:
                self._say(f"the program is not started: another program listens on {self._place}")
                return False
            if not told:
                told = True
                self._say(f"another program listens on {self._place}; waiting until it ends")
            self._pause(0.5)
        return True

    def _await_port(self) -> bool:
        """Whether the program's port answers in time, and the program still runs."""
        assert self._program is not None
        deadline = time.monotonic() + self._options.start_timeout
        while self._program.poll() is None and not self._stopping:
            if self._listens():
                return True
            if time.monotonic() >= deadline:
                self._say(f"nothing listens on {self._place} after {self._options.start_timeout:g}s; stopping the program")
                return False
            self._pass_signals()
            time.sleep(_TICK)
        return False

    def _register(self, once: bool = False) -> Client | None:
        """A registered session whose route is applied. None if the program ended, or a stop was asked for, before that. `once`: also if one
        was, but None if the first attempt fails."""
        options, told, delay, instance = self._options, "", _FIRST_DELAY, self._instance
        assert self._program is not None
        while self._program.poll() is None and (once or not self._stopping):
            client = Client(options.registry, service=options.service, instance=instance, token=self._token or None,
                            tls=options.tls)
            client.subscribe("session_replaced", lambda event: self._say(
                f"another program has registered as {options.service}/{instance}; give each an --instance of its own, or "
                "--unique"))
            try:
                client.connect()
                route = self._route = client.route_add(options.domain, options.path, f"http://{self._place}", options.priority)
                if options.health:
                    client.health_set(route, options.health)
                for key, value in options.option:
                    client.options_set(route, key, value)
                client.apply()
            except ClientError as error:
                client.close()
                if str(error) != told:
                    self._say(f"not registered yet: {error}")
                    told = str(error)
                if once:
                    return None
                self._pass_signals()
                # The pauses grow, because refused logins count against all clients that share this address.
                self._pause(delay * random.uniform(0.75, 1.0))
                delay = min(2 * delay, _LONGEST_DELAY)
                continue
            # Before anybody hears that it is registered: what happens from then on is told.
            for happened in ("disconnected", "reconnected", "reregistered"):
                client.subscribe(happened, lambda event: self._say(f"registry: {event.type}"))
            self._say(f"registered {options.service}/{instance}: {','.join(options.domain)}{options.path} "
                      f"-> http://{self._place}")
            with contextlib.suppress(ClientError, ValueError):
                # Asked after the apply: by then the traffic is here, and this is worth no more than a word.
                if loser := client.session_info().get("took_from"):
                    self._say(f"the program at {loser} was connected as {options.service}/{instance} and has lost its traffic to this one; "
                              "give each an --instance of its own, or --unique")
            return client
        return None

    def _take_traffic_away(self, client: Client) -> bool:
        """Let the traffic move to replicas, or wait if there is none, and let the requests under way end. The wait ends early if the
        program ends or a second signal comes. Returns whether requests wait for the next start."""
        seconds, longest = self._options.drain, self._options.stop_timeout
        if not seconds or not self._goes_on(time.monotonic() + seconds, lambda: client.connected):
            return False
        try:
            alone = self._is_alone(client)
            if not alone:
                client.drain_start(seconds)
                # Told to stop at one instant, each of two replicas counts on the other. What drains counts for nobody.
                alone = self._is_alone(client)
                if alone:
                    client.drain_cancel()
            if alone:
                client.traffic_hold(longest + _HELD)
        except ClientError as error:
            self._say(f"can't drain: {error}")
            return False
        if not alone:
            self._goes_on(time.monotonic() + seconds, lambda: False)
        self._await_idle(client, time.monotonic() + longest)
        return alone

    def _is_alone(self, client: Client) -> bool:
        """Whether no replica takes the traffic."""
        with contextlib.suppress(ClientError, ValueError):
            return client.route_status(self._route).get("replicas") == 0
        return False

    def _await_idle(self, client: Client, deadline: float) -> None:
        """Wait until no request has been under way for a moment."""
        since: float | None = None
        while time.monotonic() < deadline:
            self._goes_on(time.monotonic() + _LOOK, lambda: False)
            if self._hurry or self._program is None or self._program.poll() is not None:
                return
            if not client.connected:
                continue
            try:
                busy = client.route_status(self._route).get("in_flight", 0)
            except (ClientError, ValueError):
                return
            now = time.monotonic()
            since = None if busy else since or now
            if since is not None and now - since >= _NONE_FOR:
                return
        self._say(f"requests are still under way after {self._options.stop_timeout:g}s; stopping the program")

    def _goes_on(self, deadline: float, until: Callable[[], bool]) -> bool:
        """Wait until something is true. False if the deadline passes, the program ends or a second signal comes first."""
        while not until():
            if self._hurry or self._program is None or self._program.poll() is not None:
                return False
            if time.monotonic() >= deadline:
                return False
            time.sleep(_TICK)
        return True

    def _end(self, program: subprocess.Popen[bytes]) -> int:
        """Stop the program and what it started, by force if need be. Returns its exit code as a shell shows it."""
        # TERM, not the signal that came: many programs ignore SIGINT, as do all that a shell starts in the background.
        # To the whole group: `npm start` and `sh -c` would leave their child running, and the port taken.
        deadline = time.monotonic() + self._options.stop_timeout
        left = _signal_group(program, signal.SIGTERM)
        while left and time.monotonic() < deadline:
            program.poll()
            time.sleep(_TICK)
            left = _signal_group(program, 0)
        if left:
            self._say(f"the program did not stop within {self._options.stop_timeout:g}s; killing it")
            _signal_group(program, signal.SIGKILL)
        code = program.wait()
        return 128 - code if code < 0 else code

    def _pause(self, seconds: float) -> bool:
        """Wait. False if a stop was asked for, or the running program has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._stopping or (self._program is not None and self._program.poll() is not None):
                return False
            time.sleep(_TICK)
        return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number in _STOPPING:
            # A second signal skips the drain.
            self._hurry = self._stopping
            self._stopping = True
        else:
            self._signals.append(number)

    def _pass_signals(self) -> None:
        # One at a time: a handler may add another one at any moment.
        for _ in range(len(self._signals)):
            number = self._signals.pop(0)
            if self._overlaps and number == signal.SIGHUP:
                # It is ours. If it comes too early for another overlap, it stays until it can be done.
                self._signals.append(number)
            elif self._program is not None:
                with contextlib.suppress(ProcessLookupError):
                    self._program.send_signal(number)

    def _say(self, message: str) -> None:
        if self._options.json:
            message = json.dumps({"at": rfc3339(time.time()), "service": self._options.service, "message": message}, ensure_ascii=False)
        else:
            message = f"proxyctl: {message}"
        # Standard output belongs to the program.
        print(message, file=sys.stderr, flush=True)


def _free_port(host: str) -> int:
    """A port that nobody has now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _other_name(instance: str) -> str:
    """The name of the program that is to take the place of this one."""
    return instance.removesuffix(_NEXT) if instance.endswith(_NEXT) else instance + _NEXT


def _is_well(host: str, port: int, path: str) -> bool:
    """Whether a program answers the path of a health check as a healthy one does. Without a path, or with tcp://, a port is enough."""
    if not path.startswith("/"):
        return True
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", path)
        return 200 <= connection.getresponse().status < 400
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _signal_group(program: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal (0: none) to the program's group. Returns whether the group still has a process."""
    try:
        os.killpg(program.pid, number)
    except ProcessLookupError:
        return False
    return True
