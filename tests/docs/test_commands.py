"""Every command in a shell block of the documents: it is run as it stands, or held against the parser or the endpoint that takes it, or
LISTED says why not."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.admin.endpoints import ENDPOINTS
from proxyd.admin.table import find
from proxyd.admin.validate import check_body
from proxyd.cli.main import _parser
from proxyd.ctl.parser import build
from tests.support.backends import Backend
from tests.support.system import ROOT, System
from tests.support.waiting import wait_for

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Pages and commands that are not run here, and the test that runs them, or why none does.
LISTED = {
    r"proxyctl\.md: ": "tests/docs/test_proxyctl_doc.py holds each against the parser",
    r"README\.md: (python3 -m http\.server|command -v curl|for try in|exec \{registry\}|hear\(\)|say|curl -i)": "tests/docs/test_readme.py",
    r"(README|operations)\.md: scripts/(run|test)\b": "tests/system/test_first_steps.py; it is how this test was started",
    r"README\.md: cp conf/": "tests/conf/test_conf.py",
    r"(reliability|hosts)\.md: scripts/(chaos|starts|soak)": "tests/chaos/test_a_minute.py, test_starts.py, tests/soak/test_soak.py",
    r"operations\.md: scripts/(backup|restore)": "tests/scripts/test_backup.py",
    r"operations\.md: (scripts/deb|apt-get|python3 -m venv|/opt/proxyd/bin/pip|ln -s|install |openssl|chgrp|chmod|systemd-|export )":
        "they install on this machine; test_operations_doc.py reads them, and the package was tried in a bare Debian",
    r"\w+\.md: (systemctl|docker|kill -HUP)": "they steer services of this machine; tests/conf/test_container.py, test_replacing.py",
    r"operations\.md: (#!/bin/sh|umask|cat |mv )": "a deploy-hook of certbot",
    r"api\.md: TOKEN=": "a file of this machine",
    r"health\.md: curl .* http://10\.": "a backend of the reader's",
    r"database\.md: PGOPTIONS=": "tests/docs/test_grafana.py and tests/store ask PostgreSQL",
}
PROXYCTL, PROXYD = build(), _parser()
RUN = re.compile(r"(curl -\S+ (-H 'Host: nowhere\.test' )?'?http://127\.0\.0\.1:8\d+|printf .* \| nc |sqlite3 -readonly|grep )")


def commands(block: str, console: bool) -> Iterator[str]:
    """The commands of a block: a line each, or more where a quote goes on. Of a console, what stands behind the prompt."""
    begun = ""
    for line in block.splitlines():
        if console and not line.startswith("$ "):
            continue
        begun += line.removeprefix("$ ") if console else line
        try:
            shlex.split(begun, comments=True)
        except ValueError:
            begun += "\n"
            continue
        if begun.strip() and not begun.startswith("# "):
            yield begun.strip()
        begun = ""
    assert not begun, f"a quote that does not end: {begun}"


FOUND = [f"{page.name}: {command}" for page in PAGES
         for language, block in re.findall(r"(?ms)^```(sh|bash|console)\n(.*?)^```$", page.read_text(encoding="utf-8"))
         for command in commands(block, language == "console")]


def listed(command: str) -> list[str]:
    return [pattern for pattern in LISTED if re.match(pattern, command)]


def understood(command: str) -> bool:
    """Whether proxyctl, proxyd or an endpoint takes it, and all such calls behind it; False for what begins with none of these."""
    parts: list[list[str]] = [[]]
    for word in shlex.split(command.replace("$PROXYD_CONFIG", "x.ini"), comments=True):
        if word in ("&&", "|"):
            parts.append([])
        else:
            parts[-1].append(word)
    return next(iter([is_call(part) for part in parts]))


def is_call(words: list[str]) -> bool:
    words = words[4:] if words[:3] == ["runuser", "-u", "proxyd"] else words
    program = words[0].rpartition("/")[2]
    if program == "proxyctl":
        assert PROXYCTL.parse_args(words[1:]).name == words[1]
    elif program == "proxyd":
        assert PROXYD.parse_args(words[1:]).command == words[1]
    elif program == "curl" and "-X" in words:
        endpoint, _ = find(ENDPOINTS, words[words.index("-X") + 1], words[-1].removeprefix("http://127.0.0.1:8282"))
        assert (endpoint.body is None or not endpoint.body.get("required")) or "-d" in words
        if "-d" in words:
            check_body(endpoint.body or {}, json.loads(words[words.index("-d") + 1]))
    else:
        return False
    return True


def test_each_command_is_run_or_understood_or_it_is_said_why_not() -> None:
    left = [command for command in FOUND if not (listed(command) or RUN.match(command.partition(": ")[2])
                                                 or understood(command.partition(": ")[2]))]
    assert left == []
    assert [pattern for pattern in LISTED if not any(pattern in listed(command) for command in FOUND)] == [], "what is listed is there"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Path]]:
    """A system of its own, for its first route is r1, with a line in its log, and a folder where the documents' paths lead to it."""
    system = System(tmp_path_factory.mktemp("commands"))
    folder = tmp_path_factory.mktemp("here")
    (folder / "var").mkdir()
    (folder / "var" / "proxyd.db").symlink_to(system.directory / "proxyd.db")
    (folder / "access.log").symlink_to(system.directory / "access.log")
    backend = Backend()
    client = system.client("shop", "v2")
    assert client.route("shop.example.com", backend.url) == "r1"
    client.apply()
    for host in ("shop.example.com", "nowhere.test"):
        system.get("/", host)
    wait_for(lambda: "\nproxyd_requests_total{" in system.admin("/metrics").text, what="the counts of the first request")
    yield system, folder
    system.stop()
    backend.stop()


def test_what_can_be_run_anywhere_is_run(place: tuple[System, Path]) -> None:
    system, folder = place
    ran = [command.partition(": ")[2] for command in FOUND if not listed(command) and RUN.match(command.partition(": ")[2])]
    assert len(ran) > 30
    for command in ran:
        ours = command.replace("127.0.0.1:8282", f"127.0.0.1:{system.admin_port}")
        ours = re.sub(r"(127\.0\.0\.1[: ])8000\b", rf"\g<1>{system.proxy_port}", ours)
        done = subprocess.run(["bash", "-c", ours], cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
        assert done.stderr == "", (command, done)
        if command.startswith("curl"):
            # There was no rollout yet, and nothing is at a place that no document names.
            assert done.stdout and '"code": "not_found"' not in done.stdout and '"code": "bad_' not in done.stdout, (command, done)
        said = re.search(r"  # (unknown_host|duplicate_host)$", command)
        if said:
            assert said[1] in done.stdout, (command, done)
