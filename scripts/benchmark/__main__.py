"""Runs the scenarios, alternating between the targets, and writes docs/performance.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmark import compare, extras, goals, handshakes, http2, paced, report, scale, streams, targets
from benchmark.load import Measure, wrk
from benchmark.targets import Target

HERE = Path(__file__).resolve().parent

PROXIES: dict[str, Callable[[Path, int], Target]] = {
    "hello": targets.hello,
    "proxyd": targets.proxyd_plain,
    "full": targets.proxyd_full,
    "naive": targets.naive,
    "nginx": targets.nginx,
    "haproxy": targets.haproxy,
    "caddy": targets.caddy,
    "proxy.py": targets.proxy_py,
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load; `skip` names targets it makes no sense for."""

    name: str
    path: str
    connections: int
    script: str | None = None
    slow: bool = False
    skip: frozenset[str] = field(default_factory=frozenset)


SCENARIOS = [
    Scenario("GET 1 KiB, 64 connections", "/1k", 64),
    Scenario("GET 64 KiB, 64 connections", "/64k", 64, skip=frozenset({"hello"})),
    Scenario("GET 1 MiB, 16 connections", "/1m", 16, skip=frozenset({"hello"})),
    Scenario("GET 10 MiB, 8 connections", "/10m", 8, skip=frozenset({"hello"})),
    Scenario("POST 1 MiB, 16 connections", "/post", 16, script=str(HERE / "post.lua"), skip=frozenset({"hello"})),
    Scenario("POST 1 KiB, 64 connections", "/post", 64, script=str(HERE / "small_post.lua"), skip=frozenset({"hello"})),
    Scenario("GET 64 KiB chunked, 64 connections", "/chunked", 64, skip=frozenset({"hello"})),
    Scenario("20 ms backend, 1,000 connections", "/", 1000, slow=True, skip=frozenset({"hello", "proxy.py"})),
]

Results = dict[str, dict[str, list[Measure]]]


def run_scenario(scenario: Scenario, names: list[str], upstream: Target, folder: Path, rounds: int, seconds: float,
                 direct: bool = True) -> dict[str, list[Measure]]:
    """All targets up, loaded one after the other, `rounds` times over, so that what the machine does hits all alike."""
    results: dict[str, list[Measure]] = {}
    running: dict[str, Target] = {}
    try:
        if direct:
            results["direct"] = []
        for name in names:
            if name in scenario.skip:
                continue
            running[name] = PROXIES[name](folder / f"{name}-{abs(hash(scenario.name)) % 10_000}", upstream.port)
            results[name] = []
            wrk(running[name], scenario.path, min(8, scenario.connections), 0.5, scenario.script)
        for turn in range(rounds):
            if direct:
                results["direct"].append(wrk(upstream, scenario.path, scenario.connections, seconds, scenario.script))
            for name, target in list(running.items())[:: -1 if turn % 2 else 1]:
                measure = wrk(target, scenario.path, scenario.connections, seconds, scenario.script)
                results[name].append(measure)
                print(f"  {target.name:26} {measure.rate:10.0f}/s  p99 {measure.p99:7.2f} ms  failed {measure.failed}", file=sys.stderr)
    finally:
        for target in running.values():
            target.stop()
    return results


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each: to see that it works, not to quote")
    parser.add_argument("--rounds", type=int, default=3, help="times that every target is loaded in each scenario (3)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one load (3)")
    parser.add_argument("--only", default="", help=f"targets, of {', '.join(PROXIES)}")
    parser.add_argument("--scenarios", default="", help="numbers of scenarios, from 1, with commas; default all")
    parser.add_argument("--no-extras", action="store_true", help="leave out cost per feature, workers, registry and memory")
    parser.add_argument("--http2", action="store_true",
                        help=f"HTTP/2 over TLS and gRPC instead of HTTP/1.1, with h2load; --only takes {', '.join(http2.PROXIES)}")
    parser.add_argument("--handshakes", action="store_true",
                        help="TLS handshakes a second, full and resumed, in TLS 1.2 and 1.3; prints the table alone")
    parser.add_argument("--scale", action="store_true",
                        help="starts, memory, 100,000 routes and 9,800 sessions: seconds and processor seconds; takes a few minutes")
    parser.add_argument("--goals", action="store_true",
                        help="processor time beside Caddy and nginx, and what it may be; latency at a given rate; idle connections. "
                             "--scenarios takes the table's rows, --only proxyd, nginx, caddy")
    parser.add_argument("--compare", metavar="REV", default="",
                        help="proxyd alone, beside that revision of the repository, in alternating rounds; prints the ratios of processor "
                             "time, and exits with 1 if a scenario is slower than 0.97 of REV")
    parser.add_argument("--no-write", action="store_true", help="print the tables, leave docs/ alone")
    options = parser.parse_args()
    rounds, seconds = (1, 1.0) if options.quick else (options.rounds, options.seconds)
    known = list(http2.PROXIES if options.http2 or options.handshakes else PROXIES)
    names = [name for name in options.only.split(",") if name] or known
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown target {', '.join(unknown)}; known: {', '.join(known)}")
    if options.goals:
        return _goals(names, options.scenarios, rounds, seconds, not options.no_extras, not options.no_write)
    if options.http2:
        return _http2(names, options.scenarios, rounds, seconds, not options.no_write)
    if options.scale:
        with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as place:
            table = scale.run(Path(place), rounds, options.quick) + "\n"
        print(table)
        if not options.no_write:
            report.put(scale.BEGIN, scale.END, table)
        return 0
    if options.handshakes:
        with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as place:
            Path(place).chmod(0o755)
            print(handshakes.run(names, Path(place), rounds, seconds))
        return 0
    chosen = [SCENARIOS[int(number) - 1] for number in options.scenarios.split(",") if number] or SCENARIOS
    if options.compare:
        return _compare(options.compare, chosen, rounds, seconds)
    with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        fast, slow = targets.backend(folder / "backend"), targets.slow_backend(folder / "slow")
        try:
            results: Results = {}
            for scenario in chosen:
                print(scenario.name, file=sys.stderr)
                upstream = slow if scenario.slow else fast
                results[scenario.name] = run_scenario(scenario, names, upstream, folder, rounds, seconds)
            tables = [] if options.no_extras else extras.all_tables(fast, folder, rounds, seconds)
        finally:
            fast.stop()
            slow.stop()
    print(report.markdown(results, tables, rounds, seconds))
    if not options.no_write:
        report.write(results, tables, rounds, seconds)
    failed = sum(measure.failed for result in results.values() for name in ("proxyd", "full") for measure in result.get(name, []))
    return 1 if failed else 0


def _goals(names: list[str], numbers: str, rounds: int, seconds: float, more: bool, write: bool) -> int:
    """Measure what a request costs beside others, with `more` also latency and idle connections, print the tables, and return the exit
    status."""
    with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        parts = [goals.run(names, numbers, folder / "goals", rounds, seconds)]
        if more:
            parts.append(f"#### Latency\n\n{paced.table(folder / 'paced', rounds, seconds)}")
            parts.append(f"#### Idle connections\n\n{streams.idle_table(folder / 'idle', 10_000 if rounds > 1 else 1_000)}")
    text = "\n\n".join(parts) + "\n"
    print(text)
    if write:
        report.put(goals.BEGIN, goals.END, text)
    return 0


def _http2(names: list[str], numbers: str, rounds: int, seconds: float, write: bool) -> int:
    """Measure HTTP/2, print the tables, and return the exit status."""
    chosen = [http2.SCENARIOS[int(number) - 1] for number in numbers.split(",") if number] or http2.SCENARIOS
    with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        results = http2.run(names, chosen, folder, rounds, seconds)
    text = http2.markdown(results, rounds, seconds)
    print(text)
    if write:
        report.put(http2.BEGIN, http2.END, text)
    return 1 if any(measure.failed for result in results.values() for measure in result.get("proxyd", [])) else 0


def _compare(revision: str, chosen: list[Scenario], rounds: int, seconds: float) -> int:
    """Run the scenarios with this revision and another one, print the table, and return the exit status."""
    with tempfile.TemporaryDirectory(prefix="proxyd-bench-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        fast, slow = targets.backend(folder / "backend"), targets.slow_backend(folder / "slow")
        try:
            with compare.checked_out(revision, folder / "tree") as tree:
                PROXIES["other"] = lambda place, upstream: targets.proxyd_plain(place, upstream, tree)
                results: Results = {}
                for scenario in chosen:
                    print(scenario.name, file=sys.stderr)
                    upstream = slow if scenario.slow else fast
                    results[scenario.name] = run_scenario(scenario, ["proxyd", "other"], upstream, folder, rounds, seconds, direct=False)
        except RuntimeError as error:
            print(f"scripts/bench: {error}", file=sys.stderr)
            return 2
        finally:
            fast.stop()
            slow.stop()
    print(compare.markdown(results, revision))
    worse = compare.slower(results)
    if worse:
        print(f"slower than {compare.TOLERATED} of {revision}: {'; '.join(worse)}", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
