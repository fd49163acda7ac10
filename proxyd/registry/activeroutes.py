"""The active routes in memory: their rows as the database has them, the places they hold, and the slots of their circuits.

Nearly every domain and path has one route. So what is remembered of each is that route's id alone: all else is in its row.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from proxyd.base import clock
from proxyd.base.conditions import conditions_of_row, with_conditions
from proxyd.base.text import rfc3339, route_number
from proxyd.registry.configuration import Place, RouteSpec
from proxyd.store.memory.circuits import CircuitBoard

#: Routes of a domain and path that may differ in their conditions or priority.
MOST_KINDS = 100
#: A domain and a path.
Where = tuple[str, str]
#: A priority, and what else a route asks of requests, in words: the rest of a place.
Kind = tuple[int, str]


class ActiveRoutes:
    """`rows`: by route id.

    Nothing here writes to the database. The caller commits a row first, and then puts it here.
    """

    def __init__(self, circuits: CircuitBoard) -> None:
        self._circuits = circuits
        self.rows: dict[str, dict[str, Any]] = {}
        #: The route at each domain and path, or the routes where there are several, in the order in which they came.
        self._at: dict[Where, str | dict[str, None]] = {}
        #: Where routes differ in their priorities or conditions. Few do.
        self._contested: set[Where] = set()
        self._free: list[int] = []
        self._next_slot = 0

    def load(self, rows: Iterable[dict[str, Any]]) -> list[RouteSpec]:
        """Take over the database's rows, and the slots that they use. Returns what they declare."""
        used, specs = set(), []
        for row in rows:
            spec = spec_of(row)
            self._take(row, spec.domains)
            used.add(row["slot"])
            self._circuits.claim(row["slot"], route_number(row["route_id"]))
            specs.append(spec)
        self._next_slot = max(used, default=-1) + 1
        self._free = [slot for slot in range(self._next_slot) if slot not in used]
        heapq.heapify(self._free)
        return specs

    def put(self, row: dict[str, Any]) -> None:
        """Take over a new or changed row."""
        self._drop_places(row["route_id"])
        self._leave_slot(row)
        self._take(row, json.loads(row["domains"]))

    def remove(self, route_id: str) -> None:
        """Remove a route: give up its places and free its slot."""
        self._drop_places(route_id)
        row = self.rows.pop(route_id, None)
        if row is not None:
            self._circuits.retire(row["slot"], route_number(route_id))
            heapq.heappush(self._free, row["slot"])

    def at(self, place: Place) -> list[str]:
        """The routes that hold a place, by id."""
        where = place[:2]
        ids = self._ids(where)
        if where in self._contested:
            return [route_id for route_id in ids if self._kind(route_id) == place[2:]]
        # One is like the others.
        return list(ids) if ids and self._kind(next(iter(ids))) == place[2:] else []

    def conflict(self, service: str, claimed: Mapping[str, list[Place]]) -> str | None:
        """The error if another service holds a place that one of the routes claims (by route id), else None."""
        fresh: dict[tuple[str, str], set[tuple[int, str]]] = {}
        for claimer, places in claimed.items():
            for place in places:
                domain, path, priority, asked = place
                for route_id in self.at(place):
                    holder = self.rows[route_id]
                    if holder["service_name"] != service:
                        where = with_conditions(domain + path, asked)
                        return (f"route {claimer}: {where} at priority {priority} is held by service {holder['service_name']} "
                                f"(instance {holder['instance_name']}, route {route_id}); choose another path or priority")
                if asked:
                    kinds = fresh.setdefault((domain, path), self._kinds((domain, path)))
                    kinds.add((priority, asked))
                    if len(kinds) > MOST_KINDS:
                        return (f"route {claimer}: {domain}{path} has {MOST_KINDS} routes that differ in their conditions or priority; "
                                "each costs every request there, so there can't be more")
        return None

    def changed(self, route_ids: Iterable[str], columns: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of active routes with new values in some columns. Rows in which nothing changes are left out."""
        now = rfc3339(time.time())
        return [{**row, **columns, "updated_at": now} for row in (self.rows[route_id] for route_id in route_ids)
                if any(row[name] != value for name, value in columns.items())]

    def replicas(self, route_id: str) -> int:
        """How many other routes take the traffic of an active route at all of its places, if it takes none."""
        others = [set(self.at(place)) - {route_id} for place in places_of(self.rows[route_id])]
        return sum(1 for other in set.intersection(*others) if _serves(self.rows[other]))

    def held(self, route_ids: Collection[str]) -> bool:
        """Whether there are such routes, and the requests of all of them are held."""
        return bool(route_ids) and all(self.rows[route_id]["hold_until"] for route_id in route_ids)

    def slot(self, route_id: str) -> int:
        """A free slot in the shared memory of circuits, reset for a route."""
        slot = heapq.heappop(self._free) if self._free else self._next_slot
        if slot == self._next_slot:
            self._next_slot += 1
        self._circuits.renew(slot, route_number(route_id))
        return slot

    def free_slots(self, rows: Iterable[dict[str, Any]]) -> None:
        """Give back slots that were taken for a change that then failed."""
        for row in rows:
            known = self.rows.get(row["route_id"])
            if known is None or known["slot"] != row["slot"]:
                heapq.heappush(self._free, row["slot"])

    def _leave_slot(self, row: dict[str, Any]) -> None:
        """Free a route's old slot if its new row has another one, because it has another backend."""
        known = self.rows.get(row["route_id"])
        if known is not None and known["slot"] != row["slot"]:
            self._circuits.replace(known["slot"], row["slot"], route_number(row["route_id"]), clock.now())
            heapq.heappush(self._free, known["slot"])

    def _ids(self, where: Where) -> Collection[str]:
        """The routes at a domain and path."""
        found = self._at.get(where, ())
        return (found,) if isinstance(found, str) else found

    def _kind(self, route_id: str) -> Kind:
        row = self.rows[route_id]
        return row["priority"], conditions_of_row(row["options"])

    def _kinds(self, where: Where) -> set[Kind]:
        """The priorities and conditions at which a domain and path are held."""
        return {self._kind(route_id) for route_id in self._ids(where)}

    def _take(self, row: dict[str, Any], domains: Iterable[str]) -> None:
        route_id, path = row["route_id"], row["path"]
        self.rows[route_id] = row
        for domain in domains:
            where = domain, path
            found = self._at.setdefault(where, route_id)
            if found == route_id:
                continue
            if isinstance(found, str):
                found = self._at[where] = {found: None}
            if where not in self._contested and self._kind(next(iter(found))) != self._kind(route_id):
                self._contested.add(where)
            found[route_id] = None

    def _drop_places(self, route_id: str) -> None:
        row = self.rows.get(route_id)
        if row is None:
            return
        for domain in json.loads(row["domains"]):
            where = domain, row["path"]
            found = self._at.get(where)
            if found is None or found == route_id:
                self._at.pop(where, None)
                continue
            if isinstance(found, dict):
                found.pop(route_id, None)
                if len(found) == 1:
                    self._at[where] = next(iter(found))
            if where in self._contested and len(self._kinds(where)) < 2:
                self._contested.discard(where)

    def overridden(self, service: str, rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], str]:
        """Routes of other services that get no traffic at a place because of these routes: the route that does, by route id and place."""
        found = {}
        for row in rows:
            for domain, path, priority, asked in places_of(row):
                if (domain, path) not in self._contested:
                    continue
                for route_id in self._ids((domain, path)):
                    lower, other = self._kind(route_id)
                    # A route with conditions leaves to others what it does not ask for.
                    if lower < priority and asked in ("", other) and self.rows[route_id]["service_name"] != service:
                        found[route_id, with_conditions(domain + path, other)] = row["route_id"]
        return found

    def overridden_now(self, most: int) -> list[str]:
        """Sentences about routes that get no traffic because another service's route has a higher priority."""
        found = []
        for domain, path in self._contested:
            kinds = self._kinds((domain, path))
            for lower, other in kinds:
                over = [(priority, asked) for priority, asked in kinds if priority > lower and asked in ("", other)]
                if not over:
                    continue
                winner = self.at((domain, path, *max(over)))[0]
                service = self.rows[winner]["service_name"]
                reason = f"{with_conditions(domain + path, other)}: route {winner} of {service} has a higher priority"
                found += [f"route {route_id} of {owner} gets no traffic at {reason}" for route_id in self.at((domain, path, lower, other))
                          if (owner := self.rows[route_id]["service_name"]) != service]
            if len(found) >= most:
                break
        return sorted(found[:most])


def _serves(row: dict[str, Any]) -> bool:
    """Whether a route is there to take traffic."""
    return bool(row["enabled"]) and not (row["maintenance_since"] or row["drain_started_at"] or row["hold_until"])


def spec_of(row: dict[str, Any]) -> RouteSpec:
    """The route that a row declares."""
    return RouteSpec(row["route_id"], tuple(json.loads(row["domains"])), row["path"], row["backend_url"], row["priority"])


def places_of(row: dict[str, Any]) -> list[Place]:
    """The places that the route of a row holds."""
    return spec_of(row).places(row["options"])


def sorted_ids(route_ids: Iterable[str]) -> list[str]:
    """Route ids by number."""
    return sorted(route_ids, key=route_number)
