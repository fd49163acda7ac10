"""The rows of what only the master knows: what is unwell, and objectives, which are options of routes. What writes runs in the database
thread."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from peewee import chunked

from proxyd.base.findings import Finding
from proxyd.config.options import option_of
from proxyd.store.sql.models import Route
from proxyd.store.sql.query import tuples
from proxyd.store.sql.rollups import Objective, UnwellRow

#: Rank, severity, kind, what, why, since, service, routes, what to do.
Row = tuple[int, str, str, str, str, str | None, str, str, str]
#: Service, domain, path, objective: share in percent and limit in milliseconds.
Objectives = dict[tuple[str, str, str, str], tuple[float, float | None]]

AVAILABILITY, LATENCY = "availability", "latency"
#: The findings that are written: the table is for people, and the worst come first.
_MOST = 1000
_CHUNK = 80


def rows_of(found: Iterable[Finding]) -> list[Row]:
    """The rows for findings, the worst first."""
    return [(rank, item.severity, item.kind, item.what, item.why, item.since, item.service, json.dumps(list(item.route_ids)), item.todo)
            for rank, item in enumerate(list(found)[:_MOST], 1)]


def write_unwell(rows: list[Row]) -> None:
    """Write them in place of what was there."""
    UnwellRow.delete().execute()
    fields = (UnwellRow.rank, UnwellRow.severity, UnwellRow.kind, UnwellRow.what, UnwellRow.why, UnwellRow.since, UnwellRow.service_name,
              UnwellRow.routes, UnwellRow.todo)
    for piece in chunked(rows, _CHUNK):
        UnwellRow.insert_many(piece, fields).execute()


def write_objectives() -> None:
    """Write the objectives of the routes that are there in place of the last. Of replicas that differ, the strictest holds."""
    found: Objectives = {}
    of_all = list(_objectives({}))
    for service, domains, path, options in tuples(Route.select(Route.service_name, Route.domains, Route.path, Route.options)):
        # Most routes have none, and there may be thousands.
        for objective, target, limit in _objectives(json.loads(options)) if '"slo_' in options else of_all:
            key = (service, json.loads(domains)[0], path, objective)
            before = found.get(key)
            if before is None or _strictness(target, limit) > _strictness(*before):
                found[key] = (target, limit)
    there = {row[:4]: row[4:] for row in tuples(Objective.select(
        Objective.service_name, Objective.domain, Objective.path, Objective.objective, Objective.target_percent, Objective.limit_ms))}
    if there == found:
        return
    Objective.delete().execute()
    fields = (Objective.service_name, Objective.domain, Objective.path, Objective.objective, Objective.target_percent, Objective.limit_ms)
    for piece in chunked(((*key, *values) for key, values in sorted(found.items())), _CHUNK):
        Objective.insert_many(piece, fields).execute()


def _objectives(options: Mapping[str, str]) -> Iterable[tuple[str, float, float | None]]:
    availability = option_of(options, "slo_availability")
    if availability:
        yield AVAILABILITY, availability, None
    within = option_of(options, "slo_latency")
    if within is not None:
        yield LATENCY, within.percent, within.seconds * 1000


def _strictness(target: float, limit: float | None) -> tuple[float, float]:
    return target, -(limit or 0.0)
