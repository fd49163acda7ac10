"""What is declared for a time and ends by itself: holds (TRAFFIC_HOLD) and maintenance with a duration. And maintenance that is planned,
which begins by itself."""

from __future__ import annotations

import json
import logging
import time
from math import inf
from typing import Any

import gevent

from proxyd.base import clock
from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.registry.state import Registry
from proxyd.store.sql import maintenance
from proxyd.store.sql.changes import RegistryChange
from proxyd.store.sql.database import StoreError

log = logging.getLogger("proxyd.registry")

#: Seconds before another attempt if the database can't be written.
_AGAIN = 1.0
#: Seconds after which a plan is looked at again, at the latest.
_LOOK_AGAIN = 20.0
_ITSELF = "the end of its time"
#: The columns begin so.
_KINDS = ("hold", "maintenance")
NO_MAINTENANCE: dict[str, Any] = {"maintenance_since": None, "maintenance_page_url": None, "maintenance_until": None,
                                  "maintenance_clock": None}


class Conflict(ValueError):
    """What was asked for is sound, but not possible as things are now."""


class Ends:
    """Holds and lifts routes, and ends what has an end. Methods raise ValueError with a message for a person, and StoreError."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        #: When to look next, and the greenlet that waits for it: one for all, however many holds are declared.
        self._next = inf
        self._timer: gevent.Greenlet | None = None

    def hold(self, route_ids: list[str], seconds: float, actor: str) -> float:
        """Let the requests of routes wait, for `seconds` at most. Returns the end in Unix seconds."""
        until = clock.now() + seconds
        self._set_hold(route_ids, {"hold_until": rfc3339(clock.shown(until)), "hold_clock": clock.mark(until)}, actor)
        self.watch(seconds)
        return clock.shown(until)

    def release(self, route_ids: list[str], actor: str) -> None:
        """Let the requests that wait go on. Harmless for a route that is not held."""
        self._set_hold(route_ids, {"hold_until": None, "hold_clock": None}, actor)

    def _set_hold(self, route_ids: list[str], columns: dict[str, Any], actor: str) -> None:
        registry = self._registry
        with registry.exclusive():
            known = [route_id for route_id in route_ids if route_id in registry.active.rows]
            rows = registry.active.changed(known, columns)
            version = registry.commit(RegistryChange(routes=rows))
        registry.await_workers(version)
        until = columns["hold_until"]
        for row in rows:
            log.info("the requests of route %s %s (%s)", row["route_id"], f"wait until {until}" if until else "go on", actor)
            registry.bus.publish("hold_changed", {"active": until is not None, "until": until or ""}, row["route_id"], row["session"],
                                 actor)

    def watch(self, seconds: float) -> None:
        """Look in so many seconds for what is over, if not before."""
        at = clock.now() + seconds
        if at >= self._next:
            return
        if self._timer is not None:
            self._timer.kill(block=False)
        self._next = at
        self._timer = gevent.spawn_later(max(0.0, seconds), self._look)

    def resume(self) -> None:
        """Watch what was declared before the master began."""
        ends = [end for name in _KINDS for _, end in self._ending(name)]
        if ends:
            self.watch(min(ends) - clock.now())
        planned = [plan["at"] for _, plan in self._planned()]
        if planned:
            # By the time of day, as people plan. It may be set meanwhile, so nobody sleeps through.
            self.watch(min(max(0.0, min(planned) - time.time()), _LOOK_AGAIN))

    def plan(self, route_ids: list[str], plan: dict[str, Any] | None, actor: str, how: str = maintenance.CANCELLED) -> None:
        """Let maintenance begin by itself: `at` (Unix seconds), `seconds`, `page_url`, `reason`. None: nothing is planned any more, which
        the history calls `how`. A route has one plan, the last."""
        registry = self._registry
        with registry.exclusive():
            for route_id in route_ids:
                if route_id not in registry.active.rows:
                    raise Conflict(f'"{route_id}" is not an active route')
            text = None if plan is None else json.dumps({**plan, "at": rfc3339(plan["at"]), "by": actor})
            now = rfc3339(time.time())
            turn = maintenance.Turn(maintenance.UNPLAN, route_ids, now, actor, how=how) if plan is None else maintenance.Turn(
                maintenance.PLAN, route_ids, now, actor, rfc3339(plan["at"] + plan["seconds"]), rfc3339(plan["at"]), plan["reason"])
            registry.commit(RegistryChange(routes=registry.active.changed(route_ids, {"maintenance_plan": text}), maintenance=turn))
        for route_id in route_ids:
            log.info("route %s: maintenance %s (%s)", route_id, f"planned: {text}" if text else "not planned any more", actor)
        self.resume()

    def _planned(self) -> list[tuple[str, dict[str, Any]]]:
        return [(row["route_id"], planned(row) or {}) for row in self._registry.active.rows.values() if row["maintenance_plan"]]

    def _begin(self, route_id: str, plan: dict[str, Any]) -> None:
        """Planned maintenance begins, for what is left of its time: the master may have been away."""
        actor = f"planned by {plan['by']}"
        left = plan["at"] + plan["seconds"] - time.time()
        if left > 0:
            # One commit: whoever is killed between two would have forgotten the plan.
            self.maintain([route_id], {**maintained(plan["page_url"], left), "maintenance_plan": None}, True, actor,
                          start=rfc3339(plan["at"]), reason=plan.get("reason", ""))
        else:
            self.plan([route_id], None, actor, maintenance.MISSED)

    def _ending(self, name: str) -> list[tuple[str, float]]:
        """The routes that have an end of that kind, and when it is."""
        until = f"{name}_until"
        return [(row["route_id"], _end(row, name)) for row in self._registry.active.rows.values() if row[until]]

    def _look(self) -> None:
        # Others may be declared from here on, and watched.
        self._next, self._timer = inf, None
        now = clock.now() + 0.001
        held, over = ([route_id for route_id, end in self._ending(name) if end <= now] for name in _KINDS)
        try:
            if held:
                self.release(held, _ITSELF)
            if over:
                self.maintain(over, dict(NO_MAINTENANCE), False, _ITSELF)
            for route_id, plan in self._planned():
                if plan["at"] <= time.time():
                    self._begin(route_id, plan)
        except (StoreError, ValueError) as error:
            log.warning("what is over can't be ended yet: %s", error)
            self.watch(_AGAIN)
        else:
            self.resume()

    def maintain(self, route_ids: list[str], columns: dict[str, Any], active: bool, actor: str, reason: str = "",
                 start: str | None = None) -> None:
        """Put routes into maintenance, or take them out of it. `reason`: why, for the history; `start`: when it was planned to begin."""
        registry = self._registry
        with registry.exclusive():
            for route_id in route_ids:
                if route_id not in registry.active.rows:
                    raise Conflict(f'"{route_id}" is not an active route')
            before = {route_id: registry.active.rows[route_id]["maintenance_since"] for route_id in route_ids}
            owners = {route_id: registry.active.rows[route_id]["session"] for route_id in route_ids}
            changed = []
            for route_id in route_ids:
                kept = before[route_id] if active and before[route_id] else columns["maintenance_since"]
                changed += registry.active.changed([route_id], {**columns, "maintenance_since": kept})
            now = rfc3339(time.time())
            turn = maintenance.Turn(maintenance.BEGIN, route_ids, columns["maintenance_since"], actor, columns["maintenance_until"], start,
                                    reason) if active else maintenance.Turn(maintenance.END, route_ids, now, actor, how=_how(actor))
            version = registry.commit(RegistryChange(routes=changed, maintenance=turn))
        registry.await_workers(version)
        for route_id in route_ids:
            if bool(before[route_id]) is not active:
                log.info("route %s is %s maintenance (%s)", route_id, "in" if active else "out of", actor)
                registry.bus.publish("maintenance_changed", {"active": active, "page_url": columns["maintenance_page_url"] or ""},
                                     route_id, owners[route_id], actor)


def _how(actor: str) -> str:
    return maintenance.OVER if actor == _ITSELF else maintenance.EXITED


def maintained(page_url: str, seconds: float | None) -> dict[str, Any]:
    """The columns of maintenance that begins now, for `seconds` if it is to end by itself."""
    until = None if seconds is None else clock.now() + seconds
    return {"maintenance_since": rfc3339(time.time()), "maintenance_page_url": page_url,
            "maintenance_until": None if until is None else rfc3339(clock.shown(until)),
            "maintenance_clock": None if until is None else clock.mark(until)}


def planned(row: dict[str, Any]) -> dict[str, Any] | None:
    """The maintenance that is planned for a route: `at` (Unix seconds), `seconds`, `page_url`, and `by` whom."""
    if not row["maintenance_plan"]:
        return None
    plan = json.loads(row["maintenance_plan"])
    return {**plan, "at": parse_rfc3339(plan["at"])}


def _end(row: dict[str, Any], name: str) -> float:
    """When the hold or the maintenance of a row ends, an instant of `base.clock`."""
    return clock.remembered(row[f"{name}_clock"], parse_rfc3339(row[f"{name}_until"]), True)
