"""Where there is a viewer token, nobody reads without a token, and who has that one looks and does nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from proxyd.admin import feed
from proxyd.admin.endpoints import ENDPOINTS
from tests.admin.browser import CHROMIUM, Browser
from tests.admin.harness import TOKEN, VIEWER, Master, add_health, add_route, add_session, running
from tests.support.waiting import wait_for

MAINTENANCE = "/api/v1/routes/r1/maintenance"
OPEN = {"/livez", "/readyz", "/login", "/logout", "/", "/page.css", "/route/r1", "/common.js", "/page.js", "/route.js"}


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Master]:
    """An admin server whose readers need a token."""
    with running(tmp_path, viewer=True) as master:
        def fill() -> None:
            add_session()
            add_route(1)
            add_health("r1")

        master.write(fill)
        master.load()
        yield master


def test_without_a_token_only_probes_and_the_empty_page_are_answered(closed: Master) -> None:
    statuses = {}
    for endpoint in ENDPOINTS:
        path = re.sub(r"\{\w+\}", "r1", endpoint.path)
        statuses[endpoint.method, path] = requests.request(endpoint.method, closed.url + path, timeout=5).status_code
    assert {path for (_, path), status in statuses.items() if status != 401} == OPEN
    assert closed.get("/nowhere").status_code == 404
    ready = closed.get("/readyz")
    assert ready.status_code == 503 and ready.json() == {"ready": False, "reasons": ["why not is said to those who come with a token"]}
    assert closed.get("/readyz?verbose=1").status_code == 401
    assert "shop" not in closed.get("/").text + closed.get("/route/r1").text


@pytest.mark.parametrize("token", [TOKEN, VIEWER])
def test_either_token_reads(closed: Master, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    for path in ("/api/v1/routes", "/metrics", "/api/v1/openapi.json"):
        assert closed.get(path, headers=headers).status_code == 200
    assert closed.get("/readyz?verbose", headers=headers).json()["reasons"] == ["no worker is running"]
    assert closed.get("/api/v1/routes", headers={"Authorization": f"Bearer {token}x"}).json()["code"] == "wrong_token"


def test_a_viewer_does_nothing_else_by_header_or_by_login(closed: Master) -> None:
    refused = closed.act("POST", MAINTENANCE, token=VIEWER)
    assert refused.status_code == 403 and refused.json()["code"] == "viewer"
    session = requests.Session()
    answer = session.post(closed.url + "/login", json={"token": VIEWER}, timeout=5).json()
    assert answer["role"] == "viewer" and session.get(closed.url + "/api/v1/routes", timeout=5).status_code == 200
    csrf = {"X-CSRF-Token": answer["csrf_token"]}
    assert session.post(closed.url + MAINTENANCE, headers=csrf, timeout=5).json()["code"] == "viewer"
    assert closed.done() == []
    assert closed.act("POST", MAINTENANCE).status_code == 200
    # A new viewer token ends the logins of viewers, and no others.
    operator = requests.Session()
    assert operator.post(closed.url + "/login", json={"token": TOKEN}, timeout=5).json()["role"] == "operator"
    (closed.directory / "viewer-token").write_text("another\n")
    assert session.get(closed.url + "/api/v1/routes", timeout=5).status_code == 401
    assert operator.get(closed.url + "/api/v1/routes", timeout=5).status_code == 200


def test_wrong_tokens_of_readers_are_counted_and_missing_ones_are_not(closed: Master) -> None:
    assert [closed.get("/api/v1/routes").status_code for _ in range(12)] == [401] * 12
    headers = {"Authorization": "Bearer wrong"}
    assert [closed.get("/api/v1/routes", headers=headers).status_code for _ in range(11)] == [401] * 10 + [429]
    assert closed.get("/api/v1/routes", headers={"Authorization": f"Bearer {VIEWER}"}).status_code == 200


def test_where_the_file_of_viewers_is_gone_only_operators_read(closed: Master) -> None:
    (closed.directory / "viewer-token").unlink()
    assert closed.get("/api/v1/routes").status_code == 401
    refused = closed.get("/api/v1/routes", headers={"Authorization": f"Bearer {VIEWER}"})
    assert refused.status_code == 403 and "viewer_token_file" in refused.json()["detail"]
    assert closed.get("/api/v1/routes", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_stream_ends_with_the_right_to_read(closed: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_ASK_SECONDS", 0.0)
    stream = closed.get("/api/v1/events?follow=1", headers={"Authorization": f"Bearer {VIEWER}"}, stream=True)
    pieces = stream.iter_content(None)
    assert b"proxyd events" in next(pieces)
    closed.run(lambda: closed.bus.publish("drain_started", {}, actor="test"))
    assert b"drain_started" in next(pieces)
    (closed.directory / "viewer-token").write_text("another\n")
    closed.run(lambda: closed.bus.publish("drain_cancelled", {}, actor="test"))
    assert list(pieces) == []
    wait_for(lambda: closed.run(lambda: closed.server._context.followers.count) == 0)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_viewer_logs_in_by_the_keyboard_and_sees_no_buttons(closed: Master) -> None:
    with Browser() as browser:
        browser.open(closed.url + "/route/r1")
        browser.until("document.getElementById('login').open")
        assert browser.evaluate("document.activeElement.id") == "token"
        browser.enter("nonsense")
        browser.press("Enter", 13)
        browser.until("document.getElementById('login-error').textContent.includes('that is not')")
        browser.enter(VIEWER)
        browser.press("Enter", 13)
        browser.until("document.querySelectorAll('#members tr').length === 1")
        assert browser.evaluate("document.activeElement.id + document.activeElement.textContent") == "logoutLog out (viewer)"
        browser.open(closed.url + "/")
        browser.until("document.querySelectorAll('#route-rows tr').length === 1")
        assert browser.evaluate("document.querySelectorAll('td button').length") == 0
        assert browser.evaluate("document.getElementById('add-route').hidden")
        browser.tab_to("here.id === 'logout'")
        browser.press("Enter", 13)
        browser.until("document.getElementById('login') && document.getElementById('login').open")
        assert browser.evaluate("document.querySelectorAll('#route-rows tr').length") == 0
        assert [problem for problem in browser.problems if "401" not in problem] == []
