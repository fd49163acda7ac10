from __future__ import annotations

import re
import time

import pytest

from proxyd.base.text import rfc3339
from proxyd.events.types import NAMES
from proxyd.store.sql.models import Route
from proxyd.store.sql.traffic import TrafficBatch
from tests.admin.browser import CHROMIUM, Browser
from tests.admin.harness import TOKEN, Master, add_event, add_health, add_route


def test_nothing_runs_on_the_page_but_what_carries_its_nonce(master: Master) -> None:
    first, second = master.get("/"), master.get("/")
    nonces = set(re.findall(r'nonce="([^"]+)"', first.text))
    assert len(nonces) == 1 and f"script-src 'nonce-{nonces.pop()}'" in first.headers["Content-Security-Policy"]
    assert first.text != second.text and "{{" not in first.text
    script = master.get("/page.js").text
    assert "innerHTML" not in script and "insertAdjacentHTML" not in script and "eval(" not in script


def test_the_page_looks_again_at_every_type_of_event(master: Master) -> None:
    told = re.search(r'<meta name="events" content="([^"]*)">', master.get("/").text)
    assert told is not None and told[1].split() == list(NAMES)
    assert "of [...eventTypes," in master.get("/page.js").text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_person_sees_routes_logs_in_and_puts_one_into_maintenance(master: Master) -> None:
    master.write(lambda: Route.update(service_name="<img src=x onerror=alert(1)>").execute())
    master.write(lambda: add_event("backend_health_changed", "r1", detail='{"reason":"<script>x</script>"}'))
    with Browser(390, 844) as browser:
        browser.open(master.url + "/")
        browser.until("document.querySelectorAll('#route-rows tr').length === 1")
        assert browser.evaluate("document.querySelectorAll('#route-rows button, main img, main script').length") == 0
        assert "<img src=x" in browser.evaluate("document.querySelector('#route-rows .sub').textContent")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 390
        browser.evaluate("document.getElementById('open-login').click(); "
                         f"document.getElementById('token').value = {TOKEN!r}; "
                         "document.querySelector('#login-form button.main').click()")
        browser.until("document.querySelectorAll('#route-rows button').length === 1")
        browser.evaluate("document.querySelector('#route-rows button').click()")
        browser.evaluate("document.getElementById('ask-do').click()")
        browser.until("document.querySelector('#route-rows').textContent.includes('End maintenance')")
        assert browser.problems == []
    assert master.done()[0][:2] == ("maintenance_changed", "r1")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_a_person_adds_a_route_changes_it_and_removes_it(master: Master) -> None:
    def press(words: str) -> str:
        return f"[...document.querySelectorAll('#route-rows button')].find(one => one.textContent === '{words}').click()"

    with Browser() as browser:
        browser.open(master.url + "/")
        browser.until("document.querySelectorAll('#route-rows tr').length === 1")
        assert browser.evaluate("document.getElementById('add-route').hidden") is True
        browser.evaluate("document.getElementById('open-login').click(); "
                         f"document.getElementById('token').value = {TOKEN!r}; "
                         "document.querySelector('#login-form button.main').click()")
        browser.until("!document.getElementById('add-route').hidden")
        browser.evaluate("document.getElementById('add-route').click(); "
                         "document.getElementById('hand-domains').value = 'new.example, www.new.example'; "
                         "document.getElementById('hand-backend').value = 'ftp://x'; "
                         "document.getElementById('hand-options').value = 'timeout = 30s\\n'; "
                         "document.getElementById('hand-do').click()")
        browser.until("document.getElementById('hand-error').textContent.includes('backend:')")
        browser.evaluate("document.getElementById('hand-backend').value = 'http://127.0.0.1:3000'; "
                         "document.getElementById('hand-do').click()")
        browser.until("document.querySelector('#route-rows').textContent.includes('new.example, www.new.example/')")
        browser.evaluate(press("Change"))
        assert browser.evaluate("document.getElementById('hand-options').value") == "timeout = 30s"
        browser.evaluate("document.getElementById('hand-path').value = '/shop'; document.getElementById('hand-do').click()")
        browser.until("document.querySelector('#route-rows').textContent.includes('www.new.example/shop')")
        browser.evaluate(press("Remove"))
        assert browser.evaluate("document.getElementById('ask-field').hidden") is True
        browser.evaluate("document.getElementById('ask-do').click()")
        browser.until("document.querySelectorAll('#route-rows tr').length === 1")
        # The console tells of the refused one.
        assert [problem for problem in browser.problems if "400" not in problem] == []


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
def test_of_many_routes_the_worst_come_first_a_page_at_a_time(master: Master) -> None:
    def fill() -> None:
        for number in range(2, 121):
            add_route(number, domains=f'["d{number}.example"]')
        add_health("r100", "down", reason="connection refused", since=rfc3339(time.time() - 200))
        add_event("drain_started", session_id="s7")
        for share in (90, 80, 70):
            add_event("drain_progress", session_id="s7", detail=f'{{"traffic_percent":{share}}}')
        Route.update(drain_started_at=rfc3339(time.time() - 15), drain_seconds=60.0).where(Route.route_id == "r1").execute()
        Route.update(hold_until=rfc3339(time.time() + 600)).where(Route.route_id == "r2").execute()
        TrafficBatch(("web1", "b1", 4711), rfc3339(time.time()), {}, {"r2": (0, 0, 7)}).write()

    master.write(fill)
    with Browser(1280, 900) as browser:
        browser.open(master.url + "/")
        browser.until("document.querySelectorAll('#route-rows tr').length === 50")
        first = browser.evaluate("document.querySelector('#route-rows tr').textContent")
        assert "d100.example" in first and "out of service" in first and "for 3 min" in first
        assert "is out of service" in browser.evaluate("document.querySelector('#problems').textContent")
        assert browser.evaluate("document.getElementById('state').className") == "state bad"
        assert browser.evaluate("document.querySelectorAll('#events li').length") == 1, "a drain is one row"
        assert "traffic percent 70" in browser.evaluate("document.querySelector('#events').textContent")
        browser.tab_to("here.id === 'events'")
        browser.evaluate("document.getElementById('later').click()")
        browser.until("document.getElementById('routes-note').textContent.startsWith('51 to 100 of 120')")
        browser.evaluate("const chosen = document.getElementById('filter'); chosen.value = 'draining'; "
                         "chosen.dispatchEvent(new Event('change'))")
        browser.until("document.querySelectorAll('#route-rows tr').length === 1")
        assert browser.evaluate("document.querySelector('#session-rows progress').value") >= 24
        assert browser.evaluate("document.getElementById('pages').hidden")
        browser.evaluate("const held = document.getElementById('filter'); held.value = 'held'; held.dispatchEvent(new Event('change'))")
        browser.until("document.querySelector('#route-rows').textContent.includes('d2.example')")
        held = browser.evaluate("document.querySelector('#route-rows tr').textContent")
        assert "held" in held and "7 waiting" in held
        browser.open(master.url + "/route/r2")
        browser.until("document.body.textContent.includes('7 waiting')")
        assert browser.problems == []


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance of a colour like #1c2226 or #fff."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at:at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_borders_have_enough_contrast(master: Master, scheme: int) -> None:
    style = master.get("/page.css").text
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]+);", style.split(":root {")[1 + scheme].partition("}")[0]))

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    for text, back in (("ink", "paper"), ("ink", "card"), ("soft", "card"), ("soft", "paper"), ("good", "good-back"), ("warn", "warn-back"),
                       ("bad", "bad-back"), ("bad", "card"), ("ink", "off-back"), ("ink", "warn-back"), ("ink", "bad-back"),
                       ("accent", "card")):
        assert contrast(text, back) >= 4.5, (text, back)
    for border in ("card", "paper"):
        assert contrast("edge", border) >= 3, border
