"""Health checks: ten thousand targets at ten seconds, and whether they keep their intervals, also beside targets that hang."""

from __future__ import annotations

import contextlib
import json
import socket
import sqlite3
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from benchmark import targets
from benchmark.processes import LOAD_CORE, Program, free_port, wait_for_port

HERE = Path(__file__).resolve().parent
INTERVAL = 10.0
_PER_SESSION = 1000
_SETTINGS = {"PROXYD_REGISTRY_MAX_STAGED_BYTES": "1g", "PROXYD_REGISTRY_APPLY_WAIT": "30s",
             # Each check is to have its instant.
             "PROXYD_HEALTH_RESULTS_PER_SECOND": "100000"}


def table(folder: Path, count: int, seconds: float) -> str:
    """The table as Markdown, from `count` targets watched for `seconds`."""
    rows = [_measure(folder / str(hanging), count, hanging, seconds) for hanging in (0, count // 10)]
    return "\n".join(
        [
            f"### Health checks ({count:,} targets each {INTERVAL:g} s, everything of proxyd on one core)",
            "",
            "| that hang | checks/s | between two checks of one that answers: median s | 1 % | 99 % | longest | master's CPU | its MiB |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
        ]
    )


def _measure(folder: Path, count: int, hanging: int, seconds: float) -> str:
    answering_port, hanging_port = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    backend = Program(
        [sys.executable, "-m", "benchmark.checked", str(answering_port), str(hanging_port)],
        folder,
        LOAD_CORE,
        {"PYTHONPATH": str(HERE.parent)},
    )
    wait_for_port(answering_port)
    system = targets.proxyd_system("proxyd", folder, [], environment=_SETTINGS)
    sessions = []
    try:
        ports = [hanging_port] * hanging + [answering_port] * (count - hanging)
        for start in range(0, count, _PER_SESSION):
            sock = _register(system.registry_port, start, ports[start : start + _PER_SESSION])  # type: ignore[attr-defined]
            sessions.append(sock)
        master = psutil.Process(int((folder / "master.pid").read_text()))
        _wait_for_first_checks(folder, count - hanging)
        # By now each target has found its own place in the interval.
        time.sleep(INTERVAL * 1.2)
        mark, begun, before = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"), time.monotonic(), sum(master.cpu_times()[:2])
        time.sleep(seconds)
        share = (sum(master.cpu_times()[:2]) - before) / (time.monotonic() - begun)
        resident = master.memory_info().rss / (1 << 20)
        # Results are written in batches.
        time.sleep(1.0)
        elapsed = time.monotonic() - begun
        checks, gaps = _gaps(folder, mark, hanging_port)
    finally:
        for sock in sessions:
            sock.close()
        system.stop()
        backend.stop()
    return (
        f"| {hanging:,} | {checks / elapsed:,.0f} | {_quantile(gaps, 0.5):.2f} | {_quantile(gaps, 0.01):.2f} | {_quantile(gaps, 0.99):.2f} "
        f"| {gaps[-1]:.2f} | {share:.0%} | {resident:.0f} |"
    )


def _register(port: int, start: int, backends: list[int]) -> socket.socket:
    """A session with a checked route to each of the ports; the open connection."""
    sock, sid, ask = targets.session(port, f"checked{start}", patience=60)
    route_ids: list[str] = []
    for at in range(0, len(backends), 100):
        routes = [
            {"domains": [f"h{start + number}.example.com"], "path": "/", "backend_url": f"http://127.0.0.1:{backends[number]}"}
            for number in range(at, min(at + 100, len(backends)))
        ]
        made = json.loads(ask(f"ROUTE_ADD_BULK|{sid}|" + json.dumps(routes)).partition("|")[2])
        route_ids += [item["route_id"] for item in made]
    for route_id in route_ids:
        # A path of its own, or all would share one check.
        ask(f"HEALTH_SET|{sid}|{route_id}|/healthz?{route_id}|{INTERVAL:g}s|5s")
    ask(f"CONFIG_APPLY|{sid}")
    return sock


def _rows(folder: Path, query: str, *values: object) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{folder}/proxyd.db?mode=ro", uri=True, timeout=10)) as connection:
        return connection.execute(query, values).fetchall()


def _wait_for_first_checks(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while int(_rows(folder, "SELECT COUNT(*) FROM health_status WHERE status = 'healthy'")[0][0]) < count:
        if time.monotonic() > deadline:
            raise TimeoutError("not every target was checked within a minute")
        time.sleep(0.25)


def _gaps(folder: Path, mark: str, hanging_port: int) -> tuple[int, list[float]]:
    """How many checks there were since `mark`, and the sorted seconds between two of each target that answers."""
    rows = _rows(
        folder,
        "SELECT x.route_id, x.checked_at, h.url LIKE ? FROM health_results x JOIN health_status h ON h.route_id = x.route_id "
        "WHERE x.checked_at > ? ORDER BY x.route_id, x.id",
        f"%:{hanging_port}/%",
        mark,
    )
    last: dict[str, float] = {}
    gaps = []
    for route_id, text, hangs in rows:
        at = datetime.fromisoformat(text).timestamp()
        if route_id in last and not hangs:
            gaps.append(at - last[route_id])
        last[route_id] = at
    return len(rows), sorted(gaps)


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]
