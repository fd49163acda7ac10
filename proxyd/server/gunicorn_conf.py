"""gunicorn's configuration, made from the settings: `gunicorn.conf.py` is a few lines that call `configuration()`."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
from typing import Any

from proxyd.base.lean import preload
from proxyd.config import logs
from proxyd.config.settings import Settings, SettingsError, load
from proxyd.net.descriptors import raise_limit
from proxyd.net.gunicorn_inner import EARLY, SIGNALS
from proxyd.server.arbiter import ProxydArbiter
from proxyd.server.startchecks import before_start, few_descriptors, listeners, open_secrets
from proxyd.server.supervisor import Supervisor

#: Seconds a worker may take to cut the remaining requests after graceful_timeout.
_CUTTING = 5

#: Modules that import all that a worker needs until it serves; gevent's are those that it patches the standard library with.
WORKERS_NEED = ("proxyd.server.worker", "proxyd.wsgi", "proxyd.proxy.runtime",
                "gevent.select", "gevent.signal", "gevent.subprocess", "gevent.threading", "gevent.time")

#: What those need in addition that have certificates to read or to make.
WITH_TLS = ("proxyd.net.localca",)

log = logging.getLogger("gunicorn.error")

_settings: Settings | None = None


def settings_of_arbiter() -> Settings | None:
    """The settings of the arbiter that forked this worker, None under another server. A worker that is started later must not read
    the file again, because somebody may be editing it."""
    return _settings


def configuration() -> dict[str, Any]:
    """The settings of gunicorn by name.

    At the start, problems are printed, and the process exits: with status 2 for a wrong configuration, with 1 for an address or a
    directory that can't be used. On a reload, problems are logged and the old settings stay.
    """
    global _settings
    if _settings is None:
        # The arbiter takes them when it has handlers. They would end it before that.
        signal.pthread_sigmask(signal.SIG_BLOCK, EARLY)
        # Ctrl-C ends it without Python's traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
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
        log.error("SIGHUP: the settings stay as they are: %s; nothing is reloaded, and the workers keep their settings",
                  "; ".join(map(str, problems)))
        settings = _settings
    if _settings is None:
        few = few_descriptors(settings, raise_limit())
        if few:
            sys.stderr.write(f"proxyd: {few}\n")
        # Those of the other sections are the master's, which says it in its log.
        sys.stderr.write("".join(f"proxyd: {told}\n" for section, told in open_secrets(settings) if section == "tls"))
    _settings = settings
    ProxydArbiter.directory = settings.shared_memory_directory()
    heartbeat = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return {
        "bind": [address for _, address in listeners(settings)],
        "workers": settings.worker_count(),
        "worker_class": "proxyd.server.worker.ProxydWorker",
        "worker_connections": settings.proxy.worker_connections,
        "backlog": settings.proxy.backlog,
        # After this time the arbiter kills the worker. The worker's own limit must have passed before, so that it can close
        # WebSockets and write its counters.
        "graceful_timeout": math.ceil(settings.proxy.graceful_timeout) + _CUTTING,
        "timeout": math.ceil(settings.proxy.worker_timeout),
        "keepalive": max(1, round(settings.proxy.keepalive_timeout)),
        "worker_tmp_dir": heartbeat,
        "preload_app": False,
        "proc_name": "proxyd",
        "logger_class": _log_class(settings),
        "errorlog": settings.log.error,
        "accesslog": None,
        "loglevel": settings.log.level,
        # Nothing uses gunicorn's control socket, and it would be one more thing to protect.
        "control_socket_disable": True,
        "on_starting": ProxydArbiter.adopt,
        "when_ready": _prepare,
        "on_reload": _reload_master,
        "on_exit": _stop_master,
        "post_fork": _begin_worker,
    }


def _log_class(settings: Settings) -> type:
    from proxyd.server.gunicornlog import GunicornLog

    GunicornLog.form = settings.log.format
    return GunicornLog


def _prepare(server: Any) -> None:
    """gunicorn's `when_ready`: the listeners are open, and the handlers of signals are set. Import what workers need once, before they are
    forked: they start at once then, and share the memory. What the master needs besides is imported while they start."""
    # Even where a setting of gunicorn's has taken away `on_starting`.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    if _settings is not None and _settings.master.spawn and ProxydArbiter.supervisor is None:
        ProxydArbiter.supervisor = Supervisor(_settings.file)
    try:
        secure = _settings is not None and _settings.tls.bind
        preload(*WORKERS_NEED, *(WITH_TLS if secure else ()))
    except Exception as error:  # a worker that can't import it either tells it as its own failure to start
        log.warning("can't import in advance what workers need (%s: %s)", type(error).__name__, error)


def _reload_master(server: Any) -> None:
    """gunicorn's `on_reload`: SIGHUP."""
    if ProxydArbiter.supervisor is not None:
        ProxydArbiter.supervisor.signal(signal.SIGHUP)


def _stop_master(server: Any) -> None:
    """gunicorn's `on_exit`: the workers have ended."""
    if ProxydArbiter.supervisor is not None:
        ProxydArbiter.supervisor.stop()


def _begin_worker(server: Any, worker: Any) -> None:
    """gunicorn's `post_fork`, in the new worker: log as the settings say. Signals are held back until the worker has its handlers."""
    if _settings is not None:
        logs.configure(_settings.log)
