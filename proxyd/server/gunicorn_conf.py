"""gunicorn's configuration, made from the settings: `gunicorn.conf.py` is a few lines that call `configuration()`."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from typing import Any

from proxyd.config import logs
from proxyd.config.settings import Settings, SettingsError, load
from proxyd.net.descriptors import raise_limit
from proxyd.net.gunicorn_inner import queued_signals
from proxyd.server.startchecks import before_start, few_descriptors, listeners
from proxyd.server.supervisor import Supervisor

#: Seconds a worker may take to cut what is left when graceful_timeout is over.
_CUTTING = 5

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
    status = 2
    try:
        settings = load()
    except SettingsError as error:
        problems = error.problems
    else:
        problems, status = before_start(settings, _settings), 1
    if problems:
        if _settings is None:
            sys.stderr.write("".join(f"{problem}\n" for problem in problems))
            raise SystemExit(status)
        log.error("SIGHUP: the settings stay as they are: %s; nothing is reloaded, the workers go on with the settings before",
                  "; ".join(map(str, problems)))
        settings = _settings
    if _settings is None:
        few = few_descriptors(settings, raise_limit())
        if few:
            sys.stderr.write(f"proxyd: {few}\n")
    _settings = settings
    heartbeat = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return {
        "bind": [address for _, address in listeners(settings)],
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
