"""Clients that never pause: wrk (HTTP/1.1), h2load (HTTP/2) and grpcio, at a low rate. Whatever is not a good answer is a failure."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

from tests.deploys.programs import RETRYING

#: A request may wait for a program's next start.
_PATIENCE = 90
_SEGMENT = 10


class Load:
    """Load on one service. `posts`: with requests that are not idempotent, which proxyd sends to a backend only once."""

    def __init__(self, kind: str, port: int, host: str, directory: Path, posts: bool) -> None:
        self.requests = 0
        self.failures: list[str] = []
        #: Calls that a client of gRPC has sent again.
        self.again = 0
        self._port, self._host, self._directory, self._posts = port, host, directory, posts
        self._ending, self._lock = threading.Event(), threading.Lock()
        self._wrk: subprocess.Popen[str] | None = None
        clients = [self._calls] * 2 if kind == "grpc" else [self._h2load]
        self._threads = [threading.Thread(target=client, daemon=True) for client in clients]
        if kind != "grpc":
            self._wrk = self._start_wrk()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more, wait for the answers, and count what came."""
        self._ending.set()
        if self._wrk is not None:
            self._wrk.send_signal(signal.SIGINT)
            report = self._wrk.communicate(timeout=30)[0]
            counted = re.search(r"(\d+) requests in", report)
            failed = [found for found in re.findall(r"(connect|read|write|timeout|responses:) (\d+)", report) if int(found[1])]
            self._count(int(counted[1]) if counted else 0, f"wrk: {failed}" if failed or not counted else "")
        for thread in self._threads:
            thread.join(_PATIENCE)
            if thread.is_alive():
                self._count(0, "a client has not ended")

    def _count(self, requests: int, failure: str) -> None:
        with self._lock:
            self.requests += requests
            if failure:
                self.failures.append(failure)

    def _start_wrk(self) -> subprocess.Popen[str]:
        script = self._directory / "wrk.lua"
        methods = '"GET", "POST"' if self._posts else '"GET"'
        script.write_text(f"local methods, count = {{{methods}}}, 0\nfunction delay() return math.random(20, 60) end\nfunction request()\n"
                          '  count = count + 1\n  return wrk.format(methods[count % #methods + 1], "/")\nend\n')
        return subprocess.Popen(["wrk", "-t1", "-c2", "-d3600s", f"--timeout={_PATIENCE}s", "-s", str(script), "-H", f"Host: {self._host}",
                                 f"http://127.0.0.1:{self._port}/"], stdout=subprocess.PIPE, text=True)

    def _h2load(self) -> None:
        """Small runs of h2load, one after the other: it can't be told to end."""
        body = self._directory / "body"
        body.write_text("x")
        posts = False
        while not self._ending.is_set():
            posts = self._posts and not posts
            done = subprocess.run(["h2load", f"-n{_SEGMENT}", "-c2", "-m2", "-t1", "--rps=10", "-H", f":authority: {self._host}",
                                   *(["-d", str(body)] if posts else []), f"http://127.0.0.1:{self._port}/"],
                                  capture_output=True, text=True, check=False, timeout=_PATIENCE)
            good = re.search(r"status codes: (\d+) 2xx", done.stdout)
            self._count(_SEGMENT, "" if good and int(good[1]) == _SEGMENT else f"h2load: {_told(done.stdout)}")

    def _calls(self) -> None:
        """One call of gRPC after the other."""
        options = (("grpc.default_authority", self._host), ("grpc.service_config", RETRYING))
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options) as channel:
            call: Any = channel.unary_unary("/shop.Shop/Hello")
            while not self._ending.wait(0.05):
                try:
                    again = int(call(b"x", timeout=_PATIENCE).split()[1])
                except grpc.RpcError as error:
                    self._count(1, f"grpc: {error.code()} {error.details()}")
                else:
                    self._count(1, "")
                    with self._lock:
                        self.again += again


def _told(report: str) -> str:
    return "; ".join(re.findall(r"(?m)^(?:requests|status codes): .*$", report))
