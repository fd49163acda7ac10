"""The views of sums by endpoint and span of time: the same columns for each span that there is a table of."""

from __future__ import annotations

#: Each span: its column, and seconds.
_SPANS = {"minute": 60, "hour": 3600, "day": 86400}


def health(span: str) -> str:
    """The view of health by the minute, hour or day."""
    # Up to now at the most, and not before the endpoint was there.
    length = (f"CASE WHEN x.span_epoch + {_SPANS[span]} < {{epoch_now}} THEN x.span_epoch + {_SPANS[span]} ELSE {{epoch_now}} END "
              "- CASE WHEN x.first_seen > x.span THEN {epoch:x.first_seen} ELSE x.span_epoch END")
    unknown = f"{length} - x.up_seconds - x.down_seconds - x.maintenance_seconds"
    return f"""
        SELECT x.span AS {span}, x.span_epoch AS {span}_epoch, x.endpoint_id, x.service_name, x.instance_name, x.domain, x.path,
               x.up_seconds, x.down_seconds, x.maintenance_seconds,
               CASE WHEN {unknown} > 0 THEN {unknown} ELSE 0 END AS unknown_seconds, x.good, x.bad, x.in_maintenance, x.min_ms, x.avg_ms,
               x.max_ms
        FROM (SELECT t.{span} AS span, {{epoch:t.{span}}} AS span_epoch, t.endpoint_id, p.service_name, p.instance_name, p.domain, p.path,
                     p.first_seen, CAST(ROUND(t.up_seconds) AS {{whole_type}}) AS up_seconds,
                     CAST(ROUND(t.down_seconds) AS {{whole_type}}) AS down_seconds,
                     CAST(ROUND(t.maintenance_seconds) AS {{whole_type}}) AS maintenance_seconds, t.good, t.bad, t.in_maintenance,
                     ROUND(CAST(t.response_us_min / 1000.0 AS {{decimal}}), 3) AS min_ms,
                     ROUND(CAST(t.response_us_sum / 1000.0 / NULLIF(t.good, 0) AS {{decimal}}), 3) AS avg_ms,
                     ROUND(CAST(t.response_us_max / 1000.0 AS {{decimal}}), 3) AS max_ms
              FROM health_{span}s t JOIN endpoints p ON p.endpoint_id = t.endpoint_id) x"""


def traffic(span: str) -> str:
    """The view of traffic by the hour or day."""
    return f"""
        SELECT t.{span}, {{epoch:t.{span}}} AS {span}_epoch, t.endpoint_id, p.service_name, p.instance_name, p.domain, p.path, t.requests,
               t.errors, t.errors - t.proxy_errors AS backend_errors, t.proxy_errors, t.late,
               ROUND(CAST(t.latency_ms_sum / NULLIF(t.requests, 0) AS {{decimal}}), 3) AS avg_ms, t.rate_limited, t.circuit_rejected,
               t.maintenance_hits, t.drain_rejected, t.status_2xx, t.status_3xx, t.status_4xx, t.status_5xx, t.bytes_sent, t.bytes_received
        FROM traffic_{span}s t JOIN endpoints p ON p.endpoint_id = t.endpoint_id"""
