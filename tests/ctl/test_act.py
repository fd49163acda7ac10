"""The commands that change something."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.client.test_client import ScriptedRegistry
from tests.ctl.conftest import AdminStub, Outcome, route

Ctl = Callable[..., Outcome]


@pytest.fixture
def registry() -> Iterator[ScriptedRegistry]:
    server = ScriptedRegistry()
    yield server
    server.stop()


def actions(admin: AdminStub) -> list[tuple[str, str, object]]:
    return [(method, path.removeprefix("/api/v1/"), body) for method, path, body, _ in admin.asked if method != "GET"]


def test_draining_a_service_drains_all_its_sessions_with_the_token(admin: AdminStub, ctl: Ctl, tmp_path: Path) -> None:
    for name in ("aaaa", "bbbb"):
        admin.answers["POST", f"sessions/session-{name}/drain"] = (200, {"done": "draining"})
    (tmp_path / "token").write_text("secret\n")
    outcome = ctl("drain", "shop", "--over", "90s", "--token-file", str(tmp_path / "token"), "--admin", admin.url)
    assert outcome.code == 0, outcome.err
    assert actions(admin) == [("POST", f"sessions/session-{name}/drain", {"seconds": 90.0}) for name in ("aaaa", "bbbb")]
    assert {asked[3] for asked in admin.asked} == {"Bearer secret"}


@pytest.mark.parametrize("who", ["session-bbbb", "session-b", "shop/shop-2"])
def test_one_session_is_named_by_id_beginning_or_instance(admin: AdminStub, ctl: Ctl, who: str) -> None:
    admin.answers["DELETE", "sessions/session-bbbb/drain"] = (200, {"done": "cancelled"})
    assert ctl("drain", who, "--cancel", "--admin", admin.url).code == 0
    assert actions(admin) == [("DELETE", "sessions/session-bbbb/drain", None)]


@pytest.mark.parametrize(("who", "message"), [("session-", "2 sessions"), ("nobody", 'no connected session or service "nobody"')])
def test_nothing_is_drained_where_it_is_not_clear_what(admin: AdminStub, ctl: Ctl, who: str, message: str) -> None:
    outcome = ctl("drain", who, "--admin", admin.url)
    assert outcome.code == 1 and message in outcome.err
    assert actions(admin) == []


def test_maintenance_is_entered_for_a_domain_and_lifted_for_all(admin: AdminStub, ctl: Ctl) -> None:
    for number in (1, 2):
        admin.answers["POST", f"routes/r{number}/maintenance"] = (200, {"done": "entered"})
        admin.answers["DELETE", f"routes/r{number}/maintenance"] = (200, {"done": "lifted"})
    assert ctl("maint", "enter", "r2.test", "--page", "http://p/", "--admin", admin.url).out == "r2: maintenance entered\n"
    assert ctl("--admin", admin.url, "maint", "exit", "ALL").code == 0
    assert actions(admin) == [("POST", "routes/r2/maintenance", {"page_url": "http://p/"}),
                              ("DELETE", "routes/r1/maintenance", None), ("DELETE", "routes/r2/maintenance", None)]


def test_maintenance_status_lists_the_routes_that_are_in_and_why(admin: AdminStub, ctl: Ctl) -> None:
    admin.answers["GET", "routes"] = (200, {"routes": [
        route("r1"), route("r2", maintenance={"active": True, "hits": 3, "reason": "new disk", "entered_by": "alice"}),
        route("r3", maintenance={"active": False, "planned": {"at": "2026-11-02T03:00:00.000Z", "reason": "an upgrade", "by": "bob"}})]})
    lines = ctl("maint", "status", "--admin", admin.url).out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["r2", "r3"] and "new disk" in lines[1] and "an upgrade" in lines[2]


def test_a_refusal_names_the_reason_and_how_to_bring_a_token(admin: AdminStub, ctl: Ctl) -> None:
    admin.answers["POST", "routes/r1/circuit/reset"] = (401, {"title": "Unauthorized", "detail": "actions need the token"})
    outcome = ctl("reset", "r1", "--admin", admin.url)
    assert outcome.code == 1
    assert "actions need the token (give the admin token with --token-file" in outcome.err


def test_reset_and_test_do_what_they_say(admin: AdminStub, ctl: Ctl) -> None:
    admin.answers["POST", "routes/r1/circuit/reset"] = (200, {"done": "reset"})
    admin.answers["POST", "test"] = (200, {"reachable": False, "error": "connection refused"})
    assert ctl("reset", "r1", "--admin", admin.url).out == "r1: circuit closed\n"
    outcome = ctl("test", "http://127.0.0.1:1/", "--admin", admin.url)
    assert outcome.code == 1 and "connection refused" in outcome.out
    assert actions(admin)[1] == ("POST", "test", {"url": "http://127.0.0.1:1/"})


def test_send_registers_asks_and_says_goodbye(registry: ScriptedRegistry, ctl: Ctl) -> None:
    outcome = ctl("send", "PING", "--registry", registry.address)
    assert (outcome.code, outcome.out) == (0, "PONG\n")
    assert [line.split("|")[0] for line in registry.lines] == ["REGISTER", "PING", "CLIENT_SHUTDOWN"]
    assert ctl("send", "ROUTE_ADD|{sid}|a.test|/|http://h:1|0", "--json", "--registry", registry.address).json == {
        "answer": "ROUTE_OK", "rest": "r1"}


def test_send_takes_up_a_given_session_and_leaves_it(registry: ScriptedRegistry, ctl: Ctl) -> None:
    registry.sessions.add("lost")
    assert ctl("send", "CONFIG_DIFF|{sid}", "--session", "lost", "--registry", registry.address).code == 0
    assert registry.lines == ["RECONNECT|lost", "CONFIG_DIFF|lost"]
    outcome = ctl("send", "PING", "--session", "unknown", "--registry", registry.address)
    assert outcome.code == 1 and "knows no session unknown" in outcome.err


def test_an_error_answer_to_send_exits_with_1_and_no_registry_with_3(registry: ScriptedRegistry, ctl: Ctl) -> None:
    registry.answers["BOGUS"] = lambda *_: "ERROR|unknown command: BOGUS"
    assert ctl("send", "BOGUS", "--registry", registry.address).out == "ERROR|unknown command: BOGUS\n"
    assert ctl("send", "PING", "--registry", "127.0.0.1:1").code == 3


def test_two_commands_in_one_line_are_not_sent(registry: ScriptedRegistry, ctl: Ctl) -> None:
    outcome = ctl("send", "PING|{sid}\nCLIENT_SHUTDOWN|{sid}", "--registry", registry.address)
    assert outcome.code == 1 and "control characters" in outcome.err
    assert registry.lines == []


@pytest.mark.parametrize("content", ["secret\nanother line\n", "  secret  \n"])
def test_the_token_is_the_first_line_of_its_file(admin: AdminStub, ctl: Ctl, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)
    ctl("status", "--token-file", str(tmp_path / "token"), "--admin", admin.url)
    assert {asked[3] for asked in admin.asked} == {"Bearer secret"}


@pytest.mark.parametrize("content", ["\n", "gr\u00f6\u00dfer\n"])
def test_what_can_be_no_token_is_said_and_not_sent(admin: AdminStub, ctl: Ctl, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    outcome = ctl("status", "--token-file", str(tmp_path / "token"), "--admin", admin.url)
    assert outcome.code == 1 and "is not a token" in outcome.err
    assert admin.asked == []


def test_the_token_of_the_settings_stays_on_this_host(admin: AdminStub, ctl: Ctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("PROXYD_ADMIN_TOKEN_FILE", str(tmp_path / "token"))
    here, elsewhere = admin.url, admin.url.replace("127.0.0.1", socket.gethostname())
    ctl("status", "--admin", here)
    assert [asked[3] for asked in admin.asked] == ["Bearer secret"]
    ctl("status", "--admin", elsewhere)
    assert "Bearer secret" not in [asked[3] for asked in admin.asked[1:]]
