"""proxyctl on a terminal: what fits, what can be typed, and how the terminal is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from proxyd.ctl.screen import columns
from tests.ctl.conftest import AdminStub, Outcome, route
from tests.support.system import ROOT
from tests.support.terminal import Terminal
from tests.support.waiting import wait_for

Ctl = Callable[..., Outcome]
Start = Callable[..., Terminal]

WIDE = {"service": "shop", "instance": "shop-1-with-a-long-name", "health": {"status": "down"},
        "domains": ["shop.example.com", "www.shop.example.com", "漢字.example"], "backend": "http://backend-1.internal:8080"}


@pytest.fixture
def start(admin: AdminStub, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        def run(*arguments: str, columns: int = 80, rows: int = 24) -> Terminal:
            command = [sys.executable, "-m", "proxyd.ctl.main", *arguments, "--admin", admin.url]
            terminal = Terminal(command, {**os.environ, "PYTHONPATH": str(ROOT)}, columns, rows)
            stack.callback(terminal.close)
            return terminal
        yield run


@pytest.fixture
def crowded(admin: AdminStub) -> AdminStub:
    """An admin HTTP with much to show."""
    long = "3 checks in a row failed: " + "connection refused " * 8
    problem = "conf/sites-enabled/shop.ini:7: [route web] " + "something is wrong " * 6
    admin.answers["GET", "routes"] = (200, {"routes": [route(f"r{number}", **WIDE) for number in range(1, 60)]})
    admin.answers["GET", "routes/r1"] = (200, route("r1", **{**WIDE, "health": {"status": "down", "reason": long}}))
    admin.answers["GET", "health"] = (200, {"health": [{"route_id": "r1", "status": "down", "url": "http://h/", "reason": long}]})
    admin.answers["GET", "status"][1]["problems"] = [problem]
    admin.answers["GET", "status"][1]["certificates"] = [
        {"path": "/etc/proxyd/tls/shop.example.com.pem", "names": ["shop.example.com", "*.shop.example.com"],
         "expires_at": "2020-01-01T00:00:00.000Z"}]
    return admin


@pytest.mark.parametrize("width", [30, 80])
def test_no_line_is_wider_than_the_terminal_and_what_matters_is_still_there(crowded: AdminStub, start: Start, width: int) -> None:
    expected = {"status": "something is wrong", "routes": "shop.", "route r1": "refused", "health": "down", "circuits": "closed",
                "sessions": "shop", "stats": "10", "events --no-follow": "healthy=no", "maint status": "no route",
                "top --count 1": "r59" if width > 80 else "r1"}
    running = {name: start(*name.split(), columns=width, rows=80) for name in expected}
    for name, terminal in running.items():
        terminal.end()
        lines = terminal.text.splitlines()
        assert max(map(columns, lines)) <= width, name
        assert expected[name] in " ".join(" ".join(lines).split()), name
        assert "Traceback" not in terminal.text


def test_columns_of_less_weight_go_before_those_of_more_are_cut_to_nothing(crowded: AdminStub, start: Start) -> None:
    narrow, wide = start("routes", columns=60), start("routes", columns=200)
    narrow.end()
    wide.end()
    assert {"ROUTE", "DOMAINS", "STATE", "down"} <= set(narrow.text.split()) and "BACKEND" not in narrow.text
    assert wide.text.split()[:6] == ["ROUTE", "SERVICE", "DOMAINS", "PATH", "BACKEND", "PRIO"]


def test_there_are_colours_on_a_terminal_and_none_in_a_pipe(start: Start, ctl: Ctl, admin: AdminStub) -> None:
    terminal = start("circuits")
    terminal.end()
    assert "\x1b[32mclosed\x1b[0m" in terminal.raw
    assert "\x1b" not in ctl("circuits", "--admin", admin.url).out


def test_top_ends_by_q_also_when_typed_with_others_and_not_by_a_function_key(start: Start) -> None:
    top = start("top", "--every", "50ms")
    wait_for(lambda: top.text.count("req/s") >= 2)
    assert not top.echoes()
    top.type("\x1bOQ")
    shown = top.text.count("req/s")
    wait_for(lambda: top.text.count("req/s") >= shown + 3)
    top.type("xq")
    assert top.end() == 0
    assert top.echoes() and top.raw.endswith("\x1b[?1049l")


def test_top_leaves_the_terminal_as_it_was_when_it_is_killed(start: Start) -> None:
    top = start("top", "--every", "10s")
    wait_for(lambda: "req/s" in top.text)
    top.process.send_signal(signal.SIGTERM)
    assert top.end() == 128 + signal.SIGTERM
    assert top.echoes() and top.raw.endswith("\x1b[?25h\x1b[?1049l")


def frames(terminal: Terminal) -> list[str]:
    """The pictures of a full screen: each begins in the upper left corner. The last may not be whole."""
    return terminal.raw.split("\x1b[H")[1:]


def test_top_shows_no_more_rows_than_there_is_room_and_follows_a_new_size(crowded: AdminStub, start: Start) -> None:
    top = start("top", "--every", "50ms", rows=12)
    wait_for(lambda: len(frames(top)) >= 3 and "r1" in frames(top)[-2])
    assert frames(top)[-2].count("\r\n") == 11
    top.resize(60, 20)
    wait_for(lambda: frames(top)[-2].count("\r\n") == 19)
    top.type("q")
    assert top.end() == 0


_BASH = """source "$1"
for line in 'proxyctl maint en' 'proxyctl st' 'proxyctl run --res' 'proxyctl --json completion b'; do
  COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9
  _python_argcomplete proxyctl; echo "${COMPREPLY[@]}"
done"""
_FISH = """source $argv[1]
for line in 'proxyctl maint en' 'proxyctl st' 'proxyctl run --res' 'proxyctl --json completion b'; complete -C $line; end"""


@pytest.mark.parametrize(("shell", "script"), [("bash", _BASH), ("fish", _FISH)])
def test_completion_completes_in_a_real_shell(ctl: Ctl, tmp_path: Path, shell: str, script: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    program = tmp_path / "proxyctl"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m proxyd.ctl.main "$@"\n')
    program.chmod(0o755)
    file = tmp_path / "completion"
    file.write_text(ctl("completion", shell).out)
    command = [shell, "-c", script, "proxyctl", str(file)] if shell == "bash" else [shell, "--no-config", "-c", script, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env={
        **os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert done.stderr == ""
    # bash prints a line of words, fish a line a word, in an order of its own.
    # bash prints a line of words; fish prints a line a word, with what it means after a tab, in an order of its own.
    words = done.stdout.split() if shell == "bash" else [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert sorted(words) == ["--restart", "bash", "enter", "stats", "status"]


def test_a_type_of_events_that_there_is_not_is_an_error_that_lists_them(admin: AdminStub, ctl: Ctl) -> None:
    outcome = ctl("--admin", admin.url, "events", "--type", "nosuch", "--no-follow")
    assert outcome.code == 2 and "nosuch" in outcome.err and "circuit_reset" in outcome.err
    assert admin.asked == []
