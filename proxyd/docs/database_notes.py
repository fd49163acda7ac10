"""What the models don't say about tables, columns and views, and the questions that docs/database.md answers."""

from __future__ import annotations

from proxyd.base.counters import COUNTERS
from proxyd.events.types import NAMES
from proxyd.store.sql.viewparts import GOES_ON

#: Behind the model's own description.
TABLE_NOTES: dict[str, str] = {
    "schema_version": "One row for each migration that was run; the highest is the schema's version.",
    "counters": "`circuit_sequence` is the last circuit transition that became a row.",
    "route_status_codes": "499: the client went away.",
    "route_stats": "The route `-` stands for requests that matched no route or could not be read.",
    "service_stats": "The service and domain `-` stand for requests that matched no route. /metrics shows those of services that have "
                     "a route now.",
    "refusals": "Written with the statistics. The same numbers are `proxyd_refusals_total` in the metrics.",
    "slow_requests": "At most 20 of each route and hour are kept, the slowest.",
    "events": f"`type` is one of {', '.join(f'`{name}`' for name in NAMES)}.",
    "circuits": "A copy of what the workers share in memory, at most a second old. "
                "A route whose circuit never changed and never counted a failure has no row.",
    "route_in_flight": "Written with the statistics, about every half second. "
                       "A row with nothing open is deleted; so are those of a worker that died.",
    "health_status": "`down` takes no traffic while `[health] drive_circuits` is on.",
}

_BECAME = ("`ordered` (the first attempt), `obtained`, `renewed`, `imported`, `failed`, `revoked`, `removed` (by an operator) or "
           "`expired`.")
_ENDED = ("`exited`, `over` (by itself), `removed` (with its route), `cancelled`, or `missed` (no master was there in its time). "
          "NULL: it has not ended.")
#: By `table.column`, or by column for all tables and views that have it. Each column has one: a test looks.
COLUMN_NOTES: dict[str, str] = {
    "id": "Number of the row, ascending.",
    "at": "When it happened.",
    "route_id": "The route: `r1`, `r2`, ... An id is never used twice.",
    "session_id": "The session it belongs to.",
    "service_name": "Name of the service, as registered. For a site file, the name of the file. "
                    "For a route by hand, its first domain if no other was chosen.",
    "instance_name": "Name of the instance, as registered.",
    "schema_version.version": "Number of the migration.",
    "certificates.domain": "The name that it was ordered for, or `(local CA)`.",
    "key_type": "Kind of its key: `ecdsa256` or `rsa2048`.",
    "chain": "The certificate and those that lead to the root, as PEM.",
    "private_key": "The private key, encrypted with `[acme] key_file`.",
    "serial": "Its serial number, hexadecimal.",
    "issuer": "Who signed it.",
    "not_before": "From when it is valid.",
    "not_after": "Until when it is valid.",
    "certificate_history.what": _BECAME,
    "v_certificate_history.what": _BECAME,
    "certificate_history.domain": "The name that it was ordered for; of a file, its first name.",
    "v_certificate_history.domain": "The name that it was ordered for; of a file, its first name.",
    "v_certificates.domain": "The name that it was ordered for, or `(local CA)`.",
    "names": "All names in it, as a JSON list.",
    "file": "The file, for those of `[tls] certificates` and `[registry] tls_certificate`. Empty: it is in the database.",
    "certificate_history.why": "Why it failed, in words, or the reason of a revocation. Empty else.",
    "v_certificate_history.why": "Why it failed, in words, or the reason of a revocation. Empty else.",
    "times": "How often it failed so, one after the other. 1 for all else.",
    "certificate_history.last_at": "When that was last.",
    "v_certificate_history.last_at": "When that was last.",
    "certificate_history.actor": "Who did it. Empty: proxyd itself.",
    "v_certificate_history.actor": "Who did it. Empty: proxyd itself.",
    "certificate_history.not_before": "From when it is valid. NULL: there is none yet, or it is a file.",
    "v_certificate_history.not_before": "From when it is valid. NULL: there is none yet, or it is a file.",
    "certificate_history.not_after": "Until when it is valid. NULL: there is none yet.",
    "v_certificate_history.not_after": "Until when it is valid. NULL: there is none yet.",
    "days_left": "How many whole days are left. Negative: it has expired.",
    "certificates.version": "Value of the counter `certificates_version` when it was stored.",
    "certificate_orders.domain": "The name.",
    "certificate_orders.state": "`ordering`, or `failed`.",
    "order_url": "Where the CA keeps the order. Empty: it is not placed yet.",
    "challenge": "The challenge that the CA checked last.",
    "error": "Why the last attempt failed, and what to do.",
    "attempts": "Failed attempts, one after the other.",
    "certificate_orders.next_attempt": "When it is tried again.",
    "token": "What the CA asks for.",
    "answer": "What it is answered.",
    "acme_challenges.domain": "The name that is checked.",
    "posted_at": "When it was posted.",
    "directory": "URL of the CA's directory.",
    "url": "URL of the account.",
    "description": "What the migration did.",
    "applied_at": "When the migration ran.",
    "sessions.session_id": "Number of the session: `s1`, `s2`, ... It is never used twice. For a site file, `site:` and the name of the "
                           "file. It is no secret. The id that the client has is another one, and a secret: only its hash is stored.",
    "secret_hash": "SHA-256 of the id that the client got in the answer to REGISTER. Empty for a site file and a route by hand.",
    "maintenance_port": "Port of the client's maintenance server, as registered. 0 is none.",
    "metadata": "What the client said about itself, as a JSON object, without its token.",
    "sessions.state": "`connected`, `disconnected` (the grace runs) or `ended`.",
    "sessions.address": "Address and port from which the client connected.",
    "token_name": "Name of the token with which the client registered. Empty if no token was needed.",
    "connected_at": "When the client registered. RECONNECT does not change it.",
    "disconnected_at": "When the connection was last lost. The grace counts from here; `state` tells whether the client is back.",
    "disconnected_clock": "The same instant by a clock that nobody sets: id of the machine's boot, and seconds since it.",
    "ended_at": "When the session ended.",
    "last_activity": "When the client last sent a command, as it was known at the last REGISTER, RECONNECT, CONFIG_APPLY or loss of the "
                     "connection: only these write it. SESSION_INFO tells the present value.",
    "last_apply": "When the last CONFIG_APPLY was done.",
    "v_now.now": "The time of day now.",
    "v_now.minute_ago": "A minute ago.",
    "v_now.hour_ago": "An hour ago.",
    "v_now.day_ago": "24 hours ago.",
    "v_now.week_ago": "7 days ago.",
    "v_now.month_ago": "30 days ago.",
    "v_now.today": "The date of today, in UTC.",
    "v_now.yesterday": "The date of yesterday, in UTC.",
    "v_now.now_epoch": "Unix seconds now.",
    "endpoint_id": "The endpoint: the same over REGISTER, redeploys and other hosts.",
    "service_id": "Number of the service.",
    "endpoints.service_id": "The service it belongs to.",
    "first_seen": "When it was declared for the first time.",
    "domain": "First domain of the route.",
    "path": "Path prefix of the route.",
    "route_history.session_id": "The session that declared the route. It may be gone.",
    "v_route_history.session_id": "The session that declared the route. It may be gone.",
    "added_at": "When the route was added.",
    "added_by": "Who added it. `kept table` if the database was lost and the routes came from `proxyd.table`; empty if it was there before "
                "this was noted.",
    "removed_at": "When the route was removed. NULL while it is there.",
    "removed_by": "Who removed it: a client, a site file, an operator, or `proxyd` itself.",
    "removed_why": "`CONFIG_APPLY` (without this route), `redeployed` (a new session of the same service and instance applied), "
                   "`CLIENT_SHUTDOWN`, or in words why the session ended.",
    "v_endpoints.routes_ever": "How many routes it has had, those that are gone included.",
    "v_endpoints.routes_now": "How many routes it has now.",
    "v_endpoints.last_added": "When a route was last added.",
    "v_endpoints.last_removed": "When a route was last removed.",
    "v_events.type": "What kind of event it is (docs/protocol.md lists them).",
    "v_websockets.reason": "How it ended.",
    "v_events.became": "The state that health or circuit changed to, where the event is about one.",
    "v_events.reason": "Why, where the event says it.",
    "deploy_id": "Number of the deploy, ascending.",
    "version_before": "Version that the same service and instance told at their deploy before. NULL: there is none, or it told none.",
    "version_after": "Version that the client told in the metadata of REGISTER (`{\"version\":\"1.4.2\"}`). NULL: it told none.",
    "deploys.config_version": "Config version that the apply made. NULL: it was before this was noted.",
    "v_deploys.config_version": "Config version that the apply made. NULL: it was before this was noted.",
    "places_added": "Places (domain and path) that the instance serves since then. NULL: it was before this was noted.",
    "places_changed": "Places whose backend, options or headers are others since then. NULL: it was before this was noted.",
    "places_removed": "Places that the instance serves no more. NULL: it was before this was noted.",
    "routes_set": "Routes that were added or changed. A new registration adds all of its routes.",
    "routes_removed": "Routes that were removed.",
    "settings_changed": "Settings that were changed.",
    "v_deploys.changed_routes": "Routes that were added or changed. A new registration adds all of its routes.",
    "v_deploys.removed_routes": "Routes that were removed.",
    "v_deploys.changed_settings": "Settings that were changed.",
    "change": "What changed, as a JSON object: `added`, `changed` and `removed` are lists of places; in `changed`, what differs has the "
              "value before and the one after. Of request headers there are only the names. `left_off` says how many places more there "
              "are than fit into 16 KiB.",
    "window_id": "Number of the window, ascending.",
    "maintenance_windows.endpoint_id": "The endpoint. Its names stand here too, so that the row outlives it.",
    "maintenance_windows.route_id": "The route that the endpoint had then.",
    "v_maintenance.route_id": "The route that the endpoint had then.",
    "planned_start": "When it was planned to begin. NULL: it was entered at once.",
    "planned_end": "When it is to end by itself. NULL: somebody must end it.",
    "maintenance_windows.started_at": "When it began. NULL: it has not.",
    "v_maintenance.started_at": "When it began. NULL: it has not.",
    "entered_by": "Who entered or planned it.",
    "maintenance_windows.reason": "Why, as whoever entered it said. Empty: nobody said.",
    "v_maintenance.reason": "Why, as whoever entered it said. Empty: nobody said.",
    "maintenance_windows.ended_at": "When it ended, or the plan for it. NULL: it has not.",
    "v_maintenance.ended_at": "When it ended, or the plan for it. NULL: it has not.",
    "ended_by": "Who ended it. NULL: it has not ended.",
    "maintenance_windows.ended_how": _ENDED,
    "v_maintenance.ended_how": _ENDED,
    "v_maintenance.state": "`planned`, `running`, `ended` or `cancelled` (it never began).",
    "v_maintenance.seconds": "How long it lasted, or has lasted. NULL: it never began.",
    "v_websockets.seconds": "How long it was open.",
    "leadership.id": "Always 1.",
    "leadership.term": "How often the lead was taken. A master whose number is not this one can write nothing.",
    "leadership.host": "Host of the master that leads.",
    "leadership.pid": "Its process id.",
    "leadership.since": "When it began to lead.",
    "counters.name": "Name of the counter.",
    "counters.value": "Its present value.",
    "scope": "Which kind of setting it is.",
    "session_settings.target": "`ALL` or a route id.",
    "staged_changes.target": "`ALL` or a route id.",
    "session_settings.name": "Name of the setting within its scope.",
    "session_settings.value": "Value of the setting, as text.",
    "staged_changes.name": "Name of the setting within its scope.",
    "staged_changes.value": "The value that CONFIG_APPLY will set. NULL removes the setting.",
    "staged_at": "When the change was staged.",
    "staged_clock": "The same instant by a clock that nobody sets: id of the machine's boot, and seconds since it.",
    "domains": "Hosts of the route, as a JSON list.",
    "routes.path": "Path prefix of the route.",
    "v_routes.path": "Path prefix of the route.",
    "priority": "Rank among the routes of one host. The higher number is tried first.",
    "backend_url": "Where the route leads, as declared.",
    "routes.enabled": "Whether the route takes traffic: 0 while its session is disconnected.",
    "v_routes.enabled": "Whether the route takes traffic: `no` while its session is disconnected.",
    "routes.options": "Options that were set, as a JSON object: those for `ALL`, with the route's own over them.",
    "routes.headers": "Response headers that HEADERS_SET gave the route, as a JSON object. The value - takes the backend's own away.",
    "routes.request_headers": "Request headers that REQUEST_HEADERS_SET gave the route, as a JSON object. The value - takes the client's "
                              "own away.",
    "routes.rate_limits": "Rate limits, as a JSON list of [requests, window in seconds].",
    "maintenance_since": "When maintenance began. NULL if the route is not in maintenance.",
    "maintenance_page_url": "Where the maintenance page is fetched from. Empty is the built-in page.",
    "maintenance_until": "When maintenance ends by itself. NULL if only MAINT_EXIT ends it.",
    "maintenance_clock": "The same instant by a clock that nobody sets.",
    "maintenance_plan": "Planned maintenance, as a JSON object: at, seconds, page_url, by. NULL if none is planned.",
    "hold_until": "Until when the route's requests wait (TRAFFIC_HOLD). NULL if they do not.",
    "hold_clock": "The same instant by a clock that nobody sets.",
    "drain_started_at": "When the drain began. NULL if the route does not drain.",
    "drain_clock": "The same instant by a clock that nobody sets: id of the machine's boot, and seconds since it.",
    "drain_seconds": "Length of the drain.",
    "rollout_share": "Percentage of the clients that a rollout leaves to the route; 0: it takes requests only if no other can. NULL: its "
                     "usual share.",
    "rollout_id": "Number of the rollout, ascending.",
    "rollouts.session_id": "The session of the instance.",
    "rollouts.state": "`running`, `completed`, `rolled_back` (by itself), `aborted` or `ended` (with the session).",
    "v_rollouts.state": "`running`, `completed`, `rolled_back` (by itself), `aborted` or `ended` (with the session).",
    "share": "Percentage of the clients that the instance gets, or got in the end.",
    "steps": "All percentages, as a JSON list.",
    "step": "Which of them holds, from 0.",
    "step_at": "When that step began.",
    "step_clock": "The same instant by a clock that nobody sets.",
    "every_seconds": "Seconds of each step.",
    "max_errors": "Percentage points by which more of its requests may fail than of the others'.",
    "max_slower": "How many times the p95 of the others its p95 may be.",
    "rollouts.requests": "Requests of the instance in the last step.",
    "v_rollouts.requests": "Requests of the instance in the last step.",
    "rollouts.errors": "Those of them that were answered with a status from 500.",
    "v_rollouts.errors": "Those of them that were answered with a status from 500.",
    "rollouts.p95_ms": "Milliseconds that 95 % of them did not exceed. NULL without requests.",
    "v_rollouts.p95_ms": "Milliseconds that 95 % of them did not exceed. NULL without requests.",
    "other_requests": "Requests of the other instances in that step.",
    "other_errors": "Those of them that were answered with a status from 500.",
    "other_p95_ms": "Milliseconds that 95 % of them did not exceed. NULL without requests.",
    "memory": "What the master remembers of it, as a JSON object.",
    "rollouts.started_at": "When it began.",
    "v_rollouts.started_at": "When it began.",
    "started_by": "Who asked for it.",
    "rollouts.ended_at": "When it ended. NULL while it goes on.",
    "v_rollouts.ended_at": "When it ended. NULL while it goes on.",
    "why": "Why it ended before its end. Empty if it did not.",
    "slot": "Place of the route's circuit in shared memory.",
    "routes.version": "Config version in which the row changed last.",
    "created_at": "When CONFIG_APPLY added the route. Later changes of the route leave it as it is; a new registration makes new routes.",
    "routes.updated_at": "When the row changed last.",
    "route_removals.version": "Config version that removed the route.",
    "pid": "Process id of the worker.",
    "host": "Name of the host that the worker runs on (`[hosts] name`).",
    "circuits.host": "Name of the host whose circuit it is (`[hosts] name`): each host judges its own way to the upstream.",
    "v_circuits.host": "Name of the host whose circuit it is. NULL for a route whose circuit was never other than closed.",
    "circuit_transitions.host": "Name of the host whose circuit changed. Empty before version 25 of the schema.",
    "counted_at": "Up to when all that the worker counted is in the tables: Unix seconds by the clock of the database server. NULL with "
                  "SQLite.",
    "clock": "What the clock of the host says: a mark of its boot and seconds since then. Drains and holds go by it on all hosts.",
    "hosts.admin": "Where the masters of other hosts reach its admin HTTP while it leads (`[hosts] admin`). Empty: they can't.",
    "drained_at": "Since when `proxyctl host drain` keeps it from serving. NULL: nothing does.",
    "drained_by": "Who asked for that.",
    "connections": "Registry connections that are open there: to the leader itself, or passed on to it.",
    "clock_at": "When it said so: Unix seconds by the clock of the database server.",
    "boot": "Mark of the host's boot and of its namespace of process ids. Process ids mean nothing beyond them.",
    "hosts.name": "Name of the host (`[hosts] name`).",
    "hosts.pid": "Process id of its master.",
    "backend": "Process id, on the database server, of the connection that holds the host's name.",
    "release": "Version of proxyd that it runs.",
    "hosts.config_version": "Config version that all of its workers route by.",
    "hosts.registry": "Where the masters of other hosts reach its registry while it leads (`[hosts] address`).",
    "hosts.started_at": "When its master started.",
    "hosts.heartbeat_at": "When its master last said that it is alive, by the clock of the host. It says so twice a second.",
    "beat": "How often it has said so. A host whose number stays the same for 2.5 seconds is gone.",
    "started_at": "When the worker started.",
    "heartbeat_at": "When the worker last said that it is alive. It says so every second.",
    "workers.config_version": "Config version that the worker routes by. The current one is in `counters`.",
    "events.type": "What happened, one of the names above.",
    "events.route_id": "The route it happened to. NULL if it concerns no single route.",
    "events.session_id": "The session it happened to. NULL if it concerns no single session.",
    "actor": "Who asked: a client as service/instance@address, or an operator with the admin token or on the status page, and from where.",
    "detail": "More about the event, as a JSON object.",
    "health_status.url": "The address that is checked.",
    "v_health_now.url": "The address that is checked.",
    "health_status.status": "`unknown`, `healthy`, `degraded` (less than nine good checks in ten) or `down`.",
    "v_health_now.status": "`unknown`, `healthy`, `degraded` or `down`.",
    "health_status.reason": "Why the status is what it is.",
    "v_health_now.reason": "Why the status is what it is.",
    "since": "When the status began.",
    "last_check": "When the last check was made.",
    "last_success": "When the last good check was made.",
    "last_error": "Why the last failed check failed. Good checks leave it as it is. NULL if none failed since the row was made.",
    "response_time_ms": "How long the check took. NULL without an answer.",
    "success_rate_percent": "Share of good checks among the last `[health] window`.",
    "consecutive_failures": "How many checks failed in a row until now.",
    "consecutive_successes": "How many checks passed in a row until now.",
    "health_status.checks": "How many checks of this `url` were made. A restart of the master does not reset it; another url, or a check "
                           "that was taken away and declared again, does.",
    "checked_at": "When the check was made, or the first of those that share the row.",
    "last_checked_at": "When the last of the checks that share the row was made. NULL for a row of one check.",
    "v_checks.last_checked_at": "When the last of the checks that share the row was made; the same where there is one.",
    "health_results.checks": "How many checks the row stands for.",
    "v_checks.checks": "How many checks the row stands for.",
    "v_checks.planned": "`yes` or `no`: whether the route was in maintenance or drained then.",
    "health_results.planned": "Whether the route was in maintenance or drained then.",
    "v_checks.ok": "`yes` or `no`: whether the check passed, or all that share the row.",
    "v_checks.avg_ms": "How long the check took, or those that share the row on average. NULL without an answer.",
    "v_checks.min_ms": "The shortest time.",
    "v_checks.max_ms": "The longest time.",
    "response_time_ms_min": "The shortest time of the checks that share the row. NULL for a row of one check, or without an answer.",
    "response_time_ms_max": "The longest time of the checks that share the row. NULL for a row of one check, or without an answer.",
    "ok": "Whether the check passed.",
    "health_results.response_time_ms": "How long the check took, or those that share the row on average. NULL without an answer.",
    "health_results.status_code": "Status of the answer. NULL without an answer.",
    "health_results.error": "Why the check failed. NULL for a good check.",
    "v_checks.status_code": "Status of the answer. NULL without an answer.",
    "v_checks.error": "Why the check failed. NULL for a good check.",
    "circuits.state": "`closed`, `open` or `half_open`.",
    "v_circuits.state": "`closed`, `open` or `half_open`.",
    "circuits.reason": "Why the state changed last: a name of the chart in docs/health.md. Empty if it never changed.",
    "v_circuits.reason": "Why the state changed last: a name of the chart in docs/health.md. Empty if it never changed.",
    "failures": "Failed requests in a row that count toward `circuit_threshold`. A successful request or trial, and a reset, set it to 0. "
                "An open circuit keeps the count that opened it.",
    "successes": "Trial requests that succeeded since the circuit became half open. 0 in the other states.",
    "opened_at": "When the circuit opened. NULL while it is closed.",
    "websocket_connections.opened_at": "When the WebSocket was opened.",
    "last_failure": "When a request last failed.",
    "next_attempt": "When trial requests begin. NULL while the circuit is not open, or if only a health check can end that.",
    "changed_at": "When the state changed last. If it never changed: when the row was written.",
    "from_state": "The state before: `closed`, `open` or `half_open`.",
    "to_state": "The state after: `closed`, `open` or `half_open`.",
    "circuit_transitions.reason": "Why the state changed: a name of the chart in docs/health.md.",
    **{f"service_stats.{counter.name}": f"{counter.help}." for counter in COUNTERS},
    "service_stats.updated_at": "When a worker last added to the row.",
    **{f"route_stats.{counter.name}": f"{counter.help}." for counter in COUNTERS},
    "route_stats.updated_at": "When a worker last added to the row.",
    "error_hours.endpoint_id": "The endpoint, 0 for requests that matched no route.",
    "error_hours.hour": "The hour.",
    "error_hours.status_code": "Status of the answers: 499 where the client went away, 444 where proxyd closed without one.",
    "v_errors.status_code": "Status of the answers.",
    "error_hours.reason": "Why proxyd refused, failed or cut them: a code of docs/reasons.md. Empty: the backend answered so itself.",
    "v_errors.reason": "A code of docs/reasons.md. Empty: the backend answered so itself.",
    "made_by": "Who made the error: `backend`, `proxy` or `client` (statuses below 500).",
    "error_hours.requests": "How many there were.",
    "v_errors.requests": "How many there were.",
    "first_hour": "The hour of the first.",
    "last_at": "When the last one ended.",
    "last_method": "Method of the last one.",
    "last_url": "Host and path of the last one, 200 characters at most, without its query.",
    "last_upstream": "The backend that got it. Empty: none did.",
    "last_request_id": "Its request id, which is in the logs too.",
    "unknown_hosts.host": "The host, in lower case and without port. `(others)` sums up those beyond what a worker keeps between two "
                          "batches.",
    "v_unknown_hosts.host": "The host. `(others)` sums up those that nobody kept.",
    "unknown_hosts.requests": "How many requests asked for it.",
    "v_unknown_hosts.requests": "How many requests asked for it.",
    "service_status_codes.status_code": "Status of the answers.",
    "route_status_codes.status_code": "Status of the answers.",
    "responses": "How many answers had this status.",
    "bucket": "Number of the bucket, see *Latency buckets*.",
    "route_latency.requests": "How many requests took this long.",
    "minute": "Beginning of the minute.",
    "requests": "Requests answered.",
    "errors": "Requests answered with a status from 500.",
    "latency_ms_sum": "Milliseconds that requests took, summed. Divide by `requests` for the average.",
    "bytes_sent": "Bytes of response bodies sent to clients, and of WebSockets. They are added when the request ends.",
    "bytes_received": "Bytes of request bodies received from clients, and of WebSockets. They are added when the request ends.",
    "websocket_connections.bytes_sent": "Bytes of frames that were forwarded to the client, frame headers included. The handshake and "
                                        "proxyd's own close frame do not count.",
    "websocket_connections.bytes_received": "Bytes of frames that were forwarded from the client to the backend, frame headers included. "
                                            "The handshake does not count.",
    "v_routes.rate_limited": "Requests refused by rate limits.",
    "in_flight": "Requests under way, open WebSockets included.",
    "websocket_active": "Open WebSockets.",
    "queued": "Requests that wait for a place within `max_in_flight`, or for a service that is away (`hold_when_down`).",
    "rate_limit_rejections.address": "Address of the client, or its network for IPv6 (`[ratelimit] ipv6_prefix`). `others` is the sum "
                                     "of what is beyond the first 1000 addresses of a minute and worker.",
    "rejected": "How many requests were refused.",
    "level": "`warning` or `critical`: which of the route's two limits the request exceeded.",
    "method": "Method of the request.",
    "slow_requests.url": "Host and path of the request.",
    "v_slowest.url": "Host and path of the request.",
    "slow_requests.status_code": "Status of the answer.",
    "v_slowest.status_code": "Status of the answer.",
    "total_ms": "How long the request took.",
    "queue_ms": "From the request's header to the start of the last attempt.",
    "connect_ms": "From there until the connection was open. 0 for a kept connection.",
    "first_byte_ms": "From there to the header of the answer.",
    "body_ms": "From there to the end.",
    "request_id": "Id of the request, as in the access log and in X-Request-ID.",
    "upstream": "Host and port of the backend.",
    "closed_at": "When the WebSocket was closed.",
    "client": "Address of the client.",
    "websocket_connections.reason": "`closed`, `idle_timeout`, `ping_timeout`, `max_duration`, `worker_stopping`, "
                                    "`client_reset` or `upstream_reset`.",
    "refusals.reason": "A code of docs/reasons.md.",
    "refusals.requests": "How many requests ended for this reason, over all workers, since the database was made.",
    "health": "Status of the health check. `unchecked` if none is declared.",
    "circuit": "State of the circuit. `closed` if it never changed.",
    "maintenance": "`yes` or `no`.",
    "draining": "`yes` or `no`.",
    "v_uptime_24h.checks": "How many checks were made in the last 24 hours, without those in maintenance or a drain.",
    "v_uptime_24h.uptime_percent": "`good` as a share of `checks`. NULL: all of them were made in maintenance.",
    "v_uptime_24h.in_maintenance": "How many more were made in maintenance or a drain.",
    "good": "How many of them passed.",
    "avg_response_ms": "Average time that a check took.",
    "opened_24h": "How often the circuit opened in the last 24 hours.",
    "outages_24h": "How often it went down in the last 24 hours.",
    "last_outage": "When it went down last.",
    "incident_id": "Number of the incident, ascending.",
    "kind": "`endpoint`, or `service`: no instance was up at this domain and path, which is what users see.",
    "incidents.endpoint_id": "The endpoint. NULL for a service.",
    "v_incidents.endpoint_id": "The endpoint. NULL for a service.",
    "incidents.instance_name": "Name of the instance. Empty for a service.",
    "v_incidents.instance_name": "Name of the instance. Empty for a service.",
    "incidents.route_id": "The route whose check failed first.",
    "v_incidents.route_id": "The route whose check failed first.",
    "incidents.planned": "Whether all its routes were in maintenance or drained.",
    "v_incidents.planned": "`yes` if all its routes were in maintenance or drained.",
    "incidents.started_at": "When it was found down.",
    "v_incidents.started_at": "When it was found down.",
    "first_failed_at": "When the first check of the row of failures failed.",
    "incidents.ended_at": "When the incident ended. NULL while it goes on.",
    "v_incidents.ended_at": "When the incident ended. NULL while it goes on.",
    "incidents.ended_how": "`recovered`, `removed` (no route is left, or none is checked) or `maintenance` (it began, or ended).",
    "v_incidents.ended_how": "`recovered`, `removed`, `maintenance` or `goes on`.",
    "v_incidents.seconds": "How long it lasted, or has lasted.",
    "cause": "Why, in words: what the check found.",
    "failed_requests": "Requests that were answered with a status from 500 in the minutes of the incident. NULL: it is older than "
                       "`route_minutes`, and nobody knows.",
    "hour": "Beginning of the hour.",
    "day": "Beginning of the day.",
    "up_seconds": "Seconds in which a route of it was up.",
    "down_seconds": "Seconds in which it was down.",
    "maintenance_seconds": "Seconds in which all its routes were in maintenance or drained, up or not.",
    "up_seconds_before": "What `up_seconds` of all earlier rows adds up to: two rows differ by the sum from one to the other.",
    "down_seconds_before": "What `down_seconds` of all earlier rows adds up to.",
    "maintenance_seconds_before": "What `maintenance_seconds` of all earlier rows adds up to.",
    "good_before": "What `good` of all earlier rows adds up to.",
    "bad_before": "What `bad` of all earlier rows adds up to.",
    "unknown_seconds": "Seconds in which nobody watched: the master was away, no route was there, or none had been checked yet.",
    "in_maintenance_before": "What `in_maintenance` of all earlier rows adds up to.",
    "in_maintenance": "How many checks were made in maintenance or a drain, whether they passed or not. They are neither good nor bad, "
                      "except in rows of older versions, which have 0 here.",
    "bad": "How many checks failed.",
    "health_minutes.good": "How many checks passed.",
    "health_hours.good": "How many checks passed.",
    "health_days.good": "How many checks passed.",
    "v_uptime.good": "How many checks passed.",
    "response_us_sum": "How long the good checks took together, in microseconds. NULL: some of them were made before this was noted.",
    "response_us_min": "How long the quickest good check took, in microseconds. NULL: there was none, or it was before this was noted.",
    "response_us_max": "How long the slowest good check took, in microseconds. NULL: there was none, or it was before this was noted.",
    "min_ms": "How long the quickest good check took. NULL: there was none, or it was before this was noted.",
    "max_ms": "How long the slowest good check took. NULL: there was none, or it was before this was noted.",
    **{f"v_health_by_{span}.{name}": note for span in ("minute", "hour", "day") for name, note in (
        ("good", "How many checks passed."), ("avg_ms", "Average time of a good check. NULL: there was none, or it was before this was "
                                                        "noted."),
        ("unknown_seconds", "The rest of the span, up to now: nobody watched, or it is not written yet (a minute at most)."))},
    "avg_ms": "Average time of a request.",
    "p50_ms": "Half of the requests took no longer.",
    "p95_ms": "95 of 100 requests took no longer.",
    "p99_ms": "99 of 100 requests took no longer.",
    "rate_limited": "Requests refused by rate limits.",
    "circuit_rejected": "Requests refused by an open circuit.",
    "maintenance_hits": "Requests answered with the maintenance page.",
    "drain_rejected": "Requests refused because all replicas were draining.",
    "status_2xx": "Answers with a status from 200 to 299.",
    "status_3xx": "Answers with a status from 300 to 399.",
    "status_4xx": "Answers with a status from 400 to 499.",
    "status_5xx": "Answers with a status from 500 to 599, the proxy's own included.",
    "latency_minutes.requests": "How many requests took this long.",
    "latency_hours.requests": "How many requests took this long.",
    "proxy_errors": "Those of the errors that no backend made: proxyd refused (circuit open, queue full, drained), or failed itself.",
    "backend_errors": "Those of the errors that a backend made: its own answers, and those that it did not give (502, 504).",
    "late": "Requests that took longer than the `slo_latency` that the route had.",
    "requests_24h": "Requests in that time.",
    "late_24h": "Those that took longer than the `slo_latency` that the route had.",
    "objective": "`availability`: an answer with a status from 500 is bad. `latency`: one that takes longer than `limit_ms`.",
    "target_percent": "Share of the requests that are to be good. Of replicas that say different things, the strictest.",
    "limit_ms": "How long a request may take. NULL for availability.",
    "v_slo.requests": "Requests of the last 30 days.",
    "v_slo.spent": "How many of them were bad.",
    "v_slo.budget": "How many of them may be bad.",
    "v_slo.budget_left": "How many more may be. Negative if the objective is missed.",
    "v_slo.left_percent": "The same as a share of the budget, negative if more than all of it is spent. NULL: `budget` is below 1, so that "
                          "a single bad request would spend it more than once.",
    "v_slo.burn_1h": "How fast the budget is spent, over the last hour. Of few requests, a single bad one makes it large.",
    "v_slo.burn_6h": "How fast it is spent, over the last six hours and the hour's part before them.",
    "v_down_at.kind": "`endpoint`, `service` (no instance was up at this domain and path: what users see), or `maintenance`.",
    "v_down_at.instance_name": "Name of the instance. Empty for a service.",
    "v_down_at.planned": "`yes` for maintenance, and for outages within it.",
    "v_down_at.since": "When it began.",
    "v_down_at.until": f"When it ended. `{GOES_ON}` while it goes on, so that `BETWEEN` finds it.",
    "v_down_at.why": "What the check found, or the reason of the maintenance.",
    "v_down_at.incident_id": "Its row in `v_incidents`. NULL for maintenance.",
    "v_down_at.window_id": "Its row in `v_maintenance`. NULL for an outage.",
    "rank": "1 is the worst.",
    "severity": "`critical`, `warning` or `starting`.",
    "unwell.kind": "What kind of thing it is, like `out_of_service` or `member_down`.",
    "v_unwell.kind": "What kind of thing it is, like `out_of_service` or `member_down`.",
    "what": "What is unwell, in words.",
    "unwell.why": "Why, in words.",
    "v_unwell.why": "Why, in words.",
    "unwell.since": "Since when. NULL if nobody knows.",
    "v_unwell.since": "Since when. NULL if nobody knows.",
    "unwell.service_name": "The service that it is about. Empty if it is about none.",
    "v_unwell.service_name": "The service that it is about. Empty if it is about none.",
    "unwell.routes": "The routes that it concerns, as a JSON list of ids.",
    "v_unwell.routes": "The routes that it concerns, as a JSON list of ids.",
    "todo": "What to do about it.",
    "service_hours.up_seconds": "Seconds in which at least one of its instances was up.",
    "service_days.up_seconds": "Seconds in which at least one of its instances was up.",
    "service_hours.down_seconds": "Seconds in which none was.",
    "service_days.down_seconds": "Seconds in which none was.",
    "v_uptime_services.up_seconds": "Seconds in which at least one of its instances was up.",
    "v_uptime_services.down_seconds": "Seconds in which none was.",
    "v_uptime_services.uptime_percent": "Up as a share of up and down, by time.",
    "period": "`24h`, `7d`, `30d`, `90d` or `1y`.",
    "v_uptime.uptime_percent": "Up as a share of up and down, by time.",
}

VIEW_NOTES: dict[str, str] = {
    "v_routes": "Every active route: its traffic, and everything that can keep traffic from it.",
    "v_health_now": "Health of each checked route.",
    "v_checks": "Single health checks by endpoint. Where more are made than `[health] results_per_second`, equal ones in a row share "
                "a row. Ask for a span of time.",
    "v_uptime_24h": "Share of good health checks in the last 24 hours, by route, without those in maintenance or a drain. `v_uptime` has "
                    "uptime by time, over all deploys.",
    "v_circuits": "The circuit of each route as it is now, on each host that has seen a failure, "
                  "and how often it opened in the last 24 hours.",
    "v_errors": "The errors of the last seven days, grouped by service, place, status and reason, with the last one of each group. "
                "`proxyctl errors` shows the same.",
    "v_unknown_hosts": "The hundred hosts that are asked for most and that no route names.",
    "v_slowest": "The hundred slowest requests that are still kept, with the endpoint that they were for, over all its deploys.",
    "v_slowest_endpoints": "The average time of each endpoint's requests in the last 24 hours, over all its deploys. The "
                           "first hour is whole.",
    "v_unwell": "What is unwell, and what to do about it: the same that `proxyctl status`, the status page and alerts say. The master "
                "looks every two seconds. While no master runs, it is what the last one saw.",
    "v_uptime_services": "What users saw: a service at a place is up while at least one of its instances is. Planned outages are neither "
                         "up nor down, and time in which nobody watched is left out. The periods are those of `v_uptime`.",
    "v_slo": "What became of each objective of `[slo]` (options `slo_availability`, `slo_latency`) over 30 days, all instances and "
             "deploys together. Answers of the maintenance page do not count. A burn rate of 1 spends the whole budget "
             "in 30 days, one of 14 in two days. NULL: no request.",
    "v_now": "One row: the time of day and instants before it, to compare the columns of tables with, in the same form.",
    "v_events": "All events, with what most of them tell as columns.",
    "v_endpoints": "Every endpoint that ever was, and how often it was deployed.",
    "v_route_history": "Every route, also those that are gone, with its endpoint.",
    "v_traffic": "Traffic by the minute, with the endpoint it was for: sums by endpoint or service are complete over redeploys.",
    "v_deploys": "Each deploy: who changed what, by an apply, a site file or by hand, and from which version to which.",
    "v_certificates": "The certificates that proxyd has in the database now, without their keys. Those in files (`[tls] certificates`) "
                      "are not among them, because each host has files of its own: `proxyctl certs` and the metric "
                      "`proxyd_certificate_expiry_seconds` have them, `v_certificate_history` their renewals, and alerts tell of their "
                      "ends.",
    "v_certificate_history": "What became of certificates, and why one was not to be had.",
    "v_maintenance": "Maintenance of each endpoint: planned, going on, or over, by whom and why.",
    "v_rollouts": "Every rollout: how far it came, why it went back, and the figures of its last step.",
    "v_websockets": "The WebSockets that ended, and how long they were open.",
    "v_flapping": "Endpoints with three outages or more in the last 24 hours: unplanned incidents, and circuits that requests opened.",
    "v_down_at": "What was down or in maintenance from when to when: ask for an instant with `WHERE '2026-03-02T03:12' BETWEEN since AND "
                 "until`. Write the `T`: with a blank in its place, an instant is before all of its day. The instant may also be a "
                 "parameter, a subquery or another table's column: outages are found by an index of their ends.",
    "v_incidents": "Every outage: what was down from when to when, why, how it ended, and how many requests failed meanwhile.",
    "v_uptime": "Uptime by time: of the last 24 hours, 7, 30, 90 days and the last year (`period`). Planned outages are neither up nor "
                "down. A period begins with a whole hour (`24h`, `7d`) or day, in UTC.",
    "v_health_by_minute": "What the health checks of each endpoint found, by the minute, over all its routes, and how long they took. No "
                          "row: nobody watched.",
    "v_health_by_hour": "The same by the hour.",
    "v_health_by_day": "The same by the day, in UTC.",
    "v_traffic_by_hour": "Traffic of each endpoint by the hour, over all its routes.",
    "v_traffic_by_day": "The same by the day, in UTC.",
    "v_latency_by_hour": "Percentiles of each endpoint by the hour: the upper end of the bucket in which each lies. For a longer span, add "
                         "up `latency_hours`.",
    "v_unused": "Endpoints that have a route and got no request in the last 7 days.",
}

#: Question, remark, SQL.
QUERIES: tuple[tuple[str, str, str], ...] = (
    ("How is every route?", "", """
SELECT route_id, service_name, path, health, circuit, draining, maintenance, requests, errors
FROM v_routes ORDER BY service_name, route_id;"""),
    ("Which route is slow?", "Averages of the last hour, worst first. Maintenance pages are no errors.", """
SELECT m.route_id, r.service_name, r.path, SUM(m.requests) AS requests,
       ROUND(CAST(SUM(m.latency_ms_sum) / SUM(m.requests) AS NUMERIC), 1) AS avg_ms,
       ROUND(100.0 * SUM(m.errors) / NULLIF(SUM(m.requests - m.maintenance_hits), 0), 2) AS error_percent
FROM route_minutes m JOIN routes r ON r.route_id = m.route_id
WHERE m.minute >= (SELECT hour_ago FROM v_now)
GROUP BY r.route_id, m.route_id HAVING SUM(m.requests) > 0 ORDER BY avg_ms DESC LIMIT 10;"""),
    ("How did a service do, over all its deploys?", "`r3` of the sample took the place of `r0`.", """
SELECT service_name, domain, path, COUNT(DISTINCT route_id) AS routes, SUM(requests) AS requests, SUM(errors) AS errors
FROM v_traffic GROUP BY service_name, domain, path, endpoint_id ORDER BY errors DESC;"""),
    ("Which routes did an endpoint have, and why did they go?", "", """
SELECT route_id, added_at, added_by, removed_at, removed_why
FROM v_route_history WHERE service_name = 'search' ORDER BY added_at;"""),
    ("What is each route's 95th percentile?", "Since the route began; the upper end of the bucket in which it lies.", """
WITH summed AS (
    SELECT route_id, bucket, SUM(requests) OVER (PARTITION BY route_id ORDER BY bucket) AS so_far,
           SUM(requests) OVER (PARTITION BY route_id) AS total
    FROM route_latency)
SELECT route_id, MAX(total) AS requests,
       MIN(CASE WHEN bucket < 32 THEN bucket + 1
                ELSE (17 + (bucket & 15)) << CAST((bucket >> 4) - 1 AS INTEGER) END) / 1000.0 AS p95_ms
FROM summed WHERE so_far >= 0.95 * total GROUP BY route_id ORDER BY p95_ms DESC;"""),
    ("What is unwell now, and what is to be done?", "", """
SELECT severity, what, why, since, todo FROM v_unwell ORDER BY rank;"""),
    ("How much of the error budget is left, and how fast is it spent?", "Alert on a `burn_1h` above 14 and on a `burn_6h` above 6.", """
SELECT service_name, path, objective, target_percent, limit_ms, requests, spent, budget, left_percent, burn_1h, burn_6h
FROM v_slo ORDER BY left_percent IS NULL, left_percent;"""),
    ("Were users served?", "A service is up while one of its instances is.", """
SELECT period, service_name, domain, path, uptime_percent, down_seconds, maintenance_seconds
FROM v_uptime_services WHERE period IN ('24h', '30d') ORDER BY period, uptime_percent, path;"""),
    ("Who made the errors: the backends or the proxy?", "", """
SELECT service_name, path, SUM(requests) AS requests, SUM(backend_errors) AS backend_errors, SUM(proxy_errors) AS proxy_errors
FROM v_traffic_by_hour WHERE hour >= (SELECT day_ago FROM v_now)
GROUP BY service_name, path ORDER BY SUM(errors) DESC, service_name;"""),
    ("Which endpoints are the slowest?", "Over all deploys of the last 24 hours.", """
SELECT service_name, instance_name, path, requests_24h, avg_ms FROM v_slowest_endpoints ORDER BY avg_ms DESC LIMIT 10;"""),
    ("Which single requests were slow, and where did the time go?", "Kept for routes with `slow_warning` or `slow_critical`.", """
SELECT at, route_id, url, status_code, total_ms, connect_ms, first_byte_ms, body_ms, upstream
FROM v_slowest LIMIT 5;"""),
    ("Which errors were there, and whose?", "Of the last seven days; the first line of `proxyctl errors`.", """
SELECT service_name, status_code, reason, made_by, requests, last_at, last_url
FROM v_errors WHERE status_code >= 500 ORDER BY requests DESC LIMIT 5;"""),
    ("Which hosts are asked for that no route names?", "A name that somebody forgot to register, or scanners.", """
SELECT host, requests, last_at FROM v_unknown_hosts LIMIT 5;"""),
    ("Who is rate limited?", "", """
SELECT address, route_id, SUM(rejected) AS rejected, MIN(minute) AS first, MAX(minute) AS last
FROM rate_limit_rejections
WHERE minute >= (SELECT day_ago FROM v_now)
GROUP BY address, route_id ORDER BY rejected DESC LIMIT 10;"""),
    ("What flapped last night?", "Each change between 20:00 yesterday and 08:00 today, UTC; `v_flapping` has the sums.", """
SELECT at, route_id, type, became, reason
FROM v_events
WHERE type IN ('backend_health_changed', 'circuit_state_changed')
  AND at BETWEEN (SELECT yesterday || 'T20:00' FROM v_now) AND (SELECT today || 'T08:00' FROM v_now)
ORDER BY id;"""),
    ("Which outages were there, how long did they last, and what did users see?", "", """
SELECT kind, service_name, instance_name, started_at, seconds, ended_how, failed_requests, planned, cause
FROM v_incidents ORDER BY started_at DESC, kind LIMIT 10;"""),
    ("What was down at 22:12 last night?", "The minute is enough; write it as the tables do, with the `T`, in UTC.", """
SELECT kind, service_name, instance_name, domain, path, planned, since, until, why
FROM v_down_at WHERE '2026-03-01T22:12' BETWEEN since AND until ORDER BY kind, service_name;"""),
    ("What is down or in maintenance now?", "", """
SELECT kind, service_name, instance_name, path, planned, since, why
FROM v_down_at WHERE (SELECT now FROM v_now) BETWEEN since AND until ORDER BY since;"""),
    ("How available was each endpoint, without planned maintenance?", "", """
SELECT period, service_name, instance_name, path, uptime_percent, down_seconds, maintenance_seconds, unknown_seconds
FROM v_uptime WHERE period IN ('24h', '30d') ORDER BY period, uptime_percent, instance_name;"""),
    ("How did the health checks of an endpoint go by the hour?", "Also by the minute and the day; times in milliseconds.", """
SELECT hour, instance_name, down_seconds, unknown_seconds, good, bad, min_ms, avg_ms, max_ms
FROM v_health_by_hour WHERE service_name = 'search' AND hour >= (SELECT day_ago FROM v_now) ORDER BY hour DESC LIMIT 3;"""),
    ("What is the 95th percentile by hour?", "", """
SELECT hour, service_name, instance_name, path, requests, p50_ms, p95_ms, p99_ms
FROM v_latency_by_hour WHERE hour >= (SELECT day_ago FROM v_now) ORDER BY hour DESC, p95_ms DESC LIMIT 10;"""),
    ("Which endpoints does nobody use?", "", """
SELECT service_name, instance_name, domain, path, added_at FROM v_unused ORDER BY added_at;"""),
    ("Uptime of the last 24 hours?", "Of the routes that there are now, by their checks. What was planned does not count.", """
SELECT route_id, service_name, instance_name, checks, good, in_maintenance, uptime_percent, avg_response_ms
FROM v_uptime_24h ORDER BY uptime_percent;"""),
    ("Which circuits opened, and why?", "", """
SELECT t.at, t.route_id, r.backend_url, t.from_state, t.to_state, t.reason
FROM circuit_transitions t LEFT JOIN routes r ON r.route_id = t.route_id
WHERE t.to_state = 'open' ORDER BY t.at DESC LIMIT 10;"""),
    ("How many WebSockets are open?", "", """
SELECT f.route_id, r.service_name, SUM(f.websocket_active) AS open, COUNT(*) AS workers
FROM route_in_flight f JOIN routes r ON r.route_id = f.route_id
GROUP BY r.route_id, f.route_id HAVING SUM(f.websocket_active) > 0 ORDER BY open DESC;"""),
    ("Which WebSockets ended, and how?", "", """
SELECT route_id, client, opened_at, seconds, bytes_sent, reason
FROM v_websockets ORDER BY closed_at DESC LIMIT 10;"""),
    ("Who deployed what?", "`change` has it in full.", """
SELECT at, service_name, instance_name, version_before, version_after, places_added, places_changed, places_removed, actor
FROM v_deploys ORDER BY at DESC LIMIT 10;"""),
    ("When was maintenance, who entered it, and why?", "Plans too.", """
SELECT service_name, instance_name, path, state, started_at, planned_end, ended_at, ended_how, entered_by, reason
FROM v_maintenance ORDER BY window_id DESC LIMIT 10;"""),
    ("Which certificates end first?", "Of those in the database. `proxyctl certs` has those in files, too.", """
SELECT domain, key_type, issuer, not_after, days_left FROM v_certificates ORDER BY not_after LIMIT 5;"""),
    ("What became of certificates, and why did orders fail?", "", """
SELECT at, what, domain, issuer, not_after, times, why, actor FROM v_certificate_history ORDER BY at DESC LIMIT 10;"""),
    ("Which rollouts were there, and why did one go back?", "", """
SELECT started_at, service_name, instance_name, state, share, requests, errors, other_requests, other_errors, why
FROM v_rollouts ORDER BY rollout_id DESC LIMIT 10;"""),
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
    ("Which clients lost their connection, and for how long were they away?", "", """
SELECT at, type, service_name, instance_name, actor, detail
FROM v_events WHERE type IN ('session_registered', 'session_lost', 'session_back', 'session_ended') ORDER BY id DESC LIMIT 10;"""),
    ("Which services are there, and since when?", "", """
SELECT s.service_name, s.instance_name, s.state, s.connected_at, COUNT(r.route_id) AS routes
FROM sessions s LEFT JOIN routes r ON r.session_id = s.session_id
WHERE s.state <> 'ended' GROUP BY s.session_id ORDER BY s.service_name, s.instance_name;"""),
)
