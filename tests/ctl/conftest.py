"""A small real HTTP server that answers as the admin HTTP does, and proxyctl called as a program's main is."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxyd.ctl.main import main

NOW = "2026-01-31T12:00:00.000Z"


def route(route_id: str, **more: Any) -> dict[str, Any]:
    return {
        "route_id": route_id, "session_id": "session-aaaa", "service": "shop", "instance": "shop-1",
        "domains": [f"{route_id}.test"], "path": "/", "backend": "http://127.0.0.1:5000", "priority": 0, "enabled": True,
        "health": {"status": "healthy"}, "circuit": {"state": "closed"}, "maintenance": {"active": False},
        "drain": {"active": False, "traffic_percent": 100.0},
        "stats": {"requests": 10, "errors": 1, "p50_latency_ms": 1.5, "p99_latency_ms": 9.25, "in_flight": 2}, **more}


class AdminStub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, Any, str]] = []
        self.stream = b""
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {
            ("GET", "status"): (200, {
                "version": "0.1.0", "uptime_seconds": 7260, "config_version": 5, "sessions": {"connected": 1}, "routes": 2,
                "workers": [{"pid": 77, "config_version": 4, "heartbeat_at": NOW}], "problems": []}),
            ("GET", "routes"): (200, {"routes": [route("r1"), route("r2", maintenance={"active": True, "hits": 3})]}),
            ("GET", "routes/r1"): (200, route("r1")),
            ("GET", "sessions"): (200, {"sessions": [
                {"session_id": "session-aaaa", "service_name": "shop", "instance_name": "shop-1", "state": "connected",
                 "address": "127.0.0.1:4", "connected_at": NOW, "routes_active": 2, "last_activity": NOW},
                {"session_id": "session-bbbb", "service_name": "shop", "instance_name": "shop-2", "state": "connected"}]}),
            ("GET", "health"): (200, {"health": [{"route_id": "r1", "status": "healthy", "last_check": NOW}]}),
            ("GET", "circuits"): (200, {"circuits": [{"route_id": "r1", "state": "closed", "next_attempt": None}]}),
            ("GET", "stats"): (200, {"stats": [{"route_id": "r1", "requests": 10, "status_codes": {"200": 9, "500": 1}}]}),
            ("GET", "events"): (200, {"events": [
                {"type": "drain_completed", "at": NOW, "data": {"session_id": "s"}},
                {"type": "backend_health_changed", "at": NOW, "route_id": "r1", "data": {"healthy": False}}]}),
        }
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: AdminStub

    def handle_any(self) -> None:
        path, _, query = self.path.removeprefix("/api/v1/").partition("?")
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        self.server.asked.append((self.command, self.path, body, self.headers.get("Authorization", "")))
        if "follow=1" in query:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            self.wfile.write(self.server.stream)
            return
        missing = (404, {"title": "Not found", "detail": f"no {path}"})
        status, answer = self.server.answers.get((self.command, path), missing)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = handle_any

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def admin() -> Iterator[AdminStub]:
    server = AdminStub()
    yield server
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def ctl(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def call(*arguments: str) -> Outcome:
        try:
            code = main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        seen = capsys.readouterr()
        return Outcome(code, seen.out, seen.err)
    return call
