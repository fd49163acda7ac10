"""What the models don't say about tables, columns and views, and the questions that docs/database.md answers."""

from __future__ import annotations

from proxyd.base.counters import COUNTERS
from proxyd.events.types import NAMES

#: Behind the model's own description.
TABLE_NOTES: dict[str, str] = {
    "schema_version": "One row for each migration that was run; the highest is the schema's version.",
    "counters": "`circuit_sequence` is the last circuit transition that became a row.",
    "route_status_codes": "Responses by status code since the route began. 499: the client went away.",
    "route_stats": "The route `-` stands for requests that matched no route or could not be read.",
    "refusals": "Written with the statistics. The same numbers are `proxyd_refusals_total` in the metrics.",
    "slow_requests": "At most 20 of each route and hour are kept, the slowest.",
    "events": f"`type` is one of {', '.join(f'`{name}`' for name in NAMES)}.",
    "circuits": "A copy, at most a second old, of what the workers share in memory; "
                "a route whose circuit never changed nor counted a failure has no row.",
    "route_in_flight": "Written with the statistics, about every half second. "
                       "A row with nothing open is deleted; so are those of a worker that died.",
    "health_status": "`down` takes no traffic while `[health] drive_circuits` is on.",
}

#: By `table.column`, or by column for all tables that have it.
COLUMN_NOTES: dict[str, str] = {
    "routes.route_id": "`r1`, `r2`, ...; never used twice.",
    "v_routes.route_id": "`r1`, `r2`, ...; never used twice.",
    "sessions.session_id": "Secret while the session lives: whoever has it can take it over within the grace.",
    "service_name": "As registered; the name of a site file.",
    "instance_name": "As registered.",
    "domains": "JSON list.",
    "path": "Path prefix.",
    "priority": "Higher first.",
    "backend_url": "As declared.",
    "metadata": "JSON object of the client, without its token.",
    "maintenance_port": "As registered, 0 for none.",
    "sessions.address": "Where the client connected from.",
    "sessions.disconnected_at": "When the connection was lost; the grace counts from here.",
    "last_apply": "The last CONFIG_APPLY.",
    "session_settings.target": "`ALL` or a route id.",
    "staged_changes.target": "`ALL` or a route id.",
    "routes.enabled": "0 while the session is disconnected.",
    "routes.options": "JSON object of the options that were set, `ALL` and own ones merged.",
    "routes.headers": "JSON object of response headers.",
    "routes.rate_limits": "JSON list of [requests, window in seconds].",
    "maintenance_since": "NULL: not in maintenance.",
    "maintenance_page_url": "Empty: the built-in page.",
    "drain_started_at": "NULL: not draining.",
    "drain_seconds": "Length of the drain.",
    "slot": "Place in the shared memory of circuits.",
    "routes.version": "Config version of the row's last change.",
    "route_removals.version": "Config version that removed it.",
    "workers.config_version": "The version it routes by; the current one is in `counters`.",
    "heartbeat_at": "Written every second.",
    "health_status.status": "`unknown`, `healthy`, `degraded` (below nine good checks in ten) or `down`.",
    "v_health_now.status": "`unknown`, `healthy`, `degraded` or `down`.",
    "since": "When the status began.",
    "response_time_ms": "Of the check; NULL without an answer.",
    "success_rate_percent": "Over the last `[health] window` checks.",
    "health_results.error": "NULL for a good check.",
    "circuits.state": "`closed`, `open` or `half_open`.",
    "v_circuits.state": "`closed`, `open` or `half_open`.",
    "circuits.reason": "Why it changed last: a name of the chart in docs/health.md; empty where it never did.",
    "next_attempt": "When trials begin; NULL while it is not open, or where only a health check can end that.",
    "v_circuits.reason": "Why it changed last: a name of the chart in docs/health.md; empty where it never did.",
    "circuits.failures": "Consecutive ones.",
    "v_circuits.failures": "Consecutive ones.",
    "circuits.opened_at": "NULL while it is closed.",
    "v_circuits.opened_at": "NULL while it is closed.",
    "circuits.successes": "Successful trials.",
    "refusals.reason": "A code of docs/reasons.md.",
    "refusals.requests": "How many requests ended for this reason, over all workers, since the database was made.",
    **{f"route_stats.{counter.name}": f"{counter.help}." for counter in COUNTERS},
    "latency_ms_sum": "Divide by `requests`.",
    "bytes_sent": "To clients: bodies.",
    "bytes_received": "From clients: bodies.",
    "route_minutes.errors": "Responses of 500 and above.",
    "rate_limited": "Answered 429.",
    "minute": "Its beginning.",
    "rate_limit_rejections.address": "Client address, or network for IPv6 (`[ratelimit] ipv6_prefix`); `others` has what is "
                                     "beyond the first 1000 addresses of a minute and worker.",
    "bucket": "See *Latency buckets*.",
    "level": "`warning` or `critical`: which of the route's two bounds was exceeded.",
    "queue_ms": "From the request's header to the start of the upstream exchange.",
    "connect_ms": "To open the connection, 0 for a kept one.",
    "first_byte_ms": "From the connection to the response's header.",
    "body_ms": "The rest.",
    "request_id": "As in the access log and in X-Request-ID.",
    "upstream": "Host and port.",
    "in_flight": "Requests under way, open WebSockets included.",
    "websocket_active": "Open WebSockets.",
    "actor": "Who asked: a client's service/instance@address, or an operator with the admin token or on the status page, and from where.",
    "detail": "JSON object.",
    "at": "When it happened.",
    "good": "Good checks.",
    "opened_24h": "How often it opened in the last 24 hours.",
    "changes_24h": "Changes of health and circuit in the last 24 hours.",
    "health": "`unchecked` where no check is declared.",
    "circuit": "`closed` where it never changed.",
}

VIEW_NOTES: dict[str, str] = {
    "v_routes": "Every active route with all that keeps traffic from it, and its traffic.",
    "v_health_now": "Health of each checked route.",
    "v_uptime_24h": "Share of good health checks in the last 24 hours, by route.",
    "v_circuits": "The circuit of each route as it is now, and how often it opened in the last 24 hours.",
    "v_slowest": "The hundred slowest requests that are still kept.",
    "v_flapping": "Routes whose health or circuit changed four times or more in the last 24 hours.",
}

#: Question, remark, SQL.
QUERIES: tuple[tuple[str, str, str], ...] = (
    ("How is every route?", "", """
SELECT route_id, service_name, path, health, circuit, draining, maintenance, requests, errors
FROM v_routes ORDER BY service_name, route_id;"""),
    ("Which route is slow?", "Averages of the last hour, worst first.", """
SELECT m.route_id, r.service_name, r.path, SUM(m.requests) AS requests,
       ROUND(SUM(m.latency_ms_sum) / SUM(m.requests), 1) AS avg_ms,
       ROUND(100.0 * SUM(m.errors) / SUM(m.requests), 2) AS error_percent
FROM route_minutes m JOIN routes r ON r.route_id = m.route_id
WHERE m.minute >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-1 hour')
GROUP BY m.route_id HAVING SUM(m.requests) > 0 ORDER BY avg_ms DESC LIMIT 10;"""),
    ("What is each route's 95th percentile?", "Since the route began; the upper end of the bucket in which it lies.", """
WITH summed AS (
    SELECT route_id, bucket, SUM(requests) OVER (PARTITION BY route_id ORDER BY bucket) AS so_far,
           SUM(requests) OVER (PARTITION BY route_id) AS total
    FROM route_latency)
SELECT route_id, MAX(total) AS requests,
       MIN(CASE WHEN bucket < 32 THEN bucket + 1
                ELSE (17 + (bucket & 15)) << ((bucket >> 4) - 1) END) / 1000.0 AS p95_ms
FROM summed WHERE so_far >= 0.95 * total GROUP BY route_id ORDER BY p95_ms DESC;"""),
    ("Which single requests were slow, and where did the time go?", "Kept for routes with `slow_warning` or `slow_critical`.", """
SELECT at, route_id, url, status_code, total_ms, connect_ms, first_byte_ms, body_ms, upstream
FROM v_slowest LIMIT 5;"""),
    ("Who is rate limited?", "", """
SELECT address, route_id, SUM(rejected) AS rejected, MIN(minute) AS first, MAX(minute) AS last
FROM rate_limit_rejections
WHERE minute >= strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-24 hours')
GROUP BY address, route_id ORDER BY rejected DESC LIMIT 10;"""),
    ("What flapped last night?", "Each change between 20:00 yesterday and 08:00 today, UTC; `v_flapping` has the sums.", """
SELECT at, route_id, type, COALESCE(detail ->> 'status', detail ->> 'state') AS became, detail ->> 'reason' AS reason
FROM events
WHERE type IN ('backend_health_changed', 'circuit_state_changed')
  AND at BETWEEN strftime('%Y-%m-%dT20:00:00.000Z', 'now', '-1 day') AND strftime('%Y-%m-%dT08:00:00.000Z', 'now')
ORDER BY id;"""),
    ("Uptime of the last 24 hours?", "", """
SELECT route_id, service_name, instance_name, checks, good, uptime_percent, avg_response_ms
FROM v_uptime_24h ORDER BY uptime_percent;"""),
    ("Which circuits opened, and why?", "", """
SELECT t.at, t.route_id, r.backend_url, t.from_state, t.to_state, t.reason
FROM circuit_transitions t LEFT JOIN routes r ON r.route_id = t.route_id
WHERE t.to_state = 'open' ORDER BY t.at DESC LIMIT 10;"""),
    ("How many WebSockets are open?", "", """
SELECT f.route_id, r.service_name, SUM(f.websocket_active) AS open, COUNT(*) AS workers
FROM route_in_flight f JOIN routes r ON r.route_id = f.route_id
GROUP BY f.route_id HAVING SUM(f.websocket_active) > 0 ORDER BY open DESC;"""),
    ("Which WebSockets ended, and how?", "", """
SELECT route_id, client, ROUND((julianday(closed_at) - julianday(opened_at)) * 1440) AS minutes, bytes_sent, reason
FROM websocket_connections ORDER BY closed_at DESC LIMIT 10;"""),
    ("Who applied what?", "", """
SELECT at, actor, detail ->> 'service' AS service, detail ->> 'routes' AS changed_routes,
       json_array_length(detail, '$.removed') AS removed_routes, detail ->> 'settings' AS changed_settings
FROM events WHERE type = 'config_applied' ORDER BY id DESC LIMIT 10;"""),
    ("What did operators do by hand?", "", """
SELECT at, type, route_id, session_id, actor, detail
FROM events WHERE actor LIKE 'admin token%' OR actor LIKE 'status page%' ORDER BY id DESC LIMIT 10;"""),
    ("Where do errors come from?", "", """
SELECT c.route_id, r.path, c.status_code, c.responses, ROUND(100.0 * c.responses / s.requests, 2) AS percent
FROM route_status_codes c JOIN route_stats s ON s.route_id = c.route_id JOIN routes r ON r.route_id = c.route_id
WHERE c.status_code >= 500 ORDER BY percent DESC;"""),
    ("Does every worker route by the current configuration?", "A row here for more than a second or two is a worker in trouble.", """
SELECT w.host, w.pid, w.config_version, c.value AS current, w.heartbeat_at
FROM workers w JOIN counters c ON c.name = 'config_version'
WHERE w.config_version < c.value;"""),
    ("Which services are there, and since when?", "", """
SELECT s.service_name, s.instance_name, s.state, s.connected_at, COUNT(r.route_id) AS routes
FROM sessions s LEFT JOIN routes r ON r.session_id = s.session_id
WHERE s.state <> 'ended' GROUP BY s.session_id ORDER BY s.service_name, s.instance_name;"""),
)
