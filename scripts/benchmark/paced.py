"""Latency at a given rate: requests come by the clock, whether or not those before are answered (h2load --rps, many connections)."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from benchmark import targets
from benchmark.load import wrk
from benchmark.processes import LOAD_CORE, need
from benchmark.targets import Target

#: So many connections share the rate that one seldom still waits for its last answer when the next request is due.
_CONNECTIONS = 256
_SHARE = 0.8
_PERCENTS = (50, 99, 99.9)


def latencies(target: Target, rate: float, seconds: float, folder: Path) -> list[float]:
    """Milliseconds of each good answer at that rate, sorted. Raises RuntimeError when requests fail."""
    log = folder / "paced.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        ["taskset", "-c", LOAD_CORE, need("h2load"), "--h1", "-t1", f"-c{_CONNECTIONS}", f"-D{max(1, round(seconds))}", "--warm-up-time=1",
         f"--rps={rate / _CONNECTIONS:.2f}", f"--log-file={log}", f"http://127.0.0.1:{target.port}/1k"],
        capture_output=True, text=True, check=False)
    found = [line.split("\t") for line in log.read_text().splitlines()] if log.exists() else []
    good = sorted(int(micros) / 1000 for _, status, micros in found if status == "200")
    if not good or len(good) < 0.99 * len(found):
        raise RuntimeError(f"h2load against {target.name}: {done.stdout[-1000:]}{done.stderr[-500:]}")
    return good


def table(folder: Path, rounds: int, seconds: float) -> str:
    """Latency at a share of full load, proxyd's and the backend's own, in alternating rounds, as a table."""
    upstream = targets.backend(folder / "backend")
    target = targets.proxyd_plain(folder / "proxyd", upstream.port)
    rows: dict[str, list[list[float]]] = {"backend, directly": [], "**proxyd**": []}
    try:
        full = statistics.median(wrk(target, "/1k", 64, seconds).rate for _ in range(rounds))
        for _ in range(rounds):
            for name, one in zip(rows, (upstream, target), strict=True):
                found = latencies(one, _SHARE * full, seconds, folder)
                rows[name].append([found[min(len(found) - 1, int(len(found) * percent / 100))] for percent in _PERCENTS])
                print(f"  {name:20} {rows[name][-1]}", file=sys.stderr)
    finally:
        target.stop()
        upstream.stop()
    lines = [f"GET 1 KiB at {_SHARE * full:,.0f} requests/s, {_SHARE:.0%} of what one worker answered at most, on {_CONNECTIONS} "
             f"connections; medians of {rounds} rounds of {seconds:g} s, alternating.", "",
             "| | p50 ms | p99 ms | p99.9 ms |", "|---|---|---|---|"]
    for name, measures in rows.items():
        lines.append(f"| {name} | {' | '.join(f'{statistics.median(column):.2f}' for column in zip(*measures, strict=True))} |")
    return "\n".join(lines)
