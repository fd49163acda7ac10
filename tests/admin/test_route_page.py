"""The page of a route, what its API says, and that nobody is kept from using either page (axe-core, in Chromium)."""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.base.text import rfc3339
from proxyd.store.sql.errors import ErrorBatch
from proxyd.store.sql.models import Route
from proxyd.store.sql.observed import CircuitTransition, HealthResult, SlowRequest
from tests.admin.browser import CHROMIUM, Browser
from tests.admin.harness import TOKEN, Master, add_event, add_health, add_route, add_session, add_traffic
from tests.support.waiting import patience

FOUND = importlib.util.find_spec("axe_playwright_python")
AXE = Path(FOUND.origin).parent / "axe.min.js" if FOUND is not None and FOUND.origin else None
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")


@pytest.fixture
def busy(master: Master) -> Master:
    """A route with a past: traffic of two hours, a deploy, errors, checks, a circuit that opened."""
    def fill() -> None:
        now = time.time()
        add_traffic("r1", {200: 90, 503: 10}, {200: 100}, at=now - 7200, latency_ms_sum=5000.0)
        Route.delete().where(Route.route_id == "r1").execute()
        add_session("s8")
        add_route(5, "s8", headers='{"X-Frame-Options":"DENY"}')
        add_health("r5", "down")
        add_traffic("r5", {200: 4, 404: 1}, {100: 5}, at=now, latency_ms_sum=50.0)
        HealthResult.create(route_id="r5", checked_at=rfc3339(now), ok=False, error="connection refused")
        CircuitTransition.create(route_id="r1", at=rfc3339(now - 60), from_state="closed", to_state="open", reason="failures")
        SlowRequest.create(route_id="r1", at=rfc3339(now - 50), level="warning", method="GET", url="shop.example/cart", status_code=200,
                           total_ms=3100.2, queue_ms=1.0, connect_ms=2.0, first_byte_ms=3000.0, body_ms=97.0, request_id="id-1",
                           upstream="127.0.0.1:3001")
        last = ("GET", "shop.example/<b>cart", "127.0.0.1:3001", "id-2")
        ErrorBatch([("r1", 503, "", 10, rfc3339(now - 7200), *last), ("-", 404, "unknown_host", 4, rfc3339(now), *last)],
                   {"old.example": 4}, rfc3339(now)).write()

    master.write(fill)
    return master


def test_history_is_of_the_place_over_deploys_and_instances(busy: Master) -> None:
    week = busy.get("/api/v1/routes/r5/history?span=week").json()
    assert len(week["points"]) == 168 and week["step_seconds"] == 3600
    # What the fixture of all tests counted is here, too: 8 times 200 and 2 times 502.
    assert sum(point["requests"] for point in week["points"]) == 115
    assert [sum(point[key] for point in week["points"]) for key in ("status_2xx", "status_4xx", "status_5xx")] == [102, 1, 12]
    assert any(point["p95_ms"] for point in week["points"]) and week["p50_ms"]
    assert [one["route_id"] for one in week["deploys"]] == ["r5", "r1"]
    assert [(one["to"], one["route_id"]) for one in week["transitions"]] == [("open", "r1")]
    assert [one["error"] for one in week["checks"]] == ["connection refused"]
    hour = busy.get("/api/v1/routes/r5/history").json()
    assert len(hour["points"]) == 60 and sum(point["requests"] for point in hour["points"]) == 15
    assert sum(point["status_4xx"] for point in hour["points"]) == 1
    drawn = [point for point in hour["points"] if point["p99_ms"]]
    assert drawn and all(point["p50_ms"] <= point["p95_ms"] <= point["p99_ms"] for point in drawn)
    assert drawn == [point for point in hour["points"] if point["requests"]], "each minute with traffic has its percentiles"
    found = busy.get("/api/v1/routes/r5/requests").json()
    assert [one["request_id"] for one in found["slow"]] == ["id-1"]
    assert [(one["status"], one["requests"]) for one in found["errors"]] == [(503, 10)]
    assert busy.get("/api/v1/routes/r1/history").status_code == 404


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.mark.slow
@in_browser
def test_a_route_has_a_page_that_a_person_reaches_by_the_keyboard(busy: Master, browser: Browser) -> None:
    browser.forget()
    browser.open(busy.url + "/")
    browser.until("document.querySelectorAll('#route-rows tr').length === 1 && document.querySelectorAll('#errors tr').length === 2")
    assert "old.example" in browser.evaluate("document.getElementById('unknown').textContent")
    browser.tab_to("here.closest('#route-rows') !== null")
    browser.press("Enter", 13)
    browser.until("document.querySelectorAll('#members tr').length === 1")
    assert browser.evaluate("location.pathname") == "/route/r5"
    text = browser.evaluate("document.querySelector('main').textContent")
    for part in ("shop.example/<b>cart", "3.1 s", "connection refused", "failures", "X-Frame-Options", "127.0.0.1:3001", "id-2"):
        assert part in text, part
    assert browser.evaluate("document.getElementById('state').textContent") == "1 of 1 members down"
    browser.tab_to("here.name === 'span'")
    assert browser.evaluate("document.querySelectorAll('.line-p99_ms').length") == 2, "of the hour, too"
    browser.press("ArrowRight", 39)
    browser.press("ArrowRight", 39)
    browser.until("document.querySelector('#figures dd').textContent === '115'")
    assert browser.evaluate("document.querySelectorAll('.line-p99_ms').length") == 2, "the line and its key"
    assert "5xx: 12" in browser.evaluate("document.querySelector('#codes-chart svg').getAttribute('aria-label')")
    browser.show_as(390)
    assert browser.evaluate("document.documentElement.scrollWidth") <= 390
    assert browser.problems == []


@pytest.mark.slow
@in_browser
@pytest.mark.skipif(AXE is None, reason="no axe-core here (scripts/test installs it)")
def test_axe_finds_nothing(busy: Master, browser: Browser) -> None:
    assert AXE is not None
    busy.write(lambda: [add_event("drain_started", session_id="s8"), add_event("login_refused")])  # type: ignore[func-returns-value]
    script = AXE.read_text(encoding="utf-8")

    def found(what: str = "document") -> Any:
        browser.evaluate(f"{script}; 0")
        # Colours change for a moment where they are animated: contrast is looked at when all is drawn.
        result = browser.evaluate(f"axe.run({what}).then((found) => JSON.stringify(found.violations.map((one) => "
                                  "[one.id, one.nodes.map((node) => node.html.slice(0, 200))])))")
        return json.loads(result)

    browser.forget()
    for dark in (False, True):
        browser.show_as(1280, dark=dark)
        browser.open(busy.url + "/")
        browser.until("document.querySelectorAll('#errors tr').length === 2 && document.querySelectorAll('#events li').length === 2")
        assert found() == []
        browser.open(busy.url + "/route/r5")
        browser.until("document.querySelectorAll('#members tr').length === 1")
        assert found() == []
    browser.show_as(390)
    browser.open(busy.url + "/")
    browser.until("document.querySelectorAll('#route-rows tr').length === 1")
    browser.evaluate(f"document.getElementById('open-login').click(); document.getElementById('token').value = {TOKEN!r}")
    assert found() == []
    browser.evaluate("document.querySelector('#login-form button.main').click()")
    browser.until("document.querySelectorAll('#route-rows button').length > 0")
    browser.evaluate("document.getElementById('add-route').click()")
    assert found() == []


@pytest.mark.slow
@in_browser
def test_ten_thousand_routes_stay_quick(busy: Master, browser: Browser) -> None:
    def fill() -> None:
        now = rfc3339(time.time())
        rows = [{"route_id": f"r{number}", "session": "s7", "service_name": f"service{number % 100}", "instance_name": "a",
                 "domains": f'["d{number}.example"]', "path": "/", "backend_url": "http://127.0.0.1:1", "priority": 0, "enabled": True,
                 "slot": number, "version": 1, "created_at": now, "updated_at": now} for number in range(10, 10_010)]
        for part in range(0, len(rows), 50):
            Route.insert_many(rows[part:part + 50]).execute()

    busy.write(fill)
    browser.forget()
    browser.open(busy.url + "/")
    browser.until("document.querySelectorAll('#route-rows tr').length === 50")
    assert "of 10,001 routes" in browser.evaluate("document.getElementById('routes-note').textContent")
    assert browser.evaluate("document.documentElement.scrollHeight") < 6000
    began = time.monotonic()
    browser.evaluate("const field = document.getElementById('search'); field.value = 'd9999.'; field.dispatchEvent(new Event('input'))")
    browser.until("document.querySelectorAll('#route-rows tr').length === 1")
    # On an idle machine it takes a quarter of a second, of which the page waits 0.2 s for more to be typed.
    assert time.monotonic() - began < patience(10)
    assert browser.problems == []


@pytest.mark.slow
@in_browser
def test_every_dialog_is_used_by_the_keyboard_and_the_focus_stays_where_it_was(busy: Master, browser: Browser) -> None:
    def focus() -> str:
        return str(browser.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.id"))

    def to_button(name: str) -> None:
        browser.tab_to(f"(here.getAttribute('aria-label') || here.textContent).startsWith('{name}')")
        browser.press("Enter", 13)

    busy.load()
    browser.forget()
    browser.open(busy.url + "/")
    browser.until("document.querySelectorAll('#route-rows tr').length === 1")
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    to_button("Log in")
    browser.until("document.getElementById('login').open")
    assert focus() == "token"
    browser.press("Escape", 27)
    browser.until("!document.getElementById('login').open")
    assert focus() == "open-login"
    browser.press("Enter", 13)
    browser.enter(TOKEN)
    browser.press("Enter", 13)
    browser.until("document.querySelectorAll('#route-rows button').length > 0")
    assert focus() == "logout"
    to_button("Maintenance of shop")
    browser.until("document.getElementById('ask').open")
    assert focus() == "ask-value"
    # Its row is drawn anew under the dialog.
    busy.write(lambda: add_traffic("r5", {200: 100}, {100: 100}, at=time.time(), latency_ms_sum=50.0))
    browser.until("document.querySelector('#route-rows').textContent.includes('105')")
    browser.press("Escape", 27)
    browser.until("!document.getElementById('ask').open")
    browser.until("(document.activeElement.getAttribute('aria-label') || '').startsWith('Maintenance of shop')")
    browser.press("Enter", 13)
    browser.until("document.getElementById('ask').open")
    browser.press("Enter", 13)
    # Another button is in its place: that one has the focus.
    browser.until("document.querySelector('#route-rows').textContent.includes('End maintenance')")
    browser.until("(document.activeElement.getAttribute('aria-label') || '').startsWith('End maintenance')")
    browser.evaluate("scrollTo(0, 0)")
    browser.press("Enter", 13)
    browser.until("!document.querySelector('#route-rows').textContent.includes('End maintenance')")
    browser.until("(document.activeElement.getAttribute('aria-label') || '').startsWith('Maintenance of shop')")
    to_button("Add route")
    browser.until("document.getElementById('hand').open")
    assert focus() == "hand-domains"
    browser.enter("typed.example")
    browser.press("Tab", 9)
    browser.enter("http://127.0.0.1:3000")
    browser.press("Enter", 13)
    browser.until("document.querySelector('#route-rows').textContent.includes('typed.example')")
    assert focus() == "add-route"
    to_button("Remove typed.example")
    browser.until("document.getElementById('ask').open")
    # Without a field, Cancel has the focus: what is removed takes one step more.
    assert focus() == "ask-cancel"
    browser.press("Tab", 9)
    browser.press("Enter", 13)
    browser.until("!document.querySelector('#route-rows').textContent.includes('typed.example')")
    browser.until("document.activeElement.closest('#routes') !== null")
    assert browser.problems == []
