"""The admin HTTP of a running proxyd: what it says is what happened, in the form that its document and Prometheus expect."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.schema import fits
from tests.support.system import Answer, System
from tests.support.waiting import patience, wait_for

TOKEN = "a-token-for-the-api"
PLACE = {"service": "shop", "domain": "shop.test"}
MEMBER = {**PLACE, "instance": "shop-1", "path": "/"}


@dataclass(frozen=True)
class Used:
    system: System
    client: RegistryClient
    backend: Backend
    route: str

    def samples(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample of /metrics by name and labels."""
        return {(sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(self.system.admin("/metrics").text) for sample in family.samples}

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples().get((name, frozenset(labels.items())))

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        return self.system.admin(path, method, json.dumps(body).encode() if body is not None else None,
                                 Authorization=f"Bearer {TOKEN}")


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Used]:
    directory = tmp_path_factory.mktemp("admin")
    (directory / "token").write_text(f"{TOKEN}\n")
    backend = Backend()
    system = System(directory / "system", workers=3, admin__token_file=directory / "token")
    client = system.client("shop", "shop-1")
    route = client.route("shop.test", backend.url)
    client.ok(f"HEALTH_SET|SID|{route}|/healthz|1s|500ms")
    client.ok(f"CIRCUIT_BREAKER_SET|SID|{route}|50|60s|1")
    client.ok(f"RATELIMIT_SET|SID|{route}|60|1h")
    client.apply()
    for number in range(70):
        system.get("/status/500" if number % 10 == 0 else "/", "shop.test")
    yield Used(system, client, backend, route)
    system.stop()
    backend.stop()


def test_metrics_count_over_all_workers_and_survive_the_end_of_one(used: Used) -> None:
    def counted() -> list[float | None]:
        return [used.value("proxyd_requests_total", **PLACE, code=code) for code in ("200", "500", "429")]

    wait_for(lambda: counted() == [54, 6, 10] and used.value("proxyd_request_duration_seconds_count", **PLACE) == 70,
             what="all requests of all workers")
    assert used.value("proxyd_request_duration_seconds_bucket", **PLACE, le="+Inf") == 70
    assert used.value("proxyd_rate_limited_total", **PLACE) == 10
    assert used.value("proxyd_errors_total", **PLACE) == 6
    assert used.value("proxyd_circuit_state", **MEMBER, state="closed") == 1
    wait_for(lambda: used.value("proxyd_health_up", **MEMBER) == 1, what="the health check")
    versions = [value for (name, _), value in used.samples().items() if name == "proxyd_worker_config_version"]
    assert versions == [used.value("proxyd_config_version")] * 3
    old = used.system.worker_pids()
    os.kill(old[0], signal.SIGKILL)
    wait_for(lambda: used.system.ready() and old[0] not in used.system.worker_pids(), 15)
    assert counted() == [54, 6, 10]

    def living() -> set[str]:
        return {dict(labels)["pid"] for name, labels in used.samples() if name == "proxyd_worker_config_version"}

    wait_for(lambda: living() == {str(pid) for pid in used.system.worker_pids()}, what="the new worker in the place of the dead one")


def test_names_and_types_are_as_prometheus_wants_them(used: Used) -> None:
    text = used.system.admin("/metrics").text
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families) > 20
    for family in families:
        assert re.fullmatch(r"proxyd_[a-z][a-z_]*", family.name), family.name
        assert family.documentation.endswith(".") and family.type in ("counter", "gauge", "histogram"), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|percent)$", family.name), "base units"
    if shutil.which("promtool"):
        lint = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=20)
        assert (lint.returncode, lint.stdout + lint.stderr) == (0, "")


def test_every_endpoint_answers_as_the_document_says(used: Used) -> None:
    document = used.system.admin("/api/v1/openapi.json").json()
    session = used.client.session_id
    bodies: dict[str, dict[str, Any]] = {
        "/api/v1/test": {"url": used.backend.url}, "/api/v1/sessions/{session_id}/drain": {"seconds": 60},
        "/api/v1/services/{service}/rollout": {"to": "v2"},
        "/api/v1/routes": {"domains": ["byhand.test"], "backend": used.backend.url}}
    asked = 0
    for path, operations in document["paths"].items():
        # A drain must be begun before it can be cancelled, so POST comes before DELETE.
        for method in sorted(operations, reverse=True):
            operation = operations[method]
            for route, session_id in ((used.route, session), ("r999999", "nobody")):
                concrete = path.replace("{route_id}", route).replace("{session_id}", session_id)
                needed = {item["name"]: item["schema"]["examples"][0] for item in operation["parameters"]
                          if item["in"] == "query" and item["required"]}
                concrete += f"?{urlencode(needed)}" if needed else ""
                answer = used.api(method.upper(), concrete, bodies.get(path) if method == "post" else {} if method == "patch" else None)
                declared = operation["responses"].get(str(answer.status), operation["responses"]["default"])
                kind = answer.headers["Content-Type"].partition(";")[0]
                assert kind in declared["content"], (method, concrete, answer.status, kind)
                schema = declared["content"][kind].get("schema")
                if schema is not None:
                    fits(answer.json(), schema)
                assert ("X-Total-Count" in answer.headers) == ("headers" in declared), concrete
                # There is no service named {service}: what would change something of it is a conflict, or nothing to do. With SQLite, there
                # is no host {name} either.
                named = route != used.route or "{service}" in path or "{name}" in path
                known: tuple[int, ...] = (200, 404, 409) if "{" in path and named else (200,)
                if path == "/api/v1/routes" and method == "post":
                    # The second time it is there already.
                    known = (200, 201, 409)
                elif path == "/api/v1/routes/{route_id}" and method != "get":
                    # It belongs to a service.
                    known = (404, 409)
                elif path.startswith("/api/v1/certificates") and method != "get":
                    # There is none, and no PEM to take.
                    known = (400, 404, 409)
                elif path.startswith("/api/v1/hosts/"):
                    # There is one host.
                    known = (409,)
                assert answer.status in known, (method, concrete, answer.text)
                asked += 1
    assert asked == 2 * sum(map(len, document["paths"].values())) > 30


def test_ready_tells_the_reason_within_a_moment_and_in_the_form_of_the_document(used: Used) -> None:
    victim = used.system.worker_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    try:
        used.client.ok(f"OPTIONS_SET|SID|{used.route}|timeout|30s")
        used.client.apply()
        began = time.monotonic()
        answer = used.system.admin("/readyz")
        assert time.monotonic() - began < patience(3)
        assert answer.status == 503
        schema = used.system.admin("/api/v1/openapi.json").json()["paths"]["/readyz"]["get"]["responses"]["503"]
        fits(answer.json(), schema["content"]["application/json"]["schema"])
        assert any(f"worker {victim} routes by config version" in reason for reason in answer.json()["reasons"])
        assert any(f"worker {victim}" in problem for problem in used.system.admin("/api/v1/status").json()["problems"])
        assert used.system.admin("/livez").status == 200
    finally:
        os.kill(victim, signal.SIGCONT)
    wait_for(used.system.ready, 10)


def test_what_needs_a_token_is_refused_without_and_written_down_with_who(used: Used) -> None:
    path = f"/api/v1/routes/{used.route}/circuit/reset"
    assert used.system.admin(path, "POST").status == 401
    assert used.system.admin(path, "POST", Authorization="Bearer wrong").status == 401
    assert used.api("POST", path).status == 200
    wait_for(lambda: {type_ for type_, in used.system.sql("SELECT type FROM events")} >= {"circuit_reset", "login_refused"})
    actors = dict(used.system.sql("SELECT type, actor FROM events WHERE type IN ('circuit_reset', 'login_refused')"))
    assert actors == {"circuit_reset": "admin token from 127.0.0.1", "login_refused": "127.0.0.1"}


def test_errors_are_grouped_and_unknown_hosts_are_named(used: Used) -> None:
    for _ in range(3):
        assert used.system.get("/a/b?secret=1", "nobody.test").status == 404
    # Each worker writes its counts by itself.
    wait_for(lambda: sum(one["requests"] for one in used.system.admin("/api/v1/unknown-hosts").json()["hosts"]) == 3,
             what="the counts of the workers")
    (host,) = used.system.admin("/api/v1/unknown-hosts").json()["hosts"]
    assert (host["host"], host["requests"]) == ("nobody.test", 3)
    # An answer may be kept for a moment, and each is of a moment of its own.
    wait_for(lambda: used.system.admin("/api/v1/status").json()["unknown_hosts"] == {"requests": 3, "most_asked": [host]},
             what="the same in the status")

    def grouped() -> dict[tuple[int, str], dict[str, Any]]:
        return {(one["status"], one["reason"]): one for one in used.system.admin("/api/v1/errors").json()["errors"]}

    found = wait_for(lambda: seen if (seen := grouped()).get((404, "unknown_host"), {}).get("requests") == 3 else None,
                     what="the errors of all workers")
    own, limited, unknown = found[500, ""], found[429, "rate_limited"], found[404, "unknown_host"]
    assert (own["service"], own["domain"], own["made_by"], own["requests"], own["last_url"]) == (
        "shop", "shop.test", "backend", 6, "shop.test/status/500")
    assert (limited["made_by"], limited["requests"]) == ("client", 10)
    assert (unknown["service"], unknown["requests"], unknown["last_url"]) == ("", 3, "nobody.test/a/b")
    assert used.system.sql("SELECT requests FROM v_errors WHERE status_code = 500") == [(6,)]
    assert all(one["made_by"] == "client" for one in used.system.admin("/api/v1/errors?made_by=client").json()["errors"])


def test_what_was_just_applied_is_in_the_answer_although_answers_are_kept_for_a_moment(used: Used) -> None:
    client = used.system.client("kept")
    for number in range(3):
        used.system.admin("/api/v1/routes")
        route_id = client.route(f"kept{number}.test", used.backend.url)
        assert route_id in used.system.admin("/api/v1/routes").text
