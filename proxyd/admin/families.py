"""Every metric of /metrics, declared once: docs/metrics.md is made from this table, and a test compares a scrape with it.

A new metric is a line here and the line of admin/metrics.py that fills it. A new counter of a route is a line in
base/counters.py alone.
"""

from __future__ import annotations

from typing import NamedTuple

from proxyd.base.counters import COUNTERS

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"


class Family(NamedTuple):
    """A metric. `name`: as a query names it, a counter's ends in `_total`. `help`: sentences. `labels`: those it has beside the
    scraper's own."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def samples(self) -> tuple[str, ...]:
        """The names of its series."""
        return tuple(self.name + ending for ending in ("_bucket", "_sum", "_count")) if self.kind == HISTOGRAM else (self.name,)


#: Upper bounds of the duration histogram, in seconds.
LE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

#: Of traffic: they stay the same over redeploys. `domain` is the first one of a route.
_PLACE = ("service", "domain")
#: Of the state of a route.
_MEMBER = ("service", "instance", "domain", "path")

GROUPS: tuple[tuple[str, tuple[Family, ...]], ...] = (
    ("Traffic", (
        Family("proxyd_requests_total", COUNTER, "Requests answered, by status code.", (*_PLACE, "code")),
        Family("proxyd_request_duration_seconds", HISTOGRAM, "Time from a request's first byte to its answer's last, WebSockets left out.",
               _PLACE),
        Family("proxyd_refusals_total", COUNTER, "Requests refused, failed or cut by the proxy, by reason (docs/reasons.md).", ("reason",)),
        Family("proxyd_unknown_host_requests_total", COUNTER, "Requests for a host that no route names."),
        *(Family(counter.metric, COUNTER, f"{counter.help}.", _PLACE) for counter in COUNTERS if counter.metric),
        Family("proxyd_upstream_in_flight", GAUGE, "Requests under way to the upstreams.", _PLACE),
        Family("proxyd_queued", GAUGE, "Requests that wait for a place within max_in_flight, or for a service that is away.", _PLACE),
        Family("proxyd_websockets_open", GAUGE, "WebSockets open now.", _PLACE),
    )),
    ("State of routes", (
        Family("proxyd_health_up", GAUGE, "0 where the health check finds the upstream down, else 1.", _MEMBER),
        Family("proxyd_health_status", GAUGE, "1 for the status that the health check gives the upstream.", (*_MEMBER, "status")),
        Family("proxyd_circuit_state", GAUGE, "1 for the state that the circuit is in, on the host that is scraped.", (*_MEMBER, "state")),
        Family("proxyd_drain_share", GAUGE, "Share of its traffic that a route gets: 1, falling to 0 in a drain.", _MEMBER),
        Family("proxyd_maintenance", GAUGE, "1 where the route is in maintenance.", _MEMBER),
    )),
    ("proxyd itself", (
        Family("proxyd_sessions", GAUGE, "Registered sessions by state.", ("state",)),
        Family("proxyd_routes", GAUGE, "Active routes."),
        Family("proxyd_metrics_left_out", GAUGE, "Routes and services that have no series, because there would be more than [admin] "
               "max_series: those that are as usual, and those with the fewest requests.", ("of",)),
        Family("proxyd_config_version", GAUGE, "Config version that is current."),
        Family("proxyd_worker_config_version", GAUGE, "Config version that a live worker of the host that is scraped routes by.", ("pid",)),
        Family("proxyd_certificate_expiry_seconds", GAUGE, "End of a certificate in a file, in Unix seconds.", ("path", "names")),
        Family("proxyd_certificate_orders_total", COUNTER, "Orders of certificates by [acme] that ended: obtained or failed.", ("result",)),
        Family("proxyd_certificates_failing", GAUGE, "Names whose last order of a certificate failed."),
        Family("proxyd_health_targets", GAUGE, "Targets that are checked; routes can share one."),
        Family("proxyd_health_lag_seconds", GAUGE, "How late the latest health check of the last half minute began."),
        Family("proxyd_health_results_waiting", GAUGE, "Results of health checks that wait to be written."),
        Family("proxyd_health_results_dropped_total", COUNTER,
               "Results of health checks that no row was kept of: the database could not be written for long."),
        Family("proxyd_database_bytes", GAUGE, "Bytes of the database that are in use, as of the last minute."),
        Family("proxyd_database_max_bytes", GAUGE, "Bytes that the database may have ([database] max_size); 0: no bound."),
        Family("proxyd_database_log_bytes", GAUGE,
               "Bytes of SQLite's log (-wal), which a reader that stays open makes grow; at [database] max_log no history is written."),
        Family("proxyd_history_dropped_rows_total", COUNTER, "Rows of history that went before their time, because of [database] max_size.",
               ("table",)),
        Family("proxyd_history_rows", GAUGE, "About how many rows a table of history has, as of the last minute.", ("table",)),
        Family("proxyd_history_bytes", GAUGE, "About how many bytes a table of history takes, with its indexes, as of the last minute.",
               ("table",)),
        Family("proxyd_access_log_bytes", GAUGE, "Bytes of the access log of the host that leads, where it is a file."),
        Family("proxyd_job_runs_total", COUNTER, "Runs of the background jobs of the master that is scraped.", ("job",)),
        Family("proxyd_job_errors_total", COUNTER, "Runs of a background job that failed.", ("job",)),
        Family("proxyd_job_last_run_timestamp_seconds", GAUGE,
               "Begin of a background job's last run, in Unix seconds; 0 before the first.", ("job",)),
        Family("proxyd_job_duration_seconds", GAUGE, "How long the last run of a background job took.", ("job",)),
        Family("proxyd_unwell", GAUGE, "How many things are unwell, by kind; severity is critical, warning or starting.",
               ("kind", "severity")),
        Family("proxyd_problems", GAUGE, "Things in the configuration that are broken now."),
        Family("proxyd_start_time_seconds", GAUGE, "Start of the master that is scraped, in Unix seconds."),
        Family("proxyd_build_info", GAUGE, "1, with the version of the master that is scraped as label.", ("version",)),
    )),
)
FAMILIES: dict[str, Family] = {family.name: family for _, families in GROUPS for family in families}
