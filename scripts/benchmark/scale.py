"""Many routes, many sessions, memory and starts: seconds, the processor seconds of the process that has the work, and what is the goal.

Nothing here loads the proxy: each figure is of one event, measured a few times where it is short. Processor seconds are compared between
machines and revisions; seconds say only whether somebody waits.
"""

from __future__ import annotations

import contextlib
import os
import platform
import select
import selectors
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmark import targets
from benchmark.extras import bulk
from benchmark.targets import Target

#: Where its table is put in docs/performance.md.
BEGIN, END = "<!-- scale: begin -->", "<!-- scale: end -->"
_PATIENCE = 300.0
#: No limit that these numbers could meet is measured here.
_ROOMY = {"PROXYD_REGISTRY_MAX_ROUTES": "120000", "PROXYD_REGISTRY_MAX_ROUTES_PER_SESSION": "20000",
          "PROXYD_REGISTRY_MAX_STAGED_BYTES": "1g", "PROXYD_REGISTRY_MAX_CONNECTIONS": "12000", "PROXYD_REGISTRY_APPLY_WAIT": "60s",
          "PROXYD_REGISTRY_REGISTER_TIMEOUT": "600s"}
#: An answer of the proxy's own shows that the route is there, without a backend.
_BACKEND = "respond:204"


@dataclass(slots=True)
class _Took:
    """Seconds, and processor seconds of the master."""

    wall: float = 0.0
    busy: float = 0.0


def run(folder: Path, rounds: int, quick: bool) -> str:
    """The table as Markdown, and how busy the machine was. Its rows go to stderr as they are there."""
    if "PYTHONPYCACHEPREFIX" not in os.environ and os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        # Otherwise each start would compile all modules anew, which an installed proxyd never does.
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "compiled")
    part_of, rows, loads = 10 if quick else 1, [], [os.getloadavg()[0]]
    parts = (starts(folder / "starts", max(3, rounds)), staging(folder / "staging", 10_000 // part_of),
             back(folder / "back", 1_000 // part_of), crowd(folder / "crowd", 9_800 // part_of),
             many_routes(folder / "routes", 100_000 // part_of))
    for part in parts:
        for row in part:
            loads.append(os.getloadavg()[0])
            print(f"{row} load {loads[-1]:.1f}", file=sys.stderr, flush=True)
            rows.append(row)
    about = (f"Measured on {platform.machine()} with {os.cpu_count()} cores, Python {platform.python_version()}, the load of the machine "
             f"between {min(loads):.0f} and {max(loads):.0f} meanwhile{'; a tenth of all numbers' if quick else ''}.")
    return "\n".join([about, "", "| what | seconds | processor seconds | goal | |", "|---|---|---|---|---|", *rows])


def _row(what: str, wall: float, busy: float, goal: str = "", more: str = "") -> str:
    return f"| {what} | {wall:.2f} | {busy:.2f} | {goal} | {more} |"


def _told(what: str, took: _Took, goal: str = "", more: str = "") -> str:
    return _row(what, took.wall, took.busy, goal, more)


def starts(folder: Path, times: int) -> Iterator[str]:
    """A start with an empty database, a worker killed, and the memory of all processes."""
    first, first_busy, again, again_busy = [], [], [], []
    memory: dict[str, float] = {}
    # The first one compiles what is new, and does not count.
    _system(folder / "first", workers=2).stop()
    for number in range(times):
        begun = time.monotonic()
        target = _system(folder / str(number), workers=2, ready=False)
        try:
            _answer(target.port)
            first.append(time.monotonic() - begun)
            _wait_for_registry(target)
            first_busy.append(target.program.usage()[0])
            time.sleep(1.0)
            workers = _workers(target)
            memory = _memory(target)
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
            begun = time.monotonic()
            _answer(target.port)
            again.append(time.monotonic() - begun)
            time.sleep(0.5)
            again_busy.append(_busy(_workers(target)[0]))
        finally:
            target.stop()
    yield _row("start to the first answer, 2 workers", statistics.median(first), statistics.median(first_busy), "0.6",
               f"best {min(first):.2f}; processor: of all processes, the master's start included")
    yield _row("all workers killed, to the next answer", statistics.median(again), statistics.median(again_busy), "0.1",
               f"best {min(again):.2f}; processor: of one worker")
    each = ", ".join(f"{name} {size:.0f}" for name, size in memory.items())
    yield f"| memory, PSS MiB: {each} | | | 100 | {sum(memory.values()):.0f} in all |"


def staging(folder: Path, count: int) -> Iterator[str]:
    """Routes staged one by one in one session, and applied."""
    target = _system(folder)
    try:
        sock, sid, ask = targets.session(_registry(target), "staging", patience=_PATIENCE)
        with sock, _timed(target) as took:
            for number in range(count):
                ask(f"ROUTE_ADD|{sid}|h{number}.example.com|/|{_BACKEND}|0")
        yield _told(f"{count:,} ROUTE_ADD one by one in one session", took, "5")
        with _timed(target) as took:
            ask(f"CONFIG_APPLY|{sid}")
        yield _told("their CONFIG_APPLY", took)
    finally:
        target.stop()


def many_routes(folder: Path, count: int) -> Iterator[str]:
    """Very many routes: built, and what then starts anew or is asked for."""
    target = _system(folder)
    held = []
    try:
        with _timed(target) as took:
            for start in range(0, count, 1000):
                sock, sid, ask = targets.session(_registry(target), f"service{start}", patience=_PATIENCE)
                held.append(sock)
                for line in bulk(start, min(count, start + 1000), 9):
                    ask(line.replace("{sid}", sid).replace("http://127.0.0.1:9", _BACKEND))
                ask(f"CONFIG_APPLY|{sid}")
        yield _told(f"{count:,} routes of {len(held)} sessions built", took)
        last = f"h{count - 1}.example.com"
        if (status := _answer(target.port, last)) != 204:
            raise RuntimeError(f"{last} is answered with {status}")
        time.sleep(1.0)
        admin = int(target.admin_port)  # type: ignore[attr-defined]
        for path in ("/metrics", "/", "/api/v1/status", "/api/v1/routes?limit=100&order=worst", "/api/v1/sessions?limit=100"):
            # What the page asks for has the goal of the page.
            samples = []
            for _ in range(2):
                time.sleep(1.5)
                with _timed(target) as took:
                    status, size = _get(admin, path)
                samples.append(took)
            yield _told(f"GET {path}", min(samples, key=lambda item: item.wall), "1", f"{status}, {size / (1 << 20):.2f} MiB")
        _wait_for_kept(folder)
        for pid in _workers(target):
            os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        status = _answer(target.port, last)
        wall = time.monotonic() - begun
        time.sleep(1.0)
        yield _row("worker killed, to the next answer", wall, _busy(_workers(target)[0]), "2", f"{status}; processor: 1 s later")
        with _master_killed(target) as begun:
            sock, _, _ = targets.session(_registry(target), "new", patience=_PATIENCE)
            wall = time.monotonic() - begun
        held.append(sock)
        yield _row("master killed, to the answer of REGISTER", wall, _busy(_master(target)), "2")
    finally:
        for sock in held:
            sock.close()
        target.stop()


def back(folder: Path, count: int) -> Iterator[str]:
    """Sessions that all come back at once after the master was killed."""
    target = _system(folder)
    held: list[socket.socket] = []
    try:
        secrets = []
        for number in range(count):
            sock, sid, ask = targets.session(_registry(target), f"service{number}", patience=_PATIENCE)
            ask(f"ROUTE_ADD|{sid}|h{number}.example.com|/|{_BACKEND}|0")
            ask(f"CONFIG_APPLY|{sid}")
            held.append(sock)
            secrets.append(sid)
        with _master_killed(target) as begun:
            listening = time.monotonic()
            for sock in held:
                sock.close()
            held = [_connected(_registry(target)) for _ in secrets]
            _ask_all(held, [f"RECONNECT|{secret}" for secret in secrets], "OK")
            wall = time.monotonic() - begun
        yield _row(f"master killed, to the last of {count:,} sessions' RECONNECT", wall, _busy(_master(target)), "2",
                   f"{wall - (listening - begun):.2f} from when it listens")
        for sock in held:
            sock.close()
        held.clear()
        with _timed(target) as took:
            held = [_connected(_registry(target)) for _ in range(count)]
            _ask_all(held, [f"REGISTER|service{number}|one|0|{{}}" for number in range(count)], "ACK")
        yield _told(f"the same {count:,} services register anew, all at once", took)
        with _master_killed(target) as begun:
            listening = time.monotonic()
            for sock in held:
                sock.close()
            held = [_connected(_registry(target)) for _ in range(count)]
            answers = _ask_all(held, [f"REGISTER|service{number}|one|0|{{}}" for number in range(count)], "ACK")
            sids = [answer.strip().partition("|")[2] for answer in answers]
            _ask_all(held, [f"ROUTE_ADD|{sid}|h{number}.example.com|/|{_BACKEND}|0" for number, sid in enumerate(sids)], "ROUTE_OK")
            _ask_all(held, [f"CONFIG_APPLY|{sid}" for sid in sids], "OK")
            wall = time.monotonic() - begun
        yield _row("master killed, to the last of their REGISTER, ROUTE_ADD and CONFIG_APPLY", wall, _busy(_master(target)), "2",
                   f"{wall - (listening - begun):.2f} from when it listens")
    finally:
        for sock in held:
            sock.close()
        target.stop()


def crowd(folder: Path, count: int) -> Iterator[str]:
    """Sessions without routes: how long they take to register one after the other, and what they cost the master."""
    target = _system(folder)
    held: list[socket.socket] = []
    try:
        before = _resident(_master(target))
        with _timed(target) as took:
            held.extend(targets.session(_registry(target), f"service{number}", patience=_PATIENCE)[0] for number in range(count))
        size = (_resident(_master(target)) - before) / count
        yield _told(f"{count:,} sessions register one after the other", took, "", f"{size:.1f} KiB each in the master")
    finally:
        for sock in held:
            sock.close()
        target.stop()


def _system(folder: Path, workers: int = 1, ready: bool = True) -> Target:
    return targets.proxyd_system("proxyd", folder, [], workers, _ROOMY, core="0,1", ready=ready)


def _registry(target: Target) -> int:
    return int(target.registry_port)  # type: ignore[attr-defined]


def _wait_for_registry(target: Target) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, RuntimeError):
            targets.session(_registry(target), "probe", "start")[0].close()
            return
        time.sleep(0.005)


def _master(target: Target) -> int:
    return int((target.program.log.parent / "master.pid").read_text())


def _workers(target: Target) -> list[int]:
    root, master = target.program.process.pid, _master(target)
    return [item.pid for item in target.program.family() if item.pid not in (root, master) and item.status() != psutil.STATUS_ZOMBIE]


def _busy(pid: int) -> float:
    """Processor seconds of a process."""
    return sum(psutil.Process(pid).cpu_times()[:2])


def _resident(pid: int) -> float:
    """What a process takes, KiB."""
    return psutil.Process(pid).memory_info().rss / 1024


def _memory(target: Target) -> dict[str, float]:
    """PSS of the processes, MiB."""
    names = {target.program.process.pid: "arbiter", _master(target): "master"}
    found: dict[str, float] = {}
    for item in target.program.family():
        lines = Path(f"/proc/{item.pid}/smaps_rollup").read_text().splitlines()
        found[names.get(item.pid, f"worker {len(found)}")] = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
    return found


@contextlib.contextmanager
def _timed(target: Target) -> Iterator[_Took]:
    """What the block took, when it has ended."""
    took, before, begun = _Took(), _busy(_master(target)), time.monotonic()
    yield took
    took.wall, took.busy = time.monotonic() - begun, _busy(_master(target)) - before


@contextlib.contextmanager
def _master_killed(target: Target) -> Iterator[float]:
    """Kill the master; the block begins when another one listens. Gives when it was killed."""
    pid, begun = _master(target), time.monotonic()
    ended = os.pidfd_open(pid)
    os.kill(pid, signal.SIGKILL)
    select.select([ended], [], [])
    os.close(ended)
    while time.monotonic() - begun < _PATIENCE:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", _registry(target)), 5):
            break
        time.sleep(0.005)
    yield begun
    while _master(target) == pid:
        time.sleep(0.01)


def _wait_for_kept(folder: Path) -> None:
    """Wait until the kept table is as new as the routes."""
    last = -1
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        time.sleep(8.0)
        found = next(folder.rglob("proxyd.table"), None)
        now = found.stat().st_mtime_ns if found is not None else -1
        if now == last > 0:
            return
        last = now


def _connected(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), _PATIENCE)


def _ask_all(socks: list[socket.socket], lines: list[str], expected: str) -> list[str]:
    """Send each its line, and wait until all have the answer. Returns the answers in the order of the sockets. Raises RuntimeError."""
    answers = [""] * len(socks)
    for sock, line in zip(socks, lines, strict=True):
        sock.sendall(line.encode() + b"\n")
    with selectors.DefaultSelector() as waiting:
        for number, sock in enumerate(socks):
            waiting.register(sock, selectors.EVENT_READ, number)
        left, deadline = len(socks), time.monotonic() + _PATIENCE
        while left:
            for key, _ in waiting.select(max(0.0, deadline - time.monotonic())):
                answer = key.fileobj.recv(4096).decode()  # type: ignore[union-attr]
                if not answer.startswith(expected):
                    raise RuntimeError(f"the answer is {answer!r}")
                answers[key.data] = answer
                waiting.unregister(key.fileobj)
                left -= 1
            if time.monotonic() >= deadline:
                raise RuntimeError(f"{left} sessions have no answer")
    return answers


def _get(port: int, path: str, host: str = "127.0.0.1", patience: float = _PATIENCE) -> tuple[int, int]:
    """The status of an answer, and its size in bytes. Raises OSError."""
    with socket.create_connection(("127.0.0.1", port), patience) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head, size = b"", 0
        while piece := sock.recv(1 << 18):
            head, size = head or piece, size + len(piece)
    if not head:
        raise ConnectionError("closed without an answer")
    return int(head.split()[1]), size


def _answer(port: int, host: str = "none.example.com") -> int:
    """Ask until there is an answer; its status."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return _get(port, "/", host)[0]
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.005)
