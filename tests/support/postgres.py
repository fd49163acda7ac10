"""A PostgreSQL for tests: the real server of Debian's package, in a folder and on a port of its own. A test can stop, freeze and
restart it."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import free_port, wait_for

#: The server refuses to run as root; this user comes with Debian's package.
_USER = "postgres"


def _programs() -> Path:
    """The directory of initdb and postgres: Debian keeps it out of PATH."""
    found = shutil.which("initdb")
    places = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if found is None and not places:
        pytest.fail("PostgreSQL is not installed; Debian's package postgresql has it", pytrace=False)
    return Path(found or places[-1]).resolve().parent


class Postgres:
    """One server; `new_database` makes an empty database in it and returns its url. `inside`: what goes before its commands, where it
    has a network of its own, and `address` there. `follows`: the server that it streams from, as a standby. `within`: where its folder
    is made."""

    def __init__(self, address: str = "127.0.0.1", inside: Sequence[str] = (), follows: Postgres | None = None,
                 within: Path | None = None) -> None:
        self.address = address
        self._inside = inside
        self.folder = Path(tempfile.mkdtemp(prefix="proxyd-postgres-", dir=within))
        self.port = free_port()
        self._bin = _programs()
        self.process: subprocess.Popen[bytes] | None = None
        self._made = 0
        if os.getuid() == 0:
            entry = pwd.getpwnam(_USER)
            os.chown(self.folder, entry.pw_uid, entry.pw_gid)
        if follows is not None:
            self.follow(follows)
            return
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "proxyd", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        if address != "127.0.0.1":
            with (self.folder / "data" / "pg_hba.conf").open("a") as file:
                file.write("host all all samenet trust\nhost replication all samenet trust\n")
        self.start()

    def follow(self, leader: Postgres) -> None:
        """Become a standby of another server, with all that it has; what was here is dropped."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder / "data", ignore_errors=True)
        self._run("pg_basebackup", "-D", str(self.folder / "data"), "-h", leader.address, "-p", str(leader.port), "-U", "proxyd", "-R",
                  "-X", "stream", "-c", "fast", "-N")
        self.start()

    def promote(self) -> None:
        """Make a standby the server that takes writes."""
        self.sql("SELECT pg_promote()")

    def wait_for_copies(self, needed: bool) -> None:
        """Acknowledge a commit when the standby has it too, from when the standby has all; or without asking for one."""
        if needed:
            wait_for(lambda: self.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1", 30, "the standby")
        self.sql(f"ALTER SYSTEM SET synchronous_standby_names = '{'*' if needed else ''}'")
        self.sql("SELECT pg_reload_conf()")

    def _command(self, program: str, *arguments: str) -> list[str]:
        as_user = ["setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--init-groups"] if os.getuid() == 0 else []
        return [*self._inside, *as_user, str(self._bin / program), *arguments]

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(self._command(program, *arguments), capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command("postgres", "-D", str(self.folder / "data"), "-p", str(self.port), "-k", str(self.folder),
                              "-c", f"listen_addresses={self.address}", "-c", "fsync=off", "-c", "max_connections=60",
                              "-c", "shared_buffers=16MB"),
                stdout=log, stderr=log, cwd=self.folder, start_new_session=True)
        ready = self._command("pg_isready", "-q", "-h", self.address, "-p", str(self.port))
        wait_for(lambda: subprocess.run(ready, check=False, cwd=self.folder).returncode == 0, 30, "an answer of postgres", pause=0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts all connections (fast), SIGQUIT at once without a checkpoint (immediate)."""
        if self.process is not None:
            self.thaw()
            self.process.send_signal(how)
            self.process.wait(30)
            self.process = None

    def freeze(self) -> None:
        """Stop all its processes, as a host that hangs: connections stay, nothing is answered."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let them go on."""
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        """Signal the server and the processes of its connections, each of which is a group of its own."""
        assert self.process is not None
        server = psutil.Process(self.process.pid)
        server.send_signal(number)
        for process in server.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def sql(self, text: str, database: str = "postgres") -> str:
        """What psql prints for a statement: rows by lines, columns separated by |."""
        return self._run("psql", "-qAtX", "-v", "ON_ERROR_STOP=1", "-h", self.address, "-p", str(self.port), "-U", "proxyd", "-c", text,
                         database).strip()

    def new_database(self) -> str:
        """The url of an empty database."""
        self._made += 1
        name = f"proxyd{self._made}"
        self.sql(f"CREATE DATABASE {name}")
        return f"postgresql://proxyd@{self.address}:{self.port}/{name}"

    def close(self) -> None:
        """End it, and remove its files."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)
