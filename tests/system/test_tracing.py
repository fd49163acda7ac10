"""Traces: what a collector gets, what backends are told, and that a collector which is away costs no request."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from proxyd.base.tracecontext import parse
from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("value", [
    "", "00", PARENT.upper(), PARENT + "-x", "ff" + PARENT[2:], "00-" + "0" * 32 + PARENT[35:], PARENT[:36] + "0" * 16 + "-01",
    PARENT.replace("-01", "-1"), PARENT + "\n"])
def test_a_traceparent_that_is_not_valid_is_none(value: str) -> None:
    assert parse(value) is None


def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    found = parse("01" + PARENT[2:] + "-what-comes")
    assert found is not None and (found.trace_id, found.sampled) == ("0af7651916cd43dd8448eb211c80319c", True)


class Collector(ThreadingHTTPServer):
    """A collector of OTLP over HTTP. It keeps the spans, and the field Authorization."""

    daemon_threads = True

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.logins: set[str] = set()
        self.services: set[str] = set()
        self.status = 200
        super().__init__(("127.0.0.1", 0), Taking)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def of(self, trace_id: str) -> list[dict[str, Any]]:
        return [span for span in list(self.spans) if span["traceId"] == trace_id]


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/json"
        if self.server.status == 200:
            self.server.logins.add(self.headers.get("Authorization", ""))
            for resource in document["resourceSpans"]:
                self.server.services.update(item["value"]["stringValue"] for item in resource["resource"]["attributes"]
                                            if item["key"] == "service.name")
                for scope in resource["scopeSpans"]:
                    self.server.spans += scope["spans"]
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        pass


def told(span: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: next(iter(item["value"].values())) for item in span["attributes"]}


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Backend, Collector]]:
    directory = tmp_path_factory.mktemp("tracing")
    headers = Path(directory / "headers")
    headers.write_text("Authorization: Bearer for-the-collector\n")
    headers.chmod(0o600)
    collector, backend = Collector(), Backend()
    system = System(directory / "system", workers=1, tracing__endpoint=f"http://127.0.0.1:{collector.server_address[1]}/v1/traces",
                    tracing__sample=100, tracing__headers_file=headers, tracing__service="edge")
    client = system.client("shop", "shop-1")
    route = client.route("shop.test", backend.url)
    client.options(route, server_timing="yes")
    yield system, backend, collector
    system.stop()
    collector.shutdown()
    collector.server_close()
    backend.stop()


def test_a_request_is_two_spans_and_the_backend_is_told_of_the_second(traced: tuple[System, Backend, Collector]) -> None:
    system, backend, collector = traced
    answer = system.get("/status/503?secret=1", "shop.test", traceparent=PARENT, tracestate="vendor=1")
    trace_id, parent_id = PARENT.split("-")[1:3]
    wait_for(lambda: len(collector.of(trace_id)) == 2, what="two spans")
    spans = {span["kind"]: span for span in collector.of(trace_id)}
    server, attempt = spans[2], spans[3]
    assert (server["parentSpanId"], attempt["parentSpanId"]) == (parent_id, server["spanId"])
    seen = backend.seen("/status/503")[-1][2]
    assert seen["traceparent"] == f"00-{trace_id}-{attempt['spanId']}-01" and seen["tracestate"] == "vendor=1"
    found = told(server)
    assert (found["http.request.method"], found["http.response.status_code"], found["url.path"], found["proxyd.service"]) == (
        "GET", "503", "/status/503", "shop")
    assert found["error.type"] == "503" and server["status"] == {"code": 2} and "secret" not in json.dumps(server)
    assert found["proxyd.request_id"] == answer.headers["X-Request-ID"] and float(found["proxyd.wait.first_byte_ms"]) > 0
    assert int(server["startTimeUnixNano"]) <= int(attempt["startTimeUnixNano"]) <= int(attempt["endTimeUnixNano"])
    assert collector.logins == {"Bearer for-the-collector"} and collector.services == {"edge"}


def test_without_a_parent_a_trace_begins_and_refusals_are_traced(traced: tuple[System, Backend, Collector]) -> None:
    system, backend, collector = traced
    system.get("/began", "shop.test", traceparent="not-one")
    made = backend.seen("/began")[-1][2]["traceparent"]
    found = parse(made)
    assert found is not None and found.sampled
    system.get("/", "nobody.test")
    wait_for(lambda: len(collector.of(found.trace_id)) == 2, what="two spans")
    wait_for(lambda: any(told(span).get("error.type") == "unknown_host" for span in list(collector.spans)), what="the refusal")
    refused = next(span for span in collector.spans if told(span).get("error.type") == "unknown_host")
    assert "parentSpanId" not in refused and refused["kind"] == 2


def test_server_timing_is_told_by_option(traced: tuple[System, Backend, Collector]) -> None:
    system, _, _ = traced
    field = system.get("/", "shop.test").headers["Server-Timing"]
    assert [part.partition(";")[0] for part in field.split(", ")] == ["proxyd-before", "proxyd-connect", "proxyd-backend"]
    assert all(float(part.rpartition("=")[2]) >= 0 for part in field.split(", "))
    assert system.get("/", "nobody.test").headers["Server-Timing"] is None


def test_a_collector_that_refuses_costs_spans_and_no_request(traced: tuple[System, Backend, Collector]) -> None:
    system, _, collector = traced
    collector.status = 503
    assert system.get("/", "shop.test").status == 200
    wait_for(lambda: "spans are dropped: the collector answered 503" in system.log(), what="a line in the log")
    collector.status = 200
    before = len(collector.spans)
    assert system.get("/", "shop.test").status == 200
    wait_for(lambda: len(collector.spans) > before, what="spans again")
    wait_for(lambda: "spans are dropped: over; " in system.log(), what="a line in the log")
