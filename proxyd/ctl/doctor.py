"""`proxyctl doctor`: what `proxyd check` says of the configuration, and how the running system and its host fare."""

from __future__ import annotations

import ctypes
import os
import platform
import sqlite3
import ssl
import stat
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from proxyd import __version__
from proxyd.config.settings import Settings
from proxyd.ctl.adminhttp import Admin, CannotConnect, Refused
from proxyd.ctl.screen import Screen, printable
from proxyd.ctl.show import BAD, OK

GOOD, WARNING, WRONG = "ok", "warning", "wrong"
_MIB = 1 << 20
#: Free space of a file system below which something will fail soon, and below which somebody should look: bytes, and a share.
_LEAST_FREE, _LITTLE_FREE, _LITTLE_SHARE = 64 * _MIB, 1024 * _MIB, 0.05
#: Seconds that two clocks may differ.
_CLOCKS_DIFFER = 2.0
#: What the kernel says of a clock that nobody steers (adjtimex(2)).
_TIME_ERROR, _STA_UNSYNC = 5, 0x40
#: Places of `status` and the length of the kernel's struct timex, on 64-bit Linux.
_STATUS_AT, _TIMEX_BYTES = 40, 208
#: pidfd_open, by which a master is watched, came with this kernel.
_KERNEL = (5, 3)
_SQLITE = (3, 35, 0)


class Said(NamedTuple):
    """One result. `topic`: what was looked at; `state`: GOOD, WARNING or WRONG; `text`: a sentence, and what to do."""

    topic: str
    state: str
    text: str


def doctor(admin: Admin, screen: Screen, settings: Settings) -> int:
    """Look at everything; BAD where something is wrong."""
    found: list[Said] = []
    status, differs = None, None
    asked = time.time()
    try:
        status, date = admin.get_with_date("status")
        differs = _apart(date, asked, time.time()) if date else None
    except (CannotConnect, Refused) as error:
        found.append(Said("running", WRONG, f"{error}. Is it started? Its error log says why it ended"))
    found += [*_configuration(settings), *_running(status), *_clocks(differs, settings), *_modes(settings), *_limits(status, settings),
              *_versions(status), *_disk(settings)]
    wrong = sum(one.state == WRONG for one in found)
    if screen.as_json:
        screen.json([one._asdict() for one in found])
    else:
        for one in sorted(found, key=lambda one: (WRONG, WARNING, GOOD).index(one.state)):
            screen.wrapped(f"{one.state + ':':<9} {one.topic:<14} {printable(one.text)}", 25,
                           {WRONG: "red", WARNING: "yellow"}.get(one.state, ""))
        screen.line(f"{wrong} wrong, {sum(one.state == WARNING for one in found)} warnings, {len(found)} looks")
    return BAD if wrong else OK


def _configuration(settings: Settings) -> Iterator[Said]:
    # They bring half of proxyd along, which only this command needs.
    from proxyd.server.checks import check
    from proxyd.server.hostchecks import warnings
    from proxyd.server.startchecks import open_secrets

    problems = check(settings)
    for problem in problems:
        yield Said("configuration", WRONG, str(problem))
    for section, told in (*open_secrets(settings), *warnings(settings)):
        yield Said("configuration", WARNING, f"[{section}] {told}")
    if not problems:
        yield Said("configuration", GOOD, f"{settings.file or 'defaults and environment'}, sites in {settings.sites.directory}")


def _running(status: dict[str, Any] | None) -> Iterator[Said]:
    if status is None:
        return
    for item in status["findings"]:
        state = WRONG if item["severity"] == "critical" else WARNING
        yield Said("running", state, f"{item['what']}{': ' + item['why'] if item['why'] else ''}. {item['todo']}")
    for notice in status["notices"]:
        yield Said("running", WARNING, notice)
    for job in status["jobs"]:
        if job["error"]:
            yield Said("running", WARNING, f"the background job {job['name']} failed in its last run: {job['error']}")
    workers = status["workers"]
    behind = sum(one["config_version"] != status["config_version"] for one in workers)
    yield Said("running", WARNING if behind else GOOD,
               f"{len(workers)} workers, {behind} behind the configuration, {status['routes']} routes")


def _apart(date: str, asked: float, answered: float) -> float:
    """By how many seconds at least a clock differs that told `date` (RFC 9110, 5.6.7) between two instants of this one: an answer that
    takes long is no clock that is wrong. Positive: it is ahead."""
    told = parsedate_to_datetime(date).timestamp()
    # The field has whole seconds.
    return max(0.0, told - answered) + min(0.0, told + 1 - asked)


def _clocks(differs: float | None, settings: Settings) -> Iterator[Said]:
    """The host's clock, and by how much those that proxyd talks to differ from it. `differs`: the admin HTTP's, None where it told none."""
    steered = clock_is_steered()
    if steered is not None:
        yield Said("clock", GOOD if steered else WARNING, "the clock of this host is steered" if steered else
                   "nobody steers the clock of this host (adjtimex says unsynchronised): run chrony, systemd-timesyncd or ntpd. Events and "
                   "certificates go by it")
    others = []
    if differs is not None:
        others.append(("the admin HTTP's host", differs))
    if settings.database.url.startswith(("postgresql://", "postgres://")):
        try:
            others.append(("the database server", _server_time(settings) - time.time()))
        except Exception as error:
            yield Said("clock", WARNING, f"the database server does not tell its time: {str(error).splitlines()[0]}")
    for name, differs in others:
        right = abs(differs) < _CLOCKS_DIFFER
        yield Said("clock", GOOD if right else WRONG, f"the clock of {name} differs by {abs(differs):.1f} s" if not right else
                   f"the clock of {name} agrees")


def _server_time(settings: Settings) -> float:
    from proxyd.store.sql.database import Store, database

    store = Store(settings.database.url, 2.0)
    try:
        return float(store.read(lambda: database.execute_sql("SELECT EXTRACT(EPOCH FROM clock_timestamp())").fetchone()[0]))
    finally:
        store.close()


def clock_is_steered() -> bool | None:
    """Whether something steers the kernel's clock; None where the kernel does not tell."""
    if sys.maxsize < 1 << 32:
        return None
    state = ctypes.create_string_buffer(_TIMEX_BYTES)
    try:
        answer = ctypes.CDLL(None, use_errno=True).adjtimex(state)
    except (OSError, AttributeError):
        return None
    if answer < 0:
        return None
    status = int.from_bytes(state.raw[_STATUS_AT:_STATUS_AT + 4], sys.byteorder)
    return answer != _TIME_ERROR and not status & _STA_UNSYNC


def _modes(settings: Settings) -> Iterator[Said]:
    """Files that others could change, and files of traffic and keys that others could read."""
    count = 0
    for path, may_read in _files(settings):
        try:
            mode = stat.S_IMODE(os.stat(path).st_mode)
        except OSError:
            continue
        count += 1
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            yield Said("file modes", WRONG, f"{path} has mode {mode:04o}, so everybody on this host can change it: chmod o-w {path}")
        elif not may_read and mode & stat.S_IROTH:
            yield Said("file modes", WARNING, f"{path} has mode {mode:04o}, so everybody on this host can read it: chmod o-rwx {path}")
    yield Said("file modes", GOOD, f"{count} files and directories looked at")


def _files(settings: Settings) -> Iterator[tuple[str, bool]]:
    """Paths, and whether everybody may read them."""
    memory = settings.shared_memory_directory()
    database = settings.database.url.removeprefix("sqlite:///") if settings.database.url.startswith("sqlite:///") else ""
    for path, readable in ((settings.file or "", True), (settings.sites.directory, True), (settings.proxy.error_page_files, True),
                           (memory, True), (os.path.dirname(os.path.abspath(settings.pid_file())), True), (database, False),
                           (database and f"{database}-wal", False), (settings.key_file(), False), (_log_file(settings), False),
                           (os.path.join(memory, "proxyd.table"), False)):
        if path:
            yield path, readable
    for site in Path(settings.sites.directory).glob("*.ini"):
        yield str(site), True


def _log_file(settings: Settings) -> str:
    return settings.log.access if settings.log.access not in ("-", "off") else ""


def _limits(status: dict[str, Any] | None, settings: Settings) -> Iterator[Said]:
    from proxyd.server.startchecks import few_descriptors

    for worker in (status or {}).get("workers", ()):
        limit = _files_of(worker["pid"])
        if limit is None:
            continue
        told = few_descriptors(settings, limit)
        yield Said("limits", WARNING if told else GOOD, told or f"worker {worker['pid']} may open {limit} files")
        break
    backlog = _number("/proc/sys/net/core/somaxconn")
    if backlog is not None and backlog < settings.proxy.backlog:
        yield Said("limits", WARNING, f"the kernel queues {backlog} connections (net.core.somaxconn), fewer than [proxy] backlog = "
                                      f"{settings.proxy.backlog}: sysctl -w net.core.somaxconn={settings.proxy.backlog}")
    ports = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if ports.exists():
        low, high = (int(word) for word in ports.read_text().split())
        few = high - low < 10_000
        yield Said("limits", WARNING if few else GOOD, f"{high - low + 1} ports for connections to one backend"
                   f"{' (net.ipv4.ip_local_port_range)' if few else ''}")


def _files_of(pid: int) -> int | None:
    """How many files a process of this host may have open."""
    try:
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
            if line.startswith("Max open files"):
                return int(line.split()[3])
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):
        return None


def _versions(status: dict[str, Any] | None) -> Iterator[Said]:
    running = (status or {}).get("version", __version__)
    yield Said("versions", GOOD if running == __version__ else WARNING, f"proxyd {__version__}" if running == __version__ else
               f"proxyd {running} runs, and {__version__} is installed here: restart it")
    kernel = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2] if part.isdigit())
    if kernel < _KERNEL:
        yield Said("versions", WRONG, f"the kernel is {platform.release()}; proxyd needs {'.'.join(map(str, _KERNEL))} or newer (pidfd)")
    if sqlite3.sqlite_version_info < _SQLITE:
        yield Said("versions", WRONG, f"SQLite is {sqlite3.sqlite_version}; the views need {'.'.join(map(str, _SQLITE))} or newer")
    names = ("gunicorn", "gevent", "peewee", "cryptography")
    found = [f"{name} {metadata.version(name)}" for name in names]
    yield Said("versions", GOOD, f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {ssl.OPENSSL_VERSION}, "
                                 f"{', '.join(found)}, Linux {platform.release()}")


def _disk(settings: Settings) -> Iterator[Said]:
    """Free space where proxyd writes; a file system once."""
    seen: set[int] = set()
    database = settings.database.url.removeprefix("sqlite:///") if settings.database.url.startswith("sqlite:///") else ""
    wanted = (("the database", os.path.dirname(os.path.abspath(database)) if database else ""),
              ("the shared memory", settings.shared_memory_directory()),
              ("the access log", os.path.dirname(os.path.abspath(_log_file(settings))) if _log_file(settings) else ""),
              ("buffered bodies", settings.proxy.buffer_directory or "/tmp"))
    for name, directory in wanted:
        try:
            device, space = os.stat(directory).st_dev, os.statvfs(directory)
        except OSError:
            continue
        if device in seen or not space.f_blocks:
            continue
        seen.add(device)
        free, whole = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
        inodes = space.f_favail / space.f_files if space.f_files else 1.0
        state = WRONG if free < _LEAST_FREE else WARNING if free < _LITTLE_FREE and free < whole * _LITTLE_SHARE or inodes < 0.02 else GOOD
        advice = "" if state == GOOD else ": make room, or shorten [database] retain_*"
        yield Said("disk", state, f"{free // _MIB} MiB free of {whole // _MIB} for {name} ({directory}){advice}")
