"""What proxyd may cost beside Caddy and nginx, or beside itself with less to do: processor time of a request, as ratios, in one run."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmark import handshakes, http2, streams, targets
from benchmark.load import wrk
from benchmark.processes import free_port
from benchmark.targets import Target

BEGIN, END = "<!-- goals: begin -->", "<!-- goals: end -->"
HERE = Path(__file__).resolve().parent
#: Makes a target in a folder.
Maker = Callable[[Path], Target]
#: Loads a target for some seconds: the processor time of a request in microseconds.
Load = Callable[[Target, float], float]


@dataclass(frozen=True, slots=True)
class Goal:
    """`most`: the ratio of processor time to that of `against`, at most, of the first of `makers`."""

    name: str
    against: str
    most: float
    makers: Mapping[str, Maker]
    load: Load


class Goals:
    """The goals, with the backends that they need. `folder`: where everything is put. `names`: of the peers to measure."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self._names = names
        self._fast = targets.backend(folder / "backend")
        self._slow = targets.slow_backend(folder / "slow")
        self._streams = free_port()
        self._pem = http2.certificate(folder / "certificate")

    def stop(self) -> None:
        """End the backends."""
        self._fast.stop()
        self._slow.stop()

    def all(self) -> list[Goal]:
        """In the order of the table."""
        plain, tls = self._plain(self._fast.port), self._tls()
        slow, streaming = self._plain(self._slow.port), self._plain(self._streams, streams.carrying)
        return [
            Goal("1 KiB, 64 connections", "caddy", 0.45, plain, _http("/1k", 64)),
            Goal("20 ms backend, 1,000 connections", "caddy", 0.40, slow, _http("/", 1000)),
            Goal("POST 1 KiB", "caddy", 0.45, plain, _http("/post", 64, "small_post.lua")),
            Goal("a new connection each", "caddy", 0.95, plain, _http("/1k", 64, anew=True)),
            Goal("TLS, kept, 1 KiB", "caddy", 0.60, tls, _http("/1k", 64, tls=True)),
            Goal("TLS 1.3, a new connection each", "caddy", 1.10, tls, _shaking("full")),
            Goal("the same, resumed", "caddy", 1.00, tls, _shaking("resumed")),
            Goal("HTTP/2, 1 stream a connection", "caddy", 1.20, tls, self._http2(1)),
            Goal("HTTP/2, 100 streams", "caddy", 1.00, tls, self._http2(100)),
            Goal("64 KiB", "caddy", 0.55, plain, _http("/64k", 64)),
            Goal("an event, 400 streams", "caddy", 1.00, streaming, self._messages("events", 400)),
            Goal("a WebSocket message, 64 of them", "nginx", 2.00, streaming, self._messages("websocket", 64)),
            Goal("1 MiB down", "nginx", 1.00, plain, _http("/1m", 16)),
            Goal("10 MiB down", "nginx", 1.00, plain, _http("/10m", 8)),
            Goal("1 MiB up", "nginx", 1.00, plain, _http("/post", 16, "post.lua")),
            Goal("10 MiB up", "nginx", 1.00, plain, _http("/post", 8, "post.lua", ("10485760",))),
            Goal("everything on, access log on", "plain", 1.05, {
                "full": lambda folder: targets.with_features(list(targets.FULL), True)(folder, self._fast.port),
                "plain": lambda folder: targets.proxyd_plain(folder, self._fast.port)}, _http("/1k", 64)),
            Goal("1,000 active routes, access log on", "one", 1.05, {
                "1,000": partial(self._routes, 1000), "one": partial(self._routes, 1)}, _rotating),
        ]

    def _plain(self, upstream: int, own: Callable[[Path, int], Target] = targets.proxyd_plain) -> dict[str, Maker]:
        made: dict[str, Callable[[Path, int], Target]] = {"proxyd": own, "caddy": targets.caddy, "nginx": targets.nginx}
        return {name: _of(made[name], upstream) for name in made if name in self._names}

    def _tls(self) -> dict[str, Maker]:
        return {name: _of(http2.PROXIES[name], self._fast.port, self._pem, False) for name in ("proxyd", "caddy", "nginx")
                if name in self._names}

    def _http2(self, count: int) -> Load:
        scenario = http2.Scenario("", "/1k", count)
        return lambda target, seconds: http2.h2load(target, scenario, seconds, target.program.log.parent).cpu

    def _messages(self, kind: str, count: int) -> Load:
        return lambda target, seconds: streams.messages(kind, self._streams, target, count, seconds).cpu

    def _routes(self, count: int, folder: Path) -> Target:
        """So many routes with hosts of their own, and an access log. `port` of the target takes requests for `count` hosts."""
        commands = [f"ROUTE_ADD|{{sid}}|r{number}.test|/|http://127.0.0.1:{self._fast.port}|0" for number in range(count)]
        target = targets.proxyd_system(f"{count} routes", folder, [*commands, "CONFIG_APPLY|{sid}"],
                                       environment={"PROXYD_LOG_ACCESS": str(folder / "access.log")})
        target.hosts = count
        return target


def _of(make: Callable[..., Target], *arguments: object) -> Maker:
    return lambda folder: make(folder, *arguments)


def _http(path: str, connections: int, script: str = "", arguments: tuple[str, ...] = (), *, tls: bool = False, anew: bool = False) -> Load:
    def load(target: Target, seconds: float) -> float:
        found = wrk(target, path, connections, seconds, str(HERE / script) if script else None, tls=tls, anew=anew, arguments=arguments)
        if found.failed:
            print(f"  {target.name}: {found.failed} failed", file=sys.stderr)
        return found.cpu

    return load


def _rotating(target: Target, seconds: float) -> float:
    return wrk(target, "/1k", 64, seconds, str(HERE / "hosts.lua"), arguments=(str(target.hosts),)).cpu


def _shaking(kind: str) -> Load:
    return lambda target, seconds: handshakes.measure(target, ("1.3", kind), seconds).cpu


def measure(goal: Goal, folder: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """All its targets up, loaded one after the other, `rounds` times over: microseconds of a request."""
    running: dict[str, Target] = {}
    found: dict[str, list[float]] = {}
    try:
        for name, make in goal.makers.items():
            running[name] = make(folder / name)
            found[name] = []
            goal.load(running[name], 1.0)
        for turn in range(rounds):
            for name, target in list(running.items())[:: -1 if turn % 2 else 1]:
                found[name].append(goal.load(target, seconds))
    finally:
        for target in running.values():
            target.stop()
    return found


def ratio(goal: Goal, found: Mapping[str, list[float]]) -> float:
    """The median over the rounds, each with its neighbour. 0.0 where there is nothing to compare with."""
    own = found[next(iter(goal.makers))]
    return statistics.median(here / there for here, there in zip(own, found[goal.against], strict=True)) if goal.against in found else 0.0


def run(names: list[str], numbers: str, folder: Path, rounds: int, seconds: float) -> str:
    """Measure the goals whose numbers are given, from 1, with commas (default all); the table."""
    lines = ["| | proxyd, µs | beside it, µs | goal | measured |", "|---|---|---|---|---|"]
    goals = Goals(folder, names)
    try:
        chosen = goals.all()
        for number in [int(text) - 1 for text in numbers.split(",") if text] or range(len(chosen)):
            goal = chosen[number]
            found = measure(goal, folder / f"goal{number}", rounds, seconds)
            own, *others = [(name, statistics.median(values)) for name, values in found.items()]
            beside = ", ".join(f"{http2.LABELS.get(name, name)} {value:,.0f}" for name, value in others)
            lines.append(f"| {goal.name} | {own[1]:,.0f} | {beside} | {goal.most:.2f} of {http2.LABELS.get(goal.against, goal.against)} "
                         f"| {ratio(goal, found):.2f} |")
            print(lines[-1], file=sys.stderr)
    finally:
        goals.stop()
    return "\n".join([f"Processor time of a request, of all processes of a proxy; {rounds} rounds of {seconds:g} s, alternating. The ratio "
                      "is the median of the rounds.", "", *lines])
