"""The programs that are deployed, each under `proxyctl run`, and the script that starts and restarts it, as systemd does elsewhere."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import psutil

from tests.support.system import System
from tests.support.waiting import free_port, wait_for

# Each answers after 30 ms, so that there are requests under way whatever happens to it, and whenever.
FLASK = """
import time
from pathlib import Path
from flask import Flask
app = Flask(__name__)
version = Path(__file__).with_name("version").read_text()

@app.route("/", methods=["GET", "POST"])
@app.route("/health")
def hello():
    time.sleep(0.03)
    return version
"""
NODE = """
const fs = require("fs"), http = require("http"), path = require("path");
const version = fs.readFileSync(path.join(__dirname, "version"));
http.createServer((request, response) => {
  request.resume();
  request.on("end", () => setTimeout(() => response.end(version), 30));
}).listen(Number(process.argv[2]), "127.0.0.1");
"""
#: Its answer has the version, and how often the client has sent the call before.
GRPC = """
import signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import grpc
version = Path(__file__).with_name("version").read_bytes()

def hello(request, context):
    time.sleep(0.03)
    again = dict(context.invocation_metadata()).get("grpc-previous-rpc-attempts", "0")
    return version + b" " + again.encode()

class Methods(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(hello)

server = grpc.server(ThreadPoolExecutor(8), handlers=(Methods(),), options=(("grpc.so_reuseport", 0),))
server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
server.start()
signal.sigwait([signal.SIGTERM])
server.stop(5).wait()
"""
#: A call that a killed server has lost is UNAVAILABLE, and the client sends it again: so clients of gRPC are configured.
RETRYING = ('{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "1s", '
            '"backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}}]}')


@dataclass(frozen=True)
class Kind:
    """A kind of program: its file, and the command that runs it from its folder, with {port} for the port."""

    name: str
    file: str
    text: str
    command: tuple[str, ...]
    #: Options of `proxyctl run`.
    options: tuple[str, ...]


KINDS = (
    Kind("flask", "shop.py", FLASK, (sys.executable, "-m", "gunicorn", "-b", "127.0.0.1:{port}", "-w", "2", "-k", "gthread",
                                     "--threads", "4", "--log-level", "error", "shop:app"), ("--health", "/health")),
    Kind("node", "shop.js", NODE, ("node", "shop.js", "{port}"), ("--health", "/health")),
    Kind("grpc", "shop_grpc.py", GRPC, (sys.executable, "shop_grpc.py", "{port}"), ("--health", "tcp://", "--option", "http2=true")),
)


def missing() -> str:
    """The programs that the stories need and this machine lacks, "" if none."""
    return ", ".join(name for name in ("node", "wrk", "h2load") if shutil.which(name) is None)


class Service:
    """One program, registered by `proxyctl run`, in a folder of its own. Its version grows with each deploy."""

    def __init__(self, kind: Kind, system: System, directory: Path) -> None:
        directory.mkdir(parents=True)
        (directory / kind.file).write_text(kind.text)
        self.kind, self.system, self.directory = kind, system, directory
        self.host = f"{kind.name}.test"
        self.version, self.instance = 0, "a"
        self._ports = {instance: free_port() for instance in "ab"}
        self._channel = grpc.insecure_channel(f"127.0.0.1:{system.proxy_port}", (("grpc.default_authority", self.host),))
        self._call: Callable[..., bytes] = self._channel.unary_unary("/shop.Shop/Hello")

    @property
    def said(self) -> Path:
        """What proxyctl and the programs have written."""
        return self.directory / "said"

    def next_version(self) -> None:
        """What is started from now on is the next version."""
        self.version += 1
        (self.directory / "version").write_text(str(self.version))

    def script(self, instance: str, *options: str) -> Path:
        """A script that stops `proxyctl run` of an instance if it runs, and starts it, as `systemctl restart` does."""
        pid = self._pid_file(instance)
        run = [sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", self.host, "--instance", instance, "--port",
               str(self._ports[instance]), "--drain", "500ms", "--backoff", "100ms", "--option", "hold_when_down=60s", *self.kind.options,
               *options, "--", *self.kind.command]
        script = self.directory / f"restart-{instance}"
        script.write_text(f'#!/bin/sh\ncd {self.directory}\nif [ -e {pid} ]; then kill "$(cat {pid})" 2>/dev/null; '
                          f'while kill -0 "$(cat {pid})" 2>/dev/null; do sleep 0.1; done; fi\n'
                          f"{' '.join(run)} </dev/null >>{self.said} 2>&1 &\necho $! >{pid}\n")
        return script

    def restart(self, instance: str, *options: str) -> None:
        """Run that script."""
        subprocess.run(["sh", self.script(instance, *options)], env=self.system.environment, check=True, timeout=120)

    def runner(self, instance: str = "") -> psutil.Process:
        """`proxyctl run`. Raises psutil.NoSuchProcess, OSError."""
        return psutil.Process(int(self._pid_file(instance or self.instance).read_text()))

    def _pid_file(self, instance: str) -> Path:
        return self.directory / f"{instance}.pid"

    def answers(self) -> str:
        """The version that a client gets, "" for a failure."""
        if self.kind.name != "grpc":
            answer = self.system.get("/", self.host, timeout=70)
            return answer.text if answer.status == 200 else ""
        try:
            return self._call(b"", timeout=70).split()[0].decode()
        except grpc.RpcError:
            return ""

    def await_version(self) -> None:
        """Wait until clients get the newest version and no other."""
        wait_for(lambda: all(self.answers() == str(self.version) for _ in range(6)), 60, f"{self.host} {self.version}")

    def end(self) -> None:
        """Kill what runs."""
        self._channel.close()
        for instance in self._ports:
            with contextlib.suppress(OSError, ValueError, psutil.Error):
                runner = self.runner(instance)
                children = runner.children()
                runner.kill()
                kill_groups(children)


def kill_groups(programs: list[psutil.Process]) -> None:
    """Kill programs of `proxyctl run` with all that they have started: each has a process group of its own."""
    for program in programs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
