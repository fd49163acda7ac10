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
