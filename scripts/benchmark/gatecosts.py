"""What each gate, and what else a route may declare of a request, costs: processor time of a request beside that of a route without any.

One proxyd has a domain for each, so that all are measured in one process and in turn.
"""

from __future__ import annotations

import base64
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import bcrypt

from benchmark import targets
from benchmark.load import wrk
from benchmark.targets import Target


@dataclass(frozen=True)
class Case:
    """What is measured: options of the route, other commands (`{route}` is its id), and fields of the requests."""

    name: str
    options: tuple[tuple[str, str], ...] = ()
    commands: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()


LOGIN = "Basic " + base64.b64encode(b"ann:horse").decode()


def cases(backend_port: int) -> tuple[Case, ...]:
    """All of them; the first is the one that the others are held against."""
    origin = ("Origin", "https://a.test")
    return (
        Case("nothing"),
        Case("allow, two networks", (("allow", "10.0.0.0/8, 127.0.0.0/8"),)),
        Case("cors_origins", (("cors_origins", "https://a.test"),), (), (origin,)),
        Case("max_body_size", (("max_body_size", "1m"),)),
        Case("rate limit by address", (), ("RATELIMIT_SET|{sid}|{route}|1000000000|60s",)),
        Case("rate limit by header", (("rate_limit_key", "header:X-Key"),), ("RATELIMIT_SET|{sid}|{route}|1000000000|60s",),
             (("X-Key", "k"),)),
        Case("basic_auth, remembered", (("basic_auth", "staff"),), (), (("Authorization", LOGIN),)),
        Case("forward_auth", (("forward_auth", f"http://127.0.0.1:{backend_port}/1k"),)),
        Case("a field of requests, with a variable", (), ("REQUEST_HEADERS_SET|{sid}|{route}|X-Client|{{client_ip}}",)),
        Case("a field of answers", (), ("HEADERS_SET|{sid}|{route}|X-By|1",)),
        Case("rewrite by an expression", (("rewrite", r"~ /(\d+)k -> /\1k"),)),
        Case("match_header, another route", (), ("OTHER",)),
        Case("all but forward_auth", (
            ("allow", "10.0.0.0/8, 127.0.0.0/8"), ("cors_origins", "https://a.test"), ("max_body_size", "1m"), ("basic_auth", "staff"),
            ("rewrite", r"~ /(\d+)k -> /\1k")), (
            "RATELIMIT_SET|{sid}|{route}|1000000000|60s", "REQUEST_HEADERS_SET|{sid}|{route}|X-Client|{{client_ip}}",
            "HEADERS_SET|{sid}|{route}|X-By|1", "OTHER"), (origin, ("Authorization", LOGIN))),
    )


def gates(backend: Target, folder: Path, rounds: int, seconds: float) -> str:
    """The table."""
    folder.mkdir(parents=True, exist_ok=True)
    users = folder / "staff.users"
    users.write_text(f"ann:{bcrypt.hashpw(b'horse', bcrypt.gensalt(4)).decode()}\n")
    all_cases = cases(backend.port)
    system = targets.proxyd_system("proxyd", folder / "system", [], environment={"PROXYD_USERS_STAFF": str(users)})
    sock = None
    try:
        port = system.registry_port  # type: ignore[attr-defined]
        sock, sid, ask = targets.session(port, "gates")
        for number, case in enumerate(all_cases):
            _declare(ask, sid, f"g{number}.test", f"http://127.0.0.1:{backend.port}", case)
        ask(f"CONFIG_APPLY|{sid}")
        scripts = [_script(folder, number, case) for number, case in enumerate(all_cases)]
        costs: list[list[float]] = [[] for _ in all_cases]
        for _ in range(max(rounds, 2)):
            for cost, script, case in zip(costs, scripts, all_cases, strict=True):
                measure = wrk(system, "/1k", 64, seconds, script)
                if measure.failed:
                    raise RuntimeError(f"{case.name}: {measure.failed} requests failed")
                cost.append(measure.cpu)
    finally:
        if sock is not None:
            sock.close()
        system.stop()
    base = statistics.median(costs[0])
    rows = [f"| {case.name} | {statistics.median(cost):.0f} | {statistics.median(cost) - base:+.0f} | {min(cost):.0f} to {max(cost):.0f} |"
            for case, cost in zip(all_cases, costs, strict=True)]
    return "\n".join(["### Cost of each gate (1 KiB, 64 connections; µs of processor time for a request)", "",
                      "| the route has | µs | more | range |", "|---|---|---|---|", *rows])


def _declare(ask: Callable[[str], str], sid: str, domain: str, url: str, case: Case) -> None:
    """Stage the route of a case."""
    route = ask(f"ROUTE_ADD|{sid}|{domain}|/|{url}|0").split("|")[1]
    for key, value in case.options:
        ask(f"OPTIONS_SET|{sid}|{route}|{key}|{value}")
    for command in case.commands:
        if command == "OTHER":
            other = ask(f"ROUTE_ADD|{sid}|{domain}|/|{url}|0").split("|")[1]
            ask(f"OPTIONS_SET|{sid}|{other}|match_header|X-Canary")
        else:
            ask(command.format(sid=sid, route=route))


def _script(folder: Path, number: int, case: Case) -> str:
    """What makes wrk ask for the domain of a case."""
    path = folder / f"gate{number}.lua"
    fields = (("Host", f"g{number}.test"), *case.fields)
    path.write_text("".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in fields))
    return str(path)
