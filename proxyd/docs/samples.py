"""The rows behind docs/database.md's sample outputs: a morning after a night in which one backend misbehaved."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from typing import Any

from proxyd.base.histogram import bucket_of
from proxyd.store.sql import running

#: The instant at which the sample is looked at.
NOW = datetime(2026, 3, 2, 8, 0, tzinfo=UTC)

_SESSIONS = {"shop-1": ("shop", "s1"), "shop-2": ("shop", "s2"), "search-1": ("search", "s3")}
_HOST = {"host": "web1", "boot": "4be0643f1d98"}
_ROUTES = (
    ("r1", "shop-1", "shop.example.com", "/", "http://10.0.0.11:8080"),
    ("r2", "shop-2", "shop.example.com", "/", "http://10.0.0.12:8080"),
    ("r3", "search-1", "shop.example.com", "/search", "http://10.0.0.21:9000"),
)


def at(text: str) -> str:
    """An instant as the tables have it: `07:30:00` is of this morning, a date before it is of another day."""
    moment = datetime.fromisoformat(text if "T" in text else f"{NOW:%Y-%m-%d}T{text}")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"


def _insert(connection: sqlite3.Connection, table: str, **values: Any) -> None:
    """Insert a row; needed columns that are not given are empty or 0."""
    for _, name, kind, needed, default, key in connection.execute(f"PRAGMA table_info({table})").fetchall():
        if needed and not key and default is None:
            values.setdefault(name, "" if kind in ("TEXT", "VARCHAR(255)") else 0)
    names = ", ".join(values)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", list(values.values()))


def fill(connection: sqlite3.Connection) -> None:
    """Put the sample's rows into a migrated database."""
    _configuration(connection)
    _health(connection)
    _traffic(connection)
    _events(connection)
    connection.commit()


def _configuration(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE counters SET value = 12 WHERE name = 'config_version'")
    for instance, (service, session_id) in _SESSIONS.items():
        _insert(connection, "sessions", session_id=session_id, service_name=service, instance_name=instance, state="connected",
                metadata="{}", connected_at=at("2026-02-27T09:12:00"), last_activity=at("07:59:40"), last_apply=at("2026-03-01T21:40:03"))
    for slot, (route_id, instance, domain, path, backend) in enumerate(_ROUTES):
        service, session_id = _SESSIONS[instance]
        _insert(connection, "routes", route_id=route_id, session_id=session_id, service_name=service, instance_name=instance,
                domains=json.dumps([domain]), path=path, backend_url=backend, priority=0, enabled=True, options="{}", headers="{}",
                request_headers="{}", rate_limits="[]", slot=slot, version=12,
                created_at=at("2026-02-27T09:12:01"), updated_at=at("2026-03-01T21:40:03"))
    _history(connection)
    for pid, version in ((4121, 12), (4122, 12), (4123, 11)):
        _insert(connection, "workers", **_HOST, pid=pid, started_at=at("2026-02-27T09:10:00"), config_version=version,
                heartbeat_at=at("07:59:59") if version == 12 else at("07:58:11"))


def _history(connection: sqlite3.Connection) -> None:
    """What the routes are for; the first route of search went with a deploy."""
    added, deployed = at("2026-02-27T09:12:01"), at("2026-03-01T21:38:47")
    for number, service in enumerate(("shop", "search"), 1):
        _insert(connection, "services", service_id=number, service_name=service, first_seen=added)
    for number, (route_id, instance, domain, path, backend) in enumerate(_ROUTES, 1):
        service, session_id = _SESSIONS[instance]
        _insert(connection, "endpoints", endpoint_id=number, service_id=2 if service == "search" else 1, service_name=service,
                instance_name=instance, domain=domain, path=path, first_seen=added)
        redeployed = route_id == "r3"
        _insert(connection, "route_history", route_id=route_id, endpoint_id=number, session_id=session_id, backend_url=backend,
                added_at=deployed if redeployed else added, added_by=f"{service}/{instance}@10.0.0.21:51422")
    _insert(connection, "endpoints", endpoint_id=4, service_id=2, service_name="search", instance_name="search-1",
            domain="shop.example.com", path="/find", first_seen=added)
    _insert(connection, "route_history", route_id="r4", endpoint_id=4, session_id="s3", backend_url="http://10.0.0.21:9000",
            added_at=deployed, added_by="search/search-1@10.0.0.21:51422")
    _insert(connection, "route_history", route_id="r0", endpoint_id=3, session_id="s0", backend_url="http://10.0.0.20:9000", added_at=added,
            added_by="search/search-1@10.0.0.20:40112", removed_at=deployed, removed_by="search/search-1@10.0.0.21:51422",
            removed_why="redeployed")


def _health(connection: sqlite3.Connection) -> None:
    for number, (route_id, _, _, _, backend) in enumerate(_ROUTES):
        failing = route_id == "r3"
        _insert(connection, "health_status", route_id=route_id, url=f"{backend}/healthz", status="down" if failing else "healthy",
                reason="112 checks in a row failed: no complete answer within 2 s" if failing else "checks pass",
                since=at("07:41:10" if failing else "2026-02-27T09:12:20"), last_check=at("07:59:55"),
                last_success=at("07:41:00" if failing else "07:59:55"), response_time_ms=None if failing else 2.4 + number,
                success_rate_percent=41.0 if failing else 100.0, consecutive_failures=112 if failing else 0, checks=8640)
        for index in range(1440):
            moment = NOW - timedelta(minutes=1440 - index)
            # The upgrade of shop-2, and a check that failed in it.
            planned = route_id == "r2" and 1320 <= index < 1340
            bad = (index >= 1421 or index in (850, 851, 852, 895, 896, 897)) if failing else route_id == "r2" and index in (300, 1325)
            _insert(connection, "health_results", route_id=route_id, checked_at=at(moment.strftime("%Y-%m-%dT%H:%M:%S")), ok=not bad,
                    status_code=None if bad else 200, response_time_ms=None if bad else 2.0 + number + index % 7 / 10,
                    error="no complete answer within 2 s" if bad else None, planned=planned)
    outages = (("2026-03-01T22:10:10", "2026-03-01T22:13:20"), ("2026-03-01T22:55:10", "2026-03-01T22:58:20"), ("07:41:10", None))
    for number, (start, end) in enumerate(outages):
        for kind, endpoint, instance in (("endpoint", 3, "search-1"), ("service", None, "")):
            _insert(connection, "incidents", incident_id=2 * number + (1 if endpoint else 2), kind=kind, endpoint_id=endpoint,
                    service_name="search", instance_name=instance, domain="shop.example.com", path="/search", route_id="r3", planned=False,
                    started_at=at(start), first_failed_at=at(start)[:17] + "00.000Z", ended_at=at(end) if end else None,
                    ended_how="recovered" if end else None, cause="3 checks in a row failed: no complete answer within 2 s")
    for endpoint, down, maintained in ((1, 0, 0), (2, 0, 1200), (3, 1510, 0)):
        for table, column, start, hours in (("health_hours", "hour", "2026-03-01T08:00:00", 24), ("health_days", "day",
                                                                                                 "2026-02-28T00:00:00", 56)):
            for hour in range(0, hours, 1 if column == "hour" else 24):
                length = min(hours - hour, 1 if column == "hour" else 24) * 3600
                last = hour + length / 3600 >= hours
                lost = down * last + maintained * last
                _insert(connection, table, endpoint_id=endpoint, up_seconds=float(length - lost), down_seconds=float(down * last),
                        maintenance_seconds=float(maintained * last), good=(length - lost) // 60, bad=down * last // 60,
                        in_maintenance=maintained * last // 60,
                        response_us_sum=(length - lost) // 60 * 2_400, response_us_min=1_100, response_us_max=31_900 + 1_000 * hour,
                        **{column: at((datetime.fromisoformat(start) + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%S"))})
        for minute in ("07:58:00", "07:59:00"):
            _insert(connection, "health_minutes", endpoint_id=endpoint, minute=at(minute), up_seconds=0.0 if down else 60.0,
                    down_seconds=60.0 if down else 0.0, good=0 if down else 6, bad=6 if down else 0,
                    **{} if down else {"response_us_sum": 14_400, "response_us_min": 1_100, "response_us_max": 5_300})
    for path, down in (("/", 0), ("/search", 1510)):
        service = "shop" if path == "/" else "search"
        for hour in range(24):
            _insert(connection, "service_hours", service_name=service, domain="shop.example.com", path=path, down_seconds=float(
                down * (hour == 23)), up_seconds=3600.0 - down * (hour == 23), maintenance_seconds=0.0,
                hour=at((datetime.fromisoformat("2026-03-01T08:00:00") + timedelta(hours=hour)).strftime("%Y-%m-%dT%H:%M:%S")))
        for day, length in (("2026-02-28", 86400), ("2026-03-01", 86400), ("2026-03-02", 28800)):
            lost = down * (length == 28800)
            _insert(connection, "service_days", service_name=service, domain="shop.example.com", path=path, day=at(f"{day}T00:00:00"),
                    up_seconds=float(length - lost), down_seconds=float(lost), maintenance_seconds=0.0)
    for summed in running.KINDS:
        for model, column in summed.tables:
            for span in connection.execute(f"SELECT DISTINCT {column} FROM {model._meta.table_name} ORDER BY {column}").fetchall():
                for statement in running.reckoning(summed, model, column, "?"):
                    connection.execute(statement, span)
    _insert(connection, "objectives", service_name="search", domain="shop.example.com", path="/search", objective="availability",
            target_percent=99.0)
    _insert(connection, "objectives", service_name="shop", domain="shop.example.com", path="/", objective="latency", target_percent=99.5,
            limit_ms=250.0)
    why = "search-1 (r3): its health check fails (112 checks in a row failed: no complete answer within 2 s)"
    _insert(connection, "unwell", rank=1, severity="critical", kind="out_of_service", service_name="search", routes='["r3"]',
            what="search (shop.example.com/search) is out of service", why=why, since=at("07:41:10"),
            todo="Start the service again, or repair what its members fail with.")
    _insert(connection, "circuits", host="web1", route_id="r3", state="open", reason="health_down", opened_at=at("07:41:10"),
            last_failure=at("07:41:10"), changed_at=at("07:41:10"))


def _traffic(connection: sqlite3.Connection) -> None:
    for route_id, per_minute, milliseconds, errors in (("r1", 610, 18.0, 0), ("r2", 596, 19.5, 0), ("r3", 145, 410.0, 9)):
        requests = per_minute * 60
        for minute in range(60):
            _insert(connection, "route_minutes", route_id=route_id, minute=at((NOW - timedelta(minutes=60 - minute)).strftime(
                "%Y-%m-%dT%H:%M:%S")), requests=per_minute, errors=errors, proxy_errors=errors // 3,
                late=0 if errors else 2, latency_ms_sum=per_minute * milliseconds, bytes_sent=per_minute * 21_000,
                bytes_received=per_minute * 800)
        _insert(connection, "route_stats", route_id=route_id, requests=requests, errors=errors * 60, latency_ms_sum=requests * milliseconds,
                bytes_sent=requests * 21_000, bytes_received=requests * 800, rate_limited=1893 if route_id == "r3" else 0,
                retries=212 if route_id == "r3" else 3, updated_at=at("07:59:59"))
        hour, endpoint = at("07:00:00"), int(route_id[1:])
        counted = {"requests": requests, "errors": errors * 60, "proxy_errors": errors // 3 * 60, "late": 0 if errors else 120,
                   "latency_ms_sum": requests * milliseconds, "bytes_sent": requests * 21_000,
                   "bytes_received": requests * 800, "status_2xx": requests - errors * 60 - 40, "status_4xx": 40, "status_5xx": errors * 60}
        _insert(connection, "traffic_hours", endpoint_id=endpoint, hour=hour, **counted)
        _insert(connection, "traffic_days", endpoint_id=endpoint, day=at("00:00:00"), **counted)
        for share, factor in ((50, 0.6), (35, 1.1), (10, 1.9), (4, 3.2), (1, 6.5)):
            _insert(connection, "route_latency", route_id=route_id, bucket=bucket_of(milliseconds * factor / 1000),
                    requests=requests * share // 100)
            _insert(connection, "latency_hours", endpoint_id=endpoint, hour=hour, bucket=bucket_of(milliseconds * factor / 1000),
                    requests=requests * share // 100)
        for status, count in ((200, requests - errors * 60 - 40), (404, 40), (504, errors * 60)):
            if count:
                _insert(connection, "route_status_codes", route_id=route_id, status_code=status, responses=count)
    _insert(connection, "route_minutes", route_id="r0", minute=at("2026-03-01T21:30:00"), requests=140, errors=2, latency_ms_sum=57_000.0,
            bytes_sent=2_900_000, bytes_received=112_000)
    for pid, r1, sockets in ((4121, 6, 31), (4122, 4, 28), (4123, 5, 33)):
        _insert(connection, "route_in_flight", **_HOST, pid=pid, route_id="r1", in_flight=r1 + sockets, websocket_active=sockets)
    for started, address, rejected in (("07:12:00", "203.0.113.77", 911), ("07:13:00", "203.0.113.77", 870),
                                      ("07:31:00", "2001:db8:12:40::/64", 112)):
        _insert(connection, "rate_limit_rejections", route_id="r3", minute=at(started), address=address, rejected=rejected)
    for moment, url, total in (("07:40:12", "shop.example.com/search", 8120.4), ("07:40:31", "shop.example.com/search/suggest", 5033.9)):
        _insert(connection, "slow_requests", route_id="r3", at=at(moment), level="critical", method="GET", url=url, status_code=200,
                total_ms=total, queue_ms=0.3, connect_ms=1.1, first_byte_ms=total - 12.4, body_ms=11.0, request_id="8d1f2c60a7b3-1f4",
                upstream="10.0.0.21:9000")
    for endpoint, hour, status, reason, made, count, last, url, upstream in (
            (3, "07:00:00", 504, "upstream_timeout", "backend", 41, "07:41:09", "/search", "10.0.0.21:9000"),
            (3, "07:00:00", 503, "upstream_down", "proxy", 118, "07:59:58", "/search", ""),
            (1, "06:00:00", 500, "", "backend", 3, "06:12:44", "/cart", "10.0.0.21:3000"),
            (0, "07:00:00", 404, "unknown_host", "client", 19, "07:48:03", "/", "")):
        host = "shop.example.com" if endpoint else "old.example.com"
        _insert(connection, "error_hours", endpoint_id=endpoint, hour=at(hour), status_code=status, reason=reason, made_by=made,
                requests=count, last_at=at(last), last_method="GET", last_url=host + url, last_upstream=upstream,
                last_request_id="8d1f2c60a7b3-2c1")
    _insert(connection, "unknown_hosts", host="old.example.com", requests=19, last_at=at("07:48:03"))
    for closed, client, reason in (("06:58:20", "198.51.100.23", "closed"), ("07:22:05", "198.51.100.40", "idle_timeout")):
        _insert(connection, "websocket_connections", route_id="r1", opened_at=at("06:15:00"), closed_at=at(closed), client=client,
                bytes_sent=48_112, bytes_received=9_204, reason=reason)
    for reason, requests in (("rate_limited", 1893), ("timeout", 612), ("client_gone", 97)):
        _insert(connection, "refusals", reason=reason, requests=requests)


def _events(connection: sqlite3.Connection) -> None:
    def event(moment: str, kind: str, route_id: str | None, detail: dict[str, Any], session_id: str | None = None, actor: str = "") -> None:
        _insert(connection, "events", at=at(moment), type=kind, route_id=route_id, session_id=session_id, actor=actor,
                detail=json.dumps(detail))

    for number, (moment, added, before, change) in enumerate((
            ("2026-03-01T21:38:47", 1, "2.3.1", {"added": [{"route_id": "r4", "domains": ["shop.example.com"], "path": "/find",
                                                            "backend_url": "http://10.0.0.21:9000"}],
                                                 "changed": [{"route_id": "r3", "domain": "shop.example.com", "path": "/search",
                                                              "backend_url": ["http://10.0.0.20:9000", "http://10.0.0.21:9000"]}]}),
            ("2026-03-01T21:40:03", 0, "2.4.0", {"changed": [{"route_id": "r3", "domain": "shop.example.com", "path": "/search",
                                                              "options": {"timeout": [None, "2s"]}}]})), 1):
        applied = {"service": "search", "instance": "search-1", "routes": added + 1, "removed": [], "settings": 3}
        event(moment, "config_applied", None, applied, "s3", "search/search-1@10.0.0.21:51422")
        _insert(connection, "deploys", deploy_id=number, at=at(moment), service_name="search", instance_name="search-1",
                actor="search/search-1@10.0.0.21:51422", version_before=before, version_after="2.4.0", config_version=10 + number,
                places_added=added, places_changed=1, places_removed=0, routes_set=added + 1, settings_changed=3,
                change=json.dumps(change))
    for moment, what, why, times, last in (
            ("2026-02-27T09:12:02", "ordered", "", 1, "2026-02-27T09:12:02"), ("2026-02-27T09:12:09", "failed", "http-01: 10.0.0.9 was "
             "asked: connection refused", 3, "2026-02-27T09:26:40"), ("2026-02-27T10:01:12", "obtained", "", 1, "2026-02-27T10:01:12")):
        got = {"issuer": "Let's Encrypt", "serial": "4a1f", "not_before": at("2026-02-27T09:02:00"),
               "not_after": at("2026-05-28T09:02:00")} if what == "obtained" else {}
        _insert(connection, "certificate_history", at=at(moment), what=what, domain="shop.example.com", key_type="ecdsa256",
                names='["shop.example.com"]', why=why, times=times, last_at=at(last), challenge="http-01", **got)
        if got:
            _insert(connection, "certificates", domain="shop.example.com", key_type="ecdsa256", version=4, **got)
    for number, (planned, start, end, ended, how, reason) in enumerate((
            (None, "2026-02-28T23:00:00", None, "2026-02-28T23:04:10", "exited", "new disk"),
            ("06:00:00", "06:00:00", "06:20:00", "06:20:00", "over", "upgrade of the database"),
            ("2026-03-03T06:00:00", None, "2026-03-03T06:20:00", None, None, "the same for shop-1")), 1):
        endpoint = 1 if ended is None else 2
        _insert(connection, "maintenance_windows", window_id=number, endpoint_id=endpoint, service_name="shop",
                instance_name=f"shop-{endpoint}", domain="shop.example.com", path="/", route_id=f"r{endpoint}",
                planned_start=planned and at(planned), planned_end=end and at(end), started_at=start and at(start),
                entered_by="admin token from 127.0.0.1", reason=reason, ended_at=ended and at(ended), ended_how=how,
                ended_by={"over": "the end of its time", "exited": "admin token from 127.0.0.1"}.get(how or ""))
    night = (("2026-03-01T22:10:10", "down", "closed", "open", "health_down"),
             ("2026-03-01T22:13:20", "healthy", "open", "half_open", "health_recovered"),
             ("2026-03-01T22:14:00", "", "half_open", "closed", "health_checks_passed"),
             ("2026-03-01T22:55:10", "down", "closed", "open", "health_down"),
             ("2026-03-01T22:58:20", "healthy", "open", "half_open", "health_recovered"),
             ("2026-03-01T22:58:31", "", "half_open", "closed", "trial_succeeded"),
             ("07:41:10", "down", "closed", "open", "health_down"))
    for moment, status, before, after, reason in night:
        if status:
            why = "3 checks in a row failed: no complete answer within 2 s" if status == "down" else "2 checks in a row passed"
            event(moment, "backend_health_changed", "r3", {"healthy": status != "down", "status": status, "reason": why})
        event(moment, "circuit_state_changed", "r3", {"state": after, "from": before, "to": after, "reason": reason})
        _insert(connection, "circuit_transitions", route_id="r3", at=at(moment), from_state=before, to_state=after, reason=reason)
    for moment, kind, more in (("06:12:40", "session_lost", {"address": "10.0.0.12:48810", "grace": 10.0}),
                               ("06:12:43", "session_back", {"address": "10.0.0.12:48916", "away": 2.871})):
        event(moment, kind, None, {"service": "shop", "instance": "shop-2", **more}, "s2", str(more["address"]))
    for number, state, started, ended, share, why in (
            (1, "rolled_back", "2026-02-27T09:30:00", "2026-02-27T09:31:12", 0.0, "14 of its 61 requests failed (23.0 %), 0 of the others' "
             "1160 (0.0 %): more than 1 percentage points worse"),
            (2, "completed", "2026-02-27T11:00:00", "2026-02-27T11:08:00", 100.0, "")):
        good = state == "completed"
        _insert(connection, "rollouts", rollout_id=number, service_name="shop", instance_name="shop-2", session_id="s2", state=state,
                share=share, steps="[5, 25, 50, 100]", step=3 if good else 0, step_at=at(started), every_seconds=120.0, max_errors=1.0,
                max_slower=2.0, requests=1204 if good else 61, errors=0 if good else 14, p95_ms=31.7 if good else 28.2,
                other_requests=0 if good else 1160, other_p95_ms=None if good else 30.7, started_at=at(started), ended_at=at(ended),
                started_by="admin token from 127.0.0.1", why=why)
    event("07:45:02", "drain_started", None, {"seconds": 120.0}, "s2", "admin token from 127.0.0.1")
    event("07:46:30", "drain_cancelled", None, {}, "s2", "admin token from 127.0.0.1")
