"""The settings as a whole: the sections of `sections.py`, read from the config file and the environment.

`load()` gives one frozen `Settings`, or all problems with file, line, key, value and what was expected, for `proxyd check` and for a
start that must fail.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from proxyd.base import text
from proxyd.base.hosts import machine_name
from proxyd.base.webhooks import Webhook, parse_webhook
from proxyd.config.declare import Declaration, declarations, field_of
from proxyd.config.defaults import SECTIONS as DEFAULTS
from proxyd.config.defaults import Defaults, is_free, parse_default
from proxyd.config.ini import COMMENTS, Problem, read_ini
from proxyd.config.named import NAME, Named, NetworkList, parse_file, parse_list
from proxyd.config.sections import (
    AcmeSettings,
    AdminSettings,
    AlertSettings,
    DatabaseSettings,
    DnsSettings,
    HealthSettings,
    HostsSettings,
    LogSettings,
    MaintenanceSettings,
    MasterSettings,
    ProxySettings,
    RatelimitSettings,
    RegistrySettings,
    SitesSettings,
    TlsSettings,
    TracingSettings,
)

DEFAULT_CONFIG = "conf/proxyd.ini"
CONFIG_VARIABLE = "PROXYD_CONFIG"


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. `file`: the config file they came from, or None."""

    proxy: ProxySettings = field(default_factory=ProxySettings)
    tls: TlsSettings = field(default_factory=TlsSettings)
    acme: AcmeSettings = field(default_factory=AcmeSettings)
    registry: RegistrySettings = field(default_factory=RegistrySettings)
    master: MasterSettings = field(default_factory=MasterSettings)
    admin: AdminSettings = field(default_factory=AdminSettings)
    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    hosts: HostsSettings = field(default_factory=HostsSettings)
    health: HealthSettings = field(default_factory=HealthSettings)
    ratelimit: RatelimitSettings = field(default_factory=RatelimitSettings)
    maintenance: MaintenanceSettings = field(default_factory=MaintenanceSettings)
    log: LogSettings = field(default_factory=LogSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    sites: SitesSettings = field(default_factory=SitesSettings)
    dns: DnsSettings = field(default_factory=DnsSettings)
    #: Lists of networks by name, for the options `allow` and `deny` of routes.
    lists: Mapping[str, NetworkList] = field(default_factory=dict)
    #: Files of users by name, for the option `basic_auth` of routes.
    users: Mapping[str, str] = field(default_factory=dict)
    #: Webhooks by name, beside that of [alerts].
    webhooks: Mapping[str, Webhook] = field(default_factory=dict)
    #: What holds for routes that do not say otherwise.
    defaults: Defaults = field(default_factory=Defaults)
    file: str | None = None

    def shared_memory_directory(self) -> str:
        """Directory of the shared memory files: the setting, or beside an SQLite file, or `var`."""
        if self.database.shared_memory:
            return self.database.shared_memory
        if self.database.url.startswith("sqlite:///"):
            return os.path.dirname(self.database.url.removeprefix("sqlite:///")) or "."
        return "var"

    def key_file(self) -> str:
        """File of the key that encrypts what is secret in the database."""
        return self.acme.key_file or os.path.join(self.shared_memory_directory(), "certificates.key")

    def pid_file(self) -> str:
        """File that the master writes its pid into."""
        return self.master.pid_file or os.path.join(self.shared_memory_directory(), "master.pid")

    def named(self) -> Named:
        """The names that options of routes may use."""
        return Named(frozenset(self.lists), frozenset(self.users))

    def host_name(self) -> str:
        """Name of this host among those of its database."""
        return self.hosts.name or machine_name()

    def registry_address(self) -> str:
        """Where other hosts reach the registry of this host (host:port), empty if they can't."""
        bind = self.registry.bind
        if self.hosts.address or bind.startswith("unix:"):
            return self.hosts.address
        host, port = text.split_address(bind)
        return f"{socket.gethostname()}:{port}" if host in ("0.0.0.0", "::") else bind

    def admin_address(self) -> str:
        """Where other hosts reach the admin HTTP of this host (host:port), empty if they can't."""
        bind = self.admin.bind
        if self.hosts.admin or not self.admin.enabled or bind.startswith("unix:") or text.is_loopback(bind):
            return self.hosts.admin
        host, port = text.split_address(bind)
        return f"{socket.gethostname()}:{port}" if host in ("0.0.0.0", "::") else bind

    def worker_count(self) -> int:
        """Worker processes to start."""
        return self.proxy.workers or os.cpu_count() or 1


SECTIONS: dict[str, type] = {
    item.name: item.default_factory  # type: ignore[misc]
    for item in dataclasses.fields(Settings)
    if item.name not in ("file", "lists", "users", "webhooks", "defaults")
}
#: Sections whose keys are names that the operator chooses, and what reads a value of theirs.
NAMED: dict[str, Callable[[str], Any]] = {"lists": parse_list, "users": parse_file, "webhooks": parse_webhook}


class SettingsError(Exception):
    """The configuration can't be used; `problems` says why."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def environment_name(section: str, key: str) -> str:
    """The variable that overrides a setting: `PROXYD_PROXY_BIND`."""
    return f"PROXYD_{section}_{key}".upper()


def setting_declarations(section: str) -> dict[str, Declaration]:
    """The declarations of one section, by key."""
    return declarations(SECTIONS[section])


def load(path: str | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the config file and the environment.

    `path` None means PROXYD_CONFIG, or conf/proxyd.ini where it exists. Raises SettingsError with every
    problem found: an unreadable file, unknown sections and keys (with close matches), bad values.
    """
    env = os.environ if environment is None else environment
    chosen = path or env.get(CONFIG_VARIABLE) or (DEFAULT_CONFIG if Path(DEFAULT_CONFIG).exists() else None)
    problems: list[Problem] = []
    values: dict[str, dict[str, Any]] = {name: {} for name in (*SECTIONS, *NAMED, *DEFAULTS)}
    if chosen is not None:
        try:
            content = Path(chosen).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError([Problem(chosen, 0, f"can't read the config file: {error}")]) from None
        entries, problems = read_ini(content, chosen, _unknown_section, comments=_comments)
        for entry in entries:
            message = _take(values, entry.section, entry.key, entry.value)
            if message:
                problems.append(Problem(chosen, entry.line, message))
        problems.sort(key=lambda problem: problem.line)
    for name, value in env.items():
        target = _from_environment(name)
        if target:
            message = _take(values, *target, value)
            if message:
                problems.append(Problem(f"environment {name}", 0, message))
    if problems:
        raise SettingsError(problems)
    sections = {name: cls(**{field_of(key): value for key, value in values[name].items()}) for name, cls in SECTIONS.items()}
    beneath = Defaults(**{kind: values[name] for name, kind in DEFAULTS.items()})
    return Settings(**sections, lists=values["lists"], users=values["users"], webhooks=values["webhooks"], defaults=beneath, file=chosen)


def _comments(section: str, key: str) -> str:
    if section in DEFAULTS:
        return "" if is_free(section, key) else COMMENTS
    known = setting_declarations(section).get(key) if section in SECTIONS else None
    return "" if known is not None and known.kind.free else COMMENTS


def _unknown_section(section: str) -> str | None:
    known = (*SECTIONS, *NAMED, *DEFAULTS)
    return None if section in known else f"unknown section [{section}]{text.suggest(section, known)}"


def _from_environment(name: str) -> tuple[str, str] | None:
    """Section and key of a PROXYD_ variable. An unknown key of a known section is returned too, so that it is reported."""
    if not name.startswith("PROXYD_") or name == CONFIG_VARIABLE:
        return None
    section, _, key = name.removeprefix("PROXYD_").lower().partition("_")
    return (section, key) if (section in SECTIONS or section in NAMED) and key else None


def _take(values: dict[str, dict[str, Any]], section: str, key: str, value: str) -> str | None:
    """Check one value and store it in `values`. Returns a message if the setting is unknown or its value is wrong."""
    if section in DEFAULTS:
        try:
            name, checked = parse_default(section, key, value)
        except ValueError as error:
            return f"[{section}] {error}"
        values[section][name] = checked
        return None
    if section in NAMED:
        return _take_named(values[section], section, key, value)
    known = setting_declarations(section)
    if key not in known:
        return f'unknown setting "{key}" in [{section}]{text.suggest(key, known)}'
    try:
        values[section][key] = known[key].kind.parse(value)
    except ValueError as error:
        return f"[{section}] {key}: {error}"
    return None


def _take_named(values: dict[str, Any], section: str, key: str, value: str) -> str | None:
    """The same for a section whose keys are names."""
    if not NAME.fullmatch(key):
        return f'[{section}] "{key[:80]}" is not a name of letters, digits, dash and underscore that begins with a letter'
    try:
        values[key] = NAMED[section](value)
    except ValueError as error:
        return f"[{section}] {key}: {error}"
    return None
