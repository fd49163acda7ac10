"""A whole proxyd for a test: real gunicorn, real workers, real master, a real database in a directory of its own."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from tests.support.registry import RegistryClient
from tests.support.waiting import free_port, wait_for

ROOT = Path(__file__).resolve().parents[2]


class Answer:
    """An HTTP answer, read to its end."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class System:
    """Start it with settings as `proxy__workers=2`, stop it in the end; everything lives below `directory`."""

    def __init__(self, directory: Path, workers: int = 2, start: bool = True, **settings: Any) -> None:
        self.directory = directory
        self.proxy_port, self.registry_port, self.admin_port = free_port(), free_port(), free_port()
        directory.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, object] = {
            "proxy__bind": f"127.0.0.1:{self.proxy_port}", "registry__bind": f"127.0.0.1:{self.registry_port}",
            "admin__bind": f"127.0.0.1:{self.admin_port}", "database__url": f"sqlite:///{directory}/proxyd.db",
            "master__pid_file": f"{directory}/master.pid", "proxy__workers": workers, "sites__directory": f"{directory}/sites",
            "log__access": f"{directory}/access.log", **settings}
        self.database = f"{directory}/proxyd.db"
        #: Where all of it is reached, and the tree that it runs from.
        self.address, self.root = "127.0.0.1", ROOT
        self.process: subprocess.Popen[bytes] | None = None
        self.command = [sys.executable, "-m", "gunicorn"]
        self.gunicorn_config = ROOT / "gunicorn.conf.py"
        #: Longest wait (seconds) for a start.
        self.patience = 25.0
        self._clients: list[RegistryClient] = []
        #: What `ready` has heard last.
        self._said = ""
        if start:
            self.start()

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PROXYD_")}
        own = {f"PROXYD_{key.replace('__', '_', 1).upper()}": str(value) for key, value in self.settings.items()}
        return {**kept, **own, "PYTHONPATH": os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH"))))}

    def start(self, until: Callable[[], bool] | None = None) -> None:
        """Start gunicorn, and wait until every worker serves and the master answers, or until what the test waits for."""
        self._log = open(self.directory / "output.log", "ab")  # noqa: SIM115 - the process keeps it
        self.process = subprocess.Popen(
            [*self.command, "-c", str(self.gunicorn_config), "proxyd.wsgi:app"],
            env=self.environment, stdout=self._log, stderr=subprocess.STDOUT, cwd=self.root, start_new_session=True)
        try:
            wait_for(until or self.ready, self.patience, f"a ready system (see {self.directory}/output.log)")
        except AssertionError as error:
            self.stop()
            raise AssertionError(f"{error}\n{self.log()}") from None
        except BaseException:
            self.stop()
            raise

    def ready(self) -> bool:
        """Whether the admin HTTP says that all is well."""
        assert self.process is not None
        assert self.process.poll() is None, f"gunicorn ended ({self.process.returncode}):\n{self.log()}"
        try:
            answer = self.admin("/readyz")
        except OSError as error:
            self._said = repr(error)
            return False
        workers = self.worker_pids()
        self._said = f"{answer.status} {answer.body!r}, workers {workers}, master {self.master_pid()}"
        return answer.status == 200 and len(workers) == int(str(self.settings["proxy__workers"]))

    def await_ready(self, seconds: float = 20.0) -> None:
        """Wait until all is well. AssertionError, with what was said of it last and the end of the log."""
        try:
            wait_for(self.ready, seconds, "a ready system")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self._said}\n{self.log()[-6000:]}") from None

    def log(self) -> str:
        """What gunicorn, workers and master have written."""
        return (self.directory / "output.log").read_text(errors="replace")

    def access_log(self) -> str:
        """The access log."""
        path = self.directory / "access.log"
        return path.read_text() if path.exists() else ""

    # -- processes

    def master_pid(self) -> int:
        """The master's pid, 0 while there is none."""
        try:
            pid = int((self.directory / "master.pid").read_text())
        except (OSError, ValueError):
            return 0
        return pid if psutil.pid_exists(pid) else 0

    def worker_pids(self) -> list[int]:
        """The workers' pids."""
        assert self.process is not None
        master = self.master_pid()
        found = []
        for child in psutil.Process(self.process.pid).children():
            with contextlib.suppress(psutil.Error):
                if child.pid != master and child.status() != psutil.STATUS_ZOMBIE and "master" not in child.cmdline():
                    found.append(child.pid)
        return found

    def signal(self, number: int) -> None:
        """Send the arbiter a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """TERM, and wait; what is left is killed."""
        for client in self._clients:
            client.close()
        self._clients.clear()
        process = self.process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(5)
        self._log.close()
        self.process = None

    def recovers(self) -> bool:
        """Whether all is well within a few seconds."""
        try:
            wait_for(self.ready, 10)
        except AssertionError:
            return False
        return True

    def end_sessions(self) -> None:
        """End the session of each client that is connected, so that nothing of it is there for the next tests."""
        for client in self._clients:
            client.end()
        self._clients.clear()

    def kill(self) -> None:
        """Pull the plug: arbiter, workers and master end at once."""
        assert self.process is not None
        for process in (arbiter := psutil.Process(self.process.pid), *arbiter.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    # -- talking to it

    def client(self, service: str = "app", instance: str = "i1", metadata: str = "null") -> RegistryClient:
        """A registered registry client, closed at the end."""
        return self.connect().register(service, instance, metadata)

    def connect(self) -> RegistryClient:
        """A registry connection without a session."""
        client = RegistryClient(self.registry_port, address=self.address)
        self._clients.append(client)
        return client

    def get(self, path: str = "/", host: str = "app.test", method: str = "GET", body: bytes | None = None, timeout: float = 15.0,
            **headers: str) -> Answer:
        """One HTTP request to the proxy on a connection of its own; `Accept_Encoding` stands for Accept-Encoding."""
        connection = http.client.HTTPConnection(self.address, self.proxy_port, timeout=timeout)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, {"Host": host, **named})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def admin(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """One request to the admin HTTP."""
        connection = http.client.HTTPConnection(self.address, self.admin_port, timeout=10)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def sql(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query on the live database, as an operator reads it."""
        url = str(self.settings["database__url"])
        if url.startswith("postgresql:"):
            import psycopg2

            with contextlib.closing(psycopg2.connect(url)) as server, server.cursor() as cursor:
                if values:
                    cursor.execute(query.replace("%", "%%").replace("?", "%s"), values)
                else:
                    cursor.execute(query)
                return cursor.fetchall()
        with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=5)) as connection:
            return connection.execute(query, values).fetchall()


#: What the fixture new_system gives.
MakeSystem = Callable[..., System]
