"""The `proxyd` command: serve, master, check, migrate, db, token, docs."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from proxyd import __version__
from proxyd.config.settings import CONFIG_VARIABLE, SettingsError, load

if TYPE_CHECKING:
    from proxyd.config.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit status: 0 done, 1 failed, 2 the configuration or the command line is wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.config:
        os.environ[CONFIG_VARIABLE] = options.config
    try:
        if options.command == "token":
            return _token(options)
        if options.command == "docs":
            return _docs(options)
        status: int = options.run(load(), options)
    except SettingsError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="proxyd", description="A dynamic reverse proxy with a service registry.",
        epilog="Settings come from conf/proxyd.ini (or --config, or PROXYD_CONFIG) and PROXYD_<SECTION>_<KEY> variables.")
    parser.add_argument("--version", action="version", version=f"proxyd {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-c", "--config", metavar="FILE", help="config file (default: conf/proxyd.ini where it exists)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", parents=[common], help="start gunicorn with the workers, and with them the master",
                                description="Starts `gunicorn -c gunicorn.conf.py proxyd.wsgi:app` with the settings.")
    serve.set_defaults(run=_serve)

    master = commands.add_parser("master", parents=[common], help="run the registry master alone (what systemd does)")
    master.add_argument("--wait", action="store_true", help="where another master holds the database, wait for its end")
    master.add_argument("--parent", type=int, default=0, metavar="PID", help="stop when this is no longer the parent process")
    master.set_defaults(run=_master)

    where = commands.add_parser("where", parents=[common], help="print where proxy, registry, admin and database are, and a line to try")
    where.set_defaults(run=_where)

    check = commands.add_parser("check", parents=[common], help="check config and site files; exit status 2 for problems",
                                description="Prints each problem with file and line; changes nothing.")
    check.set_defaults(run=_check)

    migrate = commands.add_parser("migrate", parents=[common], help="bring the database to this version's schema")
    migrate.set_defaults(run=_migrate)

    db = commands.add_parser("db", help="look after the database")
    actions = db.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, what in (("check", "is it sound, and has it this version's schema"),
                         ("vacuum", "give free space back to the disk, while proxyd runs"),
                         ("stats", "count the rows and bytes of each table")):
        actions.add_parser(action, parents=[common], help=what, description=f"{what[0].upper()}{what[1:]}.")
    export = actions.add_parser("export", parents=[common], help="write the rows of a table or view",
                                description="Write the rows of a table or view, without columns with secrets.")
    export.add_argument("name", metavar="TABLE", help="table or view, like v_incidents")
    export.add_argument("--format", choices=["csv", "sql", "parquet"], default="csv", help="(default: csv; parquet needs --output)")
    export.add_argument("--since", default="", metavar="AT", help="first instant, in UTC, like 2026-11-01 or 2026-11-01T10:30")
    export.add_argument("--until", default="", metavar="AT", help="end, which is left out")
    report = actions.add_parser("report", parents=[common], help="tell what was with a service in a month",
                                description="Tell uptime, objectives, outages, maintenance, deploys, traffic and percentiles of a service.")
    report.add_argument("name", metavar="SERVICE", help="service, as registered")
    report.add_argument("--month", required=True, metavar="MONTH", help="in UTC, like 2026-11")
    report.add_argument("--format", choices=["text", "html", "json"], default="text", help="(default: text)")
    for one in (export, report):
        one.add_argument("--output", default="", metavar="FILE", help="write there, not to standard output")
    db.set_defaults(run=_db)

    token = commands.add_parser("token", parents=[common], help="make a registry token and its section for the tokens file")
    token.add_argument("name", help="who it is for")
    token.add_argument("--services", help="service names it may register, patterns with commas (default: none)")
    token.add_argument("--domains", default="*", help="domains it may claim, with commas (default: *)")

    docs = commands.add_parser("docs", parents=[common], help="print a generated document or an example file; without a name, list them")
    docs.add_argument("name", nargs="?", default="", help="like configuration, or systemd/proxyd.service")
    return parser


def _serve(settings: Settings, options: argparse.Namespace) -> NoReturn:
    gunicorn = shutil.which("gunicorn", path=os.path.dirname(sys.executable)) or shutil.which("gunicorn")
    if gunicorn is None:
        raise SystemExit("gunicorn is not installed beside this Python: pip install 'gunicorn[gevent]'")
    own = os.path.join(os.path.dirname(os.path.dirname(__file__)), "server", "gunicorn_default.conf.py")
    config = "gunicorn.conf.py" if os.path.exists("gunicorn.conf.py") else own
    os.execv(gunicorn, [gunicorn, "-c", config, "proxyd.wsgi:app"])


def _master(settings: Settings, options: argparse.Namespace) -> int:
    from proxyd.base.processes import HELD

    # They would end it before it has handlers for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    from proxyd.base.lean import patch_all

    patch_all()
    from proxyd.server.master import main as run

    return run(settings, options.wait, options.parent)


def _where(settings: Settings, options: argparse.Namespace) -> int:
    from proxyd.base.text import hide_password, split_address

    def http(bind: str) -> str:
        return bind if bind.startswith("unix:") else f"http://{bind}"

    print(f"""proxyd {__version__}
  proxy     {http(settings.proxy.bind)}{f"  https://{settings.tls.bind}" if settings.tls.bind else ""}
  registry  {settings.registry.bind}
  admin     {http(settings.admin.bind) if settings.admin.enabled else "off"}
  database  {hide_password(settings.database.url)}
  config    {settings.file or "defaults and environment"}""")
    if not settings.registry.bind.startswith("unix:") and not settings.proxy.bind.startswith("unix:"):
        host, port = split_address(settings.registry.bind)
        print(f"Try: printf 'REGISTER|hello|me\\n' | nc -q 1 {host} {port}   (README.md has the whole conversation)")
    sys.stdout.flush()
    return 0


def _check(settings: Settings, options: argparse.Namespace) -> int:
    from proxyd.server import acmechecks
    from proxyd.server.checks import check
    from proxyd.server.hostchecks import warnings
    from proxyd.server.startchecks import open_secrets

    for section, told in (*open_secrets(settings), *warnings(settings), *acmechecks.warnings(settings)):
        print(f"warning: [{section}] {told}", file=sys.stderr)
    problems = check(settings)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(f"{len(problems)} problem{'s' if len(problems) != 1 else ''} found", file=sys.stderr)
        return 2
    print(f"configuration is sound: {settings.file or 'defaults and environment'}, sites in {settings.sites.directory}")
    return 0


def _migrate(settings: Settings, options: argparse.Namespace) -> int:
    from proxyd.store.sql import migrations
    from proxyd.store.sql.database import Store, StoreError

    store = Store(settings.database.url, settings.database.busy_timeout)
    try:
        store.open()
        before, after = migrations.migrate(store)
    except StoreError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{store.name}: schema version {after}" + (f" (was {before})" if before != after else ", nothing to do"))
    return 0


def _db(settings: Settings, options: argparse.Namespace) -> int:
    from proxyd.cli.dbtool import run

    return run(settings, options.action, options)


def _token(options: argparse.Namespace) -> int:
    from proxyd.registry.auth import new_token

    token, kept = new_token()
    services = f"services = {options.services}\n" if options.services else ""
    print(f"# The token, shown this once: {token}\n[token {options.name}]\nhash = {kept}\n{services}domains = {options.domains}")
    if not services:
        print(f"It may register no service yet: add a line like services = {options.name}, or name them with --services.", file=sys.stderr)
    return 0


def _docs(options: argparse.Namespace) -> int:
    from proxyd.docs import NAMES, document, examples

    known = [*NAMES, *examples.names()]
    if not options.name:
        print("\n".join(known))
        return 0
    if options.name not in known:
        print(f'there is no document or example "{options.name}"; `proxyd docs` lists them', file=sys.stderr)
        return 2
    sys.stdout.write(document(options.name) if options.name in NAMES else examples.text(options.name))
    return 0
