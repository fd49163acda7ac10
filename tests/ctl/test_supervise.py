"""`proxyctl run` as a real process around real programs."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

import pytest

from proxyd.ctl.supervise import ServiceRunner
from tests.client.test_client import Conversation, ScriptedRegistry, until
from tests.support.waiting import patience


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    server = ScriptedRegistry()
    server.answers["DRAIN_START"] = lambda *_: "DRAIN_OK|2026-01-31T12:00:00Z"
    server.answers["DRAIN_CANCEL"] = lambda *_: "DRAIN_OK"
    server.answers["TRAFFIC_HOLD"] = lambda *_: "HOLD_OK|2026-01-31T12:00:00Z"
    yield server
    server.stop()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(registry: ScriptedRegistry, port: int, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        def run(*arguments: str, program: list[str] | None = None) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "proxyd.ctl.main", "run", "--registry", registry.address, "--domain", "a.test",
                 "--domain", "b.test", "--port", str(port), "--service", "files", "--instance", "files-1", *arguments, "--",
                 *(program or [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(tmp_path)])],
                stderr=subprocess.PIPE, text=True)

            def end() -> None:
                if process.poll() is None:
                    process.terminate()
                    process.wait(10)
                assert process.stderr is not None
                process.stderr.close()
            stack.callback(end)
            return process
        yield run


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=patience(3)) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_a_program_is_registered_once_it_answers_then_drained_and_stopped(
    start: Start, registry: ScriptedRegistry, port: int,
) -> None:
    process = start("--health", "/", "--option", "timeout=5s", "--drain", "2s")
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    assert answers(port)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    until(lambda: "DRAIN_START" in registry.commands())
    assert answers(port), "the program must serve while its traffic is drained"
    assert process.wait(patience(10)) == 128 + signal.SIGTERM
    assert time.monotonic() - began >= 2.0
    assert not answers(port)
    assert registry.lines == [
        "REGISTER|files|files-1|0|{}", "SUBSCRIBE|sid-1|session_replaced",
        f"ROUTE_ADD|sid-1|a.test,b.test|/|http://127.0.0.1:{port}|0",
        "HEALTH_SET|sid-1|r1|/|10s|5s", "OPTIONS_SET|sid-1|r1|timeout|5s", "CONFIG_APPLY|sid-1",
        "SESSION_INFO|sid-1", "ROUTE_STATUS|sid-1|r1", "DRAIN_START|sid-1|2s", "ROUTE_STATUS|sid-1|r1", "ROUTE_STATUS|sid-1|r1",
        "CLIENT_SHUTDOWN|sid-1"]


def test_the_exit_code_is_that_of_the_program(start: Start) -> None:
    assert start("--restart", "never", program=[sys.executable, "-c", "raise SystemExit(7)"]).wait(10) == 7
    assert start("--restart", "on-failure", program=[sys.executable, "-c", ""]).wait(10) == 0


def test_what_happens_from_the_moment_on_that_it_says_that_it_is_registered_is_told(start: Start, registry: ScriptedRegistry) -> None:
    def lose(conversation: Conversation, fields: list[str]) -> None:
        """The registry ends while it is asked what comes right after."""
        del registry.answers["SESSION_INFO"]
        conversation.cut()

    registry.answers["SESSION_INFO"] = lose
    process, said = start("--drain", "0"), list[str]()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.rstrip())

    reading = threading.Thread(target=read)
    reading.start()
    until(lambda: "proxyctl: registry: reconnected" in said, 10)
    process.terminate()
    reading.join(10)
    registered = next(place for place, line in enumerate(said) if line.startswith("proxyctl: registered "))
    assert said[registered + 1:][:2] == ["proxyctl: registry: disconnected", "proxyctl: registry: reconnected"]


def test_a_program_that_does_not_exist_exits_with_127(start: Start) -> None:
    assert start(program=["no-such-program-here"]).wait(10) == 127


def test_a_program_that_fails_is_started_again_and_one_that_succeeds_is_not(start: Start, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    text = (f"import pathlib; log = pathlib.Path({str(log)!r}); n = log.stat().st_size if log.exists() else 0; "
            "log.write_text('x' * (n + 1)); raise SystemExit(0 if n == 2 else 1)")
    assert start("--backoff", "20ms", program=[sys.executable, "-c", text]).wait(10) == 0
    assert log.read_text() == "xxx"


def test_a_killed_program_is_registered_anew_after_its_restart(start: Start, registry: ScriptedRegistry, tmp_path: Path,
                                                               port: int) -> None:
    pid_file = tmp_path / "pid"
    text = (f"import os, pathlib; pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid())); "
            f"from http.server import *; HTTPServer(('127.0.0.1', {port}), SimpleHTTPRequestHandler).serve_forever()")
    start("--backoff", "20ms", "--drain", "0", program=[sys.executable, "-c", text])
    until(lambda: registry.commands().count("CONFIG_APPLY") == 1, 10)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    until(lambda: registry.commands().count("CONFIG_APPLY") == 2, 10)
    assert "CLIENT_SHUTDOWN" not in registry.commands(), "the routes stay: the service will be back"


def test_a_program_whose_port_stays_closed_is_stopped(start: Start, registry: ScriptedRegistry) -> None:
    process = start("--restart", "never", "--start-timeout", "300ms",
                    program=[sys.executable, "-c", "import time; time.sleep(60)"])
    assert process.wait(patience(10)) == 128 + signal.SIGTERM
    assert registry.commands() == []


def test_signals_are_passed_on(start: Start, registry: ScriptedRegistry, tmp_path: Path, port: int) -> None:
    mark = tmp_path / "hup"
    text = (f"import signal, pathlib; signal.signal(signal.SIGHUP, lambda *_: pathlib.Path({str(mark)!r}).write_text('x')); "
            f"from http.server import *; HTTPServer(('127.0.0.1', {port}), SimpleHTTPRequestHandler).serve_forever()")
    process = start("--drain", "0", program=[sys.executable, "-c", text])
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    process.send_signal(signal.SIGHUP)
    until(mark.exists)
    process.send_signal(signal.SIGINT)
    assert process.wait(patience(10)) == 128 + signal.SIGTERM


def test_of_two_replicas_that_stop_at_one_instant_requests_wait_for_the_next_start(start: Start, registry: ScriptedRegistry) -> None:
    # The other one serves when this one asks, and drains when this one does.
    registry.answers["ROUTE_STATUS"] = lambda *_: (
        f'ROUTE_STATUS_OK|{{"replicas": {int("DRAIN_START" not in registry.commands())}, "in_flight": 0}}')
    process = start("--drain", "60s")
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    process.terminate()
    assert process.wait(patience(20)) == 128 + signal.SIGTERM
    stop = registry.commands()
    assert stop[stop.index("DRAIN_START"):][:4] == ["DRAIN_START", "ROUTE_STATUS", "DRAIN_CANCEL", "TRAFFIC_HOLD"]
    assert "CLIENT_SHUTDOWN" not in stop, "the routes stay"


def test_requests_that_do_not_end_are_waited_for_up_to_the_stop_timeout(start: Start, registry: ScriptedRegistry, port: int) -> None:
    registry.answers["ROUTE_STATUS"] = lambda *_: 'ROUTE_STATUS_OK|{"replicas": 1, "in_flight": 1}'
    process = start("--drain", "100ms", "--stop-timeout", "1s")
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    began = time.monotonic()
    process.terminate()
    assert process.wait(patience(20)) == 128 + signal.SIGTERM and time.monotonic() - began >= 1.0
    assert process.stderr is not None and "requests are still under way after 1s" in process.stderr.read()


def test_a_second_request_to_stop_skips_the_drain(start: Start, registry: ScriptedRegistry) -> None:
    process = start("--drain", "60s")
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    process.send_signal(signal.SIGTERM)
    until(lambda: "DRAIN_START" in registry.commands())
    process.send_signal(signal.SIGTERM)
    process.wait(patience(10))
    assert registry.commands()[-1] == "CLIENT_SHUTDOWN"


def test_a_port_that_another_program_holds_gets_no_traffic_in_the_name_of_ours(
    start: Start, registry: ScriptedRegistry, port: int,
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        process = start("--drain", "0")
        assert process.stderr is not None
        assert "another program listens" in process.stderr.readline()
        assert registry.lines == []
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    assert answers(port)


def test_a_port_that_stays_taken_is_a_failure(start: Start, registry: ScriptedRegistry, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):
        assert start("--start-timeout", "300ms", "--restart", "never").wait(10) == 126
    assert registry.lines == []


def test_what_the_program_started_is_stopped_with_it(start: Start, registry: ScriptedRegistry, port: int, tmp_path: Path) -> None:
    serve = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    process = start("--drain", "0", program=["sh", "-c", f"{serve}; echo the shell goes on"])
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    process.terminate()
    assert process.wait(patience(10)) == 128 + signal.SIGTERM
    assert not answers(port)


def test_a_crash_of_the_parent_does_not_leave_its_child_on_the_port(
    start: Start, registry: ScriptedRegistry, port: int, tmp_path: Path,
) -> None:
    serve = f"{sys.executable} -m http.server {port} --bind 127.0.0.1"
    start("--drain", "0", "--backoff", "20ms", program=["sh", "-c", f"echo $$ > {tmp_path}/shell; {serve} & wait"])
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    os.kill(int((tmp_path / "shell").read_text()), signal.SIGKILL)
    until(lambda: registry.commands().count("CONFIG_APPLY") == 2, 10)
    assert answers(port)


@pytest.mark.parametrize("wrong", [("--option", "timeot=5s"), ("--option", "timeout=soon"), ("--domain", "a b"), ("--path", "x")])
def test_what_the_registry_would_refuse_is_told_before_the_program_is_started(
    start: Start, tmp_path: Path, wrong: tuple[str, str],
) -> None:
    mark = tmp_path / "started"
    assert start(*wrong, program=["touch", str(mark)]).wait(10) == 2
    assert not mark.exists()


def test_refused_registrations_are_tried_again_ever_more_seldom(start: Start, registry: ScriptedRegistry) -> None:
    asked: list[float] = []

    def refuse(*_: object) -> str:
        # Before the answer: its pause begins behind that, however late anybody looks.
        asked.append(time.monotonic())
        return "ERROR|metadata: token is missing or not known"

    registry.answers["REGISTER"] = refuse
    start("--drain", "0")
    until(lambda: len(asked) >= 3, 10)
    assert asked[2] - asked[1] > 1.4


def test_without_a_connection_a_second_request_to_stop_does_not_wait_for_one(start: Start, registry: ScriptedRegistry) -> None:
    process = start("--drain", "60s")
    until(lambda: "CONFIG_APPLY" in registry.commands(), 10)
    registry.stop()
    process.terminate()

    def has_ended() -> bool:
        # Two that arrive before it looks are one.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.terminate()
        return process.poll() is not None

    until(has_ended, 10)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.timeout(30)
def test_a_signal_between_any_two_steps_of_a_wait_ends_it() -> None:
    """A handler that took a lock would wait for ever at the step at which the main thread has it."""
    options = argparse.Namespace(service="files", domain=["a.test"], instance="i", port=1, unique=False, command=["true"])
    for step in itertools.count():
        runner, left = ServiceRunner(options, ""), step

        def trace(frame: FrameType, event: str, argument: object, runner: ServiceRunner = runner) -> object:
            nonlocal left
            if not left:
                runner._on_signal(signal.SIGTERM, None)
            left -= 1
            return trace

        previous = sys.gettrace()
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            runner._pause(0.06)
        finally:
            sys.settrace(previous)
        if left >= 0:
            break
    assert step > 5
