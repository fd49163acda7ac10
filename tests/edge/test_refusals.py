"""What the proxy says itself: each refusal has one reason, in the answer, in the log and in the metrics."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from tests.support.system import System
from tests.support.waiting import wait_for


def test_a_refusal_is_counted_by_its_reason_in_the_metrics(new_system: Callable[..., System]) -> None:
    # A system of its own: refusals of other tests may be on their way to the database.
    edge = new_system(workers=1)
    assert edge.get("/", "nobody-has-this.test").headers["X-Proxyd-Reason"] == "unknown_host"
    wait_for(lambda: 'proxyd_refusals_total{reason="unknown_host"}' in edge.admin("/metrics").text, 5)
    counted = edge.sql("SELECT requests FROM refusals WHERE reason = 'unknown_host'")[0][0]
    assert counted == 1
    edge.get("/", "nobody-has-this.test")
    wait_for(lambda: edge.sql("SELECT requests FROM refusals WHERE reason = 'unknown_host'")[0][0] == counted + 1, 5)


def test_a_request_that_can_not_be_read_is_answered_with_the_fields_of_every_other_refusal(edge: System) -> None:
    with socket.create_connection(("127.0.0.1", edge.proxy_port), timeout=10) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        answer = client.makefile("rb").read().decode()
    head, _, body = answer.partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    assert status == "HTTP/1.1 400 Bad Request" and fields["X-Proxyd-Reason"] == "duplicate_host"
    assert fields["Cache-Control"] == "no-store" and fields["Connection"] == "close"
    assert abs(parsedate_to_datetime(fields["Date"]).timestamp() - time.time()) < 60
    problem = json.loads(body)
    assert (problem["code"], problem["request_id"]) == ("duplicate_host", fields["X-Request-ID"])
    wait_for(lambda: f'id={fields["X-Request-ID"]} reason=duplicate_host' in edge.access_log(), 5)
