"""Rollouts: one instance of a service gets a growing share of its clients, and loses it again if it does worse than the others.

What holds now is in the routes' rows (`rollout_share`), where workers find it. What comes next is in the rollout's own row, so a master
that starts anew goes on where the last one was. A rollout ends with the session of its instance.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import gevent

from proxyd.base import clock
from proxyd.base.text import parse_rfc3339, rfc3339, route_number
from proxyd.base.trouble import Trouble
from proxyd.registry.activeroutes import places_of, sorted_ids
from proxyd.registry.ends import Conflict
from proxyd.registry.rolloutguard import Figures, objection, since
from proxyd.registry.state import Registry
from proxyd.store.memory.transitions import OPEN
from proxyd.store.sql import rollouts
from proxyd.store.sql.changes import RegistryChange
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.rollouts import ABORTED, COMPLETED, ENDED, ROLLED_BACK, RUNNING

log = logging.getLogger("proxyd.registry")

#: Seconds between two looks at what the instance does. Workers write their counts as often.
_LOOK = 0.5
#: Other requests of a step that make their figures worth keeping for a step in which the others get none.
_WORTH_KEEPING = 20
_MOST_STEPS = 100
#: What holds where an operator does not say.
STEPS, EVERY, MAX_ERRORS, MAX_SLOWER = "5,25,50,100", 120.0, 1.0, 2.0
#: What status and history tell of a rollout's row as it stands there.
_SHOWN = ("rollout_id", "state", "share", "step", "every_seconds", "max_errors", "max_slower", "started_at", "started_by", "ended_at",
          "why")


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a rollout goes: percentages of clients, the last of them 100; seconds for each; what the guard allows (see rolloutguard)."""

    instance: str
    steps: tuple[int, ...]
    every: float
    max_errors: float
    max_slower: float


def parse_steps(text: str) -> tuple[int, ...]:
    """`5,25,50,100` as numbers. Raises ValueError."""
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 4 for part in parts) or len(parts) > _MOST_STEPS:
        raise ValueError(f'steps: "{text[:40]}" is not a list of percentages (like 5,25,50,100)')
    steps = tuple(int(part) for part in parts)
    if steps[0] < 1 or steps[-1] != 100 or any(after <= before for before, after in zip(steps, steps[1:], strict=False)):
        raise ValueError(f'steps: "{text[:40]}" must grow from 1 or more, and end with 100')
    return steps


@dataclass(slots=True)
class _Going:
    """A rollout that goes on. `row`: as the database has it. `marks`: what each route had counted when the step began. `aside`: routes of
    the others that stood aside before. `known`: the others' figures of the last step in which they had enough requests."""

    row: dict[str, Any]
    steps: tuple[int, ...]
    step_began: float
    marks: dict[str, Figures]
    aside: list[str]
    known: Figures

    @classmethod
    def of(cls, row: dict[str, Any]) -> _Going:
        """As the last master left it."""
        memory = json.loads(row["memory"])
        return cls(row, tuple(json.loads(row["steps"])), clock.remembered(row["step_clock"], parse_rfc3339(row["step_at"])),
                   {route_id: Figures.from_json(value) for route_id, value in memory["marks"].items()}, memory["aside"],
                   Figures.from_json(memory["known"]))

    def memory(self) -> str:
        """What must outlive the master, beside the row's other columns."""
        return json.dumps({"marks": {route_id: one.to_json() for route_id, one in self.marks.items()}, "aside": self.aside,
                           "known": self.known.to_json()})


class Rollouts:
    """Begins, watches and ends them. One goes on for a service at a time. Methods raise ValueError with a message for a person, Conflict
    among them, and StoreError."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._going: dict[str, _Going] = {}
        self._watching: gevent.Greenlet | None = None
        self._trouble = Trouble(log, "rollouts can't be looked at")

    # -- what an operator asks for

    def start(self, service: str, wanted: Wanted, actor: str) -> None:
        """Give an instance of a service its first share."""
        registry = self._registry
        with registry.exclusive():
            if service in self._going:
                raise Conflict(f"a rollout of {service} to {self._going[service].row['instance_name']} is under way; abort it first")
            target, others = self._sides(service, wanted.instance)
            if not target:
                raise Conflict(f"{service}/{wanted.instance} has no active route; start it first (the option rollout = wait keeps its "
                               "traffic away until then)")
            if not others:
                raise Conflict(f"no other instance of {service} serves where {wanted.instance} does, so there is nothing to roll out")
            if problem := self._unfit(target, ""):
                raise Conflict(f"{service}/{wanted.instance} is not fit to be rolled out: {problem}")
            rows = registry.active.rows
            now = clock.now()
            going = _Going({
                "service_name": service, "instance_name": wanted.instance, "session_id": rows[target[0]]["session"], "state": RUNNING,
                "steps": json.dumps(wanted.steps), "step": 0, "every_seconds": wanted.every, "max_errors": wanted.max_errors,
                "max_slower": wanted.max_slower, "started_at": rfc3339(clock.shown(now)), "started_by": actor, "ended_at": None, "why": ""},
                wanted.steps, now, {}, [route_id for route_id in others if rows[route_id]["rollout_share"] == 0], Figures())
            version = self._begin_step(going, 0)
            self._going[service] = going
        registry.await_workers(version)
        log.info("rollout of %s to %s: %d %% of its clients (%s)", service, wanted.instance, wanted.steps[0], actor)
        self._watch()

    def abort(self, service: str, actor: str) -> None:
        """Give everything back to the others."""
        with self._registry.exclusive():
            going = self._going.get(service)
            if going is None:
                raise Conflict(f"no rollout of {service} is under way")
            version = self._end(going, ABORTED, f"aborted by {actor}", actor)
        self._registry.await_workers(version)

    def clear(self, service: str, actor: str) -> None:
        """Let all instances of a service share by weight again, after a rollout."""
        registry = self._registry
        with registry.exclusive():
            if service in self._going:
                raise Conflict(f"a rollout of {service} is under way; abort it first")
            rows = registry.active.changed(self._of(service), {"rollout_share": None})
            version = registry.commit(RegistryChange(routes=rows))
        registry.await_workers(version)
        log.info("all instances of %s share its requests again (%s)", service, actor)

    def status(self, service: str) -> dict[str, Any] | None:
        """The rollout of a service that goes on, or its last one; None if there was none."""
        going = self._going.get(service)
        row = going.row if going is not None else self._registry.store.read(rollouts.last, service)
        if row is None:
            return None
        left = max(0.0, going.step_began + row["every_seconds"] - clock.now()) if going is not None else 0.0
        return {"service": service, "instance": row["instance_name"], **{name: row[name] for name in _SHOWN},
                "steps": json.loads(row["steps"]), "step_remaining_seconds": round(left, 1),
                "figures": {"instance": _told(row, ""), "others": _told(row, "other_")}}

    # -- what goes by itself

    def resume(self) -> None:
        """Go on with what the last master had begun."""
        for row in self._registry.store.read(rollouts.running):
            self._going[row["service_name"]] = _Going.of(row)
        if self._going:
            self._watch()

    def _watch(self) -> None:
        if self._watching is None or self._watching.dead:
            self._watching = gevent.spawn(self._run)

    def _run(self) -> None:
        while self._going:
            gevent.sleep(_LOOK)
            for going in list(self._going.values()):
                try:
                    self._look(going)
                    self._trouble.is_over()
                except StoreError as error:
                    self._trouble.goes_on(error)
                except Exception as error:
                    self._trouble.goes_on(error, error)

    def _look(self, going: _Going) -> None:
        """Compare, and take the next step if it is time."""
        row = going.row
        service, instance = row["service_name"], row["instance_name"]
        counted = self._registry.store.read(rollouts.counted, self._of(service))
        version = 0
        with self._registry.exclusive():
            if self._going.get(service) is not going:
                return
            target, others = self._sides(service, instance)
            ours, theirs = since(target, counted, going.marks), since(others, counted, going.marks)
            _note(row, "", ours)
            _note(row, "other_", theirs)
            over = clock.now() >= going.step_began + row["every_seconds"]
            against = theirs if theirs.requests >= _WORTH_KEEPING or not going.known.requests else going.known
            if not target:
                version = self._end(going, ENDED, "its session ended")
                return
            problem = self._unfit(target, row["session_id"]) or objection(ours, against, row["max_errors"], row["max_slower"], over)
            if problem:
                version = self._end(going, ROLLED_BACK, problem)
            elif over and row["step"] + 1 < len(going.steps):
                going.known = against
                version = self._begin_step(going, row["step"] + 1)
                log.info("rollout of %s to %s: %g %% of its clients", service, instance, going.row["share"])
            elif over:
                version = self._end(going, COMPLETED, "")
        self._registry.await_workers(version)

    def _begin_step(self, going: _Going, step: int) -> int:
        """Set the shares of a step, and remember what was counted before. Returns the config version, as the others do."""
        now = clock.now()
        counted = self._registry.store.read(rollouts.counted, self._of(going.row["service_name"]))
        going.marks = {route_id: Figures(one.requests, one.errors, one.latency) for route_id, one in counted.items()}
        row = {**going.row, "step": step, "share": float(going.steps[step]), "step_at": rfc3339(clock.shown(now)),
               "step_clock": clock.mark(now), "memory": going.memory()}
        _note(row, "", Figures())
        _note(row, "other_", Figures())
        version = self._commit(going, row, row["started_by"] if step == 0 else "")
        going.step_began = now
        return version

    def _end(self, going: _Going, state: str, why: str, actor: str = "") -> int:
        row = {**going.row, "state": state, "why": why, "ended_at": rfc3339(time.time()), "share": 100.0 if state == COMPLETED else 0.0}
        version = self._commit(going, row, actor)
        self._going.pop(row["service_name"], None)
        say = log.warning if state == ROLLED_BACK else log.info
        say("the rollout of %s to %s is %s%s", row["service_name"], row["instance_name"], state.replace("_", " "), why and f": {why}")
        return version

    def _commit(self, going: _Going, row: dict[str, Any], actor: str) -> int:
        """Write the row and the shares that go with it, in one transaction, and tell."""
        registry = self._registry
        target, others = self._sides(row["service_name"], row["instance_name"])
        share = row["share"]
        mine: float | None = share if share < 100.0 else None
        changed = registry.active.changed(target, {"rollout_share": mine})
        for route_id in others:
            stands_aside = share >= 100.0 or route_id in going.aside
            changed += registry.active.changed([route_id], {"rollout_share": 0.0 if stands_aside else None})
        version = registry.commit(RegistryChange(routes=changed, rollout=row))
        going.row = row
        registry.bus.publish("rollout_changed", {
            "service": row["service_name"], "instance": row["instance_name"], "state": row["state"], "share": share, "reason": row["why"]},
            None, row["session_id"], actor)
        return version

    # -- who is who

    def _of(self, service: str) -> list[str]:
        return [row["route_id"] for row in self._registry.active.rows.values() if row["service_name"] == service]

    def _sides(self, service: str, instance: str) -> tuple[list[str], list[str]]:
        """The routes of the instance, and those of other instances that share a place with one of them."""
        active = self._registry.active
        target = [route_id for route_id in self._of(service) if active.rows[route_id]["instance_name"] == instance]
        places = {place for route_id in target for place in places_of(active.rows[route_id])}
        others = {route_id for place in places for route_id in active.at(place)} - set(target)
        return sorted_ids(target), sorted_ids(route_id for route_id in others if active.rows[route_id]["service_name"] == service)

    def _unfit(self, target: list[str], session_id: str) -> str:
        """Why the instance can't take traffic now; empty if it can. `session_id`: the session that the rollout began with."""
        registry = self._registry
        for route_id in target:
            row = registry.active.rows[route_id]
            if session_id and row["session"] != session_id:
                return "it registered anew"
            if not row["enabled"]:
                return "it has lost its connection to the registry"
            for column, what in (("maintenance_since", "is in maintenance"), ("drain_started_at", "drains"), ("hold_until", "is held")):
                if row[column]:
                    return f"it {what}"
            health = registry.live_health(route_id)
            if health is not None and health["status"] == "down":
                return f"its health check fails: {health.get('reason') or 'down'}"
            if registry.circuits.read(row["slot"], route_number(route_id)).state == OPEN:
                return f"the circuit of its route {route_id} is open"
        return ""


def _note(row: dict[str, Any], side: str, figures: Figures) -> None:
    row[f"{side}requests"], row[f"{side}errors"], row[f"{side}p95_ms"] = figures.requests, figures.errors, figures.p95_ms


def _told(row: dict[str, Any], side: str) -> dict[str, Any]:
    return {name: row[f"{side}{name}"] for name in ("requests", "errors", "p95_ms")}
