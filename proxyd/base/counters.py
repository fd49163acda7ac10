"""What is counted for each route, declared once.

A worker's counters, the columns of `route_stats`, the sums that STATS_GET and the API answer, the metrics and the documents are
all made from COUNTERS. A new counter is a line here and the line that counts. A database that is older gets the column when the
master starts.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counter:
    """One number that only grows.

    `name`: the attribute that counts, the column of `route_stats` and the key in answers. `help`: one sentence without its full stop.
    `metric`: the name in /metrics, which ends in `_total`; empty where it is none. `shown`: STATS_GET and the API's routes have it;
    the API's statistics have every whole number. `whole`: False for one that is no whole number.
    """

    name: str
    help: str
    metric: str = ""
    shown: bool = False
    whole: bool = True


COUNTERS: tuple[Counter, ...] = (
    Counter("requests", "Requests answered", shown=True),
    Counter("errors", "Requests answered with a status from 500", "proxyd_errors_total", shown=True),
    Counter("proxy_errors", "Those of the errors that no backend made: refused (circuit open, queue full, ...), or a fault of proxyd",
            "proxyd_proxy_errors_total"),
    Counter("late", "Requests that took longer than the route's slo_latency allows", "proxyd_late_total"),
    Counter("latency_ms_sum", "Milliseconds that requests took, summed; WebSockets are left out", whole=False),
    Counter("bytes_sent", "Bytes of response bodies sent to clients", "proxyd_bytes_sent_total", shown=True),
    Counter("bytes_received", "Bytes of request bodies received from clients", "proxyd_bytes_received_total", shown=True),
    Counter("rate_limited", "Requests refused by rate limits", "proxyd_rate_limited_total", shown=True),
    Counter("retries", "Attempts after the first, and kept connections that had to be replaced", "proxyd_retries_total", shown=True),
    Counter("circuit_rejected", "Requests refused by an open circuit", "proxyd_circuit_rejected_total"),
    Counter("maintenance_hits", "Requests answered with the maintenance page", "proxyd_maintenance_responses_total"),
    Counter("drain_rejected", "Requests refused because all replicas were draining", "proxyd_drain_rejected_total"),
    Counter("queue_waits", "Requests that waited for a place within max_in_flight", "proxyd_queue_waits_total"),
    Counter("queue_rejected", "Requests refused because the queue was full, or because they waited in it for too long",
            "proxyd_queue_rejected_total"),
    Counter("holds", "Requests that waited for a service that was away", "proxyd_holds_total"),
    Counter("hold_rejected", "Requests refused because a service did not come back in time, or too many waited for it",
            "proxyd_hold_rejected_total"),
    Counter("slow_warnings", "Requests that took longer than the route's slow_warning and not its slow_critical",
            "proxyd_slow_warnings_total"),
    Counter("slow_criticals", "Requests that took longer than the route's slow_critical", "proxyd_slow_criticals_total"),
    Counter("unbuffered", "Bodies that were streamed although a buffer was wanted: buffer_total was used up, or the disk was full",
            "proxyd_unbuffered_total"),
    Counter("websockets", "WebSockets opened", "proxyd_websockets_total"),
    Counter("log_dropped", "Requests whose line of the access log was lost: it could not be written, or lines came too fast",
            "proxyd_access_log_dropped_total"),
)
#: Those that are summed up as they are; a latency's sum is only shown as an average.
WHOLE: tuple[str, ...] = tuple(counter.name for counter in COUNTERS if counter.whole)
SHOWN: tuple[str, ...] = tuple(counter.name for counter in COUNTERS if counter.shown)
#: What is reckoned from the latencies, in milliseconds, beside the counters.
LATENCIES: tuple[str, ...] = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms")
