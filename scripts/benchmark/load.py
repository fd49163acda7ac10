"""The load: wrk, its output read into numbers."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

from benchmark.processes import LOAD_CORE, need
from benchmark.targets import Target

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1000.0, "m": 60000.0}


@dataclass(frozen=True, slots=True)
class Measure:
    """One run: good answers a second, latencies in ms, CPU microseconds a good answer, resident MiB, failed requests."""

    rate: float
    p50: float
    p99: float
    cpu: float
    resident: float
    failed: int


def wrk(target: Target, path: str, connections: int, seconds: float, script: str | None = None, *, tls: bool = False, anew: bool = False,
        arguments: tuple[str, ...] = ()) -> Measure:
    """Load the target from the other core; `anew`: with a new connection for each request. `arguments`: for the script. Raises
    RuntimeError when wrk fails."""
    command = ["taskset", "-c", LOAD_CORE, need("wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency",
               "--timeout", "10s"]
    command += ["-s", script] if script else []
    command += ["-H", "Connection: close"] if anew else []
    url = f"{'https' if tls else 'http'}://127.0.0.1:{target.port}{path}"
    cpu_before, _ = target.program.usage()
    done = subprocess.run([*command, url, *(["--", *arguments] if arguments else [])], capture_output=True, text=True, check=False)
    cpu_after, resident = target.program.usage()
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    total = re.search(r"(\d+) requests in", done.stdout)
    if not rate or not total:
        raise RuntimeError(f"wrk against {target.name}: {done.stdout}{done.stderr}")
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done.stdout)
    good = max(1, int(total[1]) - int(refused[1] if refused else 0))
    failed = sum(int(number) for number in re.findall(r"(?:connect|read|write|timeout|Non-2xx or 3xx responses:) ?(\d+)", done.stdout))
    return Measure(
        float(rate[1]) * good / max(1, int(total[1])),
        _latency(done.stdout, "50%"),
        _latency(done.stdout, "99%"),
        (cpu_after - cpu_before) / good * 1e6,
        resident / (1 << 20),
        failed,
    )


def _latency(output: str, percentile: str) -> float:
    found = re.search(rf"{re.escape(percentile)}\s+([\d.]+)(us|ms|s|m)\b", output)
    return float(found[1]) * _UNITS[found[2]] if found else 0.0
