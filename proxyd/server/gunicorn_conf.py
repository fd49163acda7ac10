"""gunicorn's configuration, made from the settings: `gunicorn.conf.py` is a few lines that call `configuration()`."""

from __future__ import annotations

import errno
import logging
import math
import os
import signal
import socket
import sys
from typing import Any

from proxyd.base.text import split_address
from proxyd.config import logs
from proxyd.config.settings import Settings, SettingsError, environment_name, load
from proxyd.net.descriptors import raise_limit
from proxyd.net.gunicorn_inner import queued_signals
from proxyd.server.supervisor import Supervisor

#: Seconds a worker may take to cut what is left when graceful_timeout is over.
_CUTTING = 5
#: Descriptors of a worker that are no client's.
_OWN_DESCRIPTORS = 256

log = logging.getLogger("gunicorn.error")

_supervisor: Supervisor | None = None
_settings: Settings | None = None


def settings_of_arbiter() -> Settings | None:
    """What the arbiter that forked this worker runs by, None under another server. A worker that starts by itself must not
    meet a file that somebody is editing."""
    return _settings


def configuration() -> dict[str, Any]:
    """The settings of gunicorn by name.

    At the start it prints what is wrong with the configuration and exits with status 2, or 1 for an address or a directory
    that can't be used; a reload goes on with the settings before instead.
    """
    global _settings
    problems, status = [], 2
    try:
        settings = load()
    except SettingsError as error:
        problems = [str(problem) for problem in error.problems]
    else:
        problems, status = _unusable(settings), 1
    if problems:
        if _settings is None:
            sys.stderr.write("".join(f"{problem}\n" for problem in problems))
            raise SystemExit(status)
        log.error("SIGHUP: the settings stay as they are: %s; nothing is reloaded, the workers go on with the settings before",
                  "; ".join(problems))
        settings = _settings
    if _settings is None:
        _check_descriptors(settings)
    _settings = settings
    binds = _binds(settings)
    heartbeat = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return {
        "bind": binds,
        "workers": settings.worker_count(),
        "worker_class": "proxyd.server.worker.ProxydWorker",
        "worker_connections": settings.proxy.worker_connections,
        "backlog": settings.proxy.backlog,
        # The arbiter kills what is left after this time; the worker's own bound must be over by then, or it could neither
        # tell WebSockets goodbye nor write what it counted.
        "graceful_timeout": math.ceil(settings.proxy.graceful_timeout) + _CUTTING,
        "keepalive": max(1, round(settings.proxy.keepalive_timeout)),
        "worker_tmp_dir": heartbeat,
        # For HTTP/2, which gunicorn reads; whom we trust is decided by [proxy] trusted_proxies alone.
        "forwarded_allow_ips": "",
        "secure_scheme_headers": {},
        "limit_request_line": min(settings.proxy.max_request_line, 8190),
        "limit_request_fields": settings.proxy.max_header_count,
        "limit_request_field_size": settings.proxy.max_header_size,
        "preload_app": False,
        "proc_name": "proxyd",
        "logger_class": _log_class(settings),
        "errorlog": settings.log.error,
        "accesslog": None,
        "loglevel": settings.log.level,
        # Nobody here speaks its protocol, and it would be one more thing to guard.
        "control_socket_disable": True,
        "when_ready": _start_master,
        "on_reload": _reload_master,
        "on_exit": _stop_master,
        "post_fork": _begin_worker,
    }


def _log_class(settings: Settings) -> type:
    from proxyd.server.gunicornlog import GunicornLog

    GunicornLog.form = settings.log.format
    return GunicornLog


def _start_master(server: Any) -> None:
    """gunicorn's `when_ready`: the listeners are open."""
    global _supervisor
    if _settings is not None and _settings.master.spawn and _supervisor is None:
        _supervisor = Supervisor(_settings.file)
        _supervisor.start()


def _reload_master(server: Any) -> None:
    """gunicorn's `on_reload`: SIGHUP."""
    if _supervisor is not None:
        _supervisor.signal(signal.SIGHUP)


def _stop_master(server: Any) -> None:
    """gunicorn's `on_exit`: the workers have ended."""
    if _supervisor is not None:
        _supervisor.stop()


def _begin_worker(server: Any, worker: Any) -> None:
    """gunicorn's `post_fork`, in the new worker: heed TERM from the first moment, and log as the settings say.

    Until gunicorn sets the worker's own handlers, the arbiter's are in place, and only put a TERM into this process's copy of the
    arbiter's queue.
    """

    def stop(*_: object) -> None:
        worker.alive = False

    signal.signal(signal.SIGTERM, stop)
    if signal.SIGTERM in list(queued_signals(server)):
        stop()
    if _settings is not None:
        logs.configure(_settings.log)


def _binds(settings: Settings) -> list[str]:
    return [settings.proxy.bind, settings.tls.bind] if settings.tls.bind else [settings.proxy.bind]


def _unusable(settings: Settings) -> list[str]:
    """What gunicorn would try for seconds, or not find at all: a port in use, a certificate, a directory that can't be written."""
    problems = _cannot_listen(settings) or _check_certificates(settings)
    if problems:
        return problems
    directory = os.path.abspath(settings.shared_memory_directory())
    setting = "[database] shared_memory" if settings.database.shared_memory else "[database] url"
    try:
        os.makedirs(directory, mode=0o750, exist_ok=True)
    except OSError as error:
        return [f"proxyd: can't make the directory {directory} ({setting}): {error.strerror}"]
    if not os.access(directory, os.W_OK):
        return [f"proxyd: the directory {directory} ({setting}) is not writable by this user"]
    return []


def _cannot_listen(settings: Settings) -> list[str]:
    """The first address that is new and can't be had; what systemd or an arbiter before us holds needs no looking at."""
    if os.environ.get("GUNICORN_FD") or os.environ.get("LISTEN_FDS"):
        return []
    held = _binds(_settings) if _settings is not None else []
    for section, address in zip(("proxy", "tls"), _binds(settings), strict=False):
        setting = f"[{section}] bind ({environment_name(section, 'bind')})"
        problem = _can_listen(address, setting) if address not in held else None
        if problem:
            return [f"proxyd: can't listen on {address}: {problem}"]
    return []


def _check_certificates(settings: Settings) -> list[str]:
    """What is wrong with certificates that are new: those in use before stay in use where their files break."""
    from proxyd.net.tls import certificate_problem

    if not settings.tls.bind:
        return []
    if not settings.tls.certificates:
        return ["proxyd: HTTPS is on ([tls] bind), but [tls] certificates names no file"]
    known = _settings.tls.certificates if _settings is not None and _settings.tls.bind else ()
    found = [certificate_problem(path) for path in settings.tls.certificates if path not in known]
    return [f"proxyd: [tls] certificates: {problem}" for problem in found if problem]


def _check_descriptors(settings: Settings) -> None:
    limit = raise_limit()
    if limit < settings.proxy.worker_connections + _OWN_DESCRIPTORS:
        sys.stderr.write(f"proxyd: a worker may open {limit} files, and [proxy] worker_connections = {settings.proxy.worker_connections} "
                         "needs up to twice as many: raise the limit (ulimit -n, LimitNOFILE), or clients will wait before that\n")


def _can_listen(address: str, setting: str) -> str | None:
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
