"""The status page of a running proxyd in a real browser, as whoever is on duty uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.admin.browser import CHROMIUM, Browser
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

TOKEN = "a-token-for-the-page"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")]


@dataclass(frozen=True)
class Shop:
    system: System
    client: RegistryClient
    backend: Backend
    route: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.system.admin_port}/"

    def events(self) -> list[tuple[str, str]]:
        """Types and actors of what operators did."""
        return self.system.sql("SELECT type, actor FROM events WHERE actor LIKE 'status page%' ORDER BY id")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("page")
    (directory / "token").write_text(f"{TOKEN}\n")
    backend = Backend()
    system = System(directory / "system", workers=1, admin__token_file=directory / "token")
    client = system.client("shop", "shop-1")
    route = client.route("shop.test", backend.url)
    client.ok(f"HEALTH_SET|SID|{route}|/healthz|1s|500ms")
    client.ok(f"CIRCUIT_BREAKER_SET|SID|{route}|2|60s|1")
    client.apply()
    yield Shop(system, client, backend, route)
    system.stop()
    backend.stop()


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(started: Browser, shop: Shop) -> Iterator[Browser]:
    """A browser with the page open."""
    started.forget()
    started.open(shop.url)
    started.until("document.querySelectorAll('#route-rows tr').length === 1")
    yield started
    started.open("about:blank")


def row(browser: Browser, selector: str = "#route-rows tr") -> str:
    return str(browser.evaluate(f"document.querySelector('{selector}')?.textContent || ''"))


def test_with_the_keyboard_alone_a_route_is_put_into_maintenance_and_taken_out(shop: Shop, browser: Browser) -> None:
    browser.tab_to("here.id === 'open-login'")
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none", "the focus is seen"
    browser.press("Enter", 13)
    browser.enter(TOKEN)
    browser.press("Enter", 13)
    browser.until("document.querySelectorAll('#route-rows button').length > 0")
    browser.tab_to("(here.dataset.act || '').startsWith('Maintenance of shop')")
    browser.press("Enter", 13)
    browser.until("document.getElementById('ask').open")
    browser.press("Escape", 27)
    browser.until("!document.getElementById('ask').open")
    assert shop.system.get(host="shop.test").status == 200, "Escape does nothing"
    browser.tab_to("(here.dataset.act || '').startsWith('Maintenance of shop')")
    browser.press("Enter", 13)
    browser.press("Enter", 13)
    browser.until("document.querySelector('#route-rows').textContent.includes('End maintenance')")
    assert shop.system.get(host="shop.test").status == 503
    browser.tab_to("(here.dataset.act || '').startsWith('End maintenance')")
    browser.press("Enter", 13)
    browser.until("!document.querySelector('#route-rows').textContent.includes('End maintenance')")
    assert shop.system.get(host="shop.test").status == 200
    assert browser.problems == []
    wait_for(lambda: [type_ for type_, _ in shop.events()] == ["maintenance_changed"] * 2, what="the audit rows")


def test_drain_and_reset_do_what_they_say(shop: Shop, browser: Browser) -> None:
    browser.evaluate(f"document.getElementById('open-login').click(); document.getElementById('token').value = {TOKEN!r}; "
                     "document.querySelector('#login-form button.main').click()")
    browser.until("document.querySelectorAll('#session-rows button').length === 1")
    browser.evaluate("document.querySelector('#session-rows button').click(); document.getElementById('ask-value').value = '300'; "
                     "document.getElementById('ask-do').click()")
    browser.until("document.querySelector('#session-rows').textContent.includes('draining')")
    assert json.loads(shop.client.ok("DRAIN_STATUS|SID"))["duration_seconds"] == 300
    browser.evaluate("document.querySelector('#session-rows button').click()")
    browser.until("!document.querySelector('#session-rows').textContent.includes('draining')")
    shop.backend.failing = 500
    shop.system.get(host="shop.test")
    shop.system.get(host="shop.test")
    browser.until("document.querySelector('#route-rows').textContent.includes('Reset circuit')")
    browser.until("document.getElementById('state').textContent.includes('1 route is unhealthy')")
    shop.backend.failing = 0
    browser.evaluate("document.querySelector('#route-rows button').click()")
    browser.until("document.querySelector('#state').textContent === 'All is well'")
    assert shop.system.get(host="shop.test").status == 200
    assert "drain started" in row(browser, "#events") and "shop shop-1" in row(browser, "#events")


def test_the_page_is_told_what_happens_and_need_not_ask(shop: Shop, browser: Browser) -> None:
    # Without its timer, the page hears of changes by server-sent events alone.
    browser.before_each_page("window.setInterval = () => 0;")
    browser.open(shop.url)
    browser.until("document.querySelector('#route-rows')?.textContent.includes('healthy')")
    shop.client.send("MAINT_ENTER|SID|ALL|")
    browser.until("document.querySelector('#route-rows').textContent.includes('maintenance')")
    shop.client.line()
    shop.client.line()
    shop.client.send("MAINT_EXIT|SID|ALL")
    browser.until("!document.querySelector('#route-rows').textContent.includes('maintenance')")
    shop.client.line()
    shop.client.line()


def test_nothing_is_sent_without_login_and_the_cookie_alone_is_not_enough(shop: Shop, browser: Browser) -> None:
    act = f"fetch('api/v1/routes/{shop.route}/maintenance', {{method: 'POST'}}).then((answer) => answer.status)"
    assert browser.evaluate("document.querySelectorAll('main td button').length") == 0
    assert browser.evaluate(act) == 401
    browser.evaluate(f"fetch('login', {{method: 'POST', body: JSON.stringify({{token: {TOKEN!r}}})}}).then((answer) => answer.status)")
    assert browser.evaluate(act) == 403
    assert browser.evaluate("document.cookie") == "", "scripts don't see the cookie"
    assert shop.system.get(host="shop.test").status == 200


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, True)])
def test_it_fits_a_phone_and_follows_the_dark_mode(browser: Browser, width: int, dark: bool) -> None:
    browser.show_as(width, 844, dark)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    red = int(browser.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red < 60) is dark
    assert browser.evaluate("performance.getEntriesByType('resource').every((entry) => entry.name.startsWith(location.origin))")
    assert browser.problems == []
