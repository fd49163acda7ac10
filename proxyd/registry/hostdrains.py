"""Takes a host out of service for an upgrade, and back. The host itself does what follows (`server/ownhost.py`, `chores/hostwatch.py`)."""

from __future__ import annotations

import logging
import time

from proxyd.base.text import rfc3339
from proxyd.registry.ends import Conflict
from proxyd.registry.state import Registry
from proxyd.store.sql.hostlist import set_drained

log = logging.getLogger("proxyd.registry")


class HostDrains:
    """Methods raise Conflict with a message for a person, and StoreError."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def drain(self, name: str, actor: str) -> None:
        """Let a host serve no more, though it goes on as long as it is asked: its readyz fails, sessions go to other hosts, and it does not
        lead while another host can."""
        others = self._registry.others
        if others is not None:
            # One that was let serve again a moment ago can lead.
            others.look(self._registry.version)
            if not (others.could_lead() | self._own()) - {name}:
                raise Conflict(f'no other host could lead: "{name[:100]}" is the last one that lives and is not drained')
        self._set(name, rfc3339(time.time()), actor)
        log.warning("host %s is drained (%s)", name, actor)
        self._registry.bus.publish("host_changed", {"host": name, "state": "drained"}, actor=actor)

    def undrain(self, name: str, actor: str) -> None:
        """Let a host serve again."""
        self._set(name, None, actor)
        log.info("host %s serves again (%s)", name, actor)
        self._registry.bus.publish("host_changed", {"host": name, "state": "undrained"}, actor=actor)

    def _own(self) -> set[str]:
        others = self._registry.others
        return {self._registry.settings.host_name()} if others is not None and not others.drained else set()

    def _set(self, name: str, at: str | None, by: str) -> None:
        if self._registry.others is None:
            raise Conflict("there is one host: the database is SQLite (docs/hosts.md)")
        if not self._registry.store.call(set_drained, name, at, by if at else None, durable=True):
            raise Conflict(f'there is no host "{name[:100]}" (proxyctl hosts lists them)')
