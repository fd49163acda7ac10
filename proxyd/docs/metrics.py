"""docs/metrics.md: every metric, from the tables of metrics and counters."""

from __future__ import annotations

from proxyd.admin.families import GROUPS
from proxyd.docs.markdown import code, generated, table

_HEAD = """# Metrics

`GET /metrics` of the admin HTTP answers in Prometheus' text format, or in OpenMetrics where the scraper asks for it. The numbers are
sums over all workers of the host's database; workers write what they counted twice a second. Counters are summed by service and (first)
domain, over instances, paths and deploys: a redeploy makes no new series, and a service that comes back goes on counting. The service
`-` stands for requests that matched no route. Sums by route are in SQL (`route_stats`) and the API. `conf/prometheus` has a scrape job
and alerts, `conf/grafana` a dashboard.

There are about `[admin] max_series` series of services and routes at most: 50,000 where nothing is set, and 0 is no bound. Traffic and
the state of routes have half of them each, and what the other does not need. Where there would be more, all routes stay that are in
maintenance, drain, are not healthy or whose circuit is not closed, as far as there is room, then the oldest of the others; and those
services with the most requests. `proxyd_metrics_left_out` tells how many have no series. The sums over all of them (`proxyd_routes`,
`proxyd_unwell`, `proxyd_refusals_total`) leave nothing out.

```sh
curl -s http://127.0.0.1:8282/metrics | grep '^proxyd_requests_total'
```

A counter only grows: ask for its `rate()`. A histogram has three series: the name with `_bucket`, whose label `le` is an upper bound
in seconds, with `_sum` and with `_count`.
"""


def text() -> str:
    """The document."""
    parts = [generated("the tables of metrics (proxyd/admin/families.py) and counters (proxyd/base/counters.py)"), _HEAD]
    for title, families in GROUPS:
        parts.append(f"\n## {title}\n\n")
        parts.append(table(("Metric", "Type", "Labels", "What it says"),
                           ((code(family.name), family.kind, ", ".join(map(code, family.labels)), family.help) for family in families)))
    return "".join(parts)
