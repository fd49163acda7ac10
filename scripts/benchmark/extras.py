"""What else costs something: each feature, workers, applying changes, registry commands, memory."""

from __future__ import annotations

import json
import socket
import statistics
import sys
import time
from pathlib import Path

from benchmark import health, targets
from benchmark.gatecosts import gates
from benchmark.load import wrk
from benchmark.targets import Target


def all_tables(backend: Target, folder: Path, rounds: int, seconds: float) -> list[str]:
    """The tables as Markdown."""
    tables = []
    for make in (features, gates, routes, workers, latency_at_half_load, registry, checks, memory):
        print(make.__name__, file=sys.stderr)
        try:
            tables.append(make(backend, folder / make.__name__, rounds, seconds))
        except (OSError, RuntimeError) as error:  # a quarter of an hour of other numbers is not lost with it
            print(f"{make.__name__} failed: {error}", file=sys.stderr)
            tables.append(f"### {make.__name__}\n\nfailed: {error}")
    return tables


def features(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """Each feature alone against none, alternating."""
    plain = targets.proxyd_plain(folder / "plain", backend.port)
    rows = []
    try:
        cases = [([name], False) for name in targets.FULL] + [([], True), (list(targets.FULL), True)]
        for names, log in cases:
            name = "everything, access log on" if len(names) > 3 else "access log" if log else names[0]
            target = targets.with_features(names, log)(folder / name.replace(" ", "-"), backend.port)
            try:
                ratios = []
                for _ in range(max(rounds, 2)):
                    base = wrk(plain, "/1k", 64, seconds).rate
                    ratios.append(wrk(target, "/1k", 64, seconds).rate / base)
            finally:
                target.stop()
            rows.append(f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |")
    finally:
        plain.stop()
    return "\n".join(
        ["### Cost of each feature (1 KiB, 64 connections; 1.00 is proxyd plain)", "", "| on | ratio | range |", "|---|---|---|", *rows]
    )


def routes(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """Requests a second against the number of routes, and the time to apply one change to them."""
    rows = []
    base = 0.0
    for count in (10, 1_000, 10_000, 100_000):
        target = targets.proxyd_system(
            "proxyd",
            folder / str(count),
            [],
            workers=2,
            environment={"PROXYD_REGISTRY_MAX_ROUTES": "100001"},
        )
        try:
            port = target.registry_port  # type: ignore[attr-defined]
            before = target.program.usage()[1]
            sessions = [
                targets.registry_lines(port, [*bulk(start, min(count, start + 1000), backend.port), "CONFIG_APPLY|{sid}"], f"i{start}")[0]
                for start in range(0, count, 1000)
            ]
            time.sleep(1)
            per_route = (target.program.usage()[1] - before) / count
            keep, samples = apply_latency(port, backend.port, 20 if rounds > 1 else 5)
            rate = statistics.median(wrk(target, "/1k", 64, seconds).rate for _ in range(rounds))
            for sock in (keep, *sessions):
                sock.close()
        finally:
            target.stop()
        base = base or rate
        rows.append(f"| {count:,} | {rate / base:.2f} | {statistics.median(samples):.1f} | {max(samples):.1f} | {per_route / 1024:.1f} |")
    return "\n".join(
        [
            "### Number of routes (2 workers)",
            "",
            "| routes | requests/s, to 10 routes | apply one change, median ms | worst ms | KiB a route, all processes |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )


def bulk(begin: int, end: int, backend_port: int) -> list[str]:
    """Commands that stage routes with hosts of their own, numbered from `begin` to before `end`."""
    lines = []
    for start in range(begin, end, 100):
        items = [
            {"domains": [f"h{number}.example.com"], "path": "/", "backend_url": f"http://127.0.0.1:{backend_port}"}
            for number in range(start, min(end, start + 100))
        ]
        lines.append("ROUTE_ADD_BULK|{sid}|" + json.dumps(items, separators=(",", ":")))
    return lines


def apply_latency(port: int, backend_port: int, times: int) -> tuple[socket.socket, list[float]]:
    """Milliseconds from CONFIG_APPLY to OK for one changed route, on a session of its own which stays open."""
    sock, sid, ask = targets.session(port, "apply")
    route = ask(f"ROUTE_ADD|{sid}|127.0.0.1|/|http://127.0.0.1:{backend_port}|0").split("|")[1]
    samples = []
    for number in range(times):
        ask(f"ROUTE_UPDATE|{sid}|{route}|priority|{number}")
        begun = time.perf_counter()
        ask(f"CONFIG_APPLY|{sid}")
        samples.append((time.perf_counter() - begun) * 1000)
    return sock, samples[1:]


def workers(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """More workers on the same core: what sharing costs (another core is taken by the load)."""
    rows, base = [], 0.0
    for count in (1, 2, 4):
        target = targets.proxyd_system(
            "proxyd",
            folder / str(count),
            [
                f"ROUTE_ADD|{{sid}}|127.0.0.1|/|http://127.0.0.1:{backend.port}|0",
                "RATELIMIT_SET|{sid}|ALL|1000000000|60s",
                "CIRCUIT_BREAKER_SET|{sid}|ALL|5|10s|1",
                "CONFIG_APPLY|{sid}",
            ],
            workers=count,
        )
        try:
            rate = statistics.median(wrk(target, "/1k", 64, seconds).rate for _ in range(rounds))
        finally:
            target.stop()
        base = base or rate
        rows.append(f"| {count} | {rate / base:.2f} |")
    return "\n".join(
        ["### Workers, all on one core (rate limit and circuit shared)", "", "| workers | to one worker |", "|---|---|", *rows]
    )


def latency_at_half_load(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """Latency added over the backend at about half of the saturated rate, one request after another on few connections."""
    target = targets.proxyd_plain(folder, backend.port)
    try:
        rows = []
        for connections in (1, 2, 4):
            direct = [wrk(backend, "/1k", connections, seconds) for _ in range(rounds)]
            through = [wrk(target, "/1k", connections, seconds) for _ in range(rounds)]
            p50 = statistics.median(m.p50 for m in through) - statistics.median(m.p50 for m in direct)
            p99 = statistics.median(m.p99 for m in through) - statistics.median(m.p99 for m in direct)
            rows.append(f"| {connections} | {statistics.median(m.rate for m in through):,.0f} | {p50:.3f} | {p99:.3f} |")
    finally:
        target.stop()
    return "\n".join(
        ["### Latency added over the backend", "", "| connections | requests/s | p50, ms | p99, ms |", "|---|---|---|---|", *rows]
    )


def registry(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """Commands a second on one registry connection, one after another and pipelined."""
    target = targets.proxyd_system("proxyd", folder, [])
    try:
        port = target.registry_port  # type: ignore[attr-defined]
        rows = []
        for name, command, count in (("PING", "PING|{sid}", 5000), ("staging (OPTIONS_SET)", "OPTIONS_SET|{sid}|ALL|timeout|5s", 2000)):
            sock = socket.create_connection(("127.0.0.1", port), 10)
            stream = sock.makefile("rwb")
            stream.write(b"REGISTER|commands|one|0|{}\n")
            stream.flush()
            sid = stream.readline().decode().strip().split("|")[1]
            line = command.replace("{sid}", sid).encode() + b"\n"
            begun = time.perf_counter()
            for _ in range(count):
                stream.write(line)
                stream.flush()
                stream.readline()
            serial = count / (time.perf_counter() - begun)
            begun = time.perf_counter()
            for _ in range(count // 100):
                stream.write(line * 100)
                stream.flush()
                for _ in range(100):
                    stream.readline()
            rows.append(f"| {name} | {serial:,.0f} | {count / (time.perf_counter() - begun):,.0f} |")
            sock.close()
    finally:
        target.stop()
    return "\n".join(
        ["### Registry commands a second, one connection", "", "| command | one by one | pipelined by 100 |", "|---|---|---|", *rows]
    )


def checks(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """Health checks a second, and whether they keep their intervals."""
    return health.table(folder, 10_000, 30.0) if rounds > 1 else health.table(folder, 1_000, 11.0)


def memory(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """Resident memory of 2,000 idle client connections, and after 10 MiB downloads."""
    target = targets.proxyd_plain(folder, backend.port)
    try:
        wrk(target, "/1k", 64, 1)
        before = target.program.usage()[1]
        idle = []
        for _ in range(2000):
            sock = socket.create_connection(("127.0.0.1", target.port), 10)
            sock.sendall(b"GET /1k HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            idle.append(sock)
        for sock in idle:
            sock.recv(65536)
        held = (target.program.usage()[1] - before) / 2000 / 1024
        for sock in idle:
            sock.close()
        before = target.program.usage()[1]
        wrk(target, "/10m", 64, max(seconds, 2))
        grown = (target.program.usage()[1] - before) / (1 << 20)
    finally:
        target.stop()
    return "\n".join(
        [
            "### Memory",
            "",
            "| what | |",
            "|---|---|",
            f"| an idle keep-alive connection | {held:.1f} KiB |",
            f"| growth over 10 MiB downloads on 64 connections | {grown:.1f} MiB |",
        ]
    )
