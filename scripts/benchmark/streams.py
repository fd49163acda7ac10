"""Streams as a load (messages a second over many), and connections that are idle: what they hold, and what they cost."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmark import http2, targets
from benchmark.load import Measure
from benchmark.processes import LOAD_CORE, free_port
from benchmark.targets import Target

_STREAMING = Path(__file__).with_name("streaming.py")
#: Kinds of idle connections, and what they are called.
KINDS = {
    "http1": "HTTP/1.1, kept after a request", "http2": "HTTP/2 in the clear, after a request", "https1": "HTTP/1.1 over TLS",
    "https2": "HTTP/2 over TLS", "websocket": "WebSocket, with its connection to the backend",
    "events": "event stream, with its connection to the backend",
}
#: Seconds before idle connections are measured, and for how long.
_REST, _LOOK = 3.0, 10.0


class Streaming:
    """streaming.py at work: the connections are open."""

    def __init__(self, kind: str, backend: int, target: Target, count: int, seconds: float) -> None:
        """Raises RuntimeError."""
        self._process = subprocess.Popen(
            ["taskset", "-c", LOAD_CORE, sys.executable, str(_STREAMING), kind, str(backend), str(target.port), str(count), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self._line() != "open":
            raise RuntimeError(f"{kind} through {target.name}: {self._process.communicate()[1][-500:]}")

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def send(self) -> int:
        """Send messages for the seconds. Returns how many."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._line()
        if not line.endswith("messages"):
            raise RuntimeError(f"streams broke: {self._process.communicate()[1][-500:]}")
        return int(line.split()[0])

    def close(self) -> None:
        """End it, and with it the connections."""
        self._process.communicate()


def messages(kind: str, backend: int, target: Target, count: int, seconds: float) -> Measure:
    """Load with messages over `count` streams. `cpu` is that of a message."""
    streaming = Streaming(kind, backend, target, count, seconds)
    try:
        before, _ = target.program.usage()
        sent = streaming.send()
        after, resident = target.program.usage()
    finally:
        streaming.close()
    return Measure(sent / seconds, 0.0, 0.0, (after - before) / sent * 1e6, resident / (1 << 20), 0)


def carrying(folder: Path, backend: int) -> Target:
    """proxyd with one route that takes WebSockets, for clients that speak HTTP/1.1 or HTTP/2 in the clear."""
    commands = [f"ROUTE_ADD|{{sid}}|127.0.0.1|/|http://127.0.0.1:{backend}|0", "OPTIONS_SET|{sid}|ALL|websocket|true", "CONFIG_APPLY|{sid}"]
    return targets.proxyd_system("proxyd", folder, commands, environment={"PROXYD_PROXY_HTTP2_CLEARTEXT": "true"})


def idle_table(folder: Path, count: int) -> str:
    """What idle connections hold and cost, as a table. `count`: of each kind, or as many as there may be descriptors for."""
    # A stream has two in each process.
    count = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 500)
    lines = [f"{count:,} idle connections of each kind, one worker: memory of all processes (PSS), and their processor time over "
             f"{_LOOK:g} s.", "", "| kind | KiB each | % of a core |", "|---|---|---|"]
    upstream = targets.backend(folder / "backend")
    pem = http2.certificate(folder / "certificate")
    try:
        for kind, label in KINDS.items():
            backend = free_port() if kind in ("websocket", "events") else upstream.port
            target = http2.proxyd(folder / kind, backend, pem, False) if kind.startswith("https") else carrying(folder / kind, backend)
            try:
                held, cpu = _idle(kind, backend, target, count)
            finally:
                target.stop()
            lines.append(f"| {label} | {held:.1f} | {cpu:.2f} |")
            print(lines[-1], file=sys.stderr)
    finally:
        upstream.stop()
    return "\n".join(lines)


def _idle(kind: str, backend: int, target: Target, count: int) -> tuple[float, float]:
    """KiB of each idle connection, and their cost in percent of a core, without that of a proxy that has none."""
    Streaming(kind, backend, target, 100, 0).close()
    time.sleep(_REST)
    before, alone = _proportional(target), _cost(target)
    streaming = Streaming(kind, backend, target, count, 0)
    try:
        time.sleep(_REST)
        held = (_proportional(target) - before) / count / 1024
        cost = _cost(target)
    finally:
        streaming.close()
    return held, cost - alone


def _cost(target: Target) -> float:
    begun, before = time.monotonic(), target.program.usage()[0]
    time.sleep(_LOOK)
    return (target.program.usage()[0] - before) / (time.monotonic() - begun) * 100


def _proportional(target: Target) -> int:
    """Bytes of memory of all its processes, what they share counted once."""
    return sum(process.memory_full_info().pss for process in target.program.family())
