"""TLS handshakes a second, full and resumed, against proxyd and its peers, each with one ECDSA certificate.

In TLS 1.2 `openssl s_time` shakes hands. It ends a connection before the tickets of TLS 1.3 are there, so in TLS 1.3 a client in Python
does (`shaking.py`), which takes one ticket by a request and begins each connection with it.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmark import http2, targets
from benchmark.processes import LOAD_CORE, need
from benchmark.targets import Target

#: Version and kind, and how a client is told.
KINDS = {("1.3", "full"): "full", ("1.3", "resumed"): "resumed", ("1.2", "full"): "-new", ("1.2", "resumed"): "-reuse"}
_SHAKING = Path(__file__).with_name("shaking.py")


@dataclass(frozen=True, slots=True)
class Handshakes:
    """How many a second, and the proxy's processor time of each in microseconds."""

    rate: float
    cpu: float


def measure(target: Target, kind: tuple[str, str], seconds: float) -> Handshakes:
    """Shake hands for some seconds, one after the other. Raises RuntimeError where that fails."""
    length = max(1, round(seconds))
    before, _ = target.program.usage()
    command = [need("openssl"), "s_time", "-connect", f"127.0.0.1:{target.port}", KINDS[kind], "-tls1_2", "-time", str(length)]
    if kind[0] == "1.3":
        command = [sys.executable, str(_SHAKING), str(target.port), KINDS[kind], str(length)]
    done = subprocess.run(["taskset", "-c", LOAD_CORE, *command], capture_output=True, text=True, check=False)
    after, _ = target.program.usage()
    found = re.search(r"(\d+) connections in (\d+) real seconds", done.stdout)
    if found is None or not int(found[1]):
        raise RuntimeError(f"handshakes with {target.name}: {done.stdout[-500:]}{done.stderr[-500:]}")
    # s_time says that a second more has passed than it was told to take.
    return Handshakes(int(found[1]) / length, (after - before) / int(found[1]) * 1e6)


def run(names: list[str], folder: Path, rounds: int, seconds: float) -> str:
    """All targets up, measured in turn; the table."""
    pem = http2.certificate(folder / "certificate")
    backend = targets.backend(folder / "backend")
    running: dict[str, Target] = {}
    results: dict[tuple[str, tuple[str, str]], list[Handshakes]] = {(name, kind): [] for name in names for kind in KINDS}
    try:
        for name in names:
            running[name] = http2.PROXIES[name](folder / name, backend.port, pem, False)
        for turn in range(rounds):
            for name, target in list(running.items())[:: -1 if turn % 2 else 1]:
                for kind in KINDS:
                    found = measure(target, kind, seconds)
                    results[name, kind].append(found)
                    print(f"  {target.name:12} {' '.join(kind):12} {found.rate:9.0f}/s {found.cpu:8.0f} µs", file=sys.stderr)
    finally:
        for target in running.values():
            target.stop()
        backend.stop()
    lines = ["| | TLS | full, a second | µs each | resumed, a second | µs each |", "|---|---|---|---|---|---|"]
    for version in ("1.3", "1.2"):
        for name in names:
            cells = [cell for kind in KINDS if kind[0] == version for cell in (
                f"{statistics.median(one.rate for one in results[name, kind]):,.0f}",
                f"{statistics.median(one.cpu for one in results[name, kind]):,.0f}")]
            lines.append(f"| {http2.LABELS[name]} | {version} | {' | '.join(cells)} |")
    return "\n".join(lines)
