"""The grammar of the command line: every command with its options and its help."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from proxyd import __version__
from proxyd.base import text, urls
from proxyd.base.revocation import REASONS
from proxyd.config import options, routechecks
from proxyd.config.userfile import KINDS
from proxyd.ctl import completion
from proxyd.events.types import ALL, NAMES

EPILOG = """exit codes:
  0  success, and nothing is wrong
  1  not found, refused, down or open, or there are problems
  2  the command line or the config file is wrong
  3  the admin HTTP server or the registry does not answer
`run` exits with the exit code of its program.

On a terminal output is coloured, unless NO_COLOR is set. In a pipe lines are never cut."""


def duration(value: str) -> float:
    """Seconds of a duration that a person wrote, for argparse."""
    try:
        return text.parse_duration(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def duration_or_zero(value: str) -> float:
    """The same, 0 allowed."""
    try:
        return text.parse_duration_or_zero(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(value: str) -> float:
    """A number above 0, for argparse."""
    try:
        found = float(value.removesuffix("%").removesuffix("x"))
    except ValueError:
        found = 0.0
    if not 0 < found < 1e9:
        raise argparse.ArgumentTypeError(f'"{value}" is not a number above 0')
    return found


def bounded(low: int, high: int) -> Callable[[str], int]:
    """A whole number between low and high, for argparse."""
    def parse(value: str) -> int:
        try:
            number = text.parse_int(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f'"{value}" is not between {low} and {high}')
        return number
    return parse


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """A text that passes a check of the registry, for argparse: an error is better shown before the program is started."""
    def parse(value: str) -> str:
        try:
            check(value)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value
    return parse


def moment(value: str) -> float:
    """Unix seconds of a moment to come, for argparse: the next HH:MM here, a day and a time here, or RFC 3339."""
    now = datetime.now().astimezone()
    try:
        if re.fullmatch(r"\d{1,2}:\d\d", value):
            hour, minute = value.split(":")
            found = now.replace(hour=int(hour), minute=int(minute), second=0, microsecond=0)
            found += timedelta(days=found <= now)
        else:
            found = datetime.fromisoformat(value).astimezone()
    except ValueError:
        raise argparse.ArgumentTypeError(f'"{value}" is not a time (HH:MM, "YYYY-MM-DD HH:MM", or like 2026-03-02T02:00:00Z)') from None
    if found <= now:
        raise argparse.ArgumentTypeError(f'"{value}" is over')
    return found.timestamp()


def _domains(value: str) -> None:
    for item in value.split(","):
        urls.normalize_domain(item)


def option_pair(value: str) -> tuple[str, str]:
    """KEY=VALUE of a route option, for argparse."""
    key, equals, setting = value.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f'"{value}" is not KEY=VALUE')
    try:
        options.parse_option(key, setting)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return key, setting


def _common(default: Any) -> argparse.ArgumentParser:
    """Options that may stand before or after the command. After it, `default` must be SUPPRESS, or it would override a value before."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", default=default or False, help="print JSON, for programs")
    common.add_argument("--admin", metavar="ADDRESS", default=default, help="admin HTTP: host:port, a url or unix:/path "
                        "(default: [admin] bind of the config file, else http://127.0.0.1:8282)")
    common.add_argument("--registry", metavar="ADDRESS", default=default, help="registry: host:port or unix:/path, of several hosts "
                        "with commas between them (default: [registry] bind, else 127.0.0.1:8181)")
    common.add_argument("--token-file", metavar="FILE", default=default,
                        help="file with the admin token (default: [admin] token_file); for run and send, with the registry "
                        "token")
    common.add_argument("--config", metavar="FILE", default=default,
                        help="config file (default: PROXYD_CONFIG, else conf/proxyd.ini)")
    return common


def build() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    return grammar()[0]


def grammar(common: bool = True) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole parser, and the parser of each command and action (like `maint enter`) by name, for the document.

    `common`: whether the commands have the options that all of them take.
    """
    named: dict[str, argparse.ArgumentParser] = {}
    shared = [_common(argparse.SUPPRESS)] if common else []
    parser = argparse.ArgumentParser(
        prog="proxyctl", description="See and steer a running proxyd.", epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter, parents=[_common(None)])
    parser.add_argument("--version", action="version", version=f"proxyctl {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)

    def command(name: str, help: str, more: str = "") -> argparse.ArgumentParser:
        named[name] = commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}".strip(), allow_abbrev=False, parents=shared)
        return named[name]

    command("status", "what is unwell, version, workers and counts", "Exits with 1 if something is unwell.")
    one = command("routes", "all routes with state and traffic")
    one.add_argument("text", nargs="?", default="", help="only routes with this in id, service, domains, path or backend")
    one.add_argument("--state", choices=("unwell", "maintenance", "draining", "held", "lost"), default="",
                     help="only routes in this state: unwell, maintenance, draining, held, or lost (without its session)")
    one = command("route", "one route in full", "Exits with 1 if it is down or its circuit is open.")
    one.add_argument("route_id", metavar="ID", help="like r12")
    command("health", "the health checks", "Exits with 1 if one is down.")
    command("circuits", "the circuit breakers", "Exits with 1 if one is open.")
    command("hosts", "the hosts that share a PostgreSQL database: who leads, and by which version each routes",
            "Exits with 1 if one is behind or gives no sign of life.")
    named |= _host(command("host", "take a host out of service for an upgrade, and back"), shared)
    named |= _certs(command("certs", "the certificates; renew, revoke, import and remove those in the database",
                           "Without an action, it lists those in the database, which [acme] orders, and those in files; it exits with 1 if "
                           "an order has failed. --json has those in the database alone: for files, see proxyctl status --json."), shared)
    command("ca", "the certificate of the local CA, as PEM", "It signs for localhost, .test, .internal and addresses.")
    command("sessions", "the sessions of the registry")
    one = command("stats", "traffic by route")
    one.add_argument("route_id", metavar="ID", nargs="?", default="", help="only this route")
    one = command("errors", "the errors of the last days, grouped: which, whose, how many, and the last one of each group",
                  "With --hosts: the hosts that are asked for and that no route names.")
    one.add_argument("service", metavar="SERVICE", nargs="?", default="", help="only this service")
    one.add_argument("--since", type=duration, default=7 * 86400.0, metavar="TIME", help="how far back, at most 30d (default: 7d)")
    one.add_argument("--by", choices=("backend", "proxy", "client"), default="", help="only those that the backend, the proxy or the "
                     "client made")
    one.add_argument("--hosts", action="store_true", help="show the unknown hosts that are asked for most instead")
    command("doctor", "all that `proxyd check` says, and the running system: clocks, file modes, limits, versions, disk",
            "Run it as the user that proxyd runs as. Exits with 1 if something is wrong; a warning is no reason.")
    one = command("passwd", "set the password of a user in a file for basic_auth",
                  "It is asked for, or read from standard input. A new file has mode 0640.")
    one.add_argument("file", metavar="FILE", help="file that [users] names")
    one.add_argument("user", metavar="USER", help="name of the user")
    one.add_argument("--kind", choices=KINDS, default=KINDS[0], help=f"kind of hash (default: {KINDS[0]})")
    one.add_argument("--remove", action="store_true", help="remove the user")
    one = command("sql", "ask the database of the settings in SQL, which is opened for reading only",
                  "Without a statement, statements come from standard input; a terminal is asked for them. Columns with secrets are NULL. "
                  "docs/database.md has tables, views and questions.")
    one.add_argument("statement", metavar="STATEMENT", nargs="*", help="like 'SELECT * FROM v_unwell'; or tables; or 'describe v_unwell'")
    one.add_argument("--rows", type=bounded(1, 1_000_000), default=1000, metavar="N", help="most rows that are shown (default: 1000)")
    one.add_argument("--timeout", type=duration, default=30.0, metavar="TIME", help="longest time of a statement (default: 30s)")
    one = command("why", "which route a url matches, what each gate says, and which member would take the request",
                  "Nothing is sent to a backend, and nothing is counted. Exits with 1 if the request would be refused.")
    one.add_argument("url", metavar="URL", help="like https://shop.example.com/cart")
    one.add_argument("--client", default="127.0.0.1", metavar="ADDRESS", help="address of the client (default: 127.0.0.1)")
    one.add_argument("--method", default="GET", help="method of the request (default: GET)")
    one.add_argument("--field", action="append", default=[], metavar="'NAME: VALUE'",
                     help="a field of the request, like 'Cookie: canary=1', for routes that ask for it; may be repeated")
    named |= _changing(command, shared)
    _live(command)
    _run(command("run", "start a program and keep it registered",
                 "The program is registered once its port answers. TERM or INT drains, deregisters and stops it; a second "
                 "one skips the drain. HUP, USR1, USR2, QUIT, WINCH and CONT are passed on to it."))
    one = command("completion", "shell completion", 'For bash: eval "$(proxyctl completion bash)"')
    one.add_argument("shell", choices=completion.SHELLS)
    return parser, named


Command = Callable[..., argparse.ArgumentParser]


def _changing(command: Command, shared: list[argparse.ArgumentParser]) -> dict[str, argparse.ArgumentParser]:
    one = command("drain", "move traffic away from a session gradually")
    one.add_argument("who", metavar="SERVICE-or-SESSION", help="number of a session (like s7), service, or service/instance")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--over", type=duration, default=60.0, metavar="TIME", help="time until no traffic is left (default: 60s)")
    how.add_argument("--cancel", action="store_true", help="cancel the drain: full traffic at once")
    one = command("hold", "let the requests of routes wait, instead of failing, while a service is away")
    one.add_argument("target", help="route id (or ids with commas), service, domain, path, or ALL")
    how = one.add_mutually_exclusive_group()
    how.add_argument("--for", type=duration, default=30.0, dest="seconds", metavar="TIME", help="longest wait (default: 30s)")
    how.add_argument("--release", action="store_true", help="let the requests that wait go on")
    _deploy(command("deploy", "run a command that replaces a service, while its requests wait or go to its replicas",
                    "With SERVICE/INSTANCE, and another instance that takes its requests, it drains; else requests wait. Once none is "
                    "under way the command runs (systemctl restart, docker compose up -d), and must not end before the old program has. "
                    "When the service has its routes, and their backends answer, the traffic flows. Exits with the command's exit code if "
                    "that fails, and with 1 if the service does not come up."))
    _rollout(command("rollout", "give the requests of a service to one of its instances, step by step",
                     "It goes back by itself if that instance does worse than the others. Until the end, this shows each step; the rollout "
                     "itself goes on in the master. Exits with 1 if it went back or ended otherwise. The option rollout = wait of a new "
                     "instance keeps its traffic away until a rollout gives it some."))
    actions = _maint(command("maint", "maintenance mode"), shared)
    one = command("add", "add a route by hand", "It is kept in the database until `proxyctl remove`, and several hosts share it. Routes "
                  "of the same service, domain, path and priority share the requests.")
    one.add_argument("domain", type=checked(_domains), metavar="DOMAIN", help="domain of the route, or several with commas")
    one.add_argument("url", metavar="URL", help="backend: http, https, h2c, ws or wss url, unix:/path, redirect: or respond:")
    one.add_argument("--path", default="/", type=checked(urls.normalize_route_path), metavar="P", help="path of the route (default: /)")
    one.add_argument("--priority", type=bounded(-1_000_000, 1_000_000), default=0, metavar="N", help="priority (default: 0)")
    one.add_argument("--service", default="", metavar="NAME", help="service that it belongs to (default: the first domain)")
    one.add_argument("--option", action="append", type=option_pair, default=[], metavar="KEY=VALUE",
                     help="route option, like timeout=5s; may be repeated")
    one.add_argument("--limit", type=checked(routechecks.limits), metavar="LIMITS",
                     help='rate limit for each client address, like "100/minute; 1000/hour"')
    one = command("remove", "remove routes by hand", "Those of services and site files are not removed so.")
    one.add_argument("target", metavar="ID-or-DOMAIN", help="like r12 (or ids with commas), or a domain: all by hand that have it")
    one = command("export", "write the whole configuration as JSON: routes by hand, site files and settings",
                  "Routes that services register are not in it: they come back with their services. Site files and settings are those "
                  "of this host. Files that the settings name (certificates, tokens, users) are not in it.")
    one.add_argument("--output", default="", metavar="FILE", help="write there, with mode 0600, not to standard output")
    one = command("import", "take over what export wrote",
                  "Routes by hand are added, or changed where there is one like it. Nothing is done for a file of another form; a "
                  "route that proxyd refuses ends the import, and a second run goes on from there.")
    one.add_argument("file", metavar="FILE", help="what export wrote; - for standard input")
    one.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    one.add_argument("--prune", action="store_true", help="remove routes by hand, and with --sites site files, that are not in the file")
    one.add_argument("--sites", action="store_true", help="write its site files into [sites] directory, too")
    one.add_argument("--settings-to", default="", metavar="FILE", help="write its config file there; it must not be there yet")
    one = command("alerts", "the webhooks that alerts go to", "With --test: send each a test message. Exits with 1 if one does not "
                  "take it.")
    one.add_argument("webhook", metavar="NAME", nargs="?", default=None, help="only the webhook with this name in [webhooks]")
    one.add_argument("--test", action="store_true", help="send a test message")
    one = command("reset", "close a route's circuit in every worker")
    one.add_argument("route_id", metavar="ROUTE", help="like r12")
    one = command("test", "test whether the registry master can reach a url", "Exits with 1 if it can't.")
    one.add_argument("url")
    one = command("send", "send a raw registry command",
                  "It is sent in a new session, which then ends, or in --session. That session must have no connection, and "
                  "has none afterwards: its routes take no traffic until its service reconnects.")
    one.add_argument("line", metavar="RAW|COMMAND", help="{sid} stands for the session id, which is added to a bare word like PING")
    one.add_argument("--session", default="", metavar="ID", help="session to resume with RECONNECT")
    _tls(one)
    one.add_argument("--timeout", type=duration, default=10.0, metavar="TIME", help="longest wait for an answer (default: 10s)")
    return actions


def _deploy(one: argparse.ArgumentParser) -> None:
    one.add_argument("service", metavar="SERVICE[/INSTANCE]", help="name of the service, or of one instance of it")
    one.add_argument("command", nargs="+", metavar="COMMAND", help="the command and its arguments, after --")
    one.add_argument("--drain", type=duration, default=5.0, metavar="TIME", help="time in which replicas take the requests (default: 5s)")
    one.add_argument("--stop-timeout", type=duration, default=30.0, metavar="TIME",
                     help="longest wait for the requests under way (default: 30s)")
    one.add_argument("--command-timeout", type=duration, default=120.0, metavar="TIME",
                     help="longest run of the command, before KILL (default: 2m)")
    one.add_argument("--start-timeout", type=duration, default=60.0, metavar="TIME",
                     help="longest wait for the service after the command (default: 60s)")


def _host(one: argparse.ArgumentParser, shared: list[argparse.ArgumentParser]) -> dict[str, argparse.ArgumentParser]:
    actions = one.add_subparsers(dest="action", metavar="drain|undrain", required=True)

    def action(name: str, help: str, more: str = "") -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}".strip(), parents=shared,
                                  allow_abbrev=False)
        made.add_argument("host", metavar="NAME", help="name of the host, as proxyctl hosts has it")
        return made

    drain = action("drain", "let a host serve no more, and wait until it may be upgraded",
                   "Its /readyz fails first, then its sessions go to other hosts, and another host leads. It stays drained over restarts. "
                   "Exits with 1 if something is still open there in the end.")
    drain.add_argument("--timeout", type=duration, default=60.0, metavar="TIME", help="longest wait (default: 60s)")
    return {"host drain": drain, "host undrain": action("undrain", "let a host serve again")}


def _certs(one: argparse.ArgumentParser, shared: list[argparse.ArgumentParser]) -> dict[str, argparse.ArgumentParser]:
    actions = one.add_subparsers(dest="action", metavar="list|renew|revoke|import|remove")
    made: dict[str, argparse.ArgumentParser] = {}

    def action(name: str, help: str, more: str = "") -> argparse.ArgumentParser:
        made[f"certs {name}"] = actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}. {more}".strip(),
                                                   parents=shared, allow_abbrev=False)
        return made[f"certs {name}"]

    action("list", "list them")
    renew = action("renew", "order the certificates of a name anew, now", "The order goes on in the master; proxyctl certs tells of it.")
    revoke = action("revoke", "have the CA revoke the certificates of a name",
                    "They are shown no more. Where a route still wants one, it is ordered with another key.")
    take = action("import", "take up a certificate with its key, for all its names",
                  "It takes the place of those with the same kind of key, and [acme] renews it where it orders for the name.")
    remove = action("remove", "show the certificates of a name no more", "The CA is not told.")
    for two in (renew, revoke, remove):
        two.add_argument("domain", metavar="DOMAIN", help="as proxyctl certs lists it")
    revoke.add_argument("--reason", choices=tuple(REASONS), default="unspecified", help="what the CA is told (default: unspecified)")
    take.add_argument("file", metavar="FILE", help="PEM file with chain and key; - reads standard input")
    return made


def _rollout(one: argparse.ArgumentParser) -> None:
    one.add_argument("service", metavar="SERVICE", help="name of the service")
    how = one.add_mutually_exclusive_group(required=True)
    how.add_argument("--to", metavar="INSTANCE", help="the instance that is to take over; it must be up")
    how.add_argument("--status", action="store_true", help="show the rollout that goes on, or the last one")
    how.add_argument("--abort", action="store_true", help="give all requests back to the other instances")
    how.add_argument("--clear", action="store_true", help="let all instances share by weight again, after a rollout")
    one.add_argument("--steps", default="5,25,50,100", metavar="PERCENTS", help="shares of the clients, one after the other (default: "
                     "5,25,50,100)")
    one.add_argument("--every", type=duration, default=120.0, metavar="TIME", help="time for each step (default: 2m)")
    one.add_argument("--max-errors", type=number, default=1.0, metavar="POINTS", help="percentage points by which more of its requests may "
                     "fail (status from 500) than of the others' (default: 1)")
    one.add_argument("--max-slower", type=number, default=2.0, metavar="TIMES", help="how many times the p95 of the others its p95 may be "
                     "(default: 2)")
    one.add_argument("--detach", action="store_true", help="do not wait for the end")


def _maint(one: argparse.ArgumentParser, shared: list[argparse.ArgumentParser]) -> dict[str, argparse.ArgumentParser]:
    actions = one.add_subparsers(dest="action", metavar="enter|exit|status", required=True)

    def action(name: str, help: str) -> argparse.ArgumentParser:
        return actions.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.", parents=shared, allow_abbrev=False)

    enter, leave = action("enter", "show a maintenance page"), action("exit", "show the service again")
    for two in (enter, leave):
        two.add_argument("target", help="route id (or ids with commas), service, domain, path, or ALL")
    enter.add_argument("--page", default="", metavar="URL", help="page to show (default: the built-in one)")
    enter.add_argument("--for", dest="seconds", type=duration, metavar="TIME", help="maintenance ends by itself after this (default: exit "
                       "ends it)")
    enter.add_argument("--at", type=moment, metavar="WHEN", help="it begins by itself then, and needs --for: HH:MM, 'YYYY-MM-DD HH:MM' "
                       "(local time), or RFC 3339; exit before that cancels it")
    enter.add_argument("--reason", default="", metavar="TEXT", help="why, for the history (v_maintenance)")
    return {"maint enter": enter, "maint exit": leave, "maint status": action("status", "which routes are in maintenance")}


def _tls(one: argparse.ArgumentParser) -> None:
    one.add_argument("--tls", action="store_true", help="speak TLS to the registry (default: if [registry] tls_certificate is set)")
    one.add_argument("--tls-ca", metavar="FILE", default="", help="PEM file of the CA that signed the registry's certificate "
                     "(default: the system's)")
    one.add_argument("--tls-cert", metavar="FILE", default="", help="PEM file with a client certificate and its key, if the registry "
                     "demands one")


def _live(command: Command) -> None:
    one = command("events", "the last events, then new ones as they happen")
    one.add_argument("--type", choices=(ALL, *NAMES), default=ALL, metavar="TYPE", help=f"only this type: {', '.join(NAMES)}")
    one.add_argument("--last", type=bounded(0, 1000), default=10, metavar="N", help="number of past events to show first (default: 10)")
    one.add_argument("--no-follow", action="store_true", help="show only past events")
    one = command("tail", "the requests to a route as they end: its live access log",
                  "A route is followed over redeploys, whichever instance answers. Queries are left out. Of several hosts, those of "
                  "the one that --admin names.")
    one.add_argument("target", metavar="ROUTE", help="id like r12, a domain (with its path: shop.example.com/api), or a service")
    one.add_argument("--failed", action="store_true", help="only requests that failed or were refused (status from 400)")
    one.add_argument("--count", type=bounded(0, 10**9), default=0, metavar="N", help="quit after N requests (default: 0, never)")
    one = command("top", "the busiest routes, updated continuously (q quits)")
    one.add_argument("--every", type=duration, default=2.0, metavar="TIME", help="time between two updates (default: 2s)")
    one.add_argument("--count", type=bounded(0, 10**9), default=0, metavar="N", help="quit after N updates (default: 0, never)")


def _run(one: argparse.ArgumentParser) -> None:
    one.usage = "proxyctl run --domain D --port N [options] -- COMMAND [ARGUMENT ...]"
    one.add_argument("--domain", action="append", required=True, type=checked(urls.normalize_domain), metavar="D",
                     help="domain of the route; may be repeated")
    one.add_argument("--path", default="/", type=checked(urls.normalize_route_path), metavar="P",
                     help="path of the route (default: /)")
    one.add_argument("--port", type=bounded(1, 65535), metavar="N", help="port the program listens on; {port} in the command is it. "
                     "With {port}, HUP starts the program again on another port, then stops the first; --port may be left out")
    one.add_argument("--unique", action="store_true", help="add something to the name of this instance that no other one has")
    one.add_argument("--host", default="127.0.0.1", metavar="H", help="address the program listens on (default: 127.0.0.1)")
    one.add_argument("--health", default="", type=checked(partial(options.parse_option, "health_check_path")), metavar="PATH",
                     help="path of the health check (default: none)")
    one.add_argument("--service", default="", metavar="NAME", help="name to register as (default: the first label of the first domain)")
    one.add_argument("--instance", default="", metavar="I", help="name of this instance (default: host name and port)")
    one.add_argument("--priority", type=bounded(-1_000_000, 1_000_000), default=0, metavar="N", help="priority (default: 0)")
    one.add_argument("--option", action="append", type=option_pair, default=[], metavar="KEY=VALUE",
                     help="route option, like timeout=5s; may be repeated")
    one.add_argument("--restart", choices=("always", "on-failure", "never"), default="on-failure",
                     help="when to start the program again (default: on-failure)")
    one.add_argument("--backoff", type=duration, default=1.0, metavar="TIME",
                     help="delay before the first restart; it doubles each time, up to 60s (default: 1s)")
    one.add_argument("--drain", type=duration_or_zero, default=5.0, metavar="TIME",
                     help="time to drain before the program is stopped; 0: no drain (default: 5s)")
    one.add_argument("--start-timeout", type=duration, default=60.0, metavar="TIME", help="longest wait for the port (default: 60s)")
    one.add_argument("--stop-timeout", type=duration, default=10.0, metavar="TIME",
                     help="longest wait for the program to end, before KILL (default: 10s)")
    _tls(one)
    one.add_argument("command", nargs="+", metavar="COMMAND", help="the program and its arguments, after --")
