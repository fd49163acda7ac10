"""What a client has configured, kept so that it can be told again to a registry that forgot it. No I/O.

Changes are folded, not logged: a service that updates a route every minute for a year remembers one route.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from proxyd.client.commands import SCOPES

_ROUTE_FIELDS = ("domains", "path", "backend_url", "priority")

Key = tuple[str, ...]
Ask = Callable[[str, tuple[str, ...]], str]


@dataclass(frozen=True, slots=True)
class StagedCommand:
    """One staging command as the caller gave it; `route` is the id that a ROUTE_ADD got."""

    command: str
    fields: tuple[str, ...]
    route: str = ""


@dataclass(slots=True)
class Memory:
    """Applied and staged configuration, and which id each route has by now.

    A route keeps the id that the caller first got; `current` gives the one the registry knows it by now.
    """

    applied: dict[Key, StagedCommand] = field(default_factory=dict)
    staged: list[StagedCommand] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)

    def current(self, target: str) -> str:
        """A target (id, ids with commas, ALL, path, domain) with route ids as the registry has them now."""
        return ",".join(self.ids.get(part, part) for part in target.split(","))

    def record(self, command: str, fields: tuple[str, ...], answer: str) -> None:
        """Remember a command the registry took; `answer` is what followed the answer's first field."""
        if command == "ROUTE_ADD":
            self.staged.append(StagedCommand(command, fields, answer))
            self.ids[answer] = answer
        elif command == "ROUTE_ADD_BULK":
            for route, result in zip(json.loads(fields[0]), json.loads(answer), strict=True):
                domains = route["domains"] if isinstance(route["domains"], str) else ",".join(route["domains"])
                given = (domains, str(route.get("path", "/")), str(route["backend_url"]), str(route.get("priority", 0)))
                self.record("ROUTE_ADD", given, str(result["route_id"]))
        elif command in SCOPES:
            self.staged.append(StagedCommand(command, (self._first_name(fields[0]), *fields[1:])))
        elif command == "CONFIG_APPLY":
            self._commit(set(SCOPES.values()))
        elif command == "CONFIG_APPLY_PARTIAL":
            self._commit({scope.strip() for scope in fields[0].split(",")})
        elif command == "CONFIG_ROLLBACK":
            self.staged.clear()

    def _first_name(self, target: str) -> str:
        """The id the caller first got for a route, also where it names the route by a later one."""
        now = self.current(target)
        return next((known for known, current in self.ids.items() if current == now), target)

    def _commit(self, scopes: set[str]) -> None:
        rest = []
        for change in self.staged:
            if SCOPES[change.command] in scopes:
                self._fold(change)
            else:
                rest.append(change)
        self.staged = rest

    def _fold(self, change: StagedCommand) -> None:
        command, fields = change.command, change.fields
        if command == "ROUTE_ADD":
            self.applied["route", change.route] = change
            return
        if command == "ROUTE_UPDATE":
            key = ("route", fields[0])
            if key in self.applied and fields[1] in _ROUTE_FIELDS:
                values = list(self.applied[key].fields)
                values[_ROUTE_FIELDS.index(fields[1])] = fields[2]
                self.applied[key] = StagedCommand("ROUTE_ADD", tuple(values), fields[0])
            return
        if command == "ROUTE_REMOVE":
            self.applied = {key: one for key, one in self.applied.items() if key[1] != fields[0]}
            return
        scope = SCOPES[command]
        name = (fields[1].lower(),) if scope in ("headers", "request_headers", "options") else ()
        # Taken out and put in again, so that among two settings of one thing the later stays the later.
        self.applied.pop((scope, fields[0], *name), None)
        if not command.endswith("_REMOVE"):
            self.applied[(scope, fields[0], *name)] = change

    def replay(self, ask: Ask) -> None:
        """Tell a new session everything: what was applied, apply, then what was staged.

        `ask` sends a command and returns what followed the answer's first field; what it raises passes through,
        and the next replay starts afresh.
        """
        fresh: dict[str, str] = {}
        for change in self._routes_first():
            self._tell(change, ask, fresh)
        if self.applied:
            ask("CONFIG_APPLY", ())
        for change in self.staged:
            self._tell(change, ask, fresh)
        moved = {self.ids[route]: now for route, now in fresh.items()}
        self.ids = {known: moved.get(now, now) for known, now in self.ids.items()}
        for now in fresh.values():
            self.ids.setdefault(now, now)

    def _routes_first(self) -> list[StagedCommand]:
        return sorted(self.applied.values(), key=lambda change: change.command != "ROUTE_ADD")

    def _tell(self, change: StagedCommand, ask: Ask, fresh: dict[str, str]) -> None:
        if change.command == "ROUTE_ADD":
            fresh[change.route] = ask("ROUTE_ADD", change.fields)
        else:
            target, *rest = change.fields
            ask(change.command, (fresh.get(target, target), *rest))
