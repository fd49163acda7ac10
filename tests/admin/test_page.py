from __future__ import annotations

import re

import pytest

from proxyd.events.types import NAMES
from proxyd.store.sql.models import Route
from tests.admin.browser import CHROMIUM, Browser
from tests.admin.harness import TOKEN, Master, add_event


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
