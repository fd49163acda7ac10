from __future__ import annotations

import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from proxyd.admin import metrics, readings
from proxyd.admin.families import FAMILIES
from proxyd.base.text import rfc3339
from proxyd.cli.dbtool import row_counts
from proxyd.store.sql.models import Route
from tests.admin.harness import Master, add_health, add_route, add_session, add_traffic, open_circuit
from tests.support.waiting import wait_for


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {(sample.name, frozenset(sample.labels.items())): sample.value for family in parse(text) for sample in family.samples}


def test_the_metrics_say_what_the_database_and_the_boards_say(master: Master) -> None:
    master.run(lambda: open_circuit(master, 1))
    master.run(lambda: master.board.post(5))
    master.add_worker(4)
    master.write(lambda: [add_traffic("-", {404: 7}, {10: 7}), add_traffic("r77", {200: 1}, {10: 1})])  # type: ignore[func-returns-value]
    text = master.get("/metrics").text
    found = samples(text)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    shop = {"service": "shop", "domain": "shop.example"}
    member = {**shop, "instance": "a", "path": "/"}
    assert value("proxyd_requests_total", **shop, code="200") == 8
    assert value("proxyd_requests_total", service="-", domain="-", code="404") == 7
    assert value("proxyd_request_duration_seconds_count", **shop) == 10
    assert value("proxyd_request_duration_seconds_sum", **shop) == 0.1
    assert value("proxyd_bytes_sent_total", **shop) == 5000
    assert value("proxyd_retries_total", **shop) == 3 and value("proxyd_rate_limited_total", **shop) == 4
    assert value("proxyd_upstream_in_flight", **shop) == 2
    assert value("proxyd_health_up", **member) == 1
    assert value("proxyd_health_status", **member, status="healthy") == 1
    assert value("proxyd_health_status", **member, status="degraded") == 0
    assert value("proxyd_circuit_state", **member, state="open") == 1
    assert value("proxyd_circuit_state", **member, state="closed") == 0
    assert value("proxyd_sessions", state="connected") == 1
    assert value("proxyd_config_version") == 5
    assert 4 in [number for (name, _), number in found.items() if name == "proxyd_worker_config_version"]
    assert value("proxyd_certificate_expiry_seconds", path="/etc/a.pem", names="a.example") == 1900000000
    assert value("proxyd_unknown_host_requests_total") == 0
    assert value("proxyd_drain_share", **member) == 1 and value("proxyd_maintenance", **member) == 0
    assert value("proxyd_slow_warnings_total", **shop) == 0
    assert "r77" not in text and "route=" not in text


def test_a_redeploy_makes_no_new_series_and_lets_no_counter_fall(master: Master) -> None:
    before = samples(master.get("/metrics").text)

    def redeploy() -> None:
        add_session("s8")
        Route.delete().where(Route.route_id == "r1").execute()
        add_route(5, "s8")
        add_traffic("r5", {200: 2, 500: 1}, {10: 3})

    master.write(redeploy)
    after = samples(master.get("/metrics").text)
    shop = frozenset({"service": "shop", "domain": "shop.example"}.items())
    new = {key for key in after.keys() - before.keys() if "pid" not in dict(key[1])}
    assert all(name == "proxyd_requests_total" for name, _ in new), new
    assert after["proxyd_requests_total", shop | {("code", "200")}] == before["proxyd_requests_total", shop | {("code", "200")}] + 2
    assert after["proxyd_request_duration_seconds_count", shop] == before["proxyd_request_duration_seconds_count", shop] + 3


def test_two_routes_of_one_place_are_told_by_the_worse(master: Master) -> None:
    def second() -> None:
        add_session("s8")
        add_route(5, "s8")
        add_health("r5", "down")

    master.write(second)
    found = samples(master.get("/metrics").text)
    member = frozenset({"service": "shop", "domain": "shop.example", "instance": "a", "path": "/"}.items())
    assert found["proxyd_health_up", member] == 0 and found["proxyd_health_status", member | {("status", "down")}] == 1


def test_a_scrape_has_the_metrics_that_are_declared_and_no_others(master: Master) -> None:
    found = {}
    for family in parse(master.get("/metrics").text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = family.type, family.documentation, {label for sample in family.samples for label in sample.labels} - {"le"}
    assert found == {family.name: (family.kind, family.help, set(family.labels) if found[family.name][2] else set())
                     for family in FAMILIES.values()}


def test_series_beyond_the_bound_are_those_that_say_least_and_their_number_is_told(master: Master) -> None:
    def fill() -> None:
        for number in range(2, 42):
            add_route(number, service=f"service{number}", domains=f'["{number}.test", "www.{number}.test"]',
                      maintenance_since=rfc3339(time.time()) if number == 40 else None)
            add_traffic(f"r{number}", {200: number}, {10: number})
        add_health("r30", "down")

    master.write(fill)
    master.run(lambda: open_circuit(master, 20))

    def told(most: int) -> tuple[int, Counter[str], set[str], dict[str, float]]:
        found = master.run(lambda: master.store.read(readings.read, master.circuits, most))
        text, _ = metrics.render(found, metrics.Process(0.0, 1, [], [], 0), "", time.time())
        lines = [sample for family in parse(text.decode()) for sample in family.samples if "service" in sample.labels]
        left = {labels["of"]: number for name, labels, number, *_ in (
            sample for family in parse(text.decode()) for sample in family.samples) if name == "proxyd_metrics_left_out"}
        assert "proxyd_routes 41.0" in text.decode()
        return (len(lines), Counter(line.name for line in lines),
                {line.labels["service"] for line in lines if line.name == "proxyd_maintenance"}, left)

    all_of_them, names, routes, left = told(0)
    assert names["proxyd_maintenance"] == 41 and names["proxyd_retries_total"] == 41 and set(left.values()) == {0}
    assert told(all_of_them)[0] == all_of_them
    bound = all_of_them // 12
    fewer, names, routes, left = told(bound)
    assert bound // 4 < fewer <= bound
    # Three routes are not as usual; the oldest come after them.
    assert {"service20", "service30", "service40", "shop"} <= routes and "service39" not in routes
    assert left == {"routes": 41 - names["proxyd_maintenance"], "services": 41 - names["proxyd_retries_total"]}
    assert 4 <= names["proxyd_maintenance"] < 41 and 1 <= names["proxyd_retries_total"] < 41
    asked = samples(master.get("/metrics").text)
    assert asked["proxyd_metrics_left_out", frozenset({("of", "routes")})] == 0
    # Services that are gone make no series, so they take no places.
    master.write(lambda: Route.delete().where(Route.route_id.in_([f"r{number}" for number in range(2, 41)])).execute())
    found = master.run(lambda: master.store.read(readings.read, master.circuits, all_of_them // 10))
    assert set(found.left_out.values()) == {0} and len(found.routes) == 2 and len(found.sums) == 2


def test_what_the_history_costs_is_told_by_table(master: Master) -> None:
    (master.directory / "access.log").write_text("a line\n")
    master.run(master.size.measure)
    found = samples(master.get("/metrics").text)
    status = master.get("/api/v1/status").json()["history"]
    assert found["proxyd_access_log_bytes", frozenset()] == status["access_log_bytes"] == 7
    assert master.store.path is None or found["proxyd_database_log_bytes", frozenset()] > 0
    tables = {one["table"]: one for one in status["tables"]}
    counted = master.run(lambda: master.store.read(row_counts))
    for name in ("route_history", "events", "certificate_history"):
        label = frozenset({("table", name)})
        assert found["proxyd_history_rows", label] == tables[name]["rows"] == counted[name]
        assert found["proxyd_history_bytes", label] == tables[name]["bytes"]
    assert [one["bytes"] for one in status["tables"]] == sorted((one["bytes"] for one in status["tables"]), reverse=True)


def test_duration_buckets_grow_and_end_with_all_requests(master: Master) -> None:
    buckets = [sample.value for family in parse(master.get("/metrics").text) for sample in family.samples
               if sample.name == "proxyd_request_duration_seconds_bucket"]
    assert buckets == sorted(buckets) and buckets[-1] == 10


def test_openmetrics_is_spoken_where_asked_for(master: Master) -> None:
    answer = master.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert any(family.name == "proxyd_requests" for family in parse_openmetrics(answer.text))  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("accept", ["", "text/plain;version=1.0.0;escaping=allow-utf-8", "application/openmetrics-text;version=1.0.0"])
def test_the_text_is_what_the_library_of_prometheus_writes(master: Master, accept: str) -> None:
    def odd() -> None:
        add_session("s8", 'a "shop"\\')
        add_route(2, "s8", 'a "shop"\\', path='/"q"/\\n\\')
        add_health("r2", "down")
        add_traffic("r2", {200: 12345678}, {10: 12345678}, latency_ms_sum=0.5, bytes_sent=10**15)

    master.write(odd)
    answer = master.get("/metrics", headers={"Accept": accept})
    read: Any = parse_openmetrics if "openmetrics" in accept else parse
    families = list(read(answer.text))
    encode, content_type = choose_encoder(accept)
    written: Any = SimpleNamespace(collect=lambda: families)
    assert answer.content == encode(written) and answer.headers["Content-Type"] == content_type
    assert 'path="/\\"q\\"/\\\\n\\\\",service="a \\"shop\\"\\\\"} 1.0\n' in answer.text
    assert 'proxyd_bytes_sent_total{domain="shop.example",service="a \\"shop\\"\\\\"} 1e+15' in answer.text


@pytest.mark.parametrize("scheme", ["dots", "values"])
def test_a_scheme_that_writes_all_names_anew_is_not_claimed(master: Master, scheme: str) -> None:
    answer = master.get("/metrics", headers={"Accept": f"text/plain;version=1.0.0;escaping={scheme}"})
    assert answer.headers["Content-Type"].endswith("version=1.0.0; charset=utf-8; escaping=underscores")
    assert "\nproxyd_routes 1.0\n" in answer.text


def test_background_jobs_are_shown_with_their_errors(master: Master) -> None:
    def shown() -> dict[str, float]:
        text = master.get("/metrics").text
        return {name: number for (name, labels), number in samples(text).items() if ("job", "tidying") in labels}

    assert shown() == {"proxyd_job_runs_total": 0, "proxyd_job_errors_total": 0, "proxyd_job_last_run_timestamp_seconds": 0,
                       "proxyd_job_duration_seconds": 0}
    before = time.time()
    master.run(master.job.wake)
    wait_for(lambda: master.job.runs)
    found = shown()
    assert found["proxyd_job_runs_total"] == found["proxyd_job_errors_total"] == 1
    assert before <= found["proxyd_job_last_run_timestamp_seconds"] <= time.time()
    assert master.get("/api/v1/status").json()["jobs"] == [{
        "name": "tidying", "runs": 1, "errors": 1, "error": "the broom is gone",
        "duration_seconds": round(master.job.duration, 6), "last_run_at": rfc3339(master.job.last_run)}]
