"""The questions that people ask of the history, in SQL that is the same on both engines, against a story whose true answers are known.

The story is written by the writers that proxyd uses. It is that of the day before yesterday and of yesterday, up to now:

- `shop` (two instances at /) has a planned maintenance of shop-1 at 02:00 yesterday for half an hour. At 03:10 both instances go down:
  shop-2 for 4 minutes, shop-1 for 6. Its objective is 99 %.
- `search` is deployed twice yesterday, at 09:00 and 14:00; the deploy of 14:00 brings errors until it is put right. It flaps.
- `legacy` is down since 20:00 the day before yesterday, and removed while it is, at 23:00. `idle` was never asked. `lone` is
  down since 23:30 yesterday.
- From 05:00 to 06:00 yesterday no master was there. At 16:00 shop-2 drains. 203.0.113.9 hits the limits of search.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from proxyd.base import clock
from proxyd.base.histogram import bounds, bucket_of
from proxyd.events.bus import Event, write_events
from proxyd.health.outages import ServiceSums, Sums
from proxyd.health.probe import Result
from proxyd.health.runs import Runs
from proxyd.store.sql import deploys, identity, incidents, ledger, maintenance, rollouts
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.errors import ErrorBatch
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.models import Route, Session
from proxyd.store.sql.observed import CircuitTransition, HealthResult
from proxyd.store.sql.traffic import RejectionBatch, RowBatch, Traffic, TrafficBatch
from proxyd.store.sql.upsert import insert
from tests.support.postgres import Postgres

NOW = datetime.fromtimestamp(time.time() - 1, UTC)
TODAY = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
YESTERDAY, BEFORE = TODAY - timedelta(days=1), TODAY - timedelta(days=2)
WORKER = ("web1", "b1", 1)
#: Route: service, instance, domain, path.
ROUTES = {"r1": ("shop", "shop-1", "shop.test", "/"), "r2": ("shop", "shop-2", "shop.test", "/"),
          "r10": ("search", "search-1", "shop.test", "/search"), "r11": ("search", "search-1", "shop.test", "/search"),
          "r12": ("search", "search-1", "shop.test", "/search"),
          "r20": ("legacy", "legacy-1", "old.test", "/"), "r30": ("idle", "idle-1", "idle.test", "/"),
          "r40": ("lone", "lone-1", "lone.test", "/")}
AWAY = YESTERDAY + timedelta(hours=5)


def rfc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000Z"


def at(text: str, day: datetime = YESTERDAY) -> str:
    """An instant of a day, `HH:MM` or `HH:MM:SS`."""
    hours, minutes, *rest = map(int, text.split(":"))
    return rfc(day + timedelta(hours=hours, minutes=minutes, seconds=rest[0] if rest else 0))


def row(route_id: str, created: str, **others: Any) -> dict[str, Any]:
    service, instance, domain, path = ROUTES[route_id]
    return {"route_id": route_id, "session": "s1", "service_name": service, "instance_name": instance, "domains": f'["{domain}"]',
            "path": path, "backend_url": "http://127.0.0.1:8080", "priority": 0, "enabled": True, "version": 2,
            "created_at": created, "updated_at": created, "slot": int(route_id[1:]), **others}


def _routes() -> None:
    early = at("00:00", BEFORE)
    Session.create(session_id="s1", service_name="shop", instance_name="shop-1", state="connected", connected_at=early, last_activity=early)
    for name in ("r1", "r2", "r10", "r20", "r30", "r40"):
        identity.came([row(name, early)], f"{ROUTES[name][1]}@10.0.0.1")
    for old, new, when, release in (("r10", "r11", at("09:00"), "2.3"), ("r11", "r12", at("14:00"), "2.4")):
        identity.came([row(new, when)], "search-1@10.0.0.9")
        identity.went([old], when, "search-1@10.0.0.9", "redeployed")
        deploys.write({"at": when, "service_name": "search", "instance_name": "search-1", "actor": "search-1@10.0.0.9",
                       "version_after": release, "places_added": 0, "places_changed": 1, "places_removed": 0, "routes_set": 1,
                       "routes_removed": 1, "settings_changed": 0, "change": "{}"}, 7)
    identity.went(["r20"], at("23:00", BEFORE), "operator@admin", "removed by an operator")
    # Those that are there now, with the promise of shop.
    Route.insert_many([row(name, early, options='{"slo_availability": "99%"}' if name in ("r1", "r2") else "{}")
                       for name in ("r1", "r2", "r12", "r30")]).execute()
    ledger.write_objectives()


def _incident(number: int, route_id: str, kind: str, start: str, end: str | None, how: str | None, cause: str,
              planned: bool = False) -> dict[str, Any]:
    service, instance, domain, path = ROUTES[route_id]
    return {"incident_id": number, "kind": kind, "service_name": service, "instance_name": instance if kind == "endpoint" else "",
            "domain": domain, "path": path, "route_id": route_id, "planned": planned, "started_at": start, "first_failed_at": start,
            "ended_at": end, "ended_how": how, "cause": cause}


#: Down and in maintenance, in seconds by hour: of endpoints by route, and of services by place.
LOST = {("r1", "02"): (0, 1800), ("r1", "03"): (360, 0), ("r2", "03"): (240, 0)}
SERVICE_LOST = {("shop", "03"): 240}


def _health() -> None:
    refused, slow = "connection refused", "no complete answer within 2 s"
    incidents.write([
        _incident(1, "r1", "endpoint", at("03:10"), at("03:16"), "recovered", refused),
        _incident(2, "r2", "endpoint", at("03:10"), at("03:14"), "recovered", refused),
        _incident(3, "r1", "service", at("03:10"), at("03:14"), "recovered", refused),
        _incident(4, "r1", "endpoint", at("02:05"), at("02:20"), "recovered", refused, planned=True),
        _incident(6, "r40", "endpoint", at("23:30"), None, None, refused),
        _incident(5, "r20", "endpoint", at("20:00", BEFORE), at("23:00", BEFORE), "removed", slow)], [], at("03:16"))
    # What flaps does so within the last 24 hours, whenever that is; it has three outages of a second.
    flaps = [NOW - timedelta(minutes=60 - 10 * number) for number in range(3)]
    incidents.write([_incident(10 + number, "r12", "endpoint", rfc(moment), rfc(moment + timedelta(seconds=1)), "recovered", slow)
                     for number, moment in enumerate(flaps)], [], rfc(NOW))
    CircuitTransition.insert_many([{"route_id": "r2", "at": rfc(NOW - timedelta(minutes=5)), "from_state": "closed", "to_state": "open",
                                    "reason": "failures"}]).execute()
    hour = BEFORE
    while hour < NOW:
        seconds = min(3600.0, (NOW - hour).total_seconds())
        if hour != AWAY:
            _hour(hour, seconds)
        hour += timedelta(hours=1)
    HealthResult.insert_many([{"route_id": "r1", "checked_at": rfc(NOW - timedelta(seconds=10 * number)), "ok": number != 3,
                               "response_time_ms": 2.0} for number in range(10)]).execute()
    # shop-2 drains for a moment, in which one of its checks fails.
    runs = Runs(100, 5)
    for number in range(62):
        ok = number != 30
        result = Result(ok, 200 if ok else None, 0.002, "" if ok else "refused")
        runs.take("r2", result, clock.now() - 200 + number, planned=number in (30, 31))
    insert(HealthResult, [run.row() for run in runs.batch(clock.now()).new])


def _hour(hour: datetime, seconds: float) -> None:
    name = f"{hour:%H}" if hour.date() == YESTERDAY.date() else ""
    sums, services = [], []
    for route_id in ("r1", "r2", "r12", "r30"):
        down, kept = LOST.get((route_id, name), (0, 0))
        good = int(seconds - down - kept) // 10
        sums.append(Sums(route_id, seconds - down - kept, down, kept, good, down // 10, good * 2000, 1250, 9000 if down else 4000,
                         in_maintenance=kept // 10))
    for service, domain, path in (("shop", "shop.test", "/"), ("search", "shop.test", "/search")):
        down = SERVICE_LOST.get((service, name), 0)
        services.append(ServiceSums(("service", service, "", domain, path), seconds - down, down, 0.0))
    incidents.write([], sums, rfc(hour), services)


def _counted(route_id: str, when: str, requests: int, errors: int = 0, ms: float = 10.0, **more: int) -> None:
    """Traffic of a route: answers of one length, and errors of the backend."""
    sums: dict[str, float] = {"requests": requests, "errors": errors, "latency_ms_sum": requests * ms, "bytes_sent": requests * 1000,
                              "bytes_received": requests * 10, **more}
    codes = {200: requests - errors - more.get("rate_limited", 0), 429: more.get("rate_limited", 0), 502: errors}
    TrafficBatch(WORKER, when, {route_id: Traffic(sums, {code: count for code, count in codes.items() if count},
                                                  {bucket_of(ms / 1000): requests})}).write()


def _traffic() -> None:
    # shop: 20,000 requests, 150 of them bad by its backends, and 10 by the proxy while both instances were down.
    _counted("r1", at("01:00"), 10_000, 50)
    _counted("r2", at("01:00"), 9_990, 100)
    _counted("r1", at("03:12"), 10, 10, proxy_errors=10, circuit_rejected=10)
    # In the maintenance its page was shown 40 times, which is no error.
    _counted("r1", at("02:10"), 40, 0, maintenance_hits=40)
    # shop-2 drains; the last minute of shop is bad.
    _counted("r2", at("16:00"), 5, 5, proxy_errors=5, drain_rejected=5)
    _counted("r1", rfc(NOW - timedelta(seconds=5)), 100, 2)
    # Pages of a maintenance of a moment, which neither spend the budget nor save it.
    _counted("r2", rfc(NOW - timedelta(seconds=5)), 300, 0, maintenance_hits=300)
    # search: each of three deploys has its own errors; from 14:00 on 40 in 400.
    _counted("r10", at("08:00"), 200, 2, 20.0)
    _counted("r11", at("10:00"), 300, 3, 30.0)
    _counted("r11", at("10:30"), 15, 0, 900.0)
    _counted("r12", at("14:00"), 400, 40, 40.0)
    _counted("r12", at("15:00"), 300, 0, 40.0, rate_limited=100)
    RejectionBatch({("r12", at("15:00"), "203.0.113.9"): 80, ("r12", at("15:01"), "203.0.113.9"): 15,
                    ("r12", at("15:01"), "198.51.100.7"): 5}).write()
    last = ("GET", "http://shop.test/search?q=1", "127.0.0.1:8080", "q-1")
    ErrorBatch([("r12", 502, "upstream_closed", 30, at("14:10"), *last), ("r12", 502, "upstream_closed", 10, at("14:20"), *last),
                ("r1", 503, "circuit_open", 10, at("03:12"), *last)], {"nobody.test": 7, "typo.test": 2}, at("15:00")).write()
    slow = {"level": "critical", "method": "GET", "status_code": 200, "queue_ms": 0.0, "connect_ms": 1.0, "body_ms": 1.0,
            "upstream": "127.0.0.1:8080"}
    socket = {"route_id": "r1", "client": "198.51.100.7", "bytes_sent": 5, "bytes_received": 6, "reason": "client"}
    RowBatch([{**socket, "opened_at": at("10:00"), "closed_at": at("10:05")},
              {**socket, "opened_at": at("11:00"), "closed_at": at("11:01")}],
             [{**slow, "route_id": "r11", "at": at("10:30"), "url": f"shop.test/search?n={number}", "total_ms": 800.0 + number,
               "first_byte_ms": 790.0, "request_id": f"q{number}"} for number in range(25)]).write()


def _events() -> None:
    def event(kind: str, when: str, route_id: str | None = None, actor: str = "shop-2@10.0.0.2", **data: Any) -> Event:
        return Event(kind, when, route_id, data, "s1", actor)

    maintenance.write(maintenance.Turn(maintenance.PLAN, ["r1"], at("20:00", BEFORE), "alice@admin", at("02:40"), at("02:00"), "new disk"))
    maintenance.write(maintenance.Turn(maintenance.BEGIN, ["r1"], at("02:00"), "planned by alice@admin", at("02:40"), at("02:00")))
    maintenance.write(maintenance.Turn(maintenance.END, ["r1"], at("02:30"), "bob@admin", how=maintenance.EXITED))
    maintenance.write(maintenance.Turn(maintenance.PLAN, ["r30"], at("12:00"), "bob@admin", at("14:00"), at("13:00"), "a trial"))
    maintenance.write(maintenance.Turn(maintenance.UNPLAN, ["r30"], at("12:30"), "bob@admin", how=maintenance.CANCELLED))
    write_events([
        event("session_lost", at("12:00"), service="shop", instance="shop-2", address="10.0.0.2", grace=60),
        event("session_back", at("12:00:20"), service="shop", instance="shop-2", address="10.0.0.2", away=20),
        event("session_lost", at("22:59", BEFORE), service="legacy", instance="legacy-1", address="10.0.0.3", grace=60),
        event("session_ended", at("23:00", BEFORE), service="legacy", instance="legacy-1", reason="did not reconnect"),
        event("drain_started", at("16:00"), "r2", seconds=60), event("drain_completed", at("16:01"), "r2", traffic_percent=0, in_flight=0)])
    rollouts.write({"service_name": "search", "instance_name": "search-2", "session_id": "s9", "state": "rolled_back", "share": 10.0,
                    "steps": "[10, 50, 100]", "step": 0, "step_at": at("17:00"), "step_clock": at("17:00"), "every_seconds": 60.0,
                    "max_errors": 1.0, "max_slower": 2.0, "started_at": at("17:00"), "started_by": "bob@admin", "ended_at": at("17:02"),
                    "why": "its requests fail: 8 % more than the others'"})


def tell() -> None:
    """Write the story. Runs in the database thread."""
    _routes()
    _health()
    _traffic()
    _events()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A database of each engine with the story in it."""
    if request.param == "sqlite":
        url = f"sqlite:///{Path(tmp_path_factory.mktemp('story'))}/p.db"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    store = Store(url)
    store.open()
    migrate(store)
    store.call(tell, bound=60.0)
    yield store
    store.close()


def ask(store: Store, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query, with numbers as Python has them: PostgreSQL's exact ones are Decimals."""
    found = store.read(lambda: database.execute_sql(sql).fetchall())
    return [tuple(float(value) if isinstance(value, Decimal) else value for value in line) for line in found]


#: Of two days up to now, an hour was not watched, and of shop-1 half an hour does not count.
WATCHED = (NOW - BEFORE).total_seconds() - 3600
SHOP_1 = round(100 * (1 - 360 / (WATCHED - 1800)), 3)
SHOP = round(100 * (1 - 240 / WATCHED), 3)
SPAN = f"BETWEEN '{rfc(YESTERDAY)}' AND '{rfc(TODAY)}'"


def upper(ms: float) -> float:
    """The upper end in milliseconds of the bucket that a latency is counted in."""
    return bounds(bucket_of(ms / 1000))[1] * 1000


#: What is asked, how, and the answer.
QUESTIONS: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "What is the uptime of an endpoint, without planned maintenance?": (
        "SELECT uptime_percent, down_seconds, maintenance_seconds FROM v_uptime WHERE period = '7d' AND instance_name = 'shop-1'",
        [(SHOP_1, 360, 1800)]),
    "What is the uptime of a service, as users saw it?": (
        "SELECT uptime_percent, down_seconds FROM v_uptime_services WHERE period = '30d' AND service_name = 'shop'", [(SHOP, 240)]),
    "Which incidents did users see, and why?": (
        "SELECT service_name, started_at, seconds, ended_how, cause FROM v_incidents WHERE kind = 'service' AND planned = 'no'",
        [("shop", at("03:10"), 240, "recovered", "connection refused")]),
    "How many requests failed in an incident?": (
        "SELECT incident_id, failed_requests FROM v_incidents WHERE kind = 'service' OR incident_id = 2 ORDER BY incident_id",
        [(2, 0), (3, 10)]),
    "And in one that is older than the minutes that are kept?": (
        "SELECT failed_requests FROM v_incidents WHERE service_name = 'legacy'", [(None,)]),
    "What is the mean time to recovery, and the longest outage?": (
        f"SELECT COUNT(*), AVG(seconds), MAX(seconds) FROM v_incidents WHERE kind = 'endpoint' AND planned = 'no' "
        f"AND service_name = 'shop' AND started_at {SPAN}", [(2, 300.0, 360)]),
    "What became of an outage whose route was removed?": (
        "SELECT ended_at, ended_how, seconds FROM v_incidents WHERE service_name = 'legacy'",
        [(at("23:00", BEFORE), "removed", 10_800)]),
    "What was down at 03:12?": (
        f"SELECT kind, service_name, instance_name, why FROM v_down_at WHERE '{at('03:12')[:16]}' BETWEEN since AND until "
        "ORDER BY kind, instance_name",
        [("endpoint", "shop", "shop-1", "connection refused"), ("endpoint", "shop", "shop-2", "connection refused"),
         ("service", "shop", "", "connection refused")]),
    "What was in maintenance at 02:10, and was something else down then?": (
        f"SELECT kind, planned, since, until, why FROM v_down_at WHERE '{at('02:10')}' BETWEEN since AND until ORDER BY kind",
        [("endpoint", "yes", at("02:05"), at("02:20"), "connection refused"),
         ("maintenance", "yes", at("02:00"), at("02:30"), "new disk")]),
    "What is down and goes on?": ("SELECT service_name, until FROM v_down_at WHERE (SELECT now FROM v_now) BETWEEN since AND until",
                                  [("lone", "9999-12-31T23:59:59.999Z")]),
    "Which outages were planned?": (
        "SELECT instance_name, started_at, ended_at FROM v_incidents WHERE planned = 'yes'", [("shop-1", at("02:05"), at("02:20"))]),
    "When was maintenance, who entered it, why, and how did it end?": (
        "SELECT instance_name, state, started_at, planned_end, ended_at, seconds, entered_by, ended_by, ended_how, reason "
        "FROM v_maintenance WHERE service_name = 'shop'",
        [("shop-1", "ended", at("02:00"), at("02:40"), at("02:30"), 1800, "alice@admin", "bob@admin", "exited", "new disk")]),
    "Which maintenance was planned and never began?": (
        "SELECT service_name, planned_start, planned_end, started_at, seconds, ended_how FROM v_maintenance WHERE state = 'cancelled'",
        [("idle", at("13:00"), at("14:00"), None, None, "cancelled")]),
    "Which outages fell into maintenance, and into which?": (
        "SELECT i.incident_id, w.reason FROM v_incidents i JOIN v_maintenance w ON w.endpoint_id = i.endpoint_id "
        "AND i.started_at BETWEEN w.started_at AND w.ended_at", [(4, "new disk")]),
    "How much of the error budget is left?": (
        "SELECT requests, spent, budget, budget_left FROM v_slo WHERE service_name = 'shop'", [(20_105, 167, 201.1, 34.1)]),
    "How fast is the budget spent now?": ("SELECT burn_1h FROM v_slo WHERE service_name = 'shop'", [(2.0,)]),
    "How long did the health checks of an endpoint take, and how did they go?": (
        "SELECT hour, down_seconds, maintenance_seconds, unknown_seconds, good, bad, min_ms, avg_ms, max_ms FROM v_health_by_hour "
        f"WHERE instance_name = 'shop-1' AND hour BETWEEN '{at('02:00')}' AND '{at('03:00')}' ORDER BY hour",
        [(at("02:00"), 0, 1800, 0, 180, 0, 1.25, 2.0, 4.0), (at("03:00"), 360, 0, 0, 324, 36, 1.25, 2.0, 9.0)]),
    "And by the day?": (
        f"SELECT down_seconds, unknown_seconds, min_ms, avg_ms, max_ms FROM v_health_by_day WHERE instance_name = 'shop-1' AND day = "
        f"'{rfc(YESTERDAY)}'", [(360, 3600, 1.25, 2.0, 9.0)]),
    "How much did a service answer in a day?": (
        f"SELECT SUM(requests), SUM(errors) FROM v_traffic_by_day WHERE service_name = 'search' AND day = '{rfc(YESTERDAY)}'",
        [(1215, 45)]),
    "What is the p95 of a service by hour?": (
        f"SELECT hour, requests, p50_ms, p95_ms, p99_ms FROM v_latency_by_hour WHERE service_name = 'search' AND hour {SPAN} "
        "AND requests > 300 ORDER BY hour",
        [(at("10:00"), 315, upper(30), upper(30), upper(900)), (at("14:00"), 400, upper(40), upper(40), upper(40))]),
    "Which errors came with which deploy?": (
        "SELECT d.at, t.requests, t.backend_errors FROM v_deploys d JOIN v_traffic_by_hour t ON t.service_name = d.service_name "
        f"AND substr(t.hour, 1, 13) = substr(d.at, 1, 13) WHERE t.hour {SPAN}", [(at("14:00"), 400, 40)]),
    "What is the history of a service over its redeploys?": (
        "SELECT COUNT(DISTINCT route_id), SUM(requests), SUM(errors) FROM v_traffic WHERE service_name = 'search'", [(3, 1215, 45)]),
    "Which routes did it have, and why did they go?": (
        "SELECT route_id, removed_at, removed_why FROM v_route_history WHERE service_name IN ('search', 'legacy') ORDER BY route_id",
        [("r10", at("09:00"), "redeployed"), ("r11", at("14:00"), "redeployed"), ("r12", None, None),
         ("r20", at("23:00", BEFORE), "removed by an operator")]),
    "Who deployed what?": (
        "SELECT at, service_name, version_before, version_after, places_changed, changed_routes, removed_routes, actor "
        "FROM v_deploys ORDER BY at",
        [(at("09:00"), "search", None, "2.3", 1, 1, 1, "search-1@10.0.0.9"),
         (at("14:00"), "search", "2.3", "2.4", 1, 1, 1, "search-1@10.0.0.9")]),
    "Which version brought the errors?": (
        "SELECT d.version_after, SUM(t.backend_errors), SUM(t.requests) FROM v_traffic_by_hour t JOIN v_deploys d ON d.service_name = "
        "t.service_name AND d.at = (SELECT MAX(e.at) FROM v_deploys e WHERE e.service_name = t.service_name AND substr(e.at, 1, 13) <= "
        f"substr(t.hour, 1, 13)) WHERE t.hour {SPAN} GROUP BY d.version_after ORDER BY d.version_after",
        [("2.3", 3, 315), ("2.4", 40, 700)]),
    "Who hit the limits?": (
        "SELECT r.address, p.service_name, SUM(r.rejected) AS n FROM rate_limit_rejections r JOIN route_history h "
        f"ON h.route_id = r.route_id JOIN endpoints p ON p.endpoint_id = h.endpoint_id WHERE r.minute {SPAN} "
        "GROUP BY r.address, p.service_name ORDER BY n DESC",
        [("203.0.113.9", "search", 95), ("198.51.100.7", "search", 5)]),
    "Which services refuse requests by a limit, and when?": (
        f"SELECT service_name, hour, rate_limited FROM v_traffic_by_hour WHERE hour {SPAN} AND rate_limited > 0",
        [("search", at("15:00"), 100)]),
    "What did a drain cost?": (
        f"SELECT instance_name, hour, drain_rejected FROM v_traffic_by_hour WHERE hour {SPAN} AND drain_rejected > 0",
        [("shop-2", at("16:00"), 5)]),
    "How long did drains last?": (
        "SELECT b.instance_name, e.at_epoch - b.at_epoch FROM v_events b JOIN v_events e ON e.route_id = b.route_id "
        "AND e.type = 'drain_completed' AND e.at > b.at WHERE b.type = 'drain_started'", [("shop-2", 60)]),
    "Who made the errors, the backends or the proxy?": (
        f"SELECT service_name, SUM(backend_errors), SUM(proxy_errors) FROM v_traffic_by_hour WHERE hour {SPAN} AND hour < '{rfc(TODAY)}' "
        "GROUP BY service_name ORDER BY service_name", [("search", 45, 0), ("shop", 150, 15)]),
    "Which errors are there, and which request was the last?": (
        "SELECT service_name, status_code, reason, requests, last_at, last_request_id FROM v_errors ORDER BY requests DESC",
        [("search", 502, "upstream_closed", 40, at("14:20"), "q-1"), ("shop", 503, "circuit_open", 10, at("03:12"), "q-1")]),
    "How often was the maintenance page shown?": (
        f"SELECT SUM(maintenance_hits), SUM(errors) FROM v_traffic_by_hour WHERE hour = '{at('02:00')}'", [(40, 0)]),
    "Which single requests were slow?": (
        "SELECT service_name, url, total_ms FROM v_slowest ORDER BY total_ms DESC LIMIT 2",
        [("search", "shop.test/search?n=24", 824.0), ("search", "shop.test/search?n=23", 823.0)]),
    "Which routes are used by nobody?": ("SELECT service_name, path FROM v_unused ORDER BY service_name", [("idle", "/"), ("lone", "/")]),
    "What flaps?": ("SELECT service_name, outages_24h FROM v_flapping", [("search", 3)]),
    "Which sessions were lost, and for how long?": (
        "SELECT l.service_name, b.at_epoch - l.at_epoch FROM v_events l LEFT JOIN v_events b ON b.instance_name = l.instance_name "
        "AND b.type = 'session_back' AND b.at >= l.at WHERE l.type = 'session_lost' ORDER BY l.at", [("legacy", None), ("shop", 20)]),
    "When was nobody watching?": (
        f"SELECT COUNT(*), MAX(CASE WHEN hour = '{rfc(AWAY)}' THEN 1 ELSE 0 END) FROM health_hours h JOIN endpoints p "
        f"ON p.endpoint_id = h.endpoint_id WHERE p.instance_name = 'shop-1' AND hour >= '{rfc(YESTERDAY)}' AND hour < '{rfc(TODAY)}'",
        [(23, 0)]),
    "How long were WebSockets open?": (
        "SELECT COUNT(*), MAX(seconds), SUM(bytes_received) FROM v_websockets WHERE route_id = 'r1'", [(2, 300, 12)]),
    "How did a rollout end?": (
        "SELECT service_name, state, share, ended_at_epoch - started_at_epoch, started_by FROM v_rollouts",
        [("search", "rolled_back", 10.0, 120, "bob@admin")]),
    "Which hosts are asked for that no route names?": (
        "SELECT host, requests FROM v_unknown_hosts ORDER BY requests DESC", [("nobody.test", 7), ("typo.test", 2)]),
    "How much does a service send?": (
        f"SELECT service_name, SUM(bytes_sent) FROM v_traffic_by_hour WHERE hour = '{at('14:00')}' GROUP BY service_name",
        [("search", 400_000)]),
    "How do answers divide by status?": (
        f"SELECT status_2xx, status_3xx, status_4xx, status_5xx FROM v_traffic_by_hour WHERE hour = '{at('15:00')}'", [(200, 0, 100, 0)]),
    "How many of the last checks of a route passed?": (
        "SELECT checks, good, uptime_percent FROM v_uptime_24h WHERE route_id = 'r1'", [(10, 9, 90.0)]),
    "And where one failed while nobody was to be served?": (
        "SELECT checks, good, in_maintenance, uptime_percent FROM v_uptime_24h WHERE route_id = 'r2'", [(60, 60, 2, 100.0)]),
    "Which of them were they?": (
        "SELECT COUNT(*), COUNT(DISTINCT ok), SUM(checks) FROM v_checks WHERE service_name = 'shop' AND planned = 'yes'", [(2, 2, 2)]),
    "How many checks of an hour were made in maintenance?": (
        f"SELECT good, bad, in_maintenance FROM v_health_by_hour WHERE instance_name = 'shop-1' AND hour = '{at('02:00')}'",
        [(180, 0, 180)]),
    "And of a week?": (
        "SELECT in_maintenance FROM v_uptime WHERE period = '7d' AND service_name = 'shop' ORDER BY instance_name", [(180,), (0,)]),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_answer_is_the_true_one_on_both_engines(told: Store, question: str) -> None:
    sql, answer = QUESTIONS[question]
    assert ask(told, sql) == [tuple(pytest.approx(value, abs=0.0015) if isinstance(value, float) else value for value in line)
                              for line in answer]


def test_time_without_a_master_is_unknown_and_neither_up_nor_down(told: Store) -> None:
    unknown, up = ask(told, "SELECT unknown_seconds, up_seconds FROM v_uptime WHERE period = '7d' AND instance_name = 'shop-2'")[0]
    # And the time since the story was written.
    assert 3600 <= unknown < 3660 + time.time() - NOW.timestamp() and up == pytest.approx(WATCHED - 240, abs=2)


def test_percentiles_of_hours_and_instances_add_up_to_those_of_a_day(told: Store) -> None:
    total, p99 = ask(told, f"""
        WITH summed AS (
            SELECT l.bucket, SUM(l.requests) AS n FROM latency_hours l JOIN endpoints p ON p.endpoint_id = l.endpoint_id
            WHERE p.service_name = 'search' AND l.hour {SPAN} GROUP BY l.bucket),
        stacked AS (SELECT bucket, SUM(n) OVER (ORDER BY bucket) AS so_far, SUM(n) OVER () AS total FROM summed)
        SELECT MAX(total), MIN(CASE WHEN bucket < 32 THEN bucket + 1
                                    ELSE (17 + (bucket & 15)) << CAST((bucket >> 4) - 1 AS INTEGER) END) / 1000.0
        FROM stacked WHERE so_far >= 0.99 * total""")[0]
    assert (total, p99) == (1215, pytest.approx(upper(900)))
