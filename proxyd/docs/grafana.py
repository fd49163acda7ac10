"""conf/grafana/history-sqlite.json and history-postgresql.json: dashboards over the database's history, for Grafana's plugin for SQLite
(frser-sqlite-datasource) and its own PostgreSQL data source. Both ask the same SQL: Grafana puts the span in as RFC 3339, as the columns
have it, and reads times from `_epoch` columns."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

#: What Grafana replaces by the span that is shown, `2026-03-02T07:59:30.125Z`.
FROM, TO = "${__from:date:iso}", "${__to:date:iso}"


class Panel(NamedTuple):
    """A panel. `kind`: `timeseries` (the columns `time` in Unix seconds, `metric` and a value) or `table`. `width`, `height`: in Grafana's
    grid of 24 columns. `unit`: as Grafana calls it."""

    title: str
    kind: str
    width: int
    height: int
    sql: str
    unit: str = ""


def _within(column: str) -> str:
    return f"{column} >= '{FROM}' AND {column} <= '{TO}'"


def _by_hour(value: str, view: str = "v_traffic_by_hour") -> str:
    return (f"SELECT hour_epoch AS time, service_name AS metric, {value} FROM {view} WHERE {_within('hour')} "
            "GROUP BY hour_epoch, service_name ORDER BY hour_epoch")


PANELS: tuple[Panel, ...] = (
    Panel("Unwell now", "table", 24, 5, "SELECT severity, what, why, since, todo FROM v_unwell ORDER BY rank"),
    Panel("Requests an hour", "timeseries", 8, 8, _by_hour("SUM(requests) AS requests"), "short"),
    Panel("Errors, percent of requests", "timeseries", 8, 8,
          _by_hour("ROUND(CAST(100.0 * SUM(errors) / NULLIF(SUM(requests - maintenance_hits), 0) AS NUMERIC), 3) AS errors"), "percent"),
    Panel("p95 by hour, of the slowest instance", "timeseries", 8, 8, _by_hour("MAX(p95_ms) AS p95_ms", "v_latency_by_hour"), "ms"),
    Panel("Were users served? 30 days", "table", 12, 8, "SELECT service_name, domain, path, uptime_percent, down_seconds, "
          "maintenance_seconds FROM v_uptime_services WHERE period = '30d' ORDER BY uptime_percent, service_name"),
    Panel("Error budgets", "table", 12, 8, "SELECT service_name, domain, path, objective, target_percent, left_percent, burn_1h, burn_6h "
          "FROM v_slo ORDER BY left_percent IS NULL, left_percent"),
    Panel("Outages of services", "table", 12, 8, "SELECT started_at, ended_at, seconds, service_name, domain, path, planned, ended_how, "
          f"cause, failed_requests FROM v_incidents WHERE kind = 'service' AND {_within('started_at')} "
          "ORDER BY started_at DESC LIMIT 200"),
    Panel("Deploys", "table", 12, 8, "SELECT at, service_name, instance_name, version_before, version_after, places_added, "
          f"places_changed, places_removed, actor FROM v_deploys WHERE {_within('at')} ORDER BY at DESC LIMIT 200"),
    Panel("Maintenance: planned, running, over", "table", 12, 8, "SELECT state, service_name, instance_name, path, planned_start, "
          "started_at, planned_end, ended_at, ended_how, seconds, entered_by, reason FROM v_maintenance "
          f"WHERE ended_at IS NULL OR {_within('ended_at')} ORDER BY window_id DESC LIMIT 200"),
    Panel("Errors of the last seven days", "table", 12, 8, "SELECT service_name, domain, path, status_code, reason, made_by, requests, "
          "last_at, last_url FROM v_errors ORDER BY requests DESC LIMIT 50"),
    Panel("Refused by rate limits", "table", 12, 8, "SELECT r.address, p.service_name, SUM(r.rejected) AS rejected, MAX(r.minute) AS last "
          "FROM rate_limit_rejections r JOIN route_history h ON h.route_id = r.route_id JOIN endpoints p ON p.endpoint_id = h.endpoint_id "
          f"WHERE {_within('r.minute')} GROUP BY r.address, p.service_name ORDER BY rejected DESC LIMIT 50"),
)
_PLUGINS = {"sqlite": "frser-sqlite-datasource", "postgresql": "grafana-postgresql-datasource"}


def _target(engine: str, panel: Panel) -> dict[str, Any]:
    source = {"type": _PLUGINS[engine], "uid": "${datasource}"}
    series = panel.kind == "timeseries"
    if engine == "sqlite":
        return {"refId": "A", "datasource": source, "queryText": panel.sql, "rawQueryText": panel.sql,
                "queryType": "time series" if series else "table", "timeColumns": ["time"] if series else []}
    return {"refId": "A", "datasource": source, "rawSql": panel.sql, "rawQuery": True, "editorMode": "code",
            "format": "time_series" if series else "table"}


def text(engine: str) -> str:
    """The dashboard for an engine, `sqlite` or `postgresql`, as JSON."""
    panels: list[dict[str, Any]] = []
    left = top = lowest = 0
    for number, panel in enumerate(PANELS, 1):
        if left + panel.width > 24:
            left, top = 0, lowest
        defaults: dict[str, Any] = {"unit": panel.unit} if panel.unit else {}
        panels.append({"id": number, "title": panel.title, "type": panel.kind, "datasource": {"type": _PLUGINS[engine],
                                                                                            "uid": "${datasource}"},
                       "gridPos": {"x": left, "y": top, "w": panel.width, "h": panel.height},
                       "fieldConfig": {"defaults": defaults, "overrides": []}, "options": {}, "targets": [_target(engine, panel)]})
        left, lowest = left + panel.width, max(lowest, top + panel.height)
    variable = {"name": "datasource", "label": "Database", "type": "datasource", "query": _PLUGINS[engine], "current": {}}
    named = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[engine]
    return json.dumps({
        "uid": f"proxyd-history-{engine}", "title": f"proxyd: history ({named})", "description": "What the database of proxyd remembers",
        "tags": ["proxyd"], "timezone": "utc", "schemaVersion": 39, "version": 1, "editable": True, "refresh": "5m",
        "time": {"from": "now-7d", "to": "now"}, "templating": {"list": [variable]}, "panels": panels}, indent=1) + "\n"
