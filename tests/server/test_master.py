"""The master as a process: one a database, nothing acknowledged is lost, and a start that fails says why."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, patience, wait_for

NOWHERE = "http://127.0.0.1:9"
#: Runs a program without root's right to write where the mode forbids it (util-linux).
_MODES_HOLD = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")


def master(system: System, *arguments: str, modes_hold: bool = False) -> subprocess.CompletedProcess[str]:
    """Run `proxyd master` with the system's settings to its end."""
    return _run(system, modes_hold, "proxyd", "master", *arguments)


def gunicorn(system: System, modes_hold: bool = False) -> subprocess.CompletedProcess[str]:
    """Run gunicorn with the system's settings, which must end by itself."""
    return _run(system, modes_hold, "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "proxyd.wsgi:app")


def _run(system: System, modes_hold: bool, *module: str) -> subprocess.CompletedProcess[str]:
    before = _MODES_HOLD if modes_hold and os.geteuid() == 0 else ()
    return subprocess.run([*before, sys.executable, "-m", *module], env=system.environment, cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=patience(15), check=False)


def kill_everything(system: System) -> None:
    """kill -9 of arbiter, workers and master at once."""
    assert system.process is not None
    os.killpg(system.process.pid, signal.SIGKILL)
    system.process.wait(5)
    wait_for(lambda: not system.master_pid(), 5, "the end of the master")


def taken_up(system: System, session_id: str) -> RegistryClient:
    back = system.connect()
    assert back.command(f"RECONNECT|{session_id}") == "OK"
    back.session_id = session_id
    return back


def test_a_second_master_refuses_and_names_the_first(system: System) -> None:
    second = System(system.directory / "second", start=False, database__url=f"sqlite:///{system.database}")
    ended = master(second)
    assert ended.returncode == 1
    assert (f"the master can't start: another master (pid {system.master_pid()}) serves sqlite:///{system.database}; "
            "stop it first, or start this one with --wait") in ended.stdout
    assert "Traceback" not in ended.stdout
    assert system.client("first").command("PING|SID") == "PONG"


def test_a_second_gunicorn_on_the_same_database_serves_traffic_and_its_master_waits_its_turn(
        new_system: Callable[..., System], tmp_path: Path, backend: Backend) -> None:
    first = new_system(workers=1)
    client = first.client("shared")
    client.route("shared.test", backend.url)
    second = System(tmp_path / "second", workers=1, start=False, database__url=f"sqlite:///{first.database}",
                    sites__directory=first.settings["sites__directory"])
    starting = threading.Thread(target=second.start, daemon=True)
    try:
        starting.start()
        log = second.directory / "output.log"
        wait_for(lambda: log.exists() and f"waiting for the master with pid {first.master_pid()} to end" in second.log(), 10,
                 "the second master to wait")
        wait_for(lambda: _status(second, "shared.test") == 200, 10, "the second gunicorn to serve")
        assert not second.master_pid()
        first.stop()
        starting.join(30)
        assert second.master_pid()
        back = taken_up(second, client.session_id)
        back.route("more.shared.test", backend.url)
        assert second.get("/", "more.shared.test").status == 200
    finally:
        second.stop()


def test_two_proxies_of_one_clone_have_a_pid_file_each_and_do_not_fight_over_one_that_both_are_told(
        new_system: Callable[..., System], tmp_path: Path) -> None:
    first, second = (new_system(workers=1, master__pid_file="") for _ in range(2))
    # Beside the database of each, where the harness looks.
    assert first.master_pid() != second.master_pid() != 0
    shared = tmp_path / "shared.pid"
    for system in (first, second):
        system.stop()
        system.settings["master__pid_file"] = shared
        system.start()
    pid = int(shared.read_text())
    refused = f"can't write the pid file: {shared}: it is that of another proxyd (pid {pid}); give this one a [master] pid_file of its own"
    # Four looks a second.
    runs = _looks(second)
    wait_for(lambda: _looks(second) > runs + 3, 10, "some more looks")
    assert (first.log().count(refused), second.log().count(refused)) == (0, 1) and int(shared.read_text()) == pid
    assert "was deleted or overwritten" not in first.log()
    first.stop()
    wait_for(lambda: shared.exists() and int(shared.read_text() or 0) not in (0, pid), 10, "the pid of the one that is left")


def test_a_proxy_with_another_database_beside_the_first_one_does_not_start(new_system: Callable[..., System]) -> None:
    first = new_system(workers=1, master__pid_file="")
    second = System(first.directory, start=False, master__pid_file="", database__url=f"sqlite:///{first.directory}/second.db")
    ended = gunicorn(second)
    assert ended.returncode == 1 and f"the proxyd whose master has the pid {first.master_pid()} uses the shared memory" in ended.stdout
    # With the same database, one may take the place of the other.
    third = System(first.directory / "third", workers=1, start=False, master__pid_file="", database__url=first.settings["database__url"])
    try:
        third.start(until=lambda: "waiting for the master with pid" in third.log())
    finally:
        third.stop()


def _looks(system: System) -> int:
    found = re.search(r'^proxyd_job_runs_total\{job="open-files"\} (\S+)', system.admin("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def _status(system: System, host: str) -> int:
    try:
        return system.get("/", host).status
    except OSError:
        return 0


def test_kill_9_of_everything_loses_nothing_that_was_acknowledged(new_system: Callable[..., System], backend: Backend) -> None:
    system = new_system()
    client = system.client("kept", "i1", '{"version":"7"}')
    route_id = client.route("kept.test", backend.url)
    client.ok(f"HEADERS_SET|SID|{route_id}|X-Kept|yes")
    client.ok("RATELIMIT_SET|SID|ALL|1000|1m")
    client.apply()
    client.ok(f"MAINT_ENTER|SID|{client.route('maint.test', backend.url)}|")
    client.line()
    staged = client.route("staged.kept.test", backend.url, apply=False)
    acknowledged = [0]

    def count() -> None:
        with contextlib.suppress(OSError, AssertionError):
            for number in range(1, 100_000):
                client.ok(f"HEADERS_SET|SID|{route_id}|X-Number|{number}")
                client.ok(f"ROUTE_UPDATE|SID|{route_id}|priority|{number}")
                assert client.command("CONFIG_APPLY_PARTIAL|SID|headers,routes") == "OK"
                acknowledged[0] = number

    counting = threading.Thread(target=count, daemon=True)
    counting.start()
    wait_for(lambda: acknowledged[0] >= 20, what="some applies")
    kill_everything(system)
    counting.join(5)
    system.start()
    answer = system.get("/", "kept.test")
    assert (answer.status, answer.headers["X-Kept"]) == (200, "yes")
    assert int(answer.headers["X-Number"]) in (acknowledged[0], acknowledged[0] + 1)
    assert system.get("/", "maint.test").status == 503
    back = taken_up(system, client.session_id)
    routes = {route["route_id"]: route for route in back.json("ROUTE_LIST|SID")}
    assert routes[route_id]["priority"] in (acknowledged[0], acknowledged[0] + 1)
    assert staged in routes
    assert back.json("SESSION_INFO|SID")["metadata"] == {"version": "7"}
    assert back.json(f"ROUTE_STATUS|SID|{route_id}")["ratelimit"]["requests"] == 1000
    assert int(back.route("new.kept.test", backend.url)[1:]) > max(int(name[1:]) for name in routes)


def test_a_master_that_stops_with_the_arbiter_leaves_no_process(new_system: Callable[..., System]) -> None:
    system = new_system(workers=1)
    client, pid = system.client("with"), system.master_pid()
    system.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert not (system.directory / "master.pid").exists()
    assert client.session_id


def test_a_killed_arbiter_takes_the_master_along(new_system: Callable[..., System]) -> None:
    system = new_system(workers=1)
    pid = system.master_pid()
    assert system.process is not None
    system.process.kill()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), 5, "the end of the master")


# -- starts that fail


def test_a_registry_port_in_use_ends_the_master_with_a_clear_message(tmp_path: Path) -> None:
    system = System(tmp_path, start=False)
    with socket.create_server(("127.0.0.1", system.registry_port)):
        ended = master(system)
    assert ended.returncode == 1
    assert (f"127.0.0.1:{system.registry_port} is in use by another program: stop it, or choose another address ([registry] bind)"
            in ended.stdout)
    assert "Traceback" not in ended.stdout


def test_gunicorn_says_at_once_that_its_port_is_in_use(tmp_path: Path) -> None:
    system = System(tmp_path, start=False)
    with socket.create_server(("127.0.0.1", system.proxy_port)):
        ended = gunicorn(system)
    assert ended.returncode != 0
    assert f"can't listen on 127.0.0.1:{system.proxy_port}: it is in use by another program" in ended.stdout
    assert "Traceback" not in ended.stdout


def test_under_gunicorn_the_master_waits_for_its_port_and_goes_on_without_that_of_admin_until_they_come_free(tmp_path: Path) -> None:
    system = System(tmp_path, workers=1, start=False)
    starting = threading.Thread(target=system.start, daemon=True)

    def told(port: int, section: str) -> bool:
        words = f"127.0.0.1:{port} is in use by another program: stop it, or choose another address ([{section}] bind)"
        return (tmp_path / "output.log").exists() and words in system.log()

    try:
        with socket.create_server(("127.0.0.1", system.admin_port)):
            with socket.create_server(("127.0.0.1", system.registry_port)):
                starting.start()
                wait_for(lambda: told(system.registry_port, "registry"), 10, "the message about the registry")
            wait_for(lambda: told(system.admin_port, "admin"), 10, "the message about the admin HTTP")
            assert system.client("goeson").command("PING|SID") == "PONG"
        starting.join(30)
        assert system.admin("/readyz").status == 200
    finally:
        system.stop()


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    system = System(tmp_path, start=False, database__url="sqlite:////proc/proxyd/proxyd.db")
    for ended in (master(system), gunicorn(system)):
        assert ended.returncode == 1
        assert "/proc/proxyd" in ended.stdout
        assert "Traceback" not in ended.stdout


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "ours"
    closed.mkdir(mode=0o555)
    system = System(tmp_path, start=False, database__url=f"sqlite:///{closed}/proxyd.db")
    for ended in (master(system, modes_hold=True), gunicorn(system, modes_hold=True)):
        assert ended.returncode == 1, ended.stdout
        assert str(closed) in ended.stdout
        assert "writable" in ended.stdout
        assert "Traceback" not in ended.stdout


def test_a_corrupt_database_is_set_aside_and_the_system_starts(new_system: Callable[..., System], backend: Backend) -> None:
    system = new_system(workers=1)
    for number, damage in enumerate(("garbage", "torn"), 1):
        system.client(damage).route(f"{damage}.test", backend.url)
        system.stop()
        path = Path(system.database)
        size = path.stat().st_size
        with path.open("r+b") as file:
            if damage == "garbage":
                file.write(b"this is no database at all" * 200)
            else:
                file.seek(4096)
                file.write(os.urandom(size - 4096))
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        before, told = set(system.directory.glob("proxyd.db.corrupt-*")), len(system.log())
        system.start()
        aside = set(system.directory.glob("proxyd.db.corrupt-*"))
        assert len(aside) == number, damage
        assert (aside - before).pop().stat().st_size == size
        assert f"the database {path} is corrupt" in system.log()[told:]
        system.client("after", damage).route(f"after.{damage}.test", backend.url)
        assert system.get("/", f"after.{damage}.test").status == 200


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    system = System(tmp_path, start=False)
    with contextlib.closing(sqlite3.connect(system.database)) as connection, connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY, description TEXT, applied_at TEXT)")
        connection.execute("INSERT INTO schema_version VALUES (999, 'from the future', '2030-01-01T00:00:00Z')")
    ended = master(system)
    assert ended.returncode == 1
    assert f"the database sqlite:///{system.database} has schema version 999, this proxyd knows " in ended.stdout
    assert "install the newer proxyd, or restore a backup made before the upgrade" in ended.stdout
    assert "Traceback" not in ended.stdout


@pytest.mark.parametrize("section", ["registry", "admin"])
@pytest.mark.parametrize("start", [master, gunicorn])
def test_an_address_beyond_loopback_without_protection_is_refused(tmp_path: Path, section: str,
                                                                  start: Callable[[System], subprocess.CompletedProcess[str]]) -> None:
    """Nothing is bound: the address is looked at before that."""
    system = System(tmp_path, start=False)
    system.settings[f"{section}__bind"] = f"0.0.0.0:{free_port()}"
    ended = start(system)
    assert ended.returncode == 1
    assert "is not loopback" in ended.stdout and f"[{section}] bind" in ended.stdout
    assert "Traceback" not in ended.stdout and "Listening at" not in ended.stdout
