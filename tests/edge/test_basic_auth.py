"""Logins by name and password over real sockets: who passes, what the backend and the log get, and what guessing costs."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest

from tests.edge.conftest import make_route
from tests.edge.wire import Message, Recorder, Wire, get
from tests.support.system import ROOT, System
from tests.support.waiting import wait_for

WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def login(user: str, password: str) -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def passwd(file: Path, user: str, password: str, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "passwd", str(file), user, *more], input=f"{password}\n", text=True,
                          capture_output=True, timeout=60, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def staff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ann by argon2, the others by a quick bcrypt."""
    file = tmp_path_factory.mktemp("users") / "staff.users"
    assert passwd(file, "ann", "correct horse").returncode == 0
    with file.open("a") as out:
        for user, password in (("bob", "s3:cret"), ("zoë", "pässwort"), ("dan", "never used before")):
            out.write(f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n")
    return file


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, staff: Path) -> Iterator[System]:
    """A proxyd with users, which believes in X-Forwarded-For, so that each test has addresses of its own."""
    running = System(tmp_path_factory.mktemp("guarded"), workers=1, proxy__trusted_proxies="127.0.0.1", users__staff=staff,
                     users__lost=f"{staff}.none")
    yield running
    running.stop()


@pytest.fixture
def backend() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


def ask(system: System, host: str, address: str, *fields: str, method: str = "GET") -> Message:
    with Wire(system.proxy_port) as wire:
        return wire.send(get(host, "/", f"X-Forwarded-For: {address}", *fields, method=method)).response(method)


def test_a_login_passes_and_the_backend_gets_the_name_and_no_password(guarded: System, backend: Recorder) -> None:
    host = make_route(guarded, backend.url, basic_auth="Staff")
    for user, password in (("ann", "correct horse"), ("bob", "s3:cret"), ("zoë", "pässwort")):
        assert ask(guarded, host, "192.0.2.1", login(user, password), "remote-user: root").status == 200, user
        got = backend.requests()[-1]
        assert (got.all("remote-user"), got.get("authorization")) == ([user.encode().decode("latin-1")], None)
    wait_for(lambda: '192.0.2.1 - bob [' in guarded.access_log(), 5, "the user in the log")
    assert "s3:cret" not in guarded.access_log() + guarded.log()


@pytest.mark.parametrize("field", [
    "X-None: 1", login("ann", "wrong"), login("nobody", "correct horse"), login("", "x"), "Authorization: Basic !!!",
    "Authorization: Basic", "Authorization: Bearer abc", login("ann", "x" * 2000),
    "Authorization: Basic " + base64.b64encode(b"ann").decode()])
def test_others_are_asked_to_log_in_and_the_backend_sees_nothing(guarded: System, backend: Recorder, field: str) -> None:
    host = make_route(guarded, backend.url, basic_auth="staff", websocket="true")
    answer = ask(guarded, host, "192.0.2.2", field)
    assert (answer.status, answer.get("x-proxyd-reason")) == (401, "login_required")
    assert answer.get("www-authenticate") == 'Basic realm="login", charset="UTF-8"'
    assert ask(guarded, host, "192.0.2.22", *WEBSOCKET).status == 401
    assert backend.requests() == []


def test_a_limit_by_user_follows_the_user_and_counts_no_failed_login(guarded: System, backend: Recorder) -> None:
    client = guarded.client("byuser", "byuser")
    client.route("byuser.test", backend.url, apply=False)
    for command in ("RATELIMIT_SET|SID|ALL|2|1h", "OPTIONS_SET|SID|ALL|rate_limit_key|user", "OPTIONS_SET|SID|ALL|websocket|true"):
        client.ok(command)
    assert "rate_limit_key = user has no effect without basic_auth" in client.command("CONFIG_VALIDATE|SID")
    client.ok("OPTIONS_SET|SID|ALL|basic_auth|staff")
    client.apply()
    bob, zoe = login("bob", "s3:cret"), login("zoë", "pässwort")
    found = [ask(guarded, "byuser.test", f"198.18.7.{n}", field).status
             for n, field in enumerate(("X-None: 1", login("bob", "wrong"), bob, bob, bob, zoe, zoe, zoe, "X-None: 1"))]
    assert found == [401, 401, 200, 200, 429, 200, 200, 429, 401]
    # A WebSocket is a request like others.
    refused = ask(guarded, "byuser.test", "198.18.7.50", bob, *WEBSOCKET)
    assert (refused.status, refused.get("x-proxyd-reason"), len(backend.requests())) == (429, "rate_limited", 4)
    steps = {step["name"]: step["detail"] for step in guarded.admin("/api/v1/why?url=http://byuser.test/").json()["steps"]}
    assert "user_limit" in steps["rate_limit"] and "counted by user" in steps["user_limit"]


def test_guessing_ends_after_ten_for_the_whole_network_but_not_for_who_is_known(guarded: System, backend: Recorder) -> None:
    host = make_route(guarded, backend.url, basic_auth="staff")
    assert ask(guarded, host, "2001:db8::1", login("bob", "s3:cret")).status == 200
    found = [ask(guarded, host, f"2001:db8::{n:x}", login("bob", f"guess{n}")) for n in range(2, 18)]
    # A window that ends meanwhile gives one back, or two.
    assert 10 <= [one.status for one in found].count(401) <= 12 and {one.status for one in found[12:]} == {429}
    assert (found[-1].get("x-proxyd-reason"), int(found[-1].get("retry-after") or 0) > 0) == ("login_limited", True)
    assert ask(guarded, host, "2001:db8::99", login("dan", "never used before")).status == 429
    assert ask(guarded, host, "2001:db8::99", login("bob", "s3:cret")).status == 200
    assert ask(guarded, host, "2001:db8:0:1::1", login("dan", "never used before")).status == 200


def test_other_requests_go_on_while_passwords_are_checked(guarded: System, backend: Recorder) -> None:
    host, open_ = make_route(guarded, backend.url, basic_auth="staff"), make_route(guarded, backend.url)

    def slowest(turn: int) -> float:
        wrong = [threading.Thread(target=ask, args=(guarded, host, f"198.51.100.{n}", login("ann", f"guess{turn}.{n}"))) for n in range(12)]
        for thread in wrong:
            thread.start()
        longest = 0.0
        while any(thread.is_alive() for thread in wrong):
            began = time.monotonic()
            assert ask(guarded, open_, "192.0.2.3").status == 200
            longest = max(longest, time.monotonic() - began)
        return longest

    # Twelve checks of argon2 take longer than this, one after the other. One turn may meet a machine that is busy otherwise, not each.
    assert any(0.0 < slowest(turn) < 1.0 for turn in range(4))


def test_a_changed_password_holds_at_once_and_the_old_one_no_more(guarded: System, backend: Recorder, staff: Path) -> None:
    host = make_route(guarded, backend.url, basic_auth="staff")
    assert passwd(staff, "carl", "first", "--kind", "bcrypt").returncode == 0
    wait_for(lambda: ask(guarded, host, "192.0.2.4", login("carl", "first")).status == 200, 8, "the new user")
    os.chmod(staff, 0o600)
    assert passwd(staff, "carl", "second").returncode == 0
    wait_for(lambda: ask(guarded, host, "192.0.2.4", login("carl", "first")).status == 401, 8, "the end of the old password")
    assert ask(guarded, host, "192.0.2.5", login("carl", "second")).status == 200
    assert staff.stat().st_mode & 0o777 == 0o600 and staff.read_text().count("carl:") == 1
    assert passwd(staff, "carl", "", "--remove").returncode == 0
    wait_for(lambda: ask(guarded, host, "192.0.2.6", login("carl", "second")).status == 401, 8, "the end of the user")


def test_without_its_file_a_route_is_closed_and_a_name_that_is_not_there_is_refused(guarded: System, backend: Recorder) -> None:
    answer = ask(guarded, make_route(guarded, backend.url, basic_auth="lost"), "192.0.2.7", login("ann", "correct horse"))
    assert (answer.status, answer.get("x-proxyd-reason")) == (503, "auth_unavailable")
    client = guarded.client("badusers", "badusers")
    client.route("badusers.test", "http://127.0.0.1:9", apply=False)
    assert client.command("OPTIONS_SET|SID|ALL|basic_auth|stuff") == (
        'ERROR|basic_auth: "stuff" is not in [users] of the settings (did you mean staff?) (known: lost, staff)')
    client.ok("OPTIONS_SET|SID|ALL|basic_auth|staff")
    client.ok("OPTIONS_SET|SID|ALL|forward_auth|http://127.0.0.1:9/")
    assert "choose one" in client.command("CONFIG_VALIDATE|SID")
