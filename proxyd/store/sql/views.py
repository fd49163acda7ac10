"""The SQL views operators look for; made anew at a start of the master where their texts differ, so that they fit the schema."""

from __future__ import annotations

import hashlib

from proxyd.store.sql import spanviews
from proxyd.store.sql.database import database
from proxyd.store.sql.query import is_sqlite
from proxyd.store.sql.uptimeviews import LATERAL_UPTIME, LATERAL_UPTIME_SERVICES, UPTIME, UPTIME_SERVICES
from proxyd.store.sql.viewparts import GOES_ON, POSTGRES, SQLITE

#: Name and text of each view; what differs between database engines stands in braces.
VIEWS: dict[str, str] = {
    "v_routes": """
        SELECT r.route_id, r.service_name, r.instance_name, r.domains, r.path, r.priority, r.backend_url,
               CASE WHEN r.enabled THEN 'yes' ELSE 'no' END AS enabled,
               COALESCE(h.status, 'unchecked') AS health,
               COALESCE((SELECT c.state FROM circuits c WHERE c.route_id = r.route_id ORDER BY c.state DESC LIMIT 1), 'closed') AS circuit,
               CASE WHEN r.maintenance_since IS NULL THEN 'no' ELSE 'yes' END AS maintenance,
               CASE WHEN r.drain_started_at IS NULL THEN 'no' ELSE 'yes' END AS draining, r.rollout_share,
               COALESCE(s.requests, 0) AS requests, COALESCE(s.errors, 0) AS errors,
               COALESCE(s.rate_limited, 0) AS rate_limited
        FROM routes r
        LEFT JOIN health_status h ON h.route_id = r.route_id
        LEFT JOIN route_stats s ON s.route_id = r.route_id""",
    "v_health_now": """
        SELECT h.route_id, r.service_name, r.instance_name, h.url, h.status, h.reason, h.since, {epoch:h.since} AS since_epoch,
               h.last_check, {epoch:h.last_check} AS last_check_epoch, h.response_time_ms, h.success_rate_percent, h.consecutive_failures
        FROM health_status h JOIN routes r ON r.route_id = h.route_id""",
    "v_uptime_24h": """
        SELECT x.route_id, r.service_name, r.instance_name, x.checks, x.good,
               ROUND(100.0 * x.good / NULLIF(x.checks, 0), 3) AS uptime_percent,
               ROUND(CAST(x.response_ms / NULLIF(x.answered, 0) AS {decimal}), 3) AS avg_response_ms, x.in_maintenance
        FROM (SELECT route_id, CAST(SUM(CASE WHEN planned THEN 0 ELSE checks END) AS {whole_type}) AS checks,
                     CAST(SUM(CASE WHEN ok AND NOT planned THEN checks ELSE 0 END) AS {whole_type}) AS good,
                     CAST(SUM(CASE WHEN planned THEN checks ELSE 0 END) AS {whole_type}) AS in_maintenance,
                     SUM(CASE WHEN planned THEN 0 ELSE response_time_ms * checks END) AS response_ms,
                     SUM(CASE WHEN planned OR response_time_ms IS NULL THEN 0 ELSE checks END) AS answered
              FROM health_results WHERE checked_at >= {at:day}
              GROUP BY {unindexed}route_id) x
        JOIN routes r ON r.route_id = x.route_id""",
    "v_checks": """
        SELECT x.checked_at, {epoch:x.checked_at} AS checked_at_epoch, COALESCE(x.last_checked_at, x.checked_at) AS last_checked_at,
               COALESCE({epoch:x.last_checked_at}, {epoch:x.checked_at}) AS last_checked_at_epoch, x.route_id, h.endpoint_id,
               p.service_name, p.instance_name, p.domain, p.path, x.checks,
               CASE WHEN x.ok THEN 'yes' ELSE 'no' END AS ok, CASE WHEN x.planned THEN 'yes' ELSE 'no' END AS planned,
               x.status_code, x.response_time_ms AS avg_ms,
               COALESCE(x.response_time_ms_min, x.response_time_ms) AS min_ms,
               COALESCE(x.response_time_ms_max, x.response_time_ms) AS max_ms, x.error
        FROM health_results x LEFT JOIN route_history h ON h.route_id = x.route_id
        LEFT JOIN endpoints p ON p.endpoint_id = h.endpoint_id""",
    "v_circuits": """
        SELECT r.route_id, r.service_name, r.instance_name, r.backend_url, c.host, COALESCE(c.state, 'closed') AS state,
               COALESCE(c.reason, '') AS reason, COALESCE(c.failures, 0) AS failures, c.opened_at, {epoch:c.opened_at} AS opened_at_epoch,
               c.last_failure, {epoch:c.last_failure} AS last_failure_epoch, c.next_attempt, {epoch:c.next_attempt} AS next_attempt_epoch,
               c.changed_at, {epoch:c.changed_at} AS changed_at_epoch,
               (SELECT COUNT(*) FROM circuit_transitions t
                WHERE t.route_id = r.route_id AND (c.host IS NULL OR t.host IN ('', c.host)) AND t.to_state = 'open'
                  AND t.at >= {at:day}) AS opened_24h
        FROM routes r LEFT JOIN circuits c ON c.route_id = r.route_id""",
    "v_slowest": """
        SELECT s.at, {epoch:s.at} AS at_epoch, s.route_id, h.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, s.level,
               s.method, s.url, s.status_code, s.total_ms, s.queue_ms, s.connect_ms, s.first_byte_ms, s.body_ms, s.upstream, s.request_id
        FROM slow_requests s LEFT JOIN route_history h ON h.route_id = s.route_id LEFT JOIN endpoints p ON p.endpoint_id = h.endpoint_id
        ORDER BY s.total_ms DESC LIMIT 100""",
    "v_errors": """
        SELECT x.service_name, x.domain, x.path, x.status_code, x.reason, x.made_by, x.requests, x.first_hour,
               {epoch:x.first_hour} AS first_hour_epoch, x.last_at, {epoch:x.last_at} AS last_at_epoch, x.last_method, x.last_url,
               x.last_upstream, x.last_request_id
        FROM (SELECT p.service_name, p.domain, p.path, e.status_code, e.reason, e.made_by, e.last_at, e.last_method, e.last_url,
                     e.last_upstream, e.last_request_id,
                     CAST(SUM(e.requests) OVER (PARTITION BY p.service_name, p.domain, p.path, e.status_code, e.reason) AS {whole_type})
                     AS requests, MIN(e.hour) OVER (PARTITION BY p.service_name, p.domain, p.path, e.status_code, e.reason) AS first_hour,
                     ROW_NUMBER() OVER (PARTITION BY p.service_name, p.domain, p.path, e.status_code, e.reason ORDER BY e.last_at DESC)
                     AS place
              FROM error_hours e LEFT JOIN endpoints p ON p.endpoint_id = e.endpoint_id WHERE e.hour >= {at:week}) x
        WHERE x.place = 1""",
    "v_unknown_hosts": """
        SELECT u.host, u.requests, u.last_at, {epoch:u.last_at} AS last_at_epoch FROM unknown_hosts u
        ORDER BY u.requests DESC, u.last_at DESC LIMIT 100""",
    "v_slowest_endpoints": """
        SELECT t.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, CAST(SUM(t.requests) AS {whole_type}) AS requests_24h,
               ROUND(CAST(SUM(t.latency_ms_sum) / SUM(t.requests) AS {decimal}), 3) AS avg_ms, CAST(SUM(t.late) AS {whole_type}) AS late_24h
        FROM traffic_hours t JOIN endpoints p ON p.endpoint_id = t.endpoint_id
        WHERE t.hour >= substr({at:day}, 1, 13) || ':00:00.000Z'
        GROUP BY t.endpoint_id, p.service_name, p.instance_name, p.domain, p.path HAVING SUM(t.requests) > 0""",
    "v_unwell": """
        SELECT u.rank, u.severity, u.kind, u.what, u.why, u.since, {epoch:u.since} AS since_epoch, u.service_name, u.routes, u.todo
        FROM unwell u""",
    "v_now": """
        SELECT {at:now} AS now, {at:minute} AS minute_ago, {at:hour} AS hour_ago, {at:day} AS day_ago, {at:week} AS week_ago,
               {at:month} AS month_ago, {date:0} AS today, {date:1} AS yesterday, {epoch_now} AS now_epoch""",
    "v_events": """
        SELECT e.id, e.at, {epoch:e.at} AS at_epoch, e.type, e.route_id, COALESCE({json:e.detail,service}, p.service_name) AS service_name,
               COALESCE({json:e.detail,instance}, p.instance_name) AS instance_name, h.endpoint_id, p.domain, p.path,
               COALESCE({json:e.detail,status}, {json:e.detail,state}) AS became, {json:e.detail,reason} AS reason, e.actor, e.detail
        FROM events e LEFT JOIN route_history h ON h.route_id = e.route_id LEFT JOIN endpoints p ON p.endpoint_id = h.endpoint_id""",
    "v_endpoints": """
        SELECT p.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, p.first_seen, {epoch:p.first_seen} AS first_seen_epoch,
               COUNT(h.route_id) AS routes_ever, COUNT(h.route_id) - COUNT(h.removed_at) AS routes_now,
               MAX(h.added_at) AS last_added, {epoch:MAX(h.added_at)} AS last_added_epoch,
               MAX(h.removed_at) AS last_removed, {epoch:MAX(h.removed_at)} AS last_removed_epoch
        FROM endpoints p LEFT JOIN route_history h ON h.endpoint_id = p.endpoint_id
        GROUP BY p.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, p.first_seen""",
    "v_route_history": """
        SELECT h.route_id, h.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, h.backend_url, h.session_id,
               h.added_at, {epoch:h.added_at} AS added_at_epoch, h.added_by,
               h.removed_at, {epoch:h.removed_at} AS removed_at_epoch, h.removed_by, h.removed_why
        FROM route_history h JOIN endpoints p ON p.endpoint_id = h.endpoint_id""",
    "v_traffic": """
        SELECT m.minute, {epoch:m.minute} AS minute_epoch, m.route_id, h.endpoint_id, p.service_name, p.instance_name, p.domain, p.path,
               m.requests, m.errors, m.errors - m.proxy_errors AS backend_errors, m.proxy_errors, m.maintenance_hits, m.latency_ms_sum,
               m.bytes_sent, m.bytes_received
        FROM route_minutes m LEFT JOIN route_history h ON h.route_id = m.route_id
        LEFT JOIN endpoints p ON p.endpoint_id = h.endpoint_id""",
    "v_deploys": """
        SELECT d.deploy_id, d.at, {epoch:d.at} AS at_epoch, d.service_name, d.instance_name, d.version_before, d.version_after,
               d.places_added, d.places_changed, d.places_removed, d.routes_set AS changed_routes, d.routes_removed AS removed_routes,
               d.settings_changed AS changed_settings, d.actor, d.config_version, d.change
        FROM deploys d""",
    "v_certificates": """
        SELECT c.domain, c.key_type, c.issuer, c.not_before, {epoch:c.not_before} AS not_before_epoch, c.not_after,
               {epoch:c.not_after} AS not_after_epoch,
               ({epoch:c.not_after} - {epoch_now}) / 86400 AS days_left, c.serial
        FROM certificates c""",
    "v_certificate_history": """
        SELECT h.id, h.at, {epoch:h.at} AS at_epoch, h.what, h.domain, h.names, h.key_type, h.file, h.issuer, h.not_before,
               {epoch:h.not_before} AS not_before_epoch, h.not_after, {epoch:h.not_after} AS not_after_epoch, h.challenge, h.why, h.times,
               h.last_at, {epoch:h.last_at} AS last_at_epoch, h.actor, h.serial
        FROM certificate_history h""",
    "v_maintenance": """
        SELECT w.window_id, w.service_name, w.instance_name, w.domain, w.path, w.endpoint_id, w.route_id,
               CASE WHEN w.ended_at IS NULL AND w.started_at IS NULL THEN 'planned' WHEN w.ended_at IS NULL THEN 'running'
                    WHEN w.started_at IS NULL THEN 'cancelled' ELSE 'ended' END AS state,
               w.reason, w.entered_by, w.planned_start, {epoch:w.planned_start} AS planned_start_epoch, w.started_at,
               {epoch:w.started_at} AS started_at_epoch, w.planned_end, {epoch:w.planned_end} AS planned_end_epoch, w.ended_at,
               {epoch:w.ended_at} AS ended_at_epoch, COALESCE({epoch:w.ended_at}, {epoch_now}) - {epoch:w.started_at} AS seconds,
               w.ended_by, w.ended_how
        FROM maintenance_windows w""",
    "v_rollouts": """
        SELECT r.rollout_id, r.service_name, r.instance_name, r.state, r.share, r.steps, r.started_at,
               {epoch:r.started_at} AS started_at_epoch, r.started_by, r.ended_at, {epoch:r.ended_at} AS ended_at_epoch, r.why,
               r.requests, r.errors, r.p95_ms, r.other_requests, r.other_errors, r.other_p95_ms
        FROM rollouts r""",
    "v_websockets": """
        SELECT w.route_id, w.client, w.opened_at, {epoch:w.opened_at} AS opened_at_epoch, w.closed_at,
               {epoch:w.closed_at} AS closed_at_epoch, {epoch:w.closed_at} - {epoch:w.opened_at} AS seconds,
               w.bytes_sent, w.bytes_received, w.reason
        FROM websocket_connections w""",
    "v_flapping": """
        SELECT x.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, COUNT(*) AS outages_24h, MAX(x.at) AS last_outage,
               {epoch:MAX(x.at)} AS last_outage_epoch
        FROM (SELECT i.endpoint_id, i.started_at AS at FROM incidents i
              WHERE i.kind = 'endpoint' AND NOT i.planned AND i.started_at >= {at:day}
              UNION ALL
              SELECT h.endpoint_id, t.at FROM circuit_transitions t JOIN route_history h ON h.route_id = t.route_id
              WHERE t.to_state = 'open' AND t.reason <> 'health_down' AND t.at >= {at:day}) x
        JOIN endpoints p ON p.endpoint_id = x.endpoint_id
        GROUP BY x.endpoint_id, p.service_name, p.instance_name, p.domain, p.path HAVING COUNT(*) >= 3""",
    "v_incidents": """
        SELECT i.incident_id, i.kind, i.service_name, i.instance_name, i.domain, i.path, i.endpoint_id, i.route_id,
               CASE WHEN i.planned THEN 'yes' ELSE 'no' END AS planned, i.started_at, {epoch:i.started_at} AS started_at_epoch,
               i.first_failed_at, {epoch:i.first_failed_at} AS first_failed_at_epoch, i.ended_at,
               {epoch:i.ended_at} AS ended_at_epoch, COALESCE(i.ended_how, 'goes on') AS ended_how,
               COALESCE({epoch:i.ended_at}, {epoch_now}) - {epoch:i.started_at} AS seconds, i.cause,
               CASE WHEN i.first_failed_at >= (SELECT COALESCE(MIN(x.minute), '') FROM route_minutes x) THEN
               (SELECT COALESCE(CAST(SUM(m.errors) AS {whole_type}), 0) FROM endpoints p
                JOIN route_history h ON h.endpoint_id = p.endpoint_id JOIN route_minutes m ON m.route_id = h.route_id
                 AND (h.removed_at IS NULL OR h.removed_at >= substr(i.first_failed_at, 1, 16))
                WHERE p.service_name = i.service_name AND p.domain = i.domain AND p.path = i.path
                  AND (i.kind = 'service' OR p.instance_name = i.instance_name)
                  AND m.minute >= substr(i.first_failed_at, 1, 16) AND m.minute <= COALESCE(i.ended_at, {at:now})) END AS failed_requests
        FROM incidents i""",
    # What has ended is found by its end: most questions are about the last days of years. What goes on is little. All four parts have the
    # same affinities: only then SQLite puts a condition with a subquery or with another table's column into each.
    "v_down_at": f"""
        SELECT i.kind, i.service_name, i.instance_name, i.domain, i.path, CASE WHEN i.planned THEN 'yes' ELSE 'no' END AS planned,
               {{not_by:i.started_at}} AS since, {{epoch:i.started_at}} AS since_epoch, i.ended_at AS until,
               {{epoch:i.ended_at}} AS until_epoch, i.cause AS why, i.incident_id,
               CAST(NULL AS {{whole_type}}) AS window_id
        FROM incidents i WHERE i.ended_at IS NOT NULL
        UNION ALL
        SELECT i.kind, i.service_name, i.instance_name, i.domain, i.path, CASE WHEN i.planned THEN 'yes' ELSE 'no' END,
               i.started_at, {{epoch:i.started_at}}, CAST('{GOES_ON}' AS TEXT), {{epoch:'{GOES_ON}'}}, i.cause, i.incident_id,
               CAST(NULL AS {{whole_type}})
        FROM incidents i WHERE i.ended_at IS NULL
        UNION ALL
        SELECT CAST('maintenance' AS TEXT), w.service_name, w.instance_name, w.domain, w.path, 'yes', {{not_by:w.started_at}},
               {{epoch:w.started_at}}, w.ended_at, {{epoch:w.ended_at}}, w.reason, CAST(NULL AS {{whole_type}}), w.window_id
        FROM maintenance_windows w WHERE w.ended_at IS NOT NULL AND w.started_at IS NOT NULL
        UNION ALL
        SELECT CAST('maintenance' AS TEXT), w.service_name, w.instance_name, w.domain, w.path, 'yes', w.started_at,
               {{epoch:w.started_at}}, CAST('{GOES_ON}' AS TEXT), {{epoch:'{GOES_ON}'}}, w.reason, CAST(NULL AS {{whole_type}}), w.window_id
        FROM maintenance_windows w WHERE w.ended_at IS NULL AND w.started_at IS NOT NULL""",
    "v_uptime": UPTIME,
    "v_uptime_services": UPTIME_SERVICES,
    # Each part finds its rows by keys, objective by objective. An endpoint has many routes that are gone: those of the last hour are found
    # by when they went.
    "v_slo": """
        SELECT z.service_name, z.domain, z.path, z.objective, z.target_percent, z.limit_ms, z.requests, z.bad AS spent,
               ROUND(CAST(z.requests * z.allowed AS {decimal}), 1) AS budget,
               ROUND(CAST(z.requests * z.allowed - z.bad AS {decimal}), 1) AS budget_left,
               CASE WHEN ROUND(CAST(z.requests * z.allowed AS {decimal}), 1) >= 1
                    THEN ROUND(CAST(100.0 * (z.requests * z.allowed - z.bad) / (z.requests * z.allowed) AS {decimal}), 1)
                    END AS left_percent,
               ROUND(CAST(1.0 * z.bad_1h / NULLIF(z.requests_1h * z.allowed, 0) AS {decimal}), 2) AS burn_1h,
               ROUND(CAST(1.0 * z.bad_6h / NULLIF(z.requests_6h * z.allowed, 0) AS {decimal}), 2) AS burn_6h
        FROM (SELECT y.service_name, y.domain, y.path, y.objective, MAX(y.target_percent) AS target_percent, MAX(y.limit_ms) AS limit_ms,
                     ROUND(CAST((100 - MAX(y.target_percent)) / 100 AS {decimal}), 12) AS allowed,
                     CAST(SUM(CASE WHEN y.span = 30 THEN y.requests ELSE 0 END) AS {whole_type}) AS requests,
                     CAST(SUM(CASE WHEN y.span = 30 THEN y.bad ELSE 0 END) AS {whole_type}) AS bad,
                     SUM(CASE WHEN y.span = 6 THEN y.requests ELSE 0 END) AS requests_6h,
                     SUM(CASE WHEN y.span = 6 THEN y.bad ELSE 0 END) AS bad_6h,
                     SUM(CASE WHEN y.span = 1 THEN y.requests ELSE 0 END) AS requests_1h,
                     SUM(CASE WHEN y.span = 1 THEN y.bad ELSE 0 END) AS bad_1h
              FROM (SELECT o.*, 0 AS span, 0 AS requests, 0 AS bad FROM objectives o
                    UNION ALL
                    SELECT o.service_name, o.domain, o.path, o.objective, NULL, NULL, 30, SUM(d.requests - d.maintenance_hits),
                           SUM(CASE WHEN o.objective = 'latency' THEN d.late ELSE d.errors END)
                    FROM objectives o CROSS JOIN endpoints p CROSS JOIN traffic_days d
                    WHERE p.service_name = o.service_name AND p.domain = o.domain AND p.path = o.path
                      AND d.endpoint_id = p.endpoint_id AND d.day >= substr({at:month}, 1, 10) || 'T00:00:00.000Z'
                    GROUP BY o.service_name, o.domain, o.path, o.objective
                    UNION ALL
                    SELECT o.service_name, o.domain, o.path, o.objective, NULL, NULL, 6, SUM(t.requests - t.maintenance_hits),
                           SUM(CASE WHEN o.objective = 'latency' THEN t.late ELSE t.errors END)
                    FROM objectives o CROSS JOIN endpoints p CROSS JOIN traffic_hours t
                    WHERE p.service_name = o.service_name AND p.domain = o.domain AND p.path = o.path
                      AND t.endpoint_id = p.endpoint_id AND t.hour >= substr({at:hours6}, 1, 13) || ':00:00.000Z'
                    GROUP BY o.service_name, o.domain, o.path, o.objective
                    UNION ALL
                    SELECT o.service_name, o.domain, o.path, o.objective, NULL, NULL, 1, SUM(m.requests - m.maintenance_hits),
                           SUM(CASE WHEN o.objective = 'latency' THEN m.late ELSE m.errors END)
                    FROM objectives o CROSS JOIN endpoints p CROSS JOIN route_history h CROSS JOIN route_minutes m
                    WHERE p.service_name = o.service_name AND p.domain = o.domain AND p.path = o.path AND h.endpoint_id = p.endpoint_id
                      AND h.removed_at IS NULL AND m.route_id = h.route_id AND m.minute >= {at:hour}
                    GROUP BY o.service_name, o.domain, o.path, o.objective
                    UNION ALL
                    SELECT o.service_name, o.domain, o.path, o.objective, NULL, NULL, 1, SUM(m.requests - m.maintenance_hits),
                           SUM(CASE WHEN o.objective = 'latency' THEN m.late ELSE m.errors END)
                    FROM objectives o CROSS JOIN endpoints p CROSS JOIN route_history h CROSS JOIN route_minutes m
                    WHERE p.service_name = o.service_name AND p.domain = o.domain AND p.path = o.path AND h.endpoint_id = p.endpoint_id
                      AND h.removed_at >= {at:hour} AND m.route_id = h.route_id AND m.minute >= {at:hour}
                    GROUP BY o.service_name, o.domain, o.path, o.objective) y
              GROUP BY y.service_name, y.domain, y.path, y.objective) z""",
    "v_health_by_minute": spanviews.health("minute"),
    "v_health_by_hour": spanviews.health("hour"),
    "v_health_by_day": spanviews.health("day"),
    "v_traffic_by_hour": spanviews.traffic("hour"),
    "v_traffic_by_day": spanviews.traffic("day"),
    "v_latency_by_hour": """
        SELECT t.hour, {epoch:t.hour} AS hour_epoch, t.endpoint_id, p.service_name, p.instance_name, p.domain, p.path,
               (SELECT CAST(SUM(l.requests) AS {whole_type}) FROM latency_hours l WHERE l.endpoint_id = t.endpoint_id AND l.hour = t.hour)
               AS requests, {percentile:0.5} AS p50_ms, {percentile:0.95} AS p95_ms, {percentile:0.99} AS p99_ms
        FROM traffic_hours t JOIN endpoints p ON p.endpoint_id = t.endpoint_id
        WHERE EXISTS (SELECT 1 FROM latency_hours l WHERE l.endpoint_id = t.endpoint_id AND l.hour = t.hour)""",
    "v_unused": """
        SELECT p.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, MIN(h.added_at) AS added_at,
               {epoch:MIN(h.added_at)} AS added_at_epoch
        FROM route_history h JOIN endpoints p ON p.endpoint_id = h.endpoint_id
        WHERE h.removed_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM route_history o JOIN route_minutes m ON m.route_id = o.route_id
            WHERE o.endpoint_id = p.endpoint_id AND (o.removed_at IS NULL OR o.removed_at >= (SELECT {at:week})) AND m.requests > 0
              AND m.minute >= {at:week})
        GROUP BY p.endpoint_id, p.service_name, p.instance_name, p.domain, p.path""",
}


#: Those that find the same on a server in another way.
OF_SERVER: dict[str, str] = {"v_uptime": LATERAL_UPTIME, "v_uptime_services": LATERAL_UPTIME_SERVICES}

#: What each role may do with a view, without its owner.
_RIGHTS = """
    SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE CAST(CAST(a.grantee AS regrole) AS TEXT) END,
           CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
    FROM pg_class c CROSS JOIN aclexplode(c.relacl) a
    WHERE c.relname = %s AND c.relnamespace = CAST(current_schema() AS regnamespace) AND a.grantee <> c.relowner"""


def _statements() -> dict[str, str]:
    words, others = (SQLITE, {}) if is_sqlite() else (POSTGRES, OF_SERVER)
    return {name: f"CREATE VIEW {name} AS {others.get(name, text).format(**words)}" for name, text in VIEWS.items()}


def _outdated() -> dict[str, str]:
    """The statements of the views that are not there with these texts. A server does not keep a text as it was: a comment tells which."""
    if is_sqlite():
        there = dict(database.execute_sql("SELECT name, sql FROM sqlite_master WHERE type = 'view'").fetchall())
        return {name: text for name, text in _statements().items() if there.get(name) != text}
    there = dict(database.execute_sql("SELECT relname, obj_description(oid, 'pg_class') FROM pg_class "
                                      "WHERE relkind = 'v' AND relnamespace = CAST(current_schema() AS regnamespace)").fetchall())
    return {name: text for name, text in _statements().items() if there.get(name) != _mark(text)}


def _mark(text: str) -> str:
    return f"A view of proxyd, {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def views_are_current() -> bool:
    """Whether the views are there with these texts. Runs in the database thread."""
    return not _outdated()


def create_views() -> None:
    """Make those views anew that are not there with these texts; who may read one on a server still may. Runs in the database thread."""
    for name, text in _outdated().items():
        rights = [] if is_sqlite() else database.execute_sql(_RIGHTS, [name]).fetchall()
        database.execute_sql(f"DROP VIEW IF EXISTS {name}")
        database.execute_sql(text)
        if not is_sqlite():
            database.execute_sql(f"COMMENT ON VIEW {name} IS '{_mark(text)}'")
        for right, role, option in rights:
            database.execute_sql(f"GRANT {right} ON {name} TO {role}{option}")
