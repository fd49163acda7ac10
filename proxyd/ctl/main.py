"""Entry point of proxyctl: settings, the chosen command, and failures as exit codes."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import ssl
import sys
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from proxyd.base import text
from proxyd.client import ClientError, ConnectionLost
from proxyd.config import settings
from proxyd.ctl import act, byhand, certs, completion, deploy, hosts, live, passwd, rollout, show, sql, tail
from proxyd.ctl.adminhttp import Admin, CannotConnect, Refused, as_url, read_token
from proxyd.ctl.parser import build
from proxyd.ctl.screen import Screen
from proxyd.ctl.supervise import ServiceRunner

BAD, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

_COMMANDS: dict[str, Callable[[Admin, Screen, argparse.Namespace], int]] = {
    "status": show.status, "routes": show.routes, "route": show.route, "health": show.health, "circuits": show.circuits,
    "hosts": show.hosts, "host": hosts.host, "certs": certs.certs, "ca": show.ca,
    "sessions": show.sessions, "stats": show.stats, "errors": show.errors,
    "drain": act.drain, "maint": act.maint, "hold": act.hold, "reset": act.reset, "alerts": act.alerts,
    "add": byhand.add, "remove": byhand.remove,
    "deploy": deploy.deploy, "rollout": rollout.rollout, "test": act.test, "why": show.why, "events": live.events, "top": live.top,
    "tail": tail.tail,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of proxyctl. Returns its exit code. Wrong usage raises SystemExit with code 2, as argparse does."""
    parser = build()
    completion.answer(parser)
    options = parser.parse_args(argv)
    if options.name == "run" and options.port is None and not any("{port}" in word for word in options.command):
        parser.error("run needs --port, or {port} in the command")
    try:
        return _run(options)
    except settings.SettingsError as error:
        return _fail(error, USAGE)
    except (CannotConnect, ConnectionLost) as error:
        return _fail(error, UNREACHABLE)
    except (Refused, ClientError) as error:
        return _fail(error, BAD)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python must not report that as an error when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(error: Exception, code: int) -> int:
    print(f"proxyctl: {error}", file=sys.stderr)
    return code


def _run(options: argparse.Namespace) -> int:
    if options.name == "completion":
        script = completion.script(options.shell)
        print(json.dumps({"shell": options.shell, "script": script}) if options.json else script)
        return 0
    screen = Screen(options.json)
    if options.name == "passwd":
        return passwd.passwd(screen, options)
    known = settings.load(options.config)
    if options.name == "sql":
        options.url = known.database.url
        return sql.sql(screen, options, options.url)
    if options.name in ("run", "send"):
        # The settings say whether their registry speaks TLS. Of another registry only the command line can tell.
        options.tls = _registry_tls(options, bool(known.registry.tls_certificate) and not options.registry)
        options.registry = options.registry or reachable(known.registry.bind)
        token = read_token(options.token_file or "")
        if options.name == "send":
            return act.send(screen, options, token)
        return ServiceRunner(options, token).run()
    admin = Admin(options.admin or admin_url(known), _admin_token(options, known))
    if options.name == "doctor":
        from proxyd.ctl.doctor import doctor

        return doctor(admin, screen, known)
    if options.name in ("export", "import"):
        # It reads site files as the master does, which would double the start of all other commands.
        from proxyd.ctl import portable

        local = known if not options.admin or _is_here(options.admin) else None
        return (portable.export if options.name == "export" else portable.import_)(admin, screen, options, local)
    return _COMMANDS[options.name](admin, screen, options)


def _registry_tls(options: argparse.Namespace, default: bool) -> ssl.SSLContext | None:
    """The TLS context for the registry, None for plain TCP. Raises Refused for files that can't be used."""
    if not (default or options.tls or options.tls_ca or options.tls_cert):
        return None
    wrong = options.tls_ca
    try:
        context = ssl.create_default_context(cafile=options.tls_ca or None)
        wrong = options.tls_cert
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, password=lambda: "")
    except (OSError, ValueError) as error:
        raise Refused(f"can't use {wrong}: {error}") from None
    return context


def _admin_token(options: argparse.Namespace, known: settings.Settings) -> str:
    """The token that the options name, or one of the settings that this user may read, that of operators first. Empty is enough for reading
    where reading needs none."""
    if options.token_file:
        return read_token(options.token_file)
    if options.admin and not _is_here(options.admin):
        return ""
    for path in (known.admin.token_file, known.admin.viewer_token_file):
        with contextlib.suppress(Refused):
            token = read_token(path)
            if token:
                return token
    return ""


def _is_here(url: str) -> bool:
    """Whether an admin url is on this host: the token of the settings must not be sent elsewhere."""
    if url.startswith("unix:"):
        return True
    try:
        return text.is_loopback(f"{urlsplit(as_url(url)).hostname or ''}:0")
    except ValueError:
        return False


def admin_url(known: settings.Settings) -> str:
    """The url of this host's admin HTTP server."""
    address = reachable(known.admin.bind)
    return address if address.startswith("unix:") else f"http://{address}"


def reachable(bind: str) -> str:
    """The address to connect to, for one that a server listens on. A wildcard becomes this host's loopback address."""
    if bind.startswith("unix:"):
        return bind
    host, port = text.split_address(bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    sys.exit(main())
