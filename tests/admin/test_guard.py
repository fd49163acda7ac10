from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import requests

from proxyd.admin import guard
from proxyd.admin.http import Request, RequestRefused
from proxyd.config.settings import load
from tests.admin.harness import SESSION, TOKEN, Master, running
from tests.support.waiting import wait_for

MAINTENANCE = "/api/v1/routes/r1/maintenance"


def log_in(master: Master) -> tuple[requests.Session, str]:
    session = requests.Session()
    answer = session.post(master.url + "/login", json={"token": TOKEN}, timeout=5)
    assert answer.status_code == 200
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and TOKEN not in cookie
    return session, answer.json()["csrf_token"]


@pytest.mark.parametrize(("method", "path", "body", "done"), [
    ("POST", MAINTENANCE, {"page_url": "http://x/"}, ("maintenance_changed", "r1")),
    ("POST", f"/api/v1/sessions/{SESSION}/drain", {"seconds": 30}, ("drain_started", None)),
    ("POST", f"/api/v1/sessions/{SESSION}/drain", None, ("drain_started", None)),
    ("POST", "/api/v1/routes/r1/hold", {"seconds": 30}, ("hold_changed", "r1")),
    ("POST", "/api/v1/routes/r1/circuit/reset", None, ("circuit_reset", "r1")),
])
def test_actions_are_done_with_the_token_and_say_by_whom(
        master: Master, method: str, path: str, body: Any, done: tuple[str, str | None]) -> None:
    answer = master.act(method, path, body)
    assert answer.status_code == 200, answer.text
    assert master.done() == [(*done, "admin token from 127.0.0.1")]


@pytest.mark.parametrize(("path", "first", "second"), [
    (MAINTENANCE, "maintenance_changed", "maintenance_changed"),
    (f"/api/v1/sessions/{SESSION}/drain", "drain_started", "drain_cancelled"),
])
def test_what_was_begun_can_be_ended(master: Master, path: str, first: str, second: str) -> None:
    assert [master.act(method, path).status_code for method in ("DELETE",)] == [200 if path == MAINTENANCE else 409]
    assert [master.act(method, path).status_code for method in ("POST", "DELETE")] == [200, 200]
    assert [type for type, _, _ in master.done()] == [first, second]


def test_drains_take_the_seconds_that_were_asked_for_or_a_minute(master: Master) -> None:
    path = f"/api/v1/sessions/{SESSION}/drain"
    assert master.act("POST", path, {"seconds": 30}).status_code == master.act("POST", path).status_code == 200
    assert [event.data["seconds"] for event in master.events] == [30, 60]


@pytest.mark.parametrize("url", ["nonsense", "ftp://x/y", "http://", "http://a:99999/"])
def test_a_page_that_no_server_can_give_is_refused_and_nothing_changes(master: Master, url: str) -> None:
    answer = master.act("POST", MAINTENANCE, {"page_url": url})
    assert answer.status_code == 400 and answer.json()["detail"].startswith("page_url: ")
    assert master.done() == []
    assert master.get("/api/v1/routes/r1").json()["maintenance"]["active"] is False


def test_what_an_operation_objects_to_is_told(master: Master) -> None:
    assert master.act("POST", "/api/v1/routes/r9/maintenance").status_code == 404
    assert master.act("POST", "/api/v1/sessions/x/drain").status_code == 404
    assert master.act("POST", f"/api/v1/sessions/{SESSION}/drain", {"seconds": -1}).status_code == 400
    assert master.act("POST", "/api/v1/test", {"url": "http://127.0.0.1:1"}).json()["reachable"] is False


def test_actions_without_or_with_a_wrong_token_are_refused_and_failures_limited(master: Master) -> None:
    assert requests.post(master.url + MAINTENANCE, timeout=5).status_code == 401
    answers = [master.act("POST", MAINTENANCE, token="wrong").status_code for _ in range(11)]
    assert answers == [401] * 10 + [429]
    refused = requests.post(master.url + "/login", json={"token": "wrong"}, timeout=5)
    assert refused.status_code == 429 and 0 < int(refused.headers["Retry-After"]) <= 60
    assert {type for type, _, _ in master.done()} == {"login_refused"}


def test_the_right_token_is_never_locked_out_by_others_of_its_address(master: Master) -> None:
    assert [master.act("POST", MAINTENANCE, token="wrong").status_code for _ in range(11)][-1] == 429
    assert master.act("POST", MAINTENANCE).status_code == 200
    assert requests.post(master.url + "/login", json={"token": TOKEN}, timeout=5).status_code == 200
    assert master.act("POST", MAINTENANCE, token="wrong").status_code == 429


def test_the_addresses_of_an_ipv6_customer_fail_together(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    told: list[str] = []
    settings = load(environment={"PROXYD_ADMIN_TOKEN_FILE": str(tmp_path / "token")})
    checked = guard.Guard(settings, lambda address, reason: told.append(address))

    def status(address: str) -> int:
        with pytest.raises(RequestRefused) as refused:
            checked.check_action(Request({"REQUEST_METHOD": "POST", "REMOTE_ADDR": address, "HTTP_AUTHORIZATION": "Bearer wrong"}))
        return refused.value.status

    assert [status(f"2001:db8:1:2::{number:x}") for number in range(11)] == [401] * 10 + [429]
    assert status("2001:db8:1:2:ffff::1") == 429 and status("2001:db8:1:3::1") == 401
    assert told[-2:] == ["2001:db8:1:2::9", "2001:db8:1:3::1"]


def test_without_token_file_actions_are_off_and_the_answer_says_what_to_set(tmp_path: Path) -> None:
    with running(tmp_path, token=False) as master:
        answer = master.act("POST", MAINTENANCE)
        assert answer.status_code == 403 and "[admin] token_file" in answer.json()["detail"]


def test_the_page_acts_by_cookie_and_csrf_token_together(master: Master) -> None:
    session, csrf = log_in(master)
    assert session.post(master.url + MAINTENANCE, timeout=5).json()["code"] == "bad_csrf_token"
    assert session.post(master.url + MAINTENANCE, headers={"X-CSRF-Token": csrf}, timeout=5).status_code == 200
    assert master.done()[0][-1] == "status page from 127.0.0.1"
    assert csrf in session.get(master.url + "/", timeout=5).text


def test_logout_and_a_new_token_end_a_session(master: Master) -> None:
    for end in ("logout", "token"):
        session, csrf = log_in(master)
        cookie = {"Cookie": f"proxyd_admin={session.cookies['proxyd_admin']}", "X-CSRF-Token": csrf}
        if end == "logout":
            assert session.post(master.url + "/logout", timeout=5).status_code == 204
        else:
            (master.directory / "token").write_text("another\n")
        assert requests.post(master.url + MAINTENANCE, headers=cookie, timeout=5).status_code == 401


def test_a_cookie_that_was_altered_or_made_for_something_else_is_none(master: Master) -> None:
    session, csrf = log_in(master)
    name, made, signature = session.cookies["proxyd_admin"].split(".")
    for forged in (f"{name}.{made[::-1]}.{signature}", f"x{name}.{made}.{signature}", f"{name}.{made}.{csrf}",
                   f"{name}.{made}.{signature}.{csrf}", f"{name}.{made}.", signature, ""):
        headers = {"Cookie": f"proxyd_admin={forged}", "X-CSRF-Token": csrf}
        assert requests.post(master.url + MAINTENANCE, headers=headers, timeout=5).status_code == 401, forged


def test_a_session_ends_after_its_time(master: Master, monkeypatch: pytest.MonkeyPatch) -> None:
    session, csrf = log_in(master)
    monkeypatch.setattr(guard, "SESSION_SECONDS", 0)
    wait_for(lambda: session.post(master.url + MAINTENANCE, headers={"X-CSRF-Token": csrf}, timeout=5).status_code == 401)


@pytest.mark.parametrize("step", [-30 * 86400.0, 30 * 86400.0])
def test_a_session_lives_on_when_the_time_of_day_is_set(master: Master, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    session, csrf = log_in(master)
    # A header, because the client would drop the cookie by the time of day.
    own = {"Cookie": f"proxyd_admin={session.cookies['proxyd_admin']}", "X-CSRF-Token": csrf}
    unset = time.time
    monkeypatch.setattr(time, "time", lambda: unset() + step)
    assert requests.post(master.url + MAINTENANCE, headers=own, timeout=5).status_code == 200


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"},
                                     {"Sec-Fetch-Site": "same-site"}])
def test_requests_of_other_sites_pages_are_refused(master: Master, headers: dict[str, str]) -> None:
    session, csrf = log_in(master)
    answer = session.post(master.url + MAINTENANCE, headers={"X-CSRF-Token": csrf, **headers}, timeout=5)
    assert answer.status_code == 403 and answer.json()["code"] == "foreign_origin"
    assert session.post(master.url + "/login", json={"token": TOKEN}, headers=headers, timeout=5).status_code == 403


@pytest.mark.parametrize(("host", "status"), [
    ("localhost:1", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 421), ("127.0.0.1.evil.example", 421),
    ("10.0.0.1", 421)])
def test_only_our_own_hosts_are_answered(master: Master, host: str, status: int) -> None:
    assert master.get("/api/v1/status", headers={"Host": host}).status_code == status


def test_large_bodies_are_refused(master: Master) -> None:
    assert master.act("POST", MAINTENANCE, {"page_url": "x" * 70_000}).status_code == 413
    chunked = requests.post(master.url + "/login", data=iter([b"x" * 40_000] * 2), timeout=5)
    assert chunked.status_code == 413
    for body in ("[1", '{"token": "\\ud800"}', '{"token": NaN}'):
        assert requests.post(master.url + "/login", data=body, timeout=5).status_code == 400


def test_every_answer_carries_the_security_headers(master: Master) -> None:
    for path in ("/", "/nowhere", "/metrics", "/page.js", "/api/v1/status"):
        headers = master.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
