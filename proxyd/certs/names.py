"""Which names certificates are ordered for: the domains of live routes that the settings or a token allow."""

from __future__ import annotations

from collections.abc import Callable

from proxyd.base.urls import is_local_name
from proxyd.config.sections import AcmeSettings
from proxyd.config.settings import Settings
from proxyd.registry.auth import Grant
from proxyd.store.sql.database import Store
from proxyd.store.sql.models import Session
from proxyd.store.sql.query import tuples
from proxyd.store.sql.snapshot import RouteRecord, load_snapshot


def matches(domain: str, patterns: tuple[str, ...]) -> bool:
    """Whether a pattern stands for a domain: itself, `*`, or `*.parent` for all names below the parent."""
    return Grant("", (), patterns).covers_domain(domain)


class Names:
    """Follows the routes. `grant_named`: what the token of that name may claim."""

    def __init__(self, settings: Settings, store: Store, grant_named: Callable[[str], Grant]) -> None:
        self._acme: AcmeSettings = settings.acme
        self._store = store
        self._grant_named = grant_named
        self._routes: dict[str, RouteRecord] = {}
        self._tokens: dict[str, str] = {}
        self._version = 0
        self._wanted: frozenset[str] = frozenset()

    def wanted(self) -> frozenset[str]:
        """The names that shall have a certificate of the CA now. Raises StoreError."""
        snapshot = self._store.read(load_snapshot, self._version)
        if snapshot.full or snapshot.version != self._version:
            if snapshot.full:
                self._routes.clear()
            for route_id in snapshot.removed:
                self._routes.pop(route_id, None)
            self._routes.update((record.route_id, record) for record in snapshot.routes)
            self._tokens = self._store.read(_tokens)
            self._version = snapshot.version
            self._wanted = frozenset(self._allowed())
        return self._wanted

    def _allowed(self) -> list[str]:
        found: set[str] = set()
        for record in self._routes.values():
            if not record.enabled or ("tls", "off") in record.options:
                continue
            for domain in record.domains:
                if domain not in found and "." in domain and not is_local_name(domain) and self._allows(domain, record):
                    found.add(domain)
        return sorted(found)

    def _allows(self, domain: str, record: RouteRecord) -> bool:
        patterns = self._acme.domains
        if not patterns or matches(domain, patterns):
            return True
        token = self._tokens.get(record.session_id, "")
        return bool(token) and matches(domain, tuple(item for item in self._grant_named(token).domains if item != "*"))


def _tokens() -> dict[str, str]:
    return dict(tuples(Session.select(Session.session_id, Session.token_name).where(Session.token_name != "")))
