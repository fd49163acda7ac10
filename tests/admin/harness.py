"""A master's state with a real database, boards, bus and admin server, in a thread with a gevent hub of its own."""

from __future__ import annotations

import contextlib
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import gevent
import requests

from proxyd.admin.server import AdminServer
from proxyd.admin.state import MasterState
from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.chores.historysize import HistorySize
from proxyd.config.sections import AdminSettings
from proxyd.config.settings import Settings
from proxyd.events.bus import Event as Published
from proxyd.events.bus import EventBus
from proxyd.registry.auth import EVERYTHING
from proxyd.registry.operations import Operations
from proxyd.registry.state import Registry
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql.database import Store
from proxyd.store.sql.identity import came
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.models import Route, Session
from proxyd.store.sql.observed import EventRow, HealthStatus
from proxyd.store.sql.query import dicts
from proxyd.store.sql.traffic import Traffic, TrafficBatch

Result = TypeVar("Result")
TOKEN = "a token that nobody guesses"
VIEWER = "a token to look on with"
SESSION = "s7"

_WORKER = """
import sys, time
from proxyd.store.memory.board import Board
board = Board(sys.argv[1])
board.join(time.time())
board.report(int(sys.argv[2]), time.time())
print("joined", flush=True)
sys.stdin.read()
"""


class Master:
    """The running admin server; `run` runs a function in the master's hub and returns its result."""

    def __init__(self, directory: Path, bind: str, token_file: str, viewer_token_file: str = "") -> None:
        self.directory = directory
        self.settings = Settings(admin=AdminSettings(bind=bind, token_file=token_file, viewer_token_file=viewer_token_file))
        self.problems: list[str] = []
        self.health_alive = True
        self.job = Job("tidying", None, self._tidy, logging.getLogger("tests.tidying"), retry=600)
        self._ready: queue.Queue[BaseException | None] = queue.Queue()
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._workers: list[subprocess.Popen[str]] = []
        self._thread.start()
        failure = self._ready.get(timeout=10)
        if failure is not None:
            raise failure

    def _tidy(self) -> None:
        raise OSError("the broom is gone")

    def _main(self) -> None:
        self._hub = gevent.get_hub()
        self._stop = gevent.event.Event()
        keep = gevent.spawn(self._stop.wait)
        try:
            self.store = Store(f"sqlite:///{self.directory}/proxyd.db")
            self.store.open()
            migrate(self.store)
            self.board = Board(str(self.directory))
            self.circuits = CircuitBoard(str(self.directory))
            self.bus = EventBus(self.store)
            self.events: list[Published] = []
            self.bus.subscribe(self.events.append)
            self.registry = Registry(self.settings, self.store, self.board, self.bus, self.circuits)
            self.operations = Operations(self.registry)
            self.size = HistorySize(self.store, self.bus, 0, str(self.directory / "access.log"))
            state = MasterState(
                store=self.store, bus=self.bus, board=self.board, circuits=self.circuits, operations=self.operations,
                started=time.time() - 90, problems=lambda: self.problems, health_alive=lambda: self.health_alive,
                certificates=lambda: [{"path": "/etc/a.pem", "names": ["a.example"], "expires": 1900000000.0}],
                jobs=(self.job,), history=self.size.numbers)
            self.job.start()
            self.server = AdminServer(self.settings, state)
            self.server.start()
        except BaseException as error:
            self._ready.put(error)
            return
        self._ready.put(None)
        keep.join()
        self.server.stop()
        self.job.stop()
        self.store.close()
        self.board.close()
        self.circuits.close()

    def run(self, function: Callable[[], Result]) -> Result:
        answer: queue.Queue[tuple[bool, Any]] = queue.Queue()

        def work() -> None:
            try:
                answer.put((True, function()))
            except BaseException as error:
                answer.put((False, error))

        self._hub.loop.run_callback_threadsafe(gevent.spawn, work)
        good, value = answer.get(timeout=10)
        if not good:
            raise value
        result: Result = value
        return result

    def write(self, function: Callable[[], Any]) -> None:
        self.run(lambda: self.store.call(function))

    def load(self) -> None:
        """Have the registry take over the rows that a test wrote."""
        self.run(lambda: self.registry.load(lambda name: EVERYTHING))

    def done(self) -> list[tuple[str, str | None, str]]:
        """Type, route and actor of every event, in order."""
        return [(event.type, event.route_id, event.actor) for event in self.events]

    def add_worker(self, version: int) -> None:
        worker = subprocess.Popen([sys.executable, "-c", _WORKER, str(self.directory), str(version)], stdin=subprocess.PIPE,
                                  stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None and worker.stdout.readline() == "joined\n"
        self._workers.append(worker)

    def stop(self) -> None:
        for worker in self._workers:
            worker.communicate("")
        self._hub.loop.run_callback_threadsafe(self._stop.set)
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=5, **more)

    def act(self, method: str, path: str, json: Any = None, token: str = TOKEN, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}", **more.pop("headers", {})}
        return requests.request(method, self.url + path, json=json, timeout=5, headers=headers, **more)


@contextlib.contextmanager
def running(directory: Path, bind: str = "127.0.0.1:0", token: bool = True, viewer: bool = False) -> Iterator[Master]:
    """A running master; its token file holds TOKEN, that of viewers VIEWER."""
    token_file = directory / "token"
    token_file.write_text(TOKEN + "\nnot this line\n")
    viewer_file = directory / "viewer-token"
    viewer_file.write_text(VIEWER + "\n")
    master = Master(directory, bind, str(token_file) if token else "", str(viewer_file) if viewer else "")
    try:
        yield master
    finally:
        master.stop()


def add_session(session_id: str = SESSION, service: str = "shop", state: str = "connected", instance_name: str = "a") -> None:
    """A session row. Runs in the database thread, like the others here."""
    at = rfc3339(time.time())
    Session.create(session_id=session_id, service_name=service, instance_name=instance_name, state=state, address="127.0.0.1:4711",
                   connected_at=at, last_activity=at)


def add_route(number: int, session_id: str = SESSION, service: str = "shop", **more: Any) -> None:
    at = rfc3339(time.time())
    row: dict[str, Any] = {
        "route_id": f"r{number}", "session": session_id, "service_name": service, "instance_name": "a", "path": "/",
        "domains": '["shop.example"]', "backend_url": f"http://127.0.0.1:{3000 + number}", "priority": 0, "enabled": True,
        "options": '{"retry":"true"}', "slot": number, "version": 1, "created_at": at, "updated_at": at}
    Route.create(**{**row, **more})
    came(dicts(Route.select().where(Route.route_id == f"r{number}")), "test")


def second_instance(master: Master, name: str = "v2") -> None:
    """Another instance of shop serves where the first one does, as route r9."""
    def fill() -> None:
        add_session("s9", instance_name=name)
        add_route(9, "s9", instance_name=name)

    master.write(fill)
    master.load()


def add_traffic(route_id: str, codes: dict[int, int], latency: dict[int, int], at: float | None = None, **sums: float) -> None:
    total = {"requests": sum(codes.values()), "errors": sum(n for code, n in codes.items() if code >= 500),
             "latency_ms_sum": 0.0, "bytes_sent": 0, "bytes_received": 0, **sums}
    TrafficBatch(("web1", "b1", 4711), rfc3339(at or time.time()), {route_id: Traffic(total, codes, latency)},
                 {route_id: (2, 1, 0)}).write()


def add_health(route_id: str, status: str = "healthy", **more: Any) -> None:
    at = rfc3339(time.time())
    HealthStatus.create(**{"route_id": route_id, "url": "http://127.0.0.1:3001/health", "status": status, "reason": "200 in 3 ms",
                           "since": at, "last_check": at, "response_time_ms": 3.0, "success_rate_percent": 100.0, **more})


def open_circuit(master: Master, number: int) -> None:
    master.circuits.move(number, number, "failures", time.time())


def add_event(type_: str, route_id: str | None = None, session_id: str | None = None, detail: str = "{}") -> None:
    EventRow.create(at=rfc3339(time.time()), type=type_, route_id=route_id, session_id=session_id, actor="test", detail=detail)
