"""What a start looks at before gunicorn tries it: addresses, certificates, the directory of the shared memory.

`proxyd check` looks at the same (`checks.py`), and says it in the same words. The arbiter loads this module before it forks, so it
imports nothing of the master's, and no peewee: in the workers all that must be imported after gevent's patches.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from proxyd.base import private
from proxyd.base.lockfile import pid_in
from proxyd.base.text import split_address
from proxyd.chores.pidfile import holder
from proxyd.config.ini import Problem, read_ini
from proxyd.config.settings import Settings, environment_name
from proxyd.net.clientcert import read_trust
from proxyd.net.exposure import exposed
from proxyd.net.tls import CertificateError, certificate_problem
from proxyd.store.memory.shared import BOARD, CIRCUITS

#: Descriptors of a worker that are no client's.
_OWN_DESCRIPTORS = 256


class Places:
    """Where each setting was set: in the environment, on a line of the config file, or nowhere."""

    def __init__(self, file: str | None) -> None:
        self._file = file
        self._lines: dict[tuple[str, str], int] = {}
        if file is not None:
            try:
                content = Path(file).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                return
            for entry in read_ini(content, file, lambda section: None)[0]:
                self._lines[entry.section, entry.key] = entry.line

    def problem(self, section: str, key: str, message: str) -> Problem:
        """A problem that the setting has, at the place where the setting is."""
        told = f"[{section}] {key}: {message}"
        name = environment_name(section, key)
        if name in os.environ:
            return Problem(f"environment {name}", 0, told)
        line = self._lines.get((section, key))
        if line is not None and self._file is not None:
            return Problem(self._file, line, told)
        return Problem(self._file or "defaults", 0, told)


def before_start(settings: Settings, before: Settings | None) -> list[Problem]:
    """What gunicorn would try for seconds, or not find at all; it makes the directory of the shared memory.

    `before`: what a reload goes on from. What was in use then is not looked at: its address is ours, and its certificate stays in
    use where the file breaks.
    """
    places = Places(settings.file)
    problems = [*exposure(settings, places), *_listening(settings, places, before)]
    if settings.tls.bind:
        known = (*before.tls.certificates, before.tls.client_ca, before.tls.client_crl) if before is not None and before.tls.bind else ()
        problems += tls(settings, places, certificate_problem, known)
    if before is not None and before.shared_memory_directory() == settings.shared_memory_directory():
        return problems
    return problems or [*shared_memory(settings, places, make=True), *_of_another(settings, places)]


def exposure(settings: Settings, places: Places) -> Iterator[Problem]:
    """Addresses of the master at which anyone who can connect could take traffic, or read what nobody should."""
    for section, message in exposed(settings):
        yield places.problem(section, "bind", message)


def listeners(settings: Settings) -> list[tuple[str, str]]:
    """Section and address of each listener of the workers."""
    return [(section, bind) for section, bind in (("proxy", settings.proxy.bind), ("tls", settings.tls.bind)) if bind]


def few_descriptors(settings: Settings, limit: int) -> str | None:
    """What to tell where a worker may open fewer files than its clients may need; it starts all the same."""
    if limit >= settings.proxy.worker_connections + _OWN_DESCRIPTORS:
        return None
    return (f"a worker may open {limit} files, and [proxy] worker_connections = {settings.proxy.worker_connections} "
            "needs up to twice as many: raise the limit (ulimit -n, LimitNOFILE), or idle connections are closed before that")


def open_secrets(settings: Settings) -> Iterator[tuple[str, str]]:
    """Section of each file with keys or tokens that everybody may read, and what to do about it. Everything starts all the same."""
    files = [("tls", path) for path in (settings.tls.certificates if settings.tls.bind else ())]
    files += [("registry", settings.registry.tls_certificate), ("registry", settings.registry.tokens_file),
              ("admin", settings.admin.token_file), ("admin", settings.admin.viewer_token_file), ("tracing", settings.tracing.headers_file)]
    files += [("users", path) for path in settings.users.values()]
    for section, path in files:
        told = private.open_to_all(path) if path else None
        if told:
            yield section, told


def tls(settings: Settings, places: Places, wrong: Callable[[str], str | None], known: tuple[str, ...] = ()) -> Iterator[Problem]:
    """What is wrong with the certificates, `known` ones left out. `wrong`: why a PEM file can't be used, or None."""
    if settings.tls.bind and not settings.tls.certificates and not settings.acme.enabled:
        yield places.problem("tls", "bind", "HTTPS is on, but [tls] certificates names no file, and [acme] is not enabled")
    for path in settings.tls.certificates:
        message = wrong(path) if path not in known else None
        if message:
            yield places.problem("tls", "certificates", message)
    if settings.tls.client_crl and not settings.tls.client_ca:
        yield places.problem("tls", "client_crl", "these lists are of the CAs in [tls] client_ca, and that is empty")
    if settings.tls.client_ca and not {settings.tls.client_ca, settings.tls.client_crl} <= {*known, ""}:
        try:
            read_trust(settings.tls)
        except CertificateError as error:
            yield places.problem("tls", "client_crl" if settings.tls.client_crl in str(error) and settings.tls.client_crl else "client_ca",
                                 str(error))


def shared_memory(settings: Settings, places: Places, make: bool = False) -> Iterator[Problem]:
    """Why there can be no shared memory; `make`: its directory, if it is not there yet."""
    database = settings.database
    beside = database.url.startswith("sqlite:///") and not database.shared_memory
    directory = os.path.abspath(settings.shared_memory_directory())
    message = directory_problem(directory)
    if message and make and _all_there(directory):
        # The directory can't be written any more, but the files can, and what is in the database can be served.
        return
    if make and message is None:
        try:
            os.makedirs(directory, mode=0o750, exist_ok=True)
        except OSError as error:
            message = f"can't make the directory {directory}: {error.strerror}"
    if message:
        yield places.problem("database", "url" if beside else "shared_memory", message)


def _of_another(settings: Settings, places: Places) -> Iterator[Problem]:
    """Why the shared memory can't be used: a proxy with another database does. Of two, each would overwrite what the other keeps there."""
    url = settings.database.url
    pid = holder(settings.pid_file()) if not settings.master.pid_file and url.startswith("sqlite:///") else 0
    # The master of this database has its pid in the lock file, too: see store.sql.lock.
    if pid and pid_in(f"{url.removeprefix('sqlite:///')}.lock") != pid:
        yield places.problem("database", "shared_memory" if settings.database.shared_memory else "url", (
            f"the proxyd whose master has the pid {pid} uses the shared memory in {settings.shared_memory_directory()} for another "
            "database: stop it first, or give this one a [database] shared_memory of its own"))


def _all_there(directory: str) -> bool:
    """Whether the shared memory is there already, and may be written."""
    return all(os.access(os.path.join(directory, name), os.R_OK | os.W_OK) for name in (BOARD, CIRCUITS))


def directory_problem(folder: str) -> str | None:
    """Why files can't be made in a directory, or None; one that is missing is made at the start, if its parent allows."""
    where = folder
    while not os.path.exists(where) and os.path.dirname(where) != where:
        where = os.path.dirname(where)
    if not os.path.isdir(where):
        return f"{where} is not a directory"
    if not os.access(where, os.W_OK | os.X_OK):
        missing = "" if where == folder else f" (and {folder} is not there yet)"
        return f"the directory {where} is not writable by this user{missing}"
    return None


def _listening(settings: Settings, places: Places, before: Settings | None) -> Iterator[Problem]:
    """The first address that is new and can't be had; what systemd or an arbiter before us holds needs no looking at."""
    if os.environ.get("GUNICORN_FD") or os.environ.get("LISTEN_FDS"):
        return
    held = [address for _, address in listeners(before)] if before is not None else []
    for section, address in listeners(settings):
        message = _listen_problem(address, f"[{section}] bind ({environment_name(section, 'bind')})") if address not in held else None
        if message:
            yield places.problem(section, "bind", f"can't listen on {address}: {message}")
            return


def _listen_problem(address: str, setting: str) -> str | None:
    if address.startswith("unix:"):
        return None
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"it is in use by another program; stop that one, or set another {setting}"
            if error.errno == errno.EACCES:
                return f"no permission; set another {setting}, or see conf/systemd for ports below 1024"
            return error.strerror
    return None
