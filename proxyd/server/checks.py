"""What `proxyd check` looks at beyond the form of the settings: files, directories, certificates, site files, and rules
between settings. It changes nothing, and needs nothing to run. What a start looks at, too, is in `startchecks.py`."""

from __future__ import annotations

import importlib.util
import os
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from proxyd.base.conditions import conditions_text, with_conditions
from proxyd.base.sourceapi import load_source
from proxyd.base.text import hide_password, rfc3339
from proxyd.base.urls import parse_web_url
from proxyd.chores.webhooks import template_problem
from proxyd.config.defaults import defaults, use_defaults
from proxyd.config.ini import Problem
from proxyd.config.named import named, use_named
from proxyd.config.settings import Settings
from proxyd.net.clientcert import use_client_ca
from proxyd.net.handshake import use_directory
from proxyd.net.optioncheck import check_on_host
from proxyd.net.pagefiles import check_page, use_pages
from proxyd.net.targets import Targets, rules, use_rules
from proxyd.net.tls import certificate_problem, read_certificate
from proxyd.proxy.gates.addresses import list_file
from proxyd.proxy.gates.basicauth import users_file
from proxyd.proxy.record.tracing import read_headers
from proxyd.registry.auth import read_tokens
from proxyd.registry.configuration import check_options
from proxyd.server import crosscheck
from proxyd.server.acmechecks import acme
from proxyd.server.hostchecks import hosts
from proxyd.server.startchecks import Places, directory_problem, exposure, shared_memory, tls
from proxyd.sites.follow import read_sites
from proxyd.sites.sitefile import Site
from proxyd.store.sql.database import StoreError, sqlite_path
from proxyd.store.sql.postgres import url_problem as server_url_problem


def check(settings: Settings) -> list[Problem]:
    """Everything that is wrong, in the order of the sections; an empty list for a sound configuration."""
    places = Places(settings.file)
    found: list[Problem] = []
    for look in (_tls, exposure, _registry, _admin, _database, _ratelimit, _maintenance, _lists, _users, _buffers, _written_files, _alerts,
                 _tracing):
        found += look(settings, places)
    found += [*crosscheck.addresses(settings, places.problem), *crosscheck.https(settings, places.problem), *crosscheck.environment(),
              *acme(settings, places.problem), *hosts(settings, places.problem)]
    before, names = rules(), named()
    use_rules(Targets.of(settings))
    use_directory(settings.proxy.backend_tls)
    use_pages(settings.proxy.error_page_files)
    use_client_ca(settings.tls.client_ca)
    found += _error_pages(settings, places)
    use_named(settings.named())
    beneath = defaults()
    use_defaults(settings.defaults)
    found += _defaults(settings, places)
    try:
        return found + _sites(settings, places)
    finally:
        use_rules(before)
        use_named(names)
        use_defaults(beneath)


def _tls(settings: Settings, places: Places) -> Iterator[Problem]:
    return tls(settings, places, _certificate_problem)


def _certificate_problem(path: str) -> str | None:
    """Why a PEM file of chain and key can't be used, or None; one that is over starts, but no client takes it."""
    message = certificate_problem(path)
    if message:
        return message
    expires = read_certificate(path).expires
    return f"the certificate {path} expired on {rfc3339(expires)}; renew it" if expires <= time.time() else None


def _registry(settings: Settings, places: Places) -> Iterator[Problem]:
    registry = settings.registry
    if registry.tls_certificate:
        message = _certificate_problem(registry.tls_certificate)
        if message:
            yield places.problem("registry", "tls_certificate", message)
    if registry.tls_client_ca:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(registry.tls_client_ca)
        except OSError as error:
            yield places.problem("registry", "tls_client_ca", f"can't use {registry.tls_client_ca}: {error}")
        if not registry.tls_certificate:
            yield places.problem("registry", "tls_client_ca", "client certificates need [registry] tls_certificate, too")
    if registry.tokens_file:
        for problem in read_tokens(registry.tokens_file)[1]:
            readable = os.access(registry.tokens_file, os.R_OK)
            yield problem if readable else places.problem("registry", "tokens_file", problem.message)


def _admin(settings: Settings, places: Places) -> Iterator[Problem]:
    known: dict[bytes, str] = {}
    for setting, path in (("token_file", settings.admin.token_file), ("viewer_token_file", settings.admin.viewer_token_file)):
        if not path:
            continue
        try:
            with Path(path).open("rb") as file:
                token = file.readline(4096).strip()
        except OSError as error:
            yield places.problem("admin", setting, f"can't read {path}: {error.strerror}")
            continue
        if not token:
            yield places.problem("admin", setting, f"the first line of {path} is empty; it should hold the token")
        elif not (token.isascii() and token.decode("ascii").isprintable()):
            yield places.problem("admin", setting, f"the first line of {path} is not printable ASCII: no header can carry it")
        elif token in known:
            yield places.problem("admin", setting, f"{path} has the token of {known[token]}: whoever may look could act, too")
        known[token] = path


def _database(settings: Settings, places: Places) -> Iterator[Problem]:
    url = settings.database.url
    try:
        path = sqlite_path(url)
    except StoreError as error:
        yield places.problem("database", "url", str(error).removeprefix("[database] url: "))
        return
    if path is not None:
        message = directory_problem(os.path.dirname(os.path.abspath(path)))
        if message is None and os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):
            message = f"{path} can't be read and written by this user"
        if message:
            yield places.problem("database", "url", message)
    else:
        message = _server_problem(url)
        if message:
            yield places.problem("database", "url", message)
            return
    if path is None or settings.database.shared_memory:
        yield from shared_memory(settings, places)


def _server_problem(url: str) -> str | None:
    if urlsplit(url).scheme not in ("postgresql", "postgres"):
        return f"{hide_password(url)!r} is neither sqlite:///... nor postgresql://..."
    return server_url_problem(url)


def _ratelimit(settings: Settings, places: Places) -> Iterator[Problem]:
    if settings.ratelimit.storage != "shared" and importlib.util.find_spec("redis") is None:
        yield places.problem("ratelimit", "storage", "Redis needs the redis package: pip install redis")


def _maintenance(settings: Settings, places: Places) -> Iterator[Problem]:
    path = settings.maintenance.page
    if not path:
        return
    try:
        Path(path).read_text(encoding="utf-8")
    except OSError as error:
        yield places.problem("maintenance", "page", f"can't read {path}: {error.strerror}")
    except UnicodeDecodeError:
        yield places.problem("maintenance", "page", f"{path} is not UTF-8 text")


def _lists(settings: Settings, places: Places) -> Iterator[Problem]:
    """Files of networks. A start does not fail for one: routes that use it are closed."""
    for name, made in settings.lists.items():
        for path in made.files:
            found = list_file(path).look()
            if found is not None and found.problem:
                yield places.problem("lists", name, f"can't use {path}: {found.problem}")


def _users(settings: Settings, places: Places) -> Iterator[Problem]:
    """Files of users. A start does not fail for one: routes that use it are closed."""
    for name, path in settings.users.items():
        found = users_file(path).look()
        if found is not None and found.problem:
            yield places.problem("users", name, f"can't use {path}: {found.problem}")


def _buffers(settings: Settings, places: Places) -> Iterator[Problem]:
    """The directory of temporary files."""
    path = settings.proxy.buffer_directory
    if path and not (os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)):
        yield places.problem("proxy", "buffer_directory", f"{path} is not a directory that this user can write to")


def _defaults(settings: Settings, places: Places) -> Iterator[Problem]:
    """The options for all routes: what they name on this host, and whether they fit together."""
    for key, value in settings.defaults.options.items():
        try:
            check_on_host(key, value)
        except ValueError as error:
            yield places.problem("defaults.options", key, str(error))
    message = check_options({})
    if message:
        yield places.problem("defaults.options", "", message)


def _error_pages(settings: Settings, places: Places) -> Iterator[Problem]:
    """The files of [proxy] error_pages."""
    for rule in settings.proxy.error_pages:
        try:
            check_page(rule.page)
        except ValueError as error:
            yield places.problem("proxy", "error_pages", str(error))


def _written_files(settings: Settings, places: Places) -> Iterator[Problem]:
    """Logs and the pid file."""
    files = (("log", "access", settings.log.access), ("log", "error", settings.log.error),
             ("master", "pid_file", settings.master.pid_file))
    for section, key, path in files:
        if path in ("-", "off", ""):
            continue
        message = directory_problem(os.path.dirname(os.path.abspath(path)))
        if os.path.isdir(path):
            message = f"{path} is a directory"
        elif os.path.exists(path):
            message = None if os.access(path, os.W_OK) else f"{path} is not writable by this user"
        if message:
            yield places.problem(section, key, message)


def _tracing(settings: Settings, places: Places) -> Iterator[Problem]:
    tracing = settings.tracing
    try:
        parse_web_url(tracing.endpoint)
    except ValueError as error:
        yield places.problem("tracing", "endpoint", str(error))
    try:
        read_headers(tracing.headers_file)
    except OSError as error:
        yield places.problem("tracing", "headers_file", f"can't read {tracing.headers_file}: {error.strerror}")
    except ValueError as error:
        yield places.problem("tracing", "headers_file", str(error))


def _alerts(settings: Settings, places: Places) -> Iterator[Problem]:
    try:
        parse_web_url(settings.alerts.webhook)
    except ValueError as error:
        yield places.problem("alerts", "webhook", str(error))
    for name, webhook in settings.webhooks.items():
        if webhook.template and (wrong := template_problem(webhook.template)):
            yield places.problem("webhooks", name, f"can't use the template {webhook.template}: {wrong}")


def _sites(settings: Settings, places: Places) -> list[Problem]:
    """The site files: each for itself, then what they claim together. Of other sources, whether they can be used."""
    return [*_sources(settings, places), *_site_files(settings, places)]


def _sources(settings: Settings, places: Places) -> Iterator[Problem]:
    for name in settings.sites.sources:
        try:
            load_source(name)
        except ValueError as error:
            yield places.problem("sites", "sources", str(error))


def _site_files(settings: Settings, places: Places) -> list[Problem]:
    directory = settings.sites.directory
    if not os.path.isdir(directory):
        if os.path.exists(directory):
            return [places.problem("sites", "directory", f"{directory} is not a directory")]
        default = type(settings.sites)().directory
        return [] if directory == default else [places.problem("sites", "directory", f"{directory} does not exist")]
    sites, problems = read_sites(directory)
    owners: dict[tuple[str, str, int, str], tuple[Site, str, int]] = {}
    for name, site in sites.items():
        if not site.enabled:
            continue
        file = os.path.join(directory, f"{name}.ini")
        for route in site.routes.values():
            message = check_options(route.options)
            if message:
                problems.append(Problem(file, route.line, f"[route {route.name}] {message}"))
            asked = conditions_text(route.options)
            for domain in route.domains:
                owner = owners.setdefault((domain, route.path, route.priority, asked), (site, file, route.line))
                if owner[0].service != site.service:
                    place = with_conditions(domain + route.path, asked)
                    problems.append(Problem(file, route.line, (
                        f"[route {route.name}] {place} with priority {route.priority} belongs to service {owner[0].service} "
                        f"({owner[1]}:{owner[2]}); give one another domain, path or priority")))
    return problems
