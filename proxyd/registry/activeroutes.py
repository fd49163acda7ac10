"""The active routes in memory: their rows as the database has them, the places they hold, and the slots of their circuits."""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from proxyd.base import clock
from proxyd.base.conditions import with_conditions
from proxyd.base.text import rfc3339, route_number
from proxyd.registry.configuration import Place, RouteSpec
from proxyd.store.memory.circuits import CircuitBoard

#: Routes of a domain and path that may differ in their conditions or priority.
MOST_KINDS = 100


class ActiveRoutes:
    """`rows`: by route id. `places`: for each place, the services that hold it, by route id.

    Nothing here writes to the database. The caller commits a row first, and then puts it here.
    """

    def __init__(self, circuits: CircuitBoard) -> None:
        self._circuits = circuits
        self.rows: dict[str, dict[str, Any]] = {}
        self.places: dict[Place, dict[str, str]] = {}
        #: The priorities and conditions at which a domain and path are held. Few are held at more than one.
        self._held: dict[tuple[str, str], set[tuple[int, str]]] = {}
        self._contested: set[tuple[str, str]] = set()
        self._free: list[int] = []
        self._next_slot = 0

    def load(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take over the database's rows, and the slots that they use."""
        used = set()
        for row in rows:
            self._take(row)
            used.add(row["slot"])
            self._circuits.claim(row["slot"], route_number(row["route_id"]))
        self._next_slot = max(used, default=-1) + 1
        self._free = [slot for slot in range(self._next_slot) if slot not in used]
        heapq.heapify(self._free)

    def put(self, row: dict[str, Any]) -> None:
        """Take over a new or changed row."""
        self._drop_places(row["route_id"])
        self._leave_slot(row)
        self._take(row)

    def remove(self, route_id: str) -> None:
        """Remove a route: give up its places and free its slot."""
        self._drop_places(route_id)
        row = self.rows.pop(route_id, None)
        if row is not None:
            self._circuits.retire(row["slot"], route_number(route_id))
            heapq.heappush(self._free, row["slot"])

    def conflict(self, service: str, claimed: Mapping[str, list[Place]]) -> str | None:
        """The error if another service holds a place that one of the routes claims (by route id), else None."""
        fresh: dict[tuple[str, str], set[tuple[int, str]]] = {}
        for claimer, places in claimed.items():
            for place in places:
                domain, path, priority, asked = place
                for route_id, owner in self.places.get(place, {}).items():
                    if owner != service:
                        holder, where = self.rows[route_id], with_conditions(domain + path, asked)
                        return (f"route {claimer}: {where} at priority {priority} is held by service {owner} "
                                f"(instance {holder['instance_name']}, route {route_id}); choose another path or priority")
                if asked:
                    kinds = fresh.setdefault((domain, path), set(self._held.get((domain, path), ())))
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
        others = [set(self.places.get(place, ())) - {route_id} for place in places_of(self.rows[route_id])]
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

    def _take(self, row: dict[str, Any]) -> None:
        self.rows[row["route_id"]] = row
        for place in places_of(row):
            self.places.setdefault(place, {})[row["route_id"]] = row["service_name"]
            where = place[:2]
            held = self._held.setdefault(where, set())
            held.add(place[2:])
            if len(held) > 1:
                self._contested.add(where)

    def _drop_places(self, route_id: str) -> None:
        row = self.rows.get(route_id)
        if row is None:
            return
        for place in places_of(row):
            holders = self.places.get(place)
            if holders is not None:
                holders.pop(route_id, None)
                if not holders:
                    del self.places[place]
                    self._leave(place)

    def _leave(self, place: Place) -> None:
        where = place[:2]
        held = self._held[where]
        held.discard(place[2:])
        if len(held) < 2:
            self._contested.discard(where)
        if not held:
            del self._held[where]

    def overridden(self, service: str, rows: Iterable[dict[str, Any]]) -> dict[tuple[str, str], str]:
        """Routes of other services that get no traffic at a place because of these routes: the route that does, by route id and place."""
        found = {}
        for row in rows:
            for domain, path, priority, asked in places_of(row):
                for lower, other in self._held.get((domain, path), ()):
                    # A route with conditions leaves to others what it does not ask for.
                    if lower < priority and asked in ("", other):
                        found.update({(route_id, with_conditions(domain + path, other)): row["route_id"]
                                      for route_id, owner in self.places[domain, path, lower, other].items() if owner != service})
        return found

    def overridden_now(self, most: int) -> list[str]:
        """Sentences about routes that get no traffic because another service's route has a higher priority."""
        found = []
        for domain, path in self._contested:
            held = self._held[domain, path]
            for lower, other in held:
                over = [(priority, asked) for priority, asked in held if priority > lower and asked in ("", other)]
                if not over:
                    continue
                winner, service = next(iter(self.places[domain, path, *max(over)].items()))
                reason = f"{with_conditions(domain + path, other)}: route {winner} of {service} has a higher priority"
                found += [f"route {route_id} of {owner} gets no traffic at {reason}"
                          for route_id, owner in self.places[domain, path, lower, other].items() if owner != service]
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
