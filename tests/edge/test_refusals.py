"""What the proxy says itself: each refusal has one reason, in the answer, in the log and in the metrics."""

from __future__ import annotations

from tests.support.system import System
from tests.support.waiting import wait_for


def test_a_refusal_is_counted_by_its_reason_in_the_metrics(edge: System) -> None:
    assert edge.get("/", "nobody-has-this.test").headers["X-Proxyd-Reason"] == "unknown_host"
    wait_for(lambda: 'proxyd_refusals_total{reason="unknown_host"}' in edge.admin("/metrics").text, 5)
    counted = edge.sql("SELECT requests FROM refusals WHERE reason = 'unknown_host'")[0][0]
    assert counted >= 1
    edge.get("/", "nobody-has-this.test")
    wait_for(lambda: edge.sql("SELECT requests FROM refusals WHERE reason = 'unknown_host'")[0][0] == counted + 1, 5)
