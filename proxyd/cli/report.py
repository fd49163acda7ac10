"""`proxyd db report SERVICE --month 2026-11`: uptime, outages, maintenance, deploys, traffic and percentiles of a service in a month, as
text, HTML or JSON."""

from __future__ import annotations

import html
import json
import re
from collections import defaultdict
from typing import Any

from peewee import fn

from proxyd.base.histogram import percentile
from proxyd.base.text import about_size
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.deploys import Deploy
from proxyd.store.sql.maintenance import MaintenanceWindow
from proxyd.store.sql.models import Endpoint
from proxyd.store.sql.query import dicts, tuples
from proxyd.store.sql.rollups import HealthDay, Incident, LatencyHour, Objective, ServiceDay, TrafficDay

FORMATS = ("text", "html", "json")
_MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])", re.ASCII)
_MOST_DEPLOYS = 200
_SHARES = (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99))
_COLUMNS = ("instance", "place", "uptime %", "down s", "maintenance s", "requests", "errors", "p50 ms", "p95 ms", "p99 ms", "sent")


def report(store: Store, service: str, month: str, form: str) -> str:
    """The report. Raises StoreError for a month that is none, and for a service that was not there then."""
    if not _MONTH.fullmatch(month):
        raise StoreError(f"--month: {month!r} is no month like 2026-11")
    found = store.read(_found, service, month)
    if not found["endpoints"]:
        known = store.read(lambda: Endpoint.select().where(Endpoint.service_name == service).exists())
        raise StoreError(f"there was no service {service} in {month} yet" if known else f"the history knows no service {service}")
    makers = {"json": lambda: json.dumps(found, indent=2) + "\n", "html": lambda: _html(found), "text": lambda: _text(found)}
    return makers[form]()


def _found(service: str, month: str) -> dict[str, Any]:
    """What the database has about it. Runs in the database thread."""
    places = {row["endpoint_id"]: row for row in dicts(Endpoint.select().where(Endpoint.service_name == service))}
    health = _sums(HealthDay, HealthDay.day, month, places, ("up_seconds", "down_seconds", "maintenance_seconds"))
    traffic = _sums(TrafficDay, TrafficDay.day, month, places, ("requests", "errors", "bytes_sent"))
    buckets: dict[int, dict[int, int]] = defaultdict(dict)
    query = LatencyHour.select(LatencyHour.endpoint_id, LatencyHour.bucket, fn.SUM(LatencyHour.requests)).where(
        _in(LatencyHour.hour, month), LatencyHour.endpoint_id.in_(list(places))).group_by(LatencyHour.endpoint_id, LatencyHour.bucket)
    for endpoint, bucket, count in tuples(query):
        buckets[endpoint][bucket] = int(count)
    endpoints = []
    for number, row in sorted(places.items()):
        up, down, maintained = health.get(number, (0.0, 0.0, 0.0))
        requests, errors, sent = map(int, traffic.get(number, (0, 0, 0)))
        if not (up or down or maintained or requests) and row["first_seen"] >= month + "~":
            continue
        endpoints.append({
            "instance": row["instance_name"], "place": row["domain"] + row["path"],
            "uptime_percent": round(100 * up / (up + down), 3) if up or down else None,
            "up_seconds": round(up), "down_seconds": round(down),
            "maintenance_seconds": round(maintained), "requests": requests, "errors": errors, "bytes_sent": sent,
            **{name: round(percentile(buckets[number], share) * 1000, 3) for name, share in _SHARES}})
    # Also those that began before and went on.
    outages = Incident.select().where((Incident.service_name == service) & (Incident.started_at < month + "~") & (
        Incident.ended_at.is_null() | (Incident.ended_at >= month))).order_by(Incident.started_at, Incident.incident_id)
    told = ("kind", "instance_name", "domain", "path", "started_at", "ended_at", "ended_how", "planned", "cause")
    incidents = [{name: bool(row[name]) if name == "planned" else row[name] for name in told} for row in dicts(outages)]
    return {"service": service, "month": month, "places": _places(service, month), "objectives": _objectives(service, month, places),
            "endpoints": endpoints, "incidents": incidents, "maintenance": _maintenance(service, month), **_deployed(service, month)}


def _maintenance(service: str, month: str) -> list[dict[str, Any]]:
    """The windows that were in the month, those that began before or go on included."""
    model = MaintenanceWindow
    query = model.select(model.instance_name, model.domain, model.path, model.started_at, model.ended_at, model.entered_by, model.reason)
    return dicts(query.where(
        model.service_name == service, model.started_at < month + "~", model.ended_at.is_null() | (model.ended_at >= month),
    ).order_by(model.started_at, model.window_id))


def _deployed(service: str, month: str) -> dict[str, Any]:
    """How many deploys there were, and the last of them."""
    model = Deploy
    there = (model.service_name == service) & _in(model.at, month)
    query = model.select(model.at, model.instance_name, model.version_before, model.version_after, model.places_added,
                         model.places_changed, model.places_removed, model.actor)
    last = dicts(query.where(there).order_by(model.deploy_id.desc()).limit(_MOST_DEPLOYS))
    return {"deploys": model.select().where(there).count(), "last_deploys": last[::-1]}


def _places(service: str, month: str) -> list[dict[str, Any]]:
    """What users saw at each place: up while one of its instances was."""
    query = ServiceDay.select(ServiceDay.domain, ServiceDay.path, fn.SUM(ServiceDay.up_seconds), fn.SUM(ServiceDay.down_seconds)).where(
        _in(ServiceDay.day, month), ServiceDay.service_name == service).group_by(ServiceDay.domain, ServiceDay.path)
    return [{"place": domain + path, "uptime_percent": round(100 * up / (up + down), 3) if up or down else None, "up_seconds": round(up),
             "down_seconds": round(down)} for domain, path, up, down in sorted(tuples(query))]


def _objectives(service: str, month: str, places: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """Each objective that holds now, and what became of it in the month."""
    traffic = _sums(TrafficDay, TrafficDay.day, month, places, ("requests", "maintenance_hits", "errors", "late"))
    found = []
    for row in sorted(dicts(Objective.select().where(Objective.service_name == service)), key=lambda row: (row["path"], row["objective"])):
        of_place = [traffic[number] for number, place in places.items()
                    if (place["domain"], place["path"]) == (row["domain"], row["path"]) and number in traffic]
        requests = int(sum(sums[0] - sums[1] for sums in of_place))
        bad = int(sum(sums[3 if row["objective"] == "latency" else 2] for sums in of_place))
        budget = requests * (100 - row["target_percent"]) / 100
        found.append({"place": row["domain"] + row["path"], "objective": row["objective"], "target_percent": row["target_percent"],
                      "limit_ms": row["limit_ms"], "requests": requests, "budget": round(budget, 1), "spent": bad,
                      "left": round(budget - bad, 1), "met": bad <= budget})
    return found


def _in(column: Any, month: str) -> Any:
    return (column >= month) & (column < month + "~")


def _sums(model: Any, column: Any, month: str, places: dict[int, Any], names: tuple[str, ...]) -> dict[int, tuple[Any, ...]]:
    fields = [fn.SUM(getattr(model, name)) for name in names]
    query = model.select(model.endpoint_id, *fields).where(_in(column, month), model.endpoint_id.in_(list(places)))
    return {endpoint: tuple(values) for endpoint, *values in tuples(query.group_by(model.endpoint_id))}


def _rows(found: dict[str, Any]) -> list[list[str]]:
    return [[row["instance"], row["place"], "unknown" if row["uptime_percent"] is None else f"{row['uptime_percent']:.3f}",
             str(row["down_seconds"]), str(row["maintenance_seconds"]), str(row["requests"]), str(row["errors"]),
             *(f"{row[name]:.1f}" for name, _ in _SHARES), about_size(row["bytes_sent"])] for row in found["endpoints"]]


def _outages(found: dict[str, Any]) -> list[str]:
    return [f"{row['started_at'][:19]}  to {(row['ended_at'] or 'now')[:19]:<19}  {row['kind']} {row['instance_name']}"
            f"{' ' if row['instance_name'] else ''}{row['domain']}{row['path']}: {row['cause']} "
            f"({row['ended_how'] or 'goes on'}{', planned' if row['planned'] else ''})" for row in found["incidents"]]


def _windows(found: dict[str, Any]) -> list[str]:
    return [f"{row['started_at'][:19]}  to {(row['ended_at'] or 'now')[:19]:<19}  {row['instance_name']} {row['domain']}{row['path']}"
            f"{': ' if row['reason'] else ''}{row['reason']} ({row['entered_by'] or 'unknown'})" for row in found["maintenance"]]


def _deploys(found: dict[str, Any]) -> list[str]:
    lines = [f"the last {len(found['last_deploys'])} of {found['deploys']}"] if found["deploys"] > len(found["last_deploys"]) else []
    for row in found["last_deploys"]:
        before, after = row["version_before"], row["version_after"]
        version = f" {before} to {after}" if before and after and before != after else f" {after}" if after else ""
        counts = [f"{row[f'places_{what}']} {what}" for what in ("added", "changed", "removed") if row[f"places_{what}"]]
        lines.append(f"{row['at'][:19]}  {row['instance_name']}{version}: {', '.join(counts) or 'no place is another'} ({row['actor']})")
    return lines


#: Each list of the report: its heading, and what makes its lines.
_LISTS = (("Outages", _outages), ("Maintenance", _windows), ("Deploys", _deploys))


def _summary(found: dict[str, Any]) -> list[str]:
    """A line for each place and each objective."""
    lines = [f"{row['place']}: users were served {row['uptime_percent']:.3f} % of the time, down {row['down_seconds']} s"
             for row in found["places"] if row["uptime_percent"] is not None]
    for row in found["objectives"]:
        what = "without an error" if row["limit_ms"] is None else f"within {row['limit_ms']:g} ms"
        lines.append(f"{row['place']}: objective {row['target_percent']:g} % {what} {'met' if row['met'] else 'missed'}: {row['spent']} of "
                     f"{row['requests']} requests were bad, {row['budget']:g} may be")
    return lines


def _text(found: dict[str, Any]) -> str:
    table = [list(_COLUMNS), *_rows(found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    summary = _summary(found)
    lists = [text for heading, make in _LISTS for text in ("", heading, "", *(make(found) or ["none"]))]
    head = [f"{found['service']} in {found['month']} (UTC)", "", *summary, *([""] if summary else [])]
    return "\n".join([*head, *lines, *lists, ""])


def _html(found: dict[str, Any]) -> str:
    title = html.escape(f"{found['service']} in {found['month']} (UTC)")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in _COLUMNS)
    rows = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in _rows(found))
    summary = "".join(f"<p>{html.escape(line)}</p>\n" for line in _summary(found))
    lists = "\n".join(f"<h2>{heading}</h2>\n<ul>\n" + "\n".join(f"<li>{html.escape(line)}</li>" for line in make(found) or ["none"]) +
                      "\n</ul>" for heading, make in _LISTS)
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head><body>\n<h1>{title}</h1>\n{summary}'
            f"<table border=\"1\">\n<tr>{head}</tr>\n{rows}\n</table>\n{lists}\n</body></html>\n")
