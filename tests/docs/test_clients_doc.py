"""docs/clients.md is run: its services as programs before a real proxyd, its other lines one after another in a session."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

from proxyd.client import Client
from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, patience, wait_for

DOCUMENT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
PROGRAMS = {match[1]: block for block in BLOCKS if (match := re.match(r"# file: (\S+)\n", block))}
LINES = [block for block in BLOCKS if not block.startswith("# file: ")]

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(system: System, tmp_path: Path) -> Iterator[Start]:
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    with ExitStack() as stack:
        def run(*command: str, **environment: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen([sys.executable, *command], cwd=tmp_path, env={
                **os.environ, "PYTHONPATH": str(ROOT), "REGISTRY": f"127.0.0.1:{system.registry_port}", **environment},
                stderr=subprocess.DEVNULL)

            def end() -> None:
                process.kill()
                process.wait(10)
            stack.callback(end)
            return process
        yield run


def await_everywhere(system: System, name: str) -> None:
    """Wait until the example answers by every worker: one may have its route a moment before another, as long as the apply is under way."""
    wait_for(lambda: {system.get("/", f"{name}.localhost").text for _ in range(8)} == {f"{name}\n"}, 15, f"the {name}")


def test_hello_takes_traffic_as_a_pool_of_two_and_leaves_without_a_lost_request(start: Start, system: System) -> None:
    first, second = start("hello.py"), start("hello.py")
    wait_for(lambda: system.sql("SELECT count(*) FROM routes WHERE service_name = 'hello'") == [(2,)], 15, "both instances")
    await_everywhere(system, "hello")
    first.send_signal(signal.SIGTERM)
    statuses = set()
    while first.poll() is None:
        statuses.add(system.get("/", "hello.localhost").status)
    assert statuses == {200} and first.returncode == 0
    second.terminate()
    assert second.wait(patience(10)) == 0
    assert system.get("/", "hello.localhost").status == 404


def test_shop_takes_traffic_under_gevent(start: Start, system: System) -> None:
    process = start("shop.py")
    await_everywhere(system, "shop")
    process.terminate()
    assert process.wait(patience(10)) == 0
    assert system.get("/", "shop.localhost").status == 404


def test_wiki_is_registered_once_for_all_its_workers(start: Start, system: System) -> None:
    process = start("-m", "gunicorn", "wiki:app", BIND=f"127.0.0.1:{free_port()}")
    await_everywhere(system, "wiki")
    assert system.sql("SELECT count(*) FROM routes WHERE service_name = 'wiki'") == [(1,)]
    process.terminate()
    assert process.wait(patience(15)) == 0
    assert system.get("/", "wiki.localhost").status == 404


def test_the_other_lines_do_what_stands_behind_them(system: System, backend: Backend, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Client(f"127.0.0.1:{system.registry_port}", service="lines", instance="l1") as client:
        route = client.route_add("lines.localhost", "/", backend.url)
        client.apply()
        names = {"client": client, "route": route, "CA": str(authority.file), "CERTIFICATE": str(authority.issue("c.pem", "c"))}
        for block in LINES:
            with redirect_stdout(StringIO()) as said:
                exec(compile(block, "docs/clients.md", "exec"), names)
            for promised in re.findall(r"^\s*print\(.*\)\s+# ([\[{].*|key: .*)$", block, re.MULTILINE):
                assert promised in said.getvalue()
    assert len(LINES) == 6


def test_every_method_that_the_document_names_exists() -> None:
    named = set(re.findall(r"\bclient\.(\w+)\(", DOCUMENT))
    assert named and all(hasattr(Client, name) for name in named)
