"""What a start refuses: in the words of `proxyd check`, and at the place where the setting is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from proxyd.chores.pidfile import PidFile
from proxyd.config.settings import Settings, load
from proxyd.server.checks import check
from proxyd.server.startchecks import before_start, few_descriptors
from tests.support.waiting import free_port


def settings_of(tmp_path: Path, content: str) -> Settings:
    database = "" if "[database]" in content else f"[database]\nurl = sqlite:///{tmp_path}/p.db\n"
    file = tmp_path / "proxyd.ini"
    file.write_text(f"[sites]\ndirectory = {tmp_path}/sites\n{content}{database}")
    (tmp_path / "sites").mkdir(exist_ok=True)
    (tmp_path / "text").write_text("some text\n")
    return load(str(file), {})


def told(settings: Settings, before: Settings | None = None) -> list[str]:
    return [str(problem) for problem in before_start(settings, before)]


def proxy_at(port: int) -> str:
    return f"[proxy]\nbind = 127.0.0.1:{port}\n"


@pytest.mark.parametrize("content", [
    "[tls]\nbind = 127.0.0.1:{port}\n",
    "[tls]\ncertificates = {dir}/none.pem\nbind = 127.0.0.1:{port}\n",
    "[tls]\ncertificates = {dir}/text\nbind = 127.0.0.1:{port}\n",
    "[database]\nurl = sqlite:///{dir}/text/p.db\n",
    "[database]\nurl = sqlite:///{dir}/p.db\nshared_memory = {dir}/text\n",
    "[admin]\nbind = 0.0.0.0:{port}\n",
    "[admin]\nbind = [::]:{port}\n",
    "[registry]\nbind = 0.0.0.0:{port}\n",
])
def test_a_start_and_the_check_say_the_same(tmp_path: Path, content: str) -> None:
    settings = settings_of(tmp_path, proxy_at(free_port()) + content.format(dir=tmp_path, port=free_port()))
    checked = [str(problem) for problem in check(settings)]
    assert told(settings) == checked and len(checked) == 1


@pytest.mark.parametrize("content", [
    "[admin]\nbind = 0.0.0.0:{port}\nallow_unprotected = yes\n", "[admin]\nbind = 0.0.0.0:{port}\nenabled = no\n",
    "[registry]\nbind = 0.0.0.0:{port}\nallow_unprotected = yes\n", "[registry]\nbind = 0.0.0.0:{port}\ntokens_file = {dir}/tokens\n"])
def test_an_address_beyond_loopback_that_is_protected_may_be_started(tmp_path: Path, content: str) -> None:
    assert told(settings_of(tmp_path, proxy_at(free_port()) + content.format(dir=tmp_path, port=free_port()))) == []


def test_a_reload_does_not_open_the_admin_http_to_all(tmp_path: Path) -> None:
    before = settings_of(tmp_path, proxy_at(free_port()))
    problem, = told(settings_of(tmp_path, f"{proxy_at(free_port())}[admin]\nbind = 0.0.0.0:{free_port()}\n"), before)
    assert "[admin] bind: 0.0.0.0:" in problem and "reading needs no login" in problem


def test_an_address_in_use_is_named_at_its_place_unless_it_was_ours_before(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = settings_of(tmp_path, proxy_at(port))
        assert told(settings) == [
            f"{tmp_path}/proxyd.ini:4: [proxy] bind: can't listen on 127.0.0.1:{port}: it is in use by another program; "
            "stop that one, or set another [proxy] bind (PROXYD_PROXY_BIND)"]
        assert told(settings, before=settings) == []
        assert told(settings, before=settings_of(tmp_path, proxy_at(port + 1))) != []


def test_a_certificate_that_was_in_use_may_break_and_a_new_one_may_not(tmp_path: Path) -> None:
    https = f"{proxy_at(free_port())}[tls]\nbind = 127.0.0.1:{free_port()}\ncertificates = {tmp_path}/text"
    before = settings_of(tmp_path, https + "\n")
    assert told(before, before) == []
    problems = told(settings_of(tmp_path, f"{https}, {tmp_path}/new.pem\n"), before)
    assert problems == [f"{tmp_path}/proxyd.ini:7: [tls] certificates: can't read the certificate {tmp_path}/new.pem: "
                        "No such file or directory"]


def test_the_directory_of_the_shared_memory_is_made(tmp_path: Path) -> None:
    shared = tmp_path / "a" / "b"
    assert told(settings_of(tmp_path, f"{proxy_at(free_port())}[database]\nshared_memory = {shared}\n")) == []
    assert shared.is_dir()


def test_the_shared_memory_of_a_proxy_with_another_database_is_refused(tmp_path: Path) -> None:
    settings = {name: settings_of(tmp_path, f"[database]\nurl = sqlite:///{tmp_path}/{name}.db\n") for name in ("one", "two")}
    # The master of the first runs.
    file = PidFile(settings["one"].pid_file())
    file.write()
    (tmp_path / "one.db.lock").write_text(f"{os.getpid()}\n\n")
    assert told(settings["one"]) == []
    refused, = told(settings["two"])
    assert f"[database] url: the proxyd whose master has the pid {os.getpid()} uses the shared memory in {tmp_path} for another" in refused
    assert told(settings_of(tmp_path, f"[database]\nurl = sqlite:///{tmp_path}/two.db\nshared_memory = {tmp_path}/two\n")) == []
    file.remove()
    # One that nobody holds is left of a master that was killed.
    Path(file.path).write_text(f"{os.getpid()}\n")
    assert told(settings["one"]) == told(settings["two"]) == []


def test_too_few_descriptors_are_told_with_both_numbers(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "[proxy]\nworker_connections = 1000\n")
    assert few_descriptors(settings, 1256) is None
    message = few_descriptors(settings, 1255)
    assert message is not None and "may open 1255 files" in message and "worker_connections = 1000" in message


def test_the_arbiter_loads_nothing_that_must_come_after_the_patches_of_the_workers() -> None:
    program = ("import sys, proxyd.server.gunicorn_conf\n"
               "print([name for name in ('peewee', 'requests', 'sqlite3', 'proxyd.registry', 'proxyd.store.sql') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", program], env=dict(os.environ), capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == "[]\n"
