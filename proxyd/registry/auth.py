"""Who may register: tokens from a file, what each may claim, and a limit on failed attempts for each address.

A token is 32 random bytes and can't be guessed, so it is enough to store its SHA-256. The token itself is never stored, logged
or echoed.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hmac
import json
import logging
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from proxyd.base.attempts import FailedAttempts
from proxyd.base.text import hash_of, split_list, suggest
from proxyd.base.urls import normalize_domain
from proxyd.config.ini import IniEntry, Problem, read_ini

log = logging.getLogger("proxyd.registry")

_KEYS = ("hash", "services", "domains")


class LoginRefused(Exception):
    """A refused registration. The message is for the client. `counted`: whether it counts as a failed attempt and is recorded."""

    def __init__(self, message: str, counted: bool = True) -> None:
        super().__init__(message)
        self.counted = counted


@dataclass(frozen=True, slots=True)
class Grant:
    """What a session may claim: patterns of service names, and domains. `name`: that of the token."""

    name: str
    services: tuple[str, ...] = ("*",)
    domains: tuple[str, ...] = ("*",)

    def to_json(self) -> str:
        """The text that is stored with the session."""
        return json.dumps([self.name, self.services, self.domains])

    @staticmethod
    def from_json(text: str) -> Grant:
        """The grant in a stored text."""
        name, services, domains = json.loads(text)
        return Grant(name, tuple(services), tuple(domains))

    def may_replace(self, other: Grant) -> bool:
        """Whether a session with this grant may replace one with the other: it has the same token, or no token is needed."""
        return not other.name or other.name == self.name or self is EVERYTHING

    def covers_service(self, service: str) -> bool:
        """Whether the service name may be used."""
        return any(fnmatch.fnmatchcase(service, pattern) for pattern in self.services)

    def covers_domain(self, domain: str) -> bool:
        """Whether the domain may be claimed. `*.example.com` covers all names below it, and that wildcard itself."""
        for pattern in self.domains:
            if pattern in ("*", domain):
                return True
            if pattern.startswith("*.") and domain.removeprefix("*.").endswith(pattern[1:]):
                return True
        return False


EVERYTHING = Grant("")


def new_token() -> tuple[str, str]:
    """A new token, and its hash for the file."""
    token = secrets.token_urlsafe(32)
    return token, hash_of(token)


def _unknown_section(section: str) -> str | None:
    kind, _, owner = section.partition(" ")
    return None if kind == "token" and owner.strip() else f"unknown section [{section}] (known: token NAME)"


def read_tokens(path: str) -> tuple[dict[str, Grant], list[Problem]]:
    """The grants in a tokens file by hash, and the file's problems.

    A section `[token NAME]` has `hash`, `services` (patterns) and `domains`; what it does not name, it may not claim.
    """
    grants, problems, useless = _read(path)
    return grants, sorted([*problems, *useless], key=lambda problem: problem.line)


def _read(path: str) -> tuple[dict[str, Grant], list[Problem], list[Problem]]:
    """As `read_tokens`, with those problems apart that concern a single token, which may register nothing: the others are good."""
    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return {}, [Problem(path, 0, f"can't read the tokens file: {error}")], []
    sections: dict[str, int] = {}
    entries, problems = read_ini(content, path, _unknown_section, sections)
    found: dict[str, dict[str, str]] = {}
    wrong: set[str] = set()
    lines = {section.partition(" ")[2].strip(): line for section, line in sections.items()}
    for entry in entries:
        owner = entry.section.partition(" ")[2].strip()
        message = _wrong(entry)
        if message:
            problems.append(Problem(path, entry.line, message))
            wrong.add(owner)
        found.setdefault(owner, {})[entry.key] = entry.value
    grants: dict[str, Grant] = {}
    useless: list[Problem] = []
    for name, line in lines.items():
        values = found.get(name, {})
        if "hash" not in values:
            problems.append(Problem(path, line, f"[token {name}] has no hash"))
            continue
        kept = values["hash"].lower()
        if kept in grants:
            problems.append(Problem(path, line, f"[token {name}] has the hash of [token {grants[kept].name}]"))
            continue
        services = split_list(values.get("services", ""))
        if not services and name not in wrong:
            useless.append(Problem(path, line, f"[token {name}] names no services, so it may register none (services = {name} allows "
                                               "that one, services = * any)"))
        grants[kept] = Grant(name, services, _normal(split_list(values.get("domains", ""))))
    return grants, sorted(problems, key=lambda problem: problem.line), useless


def _wrong(entry: IniEntry) -> str | None:
    """What is wrong with a line of the tokens file."""
    if entry.key not in _KEYS:
        return f'unknown key "{entry.key}" in [{entry.section}]{suggest(entry.key, _KEYS)} (known: {", ".join(_KEYS)})'
    if entry.key == "hash" and not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", entry.value):
        return "hash: not sha256: and 64 hexadecimal digits (make one with: proxyd token NAME)"
    if entry.key == "domains":
        for domain in split_list(entry.value):
            try:
                normalize_domain(domain)
            except ValueError as error:
                return f"domains: {error}"
    return None


def _normal(domains: tuple[str, ...]) -> tuple[str, ...]:
    """Domains in the form that routes have. Wrong ones are left out: they have been reported as problems."""
    normal = []
    for domain in domains:
        with contextlib.suppress(ValueError):
            normal.append(normalize_domain(domain))
    return tuple(normal)


class Gatekeeper:
    """Checks REGISTER. The tokens file is read again when it changes."""

    def __init__(self, tokens_file: str, max_failures: int) -> None:
        self._path = tokens_file
        self._mark = (0, 0)
        self._grants: dict[str, Grant] = {}
        self._failures = FailedAttempts(max_failures)

    def admit(self, service: str, token: object, address: str, now: float) -> Grant:
        """The grant of a client that registers as `service` with this token. Raises LoginRefused. `now`: monotonic seconds."""
        if not self._path:
            return EVERYTHING
        self._refresh()
        # Check the token before the attempts: a client that shares its address with an attacker must not be locked out.
        wanted = hash_of(token) if isinstance(token, str) else ""
        grant = next((grant for known, grant in self._grants.items() if hmac.compare_digest(known, wanted)), None)
        if grant is not None and grant.covers_service(service):
            return grant
        wait = self._failures.wait(address, now)
        if wait:
            raise LoginRefused(f"too many refused registrations from this address; try again in {wait} s", counted=False)
        self._failures.count(address, now)
        if grant is None:
            raise LoginRefused("metadata: token is missing or not known (REGISTER needs {\"token\":\"...\"})")
        why = "" if grant.services else ": it names no services in the tokens file"
        raise LoginRefused(f'this token may not register as "{service}"{why}')

    def grant_named(self, name: str) -> Grant:
        """What the token of that name may claim now. A token that is no longer in the file may claim nothing."""
        if not name:
            return EVERYTHING
        self._refresh()
        return next((grant for grant in self._grants.values() if grant.name == name), Grant(name, (), ()))

    def _refresh(self) -> None:
        try:
            status = os.stat(self._path)
        except OSError:
            return
        mark = (status.st_mtime_ns, status.st_size)
        if mark != self._mark:
            self._mark = mark
            grants, problems, useless = _read(self._path)
            for problem in useless:
                log.error("%s", problem)
            for problem in problems:
                log.error("%s (the tokens read before stay in use)", problem)
            if not problems:
                self._grants = grants
