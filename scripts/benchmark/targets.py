"""The programs that are compared: how each is set up to do the same thing, on one core."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from benchmark.processes import LOAD_CORE, SERVER_CORE, Program, free_port, need, wait_for_port

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


class Target:
    """A running server: where it listens, and the program to measure."""

    def __init__(self, name: str, port: int, program: Program, registry: socket.socket | None = None) -> None:
        self.name = name
        self.port = port
        #: How many hosts it has routes for, where that is told.
        self.hosts = 1
        self.program = program
        self._registry = registry

    def stop(self) -> None:
        """End it."""
        if self._registry is not None:
            self._registry.close()
        self.program.stop()


def nginx_config(folder: Path, body: str, connections: int = 8192) -> Path:
    """A configuration of nginx whose http block has `body`: its path."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    config = folder / "nginx.conf"
    config.write_text(f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections {connections}; }}
http {{ access_log off; keepalive_requests 100000000; client_max_body_size 0; {temporary} {body} }}
""")
    return config


def backend(folder: Path) -> Target:
    """The backend of all: nginx with bodies of 1 KiB, 64 KiB (of known length, or chunked), 1 MiB and 10 MiB, and /post, on the load
    generator's core."""
    files = folder / "www"
    files.mkdir(parents=True, exist_ok=True)
    for name, size in (("1k", 1 << 10), ("64k", 1 << 16), ("1m", 1 << 20), ("10m", 10 << 20)):
        (files / name).write_bytes(b"x" * size)
    port, sink = free_port(), free_port()
    config = nginx_config(
        folder,
        f"""sendfile on;
server {{ listen 127.0.0.1:{port} backlog=4096; root {files};
  location = /chunked {{ try_files /64k =404; ssi on; ssi_types *; }}
  location = /post {{ client_body_buffer_size 11m; client_max_body_size 11m; proxy_pass http://127.0.0.1:{sink};
    proxy_pass_request_body off; proxy_set_header Content-Length ""; proxy_http_version 1.1; proxy_set_header Connection ""; }} }}
server {{ listen 127.0.0.1:{sink} backlog=4096; location / {{ return 200 "ok"; }} }}""",
    )
    program = Program([need("nginx"), "-c", str(config)], folder, LOAD_CORE)
    wait_for_port(port)
    return Target("backend", port, program)


def slow_backend(folder: Path) -> Target:
    """A backend that answers after 20 ms: HAProxy with a few lines of Lua, on the load generator's core."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "slow.lua").write_text("""core.register_service("slow", "http", function(applet)
  core.msleep(20); local body = "slow\\n"
  applet:set_status(200); applet:add_header("content-length", #body); applet:start_response(); applet:send(body)
end)
""")
    (folder / "haproxy.cfg").write_text(f"""global
  nbthread 1
  maxconn 8000
  lua-load {folder}/slow.lua
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend f
  bind 127.0.0.1:{port} backlog 4096
  http-request use-service lua.slow
""")
    program = Program([need("haproxy"), "-f", str(folder / "haproxy.cfg")], folder, LOAD_CORE)
    wait_for_port(port)
    return Target("slow backend", port, program)


def _wsgi(name: str, folder: Path, application: str, environment: dict[str, str] | None = None) -> Target:
    """Stock gunicorn with its gevent worker and one of benchmark.apps."""
    port = free_port()
    options = ["-k", "gevent", "-w", "1", "-b", f"127.0.0.1:{port}", "--backlog", "4096", "--worker-connections", "10000"]
    program = Program([sys.executable, "-m", "gunicorn", *options, "--no-control-socket", f"benchmark.apps:{application}"], folder,
                      environment={"PYTHONPATH": str(HERE.parent), **(environment or {})})
    wait_for_port(port)
    return Target(name, port, program)


def hello(folder: Path, upstream: int) -> Target:
    """An application that says hello in 1 KiB: the ceiling to compare with."""
    return _wsgi("gunicorn gevent hello", folder, "hello")


def naive(folder: Path, upstream: int) -> Target:
    """What one would write in ten lines: a WSGI proxy with requests."""
    return _wsgi("gevent + requests", folder, "naive", {"BENCH_UPSTREAM": f"http://127.0.0.1:{upstream}"})


def nginx(folder: Path, upstream: int) -> Target:
    """nginx as a proxy with upstream keep-alive."""
    port = free_port()
    config = nginx_config(
        folder,
        f"""upstream u {{ server 127.0.0.1:{upstream}; keepalive 128; }}
server {{ listen 127.0.0.1:{port} backlog=4096;
  location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_request_buffering off; proxy_max_temp_file_size 0; }}
  location /websocket {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Host $host;
    proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; }} }}""",
        16384,
    )
    program = Program([need("nginx"), "-c", str(config)], folder)
    wait_for_port(port)
    return Target("nginx", port, program)


def haproxy(folder: Path, upstream: int) -> Target:
    """HAProxy with one thread."""
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
  bind 127.0.0.1:{port} backlog 4096
  default_backend b
backend b
  server s 127.0.0.1:{upstream}
""")
    program = Program([need("haproxy"), "-f", str(folder / "haproxy.cfg")], folder)
    wait_for_port(port)
    return Target("HAProxy", port, program)


def caddy(folder: Path, upstream: int) -> Target:
    """Caddy on one core."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    (folder / "Caddyfile").write_text(f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port}, http://:{port} {{
  reverse_proxy 127.0.0.1:{upstream}
}}
""")
    program = Program(
        [need("caddy"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"],
        folder,
        environment={"GOMAXPROCS": "1", "HOME": str(folder)},
    )
    wait_for_port(port)
    return Target("Caddy", port, program)


def proxy_py(folder: Path, upstream: int) -> Target:
    """proxy.py as a reverse proxy."""
    port = free_port()
    program = Program(
        [sys.executable, "-m", "benchmark.proxypy", str(port), str(upstream)], folder, environment={"PYTHONPATH": str(HERE.parent)}
    )
    wait_for_port(port)
    return Target("proxy.py", port, program)


def session(port: int, service: str, instance: str = "one", patience: float = 10.0) -> tuple[socket.socket, str, Callable[[str], str]]:
    """A registered session: its open connection, its id, and what sends a line and gives the answer.

    Whoever asks gets RuntimeError for an ERROR.
    """
    sock = socket.create_connection(("127.0.0.1", port), patience)
    stream = sock.makefile("rw", newline="\n")

    def ask(line: str) -> str:
        stream.write(line + "\n")
        stream.flush()
        answer = stream.readline().rstrip("\n")
        if answer.startswith("ERROR"):
            raise RuntimeError(f"{line[:80]}: {answer}")
        return answer

    return sock, ask(f"REGISTER|{service}|{instance}|0|{{}}").split("|")[1], ask


def registry_lines(port: int, lines: list[str], instance: str = "one") -> tuple[socket.socket, list[str]]:
    """Open a session of service `bench` and send commands, `{sid}` in them replaced; the open connection and the answers.

    Raises RuntimeError.
    """
    sock, sid, ask = session(port, "bench", instance)
    return sock, [ask(line.replace("{sid}", sid)) for line in lines]


def proxyd_system(name: str, folder: Path, commands: list[str], workers: int = 1, environment: dict[str, str] | None = None,
                  tree: Path = ROOT, core: str = SERVER_CORE, ready: bool = True) -> Target:
    """proxyd as it is in `tree`, with its master, after `commands` on one registry session. Without `ready` it is just started."""
    folder.mkdir(parents=True, exist_ok=True)
    port, registry, admin = free_port(), free_port(), free_port()
    settings = {
        "PROXYD_PROXY_BIND": f"127.0.0.1:{port}",
        "PROXYD_REGISTRY_BIND": f"127.0.0.1:{registry}",
        "PROXYD_ADMIN_BIND": f"127.0.0.1:{admin}",
        "PROXYD_PROXY_WORKERS": str(workers),
        "PROXYD_PROXY_BACKLOG": "4096",
        "PROXYD_DATABASE_URL": f"sqlite:///{folder}/proxyd.db",
        "PROXYD_MASTER_PID_FILE": f"{folder}/master.pid",
        "PROXYD_LOG_ACCESS": "off",
        **(environment or {}),
    }
    program = Program(
        [sys.executable, "-m", "gunicorn", "-c", str(tree / "gunicorn.conf.py"), "proxyd.wsgi:app"],
        folder,
        core=core,
        environment={**settings, "PYTHONPATH": str(tree)},
    )
    sock = None
    try:
        if ready:
            wait_for_port(registry)
            wait_for_port(port)
            sock, _ = registry_lines(registry, commands)
    except BaseException:
        program.stop()
        raise
    target = Target(name, port, program, sock)
    target.registry_port, target.admin_port = registry, admin  # type: ignore[attr-defined]
    return target


def proxyd_plain(folder: Path, upstream: int, tree: Path = ROOT) -> Target:
    """proxyd with one route and nothing else."""
    commands = [f"ROUTE_ADD|{{sid}}|127.0.0.1|/|http://127.0.0.1:{upstream}|0", "CONFIG_APPLY|{sid}"]
    return proxyd_system("proxyd" if tree == ROOT else "proxyd, the other", folder, commands, tree=tree)


FULL = {
    "health": ["HEALTH_SET|{sid}|ALL_R1|/1k|1s|1s"],
    "circuit": ["CIRCUIT_BREAKER_SET|{sid}|ALL|5|10s|1"],
    "rate limit": ["RATELIMIT_SET|{sid}|ALL|1000000000|60s"],
    "compression": ["OPTIONS_SET|{sid}|ALL|compression|true"],
    "retry": ["OPTIONS_SET|{sid}|ALL|retry|true"],
    "header": ["HEADERS_SET|{sid}|ALL|X-Bench|1"],
    "slow requests": ["OPTIONS_SET|{sid}|ALL|slow_warning|10s"],
}


def with_features(names: list[str], access_log: bool) -> Callable[[Path, int], Target]:
    """A maker of proxyd with some features on."""

    def make(folder: Path, upstream: int) -> Target:
        folder.mkdir(parents=True, exist_ok=True)
        commands = [f"ROUTE_ADD|{{sid}}|127.0.0.1|/|http://127.0.0.1:{upstream}|0"]
        commands += [line.replace("ALL_R1", "r1") for name in names for line in FULL[name]]
        label = "proxyd, all on" if len(names) >= 3 else f"proxyd + {', '.join(names) or 'access log'}"
        environment = {"PROXYD_LOG_ACCESS": os.path.join(folder, "access.log")} if access_log else {}
        return proxyd_system(label, folder, [*commands, "CONFIG_APPLY|{sid}"], environment=environment)

    return make


proxyd_full = with_features(["health", "circuit", "rate limit"], access_log=True)
