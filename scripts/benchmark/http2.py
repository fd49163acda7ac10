"""HTTP/2 over TLS: h2load against proxyd and its peers, and calls of gRPC to a backend that speaks HTTP/2."""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmark import targets
from benchmark.load import Measure
from benchmark.processes import LOAD_CORE, Program, free_port, need, wait_for_port
from benchmark.targets import Target

BEGIN, END = "<!-- http2: begin -->", "<!-- http2: end -->"
LABELS = {"proxyd": "**proxyd**", "nginx": "nginx", "haproxy": "HAProxy", "caddy": "Caddy"}
_CALL = "/bench.Service/Unary"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load: `streams` at once on each of the connections, `upload` bytes up with each."""

    name: str
    path: str
    streams: int
    upload: int = 0
    grpc: bool = False
    connections: int = 4


SCENARIOS = [
    Scenario("GET 1 KiB, 1 stream a connection", "/1k", 1),
    Scenario("GET 1 KiB, 10 streams a connection", "/1k", 10),
    Scenario("GET 1 KiB, 100 streams a connection", "/1k", 100),
    Scenario("GET 1 MiB, 4 streams a connection", "/1m", 4),
    Scenario("POST 1 MiB, 4 streams a connection", "/post", 4, upload=1 << 20),
    Scenario("gRPC unary, 100 bytes, 10 streams a connection", _CALL, 10, upload=105, grpc=True),
]


def certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 and its key (ECDSA, P-256) in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    key, chain = folder / "key.pem", folder / "chain.pem"
    subprocess.run([need("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                    "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(chain)],
                   check=True, capture_output=True)
    whole = folder / "both.pem"
    whole.write_bytes(chain.read_bytes() + key.read_bytes())
    return whole


def grpc_backend(folder: Path) -> Target:
    """A server that speaks HTTP/2 in the clear and answers each call at once, as a gRPC server does: a message, then trailers. On the load
    generator's core."""
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answer").write_bytes(b"\0\0\0\0\x64" + b"x" * 100)
    config = targets.nginx_config(folder, f"""
server {{ listen 127.0.0.1:{port} http2 backlog=4096; http2_max_concurrent_streams 1000; keepalive_timeout 1h;
  location / {{ root {folder}; default_type application/grpc; types {{ }} add_trailer grpc-status 0; error_page 405 =200 /answer;
    try_files /answer =404; }} }}""")
    program = Program([need("nginx"), "-c", str(config)], folder, LOAD_CORE)
    wait_for_port(port)
    return Target("gRPC backend", port, program)


def proxyd(folder: Path, upstream: int, pem: Path, grpc: bool) -> Target:
    """proxyd with HTTPS and one route."""
    port = free_port()
    scheme = "h2c" if grpc else "http"
    target = targets.proxyd_system(
        "proxyd", folder, [f"ROUTE_ADD|{{sid}}|127.0.0.1|/|{scheme}://127.0.0.1:{upstream}|0", "CONFIG_APPLY|{sid}"],
        environment={"PROXYD_TLS_BIND": f"127.0.0.1:{port}", "PROXYD_TLS_CERTIFICATES": str(pem),
                     "PROXYD_PROXY_REQUESTS_PER_CONNECTION": "100000000"})
    wait_for_port(port)
    target.port = port
    return target


def nginx(folder: Path, upstream: int, pem: Path, grpc: bool) -> Target:
    """nginx as such a proxy."""
    port = free_port()
    passing = "grpc_pass grpc://u;" if grpc else 'proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection "";'
    config = targets.nginx_config(folder, f"""upstream u {{ server 127.0.0.1:{upstream}; keepalive 128; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port} ssl http2 backlog=4096; ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {pem}; ssl_certificate_key {pem};
  location / {{ {passing} proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_request_buffering off; proxy_max_temp_file_size 0; }} }}""", 16384)
    program = Program([need("nginx"), "-c", str(config)], folder)
    wait_for_port(port)
    return Target("nginx", port, program)


def haproxy(folder: Path, upstream: int, pem: Path, grpc: bool) -> Target:
    """HAProxy with one thread as such a proxy."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "haproxy.cfg").write_text(f"""global
  nbthread 1
  maxconn 8000
defaults
  mode http
  option forwardfor
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend f
  bind 127.0.0.1:{port} ssl crt {pem} alpn h2 backlog 4096
  default_backend b
backend b
  server s 127.0.0.1:{upstream}{" proto h2" if grpc else ""}
""")
    program = Program([need("haproxy"), "-f", str(folder / "haproxy.cfg")], folder)
    wait_for_port(port)
    return Target("HAProxy", port, program)


def caddy(folder: Path, upstream: int, pem: Path, grpc: bool) -> Target:
    """Caddy on one core as such a proxy."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "Caddyfile").write_text(f"""{{
  admin off
  auto_https off
  default_sni 127.0.0.1
}}
https://127.0.0.1:{port}, https://:{port} {{
  tls {pem} {pem}
  reverse_proxy {"h2c://" if grpc else ""}127.0.0.1:{upstream}
}}
""")
    program = Program([need("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"], folder,
                      environment={"GOMAXPROCS": "1", "HOME": str(folder)})
    wait_for_port(port)
    return Target("Caddy", port, program)


PROXIES: dict[str, Callable[[Path, int, Path, bool], Target]] = {"proxyd": proxyd, "nginx": nginx, "haproxy": haproxy, "caddy": caddy}


def h2load(target: Target, scenario: Scenario, seconds: float, folder: Path) -> Measure:
    """Load the target from the other core. Latencies are means: h2load tells no percentiles. Raises RuntimeError when it fails."""
    command = ["taskset", "-c", LOAD_CORE, need("h2load"), "-t1", f"-c{scenario.connections}", f"-m{scenario.streams}",
               f"-D{max(1, round(seconds))}", "--warm-up-time=1"]
    if scenario.upload:
        body = folder / "body"
        body.write_bytes(b"\0" + (scenario.upload - 5).to_bytes(4, "big") + bytes(scenario.upload - 5))
        command += ["-d", str(body)]
    if scenario.grpc:
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
    url = f"https://127.0.0.1:{target.port}{scenario.path}"
    cpu_before, _ = target.program.usage()
    done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    cpu_after, resident = target.program.usage()
    found = re.search(r"finished in ([\d.]+)(us|ms|s)", done.stdout)
    counts = re.search(r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", done.stdout)
    good = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", done.stdout)
    if not found or not counts or not good or "h2" not in done.stdout:
        raise RuntimeError(f"h2load against {target.name}: {done.stdout[-2000:]}{done.stderr[-500:]}")
    mean = re.search(r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)", done.stdout)
    wait = float(mean[1]) * _UNITS[mean[2]] if mean else 0.0
    answered = max(1, int(good[1]))
    # The processor time is that of the warm-up, too, which takes a second at the same rate.
    share = max(1, round(seconds)) / (max(1, round(seconds)) + 1)
    return Measure(answered / max(1, round(seconds)), wait, wait, (cpu_after - cpu_before) * share / answered * 1e6,
                   resident / (1 << 20), sum(map(int, (*counts.groups()[2:], *good.groups()[1:]))))


def run(names: list[str], chosen: list[Scenario], folder: Path, rounds: int, seconds: float) -> dict[str, dict[str, list[Measure]]]:
    """All targets up, loaded one after the other, `rounds` times over."""
    pem = certificate(folder / "certificate")
    plain, calls = targets.backend(folder / "backend"), grpc_backend(folder / "grpc")
    results: dict[str, dict[str, list[Measure]]] = {}
    try:
        for number, scenario in enumerate(chosen):
            print(scenario.name, file=sys.stderr)
            upstream = calls if scenario.grpc else plain
            running: dict[str, Target] = {}
            try:
                for name in names:
                    running[name] = PROXIES[name](folder / f"{name}-{number}", upstream.port, pem, scenario.grpc)
                result: dict[str, list[Measure]] = {name: [] for name in running}
                for turn in range(rounds):
                    for name, target in list(running.items())[:: -1 if turn % 2 else 1]:
                        measure = h2load(target, scenario, seconds, folder)
                        result[name].append(measure)
                        print(f"  {target.name:12} {measure.rate:9.0f}/s {measure.cpu:8.0f} µs  failed {measure.failed}", file=sys.stderr)
            finally:
                for target in running.values():
                    target.stop()
            results[scenario.name] = result
    finally:
        plain.stop()
        calls.stop()
    return results


def table(name: str, result: dict[str, list[Measure]]) -> str:
    """One scenario as a Markdown table: medians, and requests for each second of processor time beside Caddy and nginx."""
    cpu = {target: statistics.median(measure.cpu for measure in measures) for target, measures in result.items()}
    lines = [f"#### {name}", "", "| | requests/s | mean ms | CPU µs/request | per CPU second, to Caddy | to nginx | RSS MiB | failed |",
             "|---|---|---|---|---|---|---|---|"]
    for target, measures in result.items():
        ratios = [f"{cpu[other] / cpu[target]:.2f}" if other in cpu else "–" for other in ("caddy", "nginx")]
        lines.append(
            f"| {LABELS[target]} | {statistics.median(m.rate for m in measures):,.0f} | {statistics.median(m.p50 for m in measures):.2f} "
            f"| {cpu[target]:.0f} | {ratios[0]} | {ratios[1]} | {max(m.resident for m in measures):.0f} "
            f"| {sum(m.failed for m in measures)} |")
    return "\n".join(lines)


def markdown(results: dict[str, dict[str, list[Measure]]], rounds: int, seconds: float) -> str:
    """Everything that was measured, as Markdown."""
    head = ("HTTP/2 over TLS, measured with h2load on 4 connections: the server on one core, load and backend on the other; "
            f"{rounds} rounds of {seconds:g} s, alternating. Compare rows, not machines.")
    return "\n\n".join([head, *(table(name, result) for name, result in results.items())]) + "\n"
