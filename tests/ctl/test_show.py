"""The commands that only look, and what they have in common: JSON, colours, width, exit codes."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from proxyd.ctl.screen import Screen, columns, printable
from tests.ctl.conftest import AdminStub, Outcome, route

Ctl = Callable[..., Outcome]


def test_status_tells_version_workers_and_who_is_behind(admin: AdminStub, ctl: Ctl) -> None:
    outcome = ctl("status", "--admin", admin.url)
    assert outcome.code == 0
    assert "0.1.0" in outcome.out and "1, 1 behind" in outcome.out and "2h" in outcome.out


def test_certs_tells_of_those_in_the_database_and_of_those_in_files(admin: AdminStub, ctl: Ctl) -> None:
    ends = "2099-01-01T00:00:00.000Z"
    stored = {"domain": "app.example.com", "state": "valid", "not_after": ends, "issuer": "A CA", "next_attempt": None, "error": ""}
    file = {"path": "/etc/ssl/own.pem", "names": ["own.example.com", "www.example.com"], "expires_at": ends}
    for found, files, shown in (([], [], ["no certificates"]), ([stored], [], ["DOMAIN", "app.example.com"]),
                                ([], [file], ["CERTIFICATE", "/etc/ssl/own.pem"]),
                                ([stored], [file], ["DOMAIN", "app.example.com", "", "CERTIFICATE", "/etc/ssl/own.pem"])):
        admin.answers["GET", "certificates"] = (200, {"certificates": found, "local_ca": None})
        admin.answers["GET", "status"][1]["certificates"] = files
        outcome = ctl("certs", "--admin", admin.url)
        assert outcome.code == 0
        assert [line.split("  ")[0] for line in outcome.out.splitlines()] == shown
        assert ("own.example.com, www.example.com" in outcome.out) is bool(files)
        assert ctl("certs", "--json", "--admin", admin.url).json == found


def test_status_tells_what_the_history_costs(admin: AdminStub, ctl: Ctl) -> None:
    tables = [{"table": name, "rows": rows, "bytes": size} for name, rows, size in (
        ("health_results", 5_000_000, 900 << 20), ("events", 1000, 200 << 10), ("deploys", 3, 900))]
    admin.answers["GET", "status"][1]["history"] = {"bytes": 1200 << 20, "max_bytes": 5 << 30, "access_log_bytes": 7, "tables": tables}
    out = " ".join(ctl("status", "--admin", admin.url).out.split())
    assert ("history 1.2 GiB of 5.0 GiB, most in health_results 900.0 MiB (5000000 rows), events 200.0 KiB (1000 rows), "
            "deploys 900 bytes (3 rows)") in out and "access log 7 bytes" in out


def test_status_with_problems_is_a_bad_answer(admin: AdminStub, ctl: Ctl) -> None:
    admin.answers["GET", "status"][1]["problems"] = ["worker 77 is behind"]
    outcome = ctl("--admin", admin.url, "status")
    assert outcome.code == 1
    assert "problem: worker 77 is behind" in outcome.out


def test_status_says_first_what_is_unwell_since_when_and_what_to_do(admin: AdminStub, ctl: Ctl) -> None:
    status = admin.answers["GET", "status"][1]
    one = {"severity": "critical", "what": "shop is out of service", "why": "its circuit is open", "since": None, "todo": "Repair it."}
    status |= {"state": "unwell", "problems": [], "findings": [one]}
    outcome = ctl("--admin", admin.url, "status")
    assert outcome.code == 1
    assert outcome.out.startswith("critical: shop is out of service: its circuit is open. Repair it.\n")
    status |= {"state": "starting", "findings": [{**one, "severity": "starting"}]}
    outcome = ctl("--admin", admin.url, "status")
    assert outcome.code == 0 and "starting" in outcome.out
    status |= {"state": "well", "findings": []}
    assert "all is well" in ctl("--admin", admin.url, "status").out


def test_status_shows_the_background_jobs_and_why_one_fails(admin: AdminStub, ctl: Ctl) -> None:
    admin.answers["GET", "status"][1]["jobs"] = [
        {"name": "janitor", "runs": 41, "errors": 2, "last_run_at": None, "duration_seconds": 0.0125, "error": "database is locked"}]
    line = next(line for line in ctl("status", "--admin", admin.url).out.splitlines() if line.startswith("janitor"))
    assert line.split() == ["janitor", "-", "12.5", "41", "2", "database", "is", "locked"]


@pytest.mark.parametrize("name", ["routes", "health", "circuits", "sessions", "stats"])
def test_lists_come_as_json_before_and_after_the_command(admin: AdminStub, ctl: Ctl, name: str) -> None:
    expected = admin.answers["GET", name][1][name]
    assert ctl("--json", "--admin", admin.url, name).json == expected
    assert ctl(name, "--json", "--admin", admin.url).json == expected


def test_routes_show_what_keeps_traffic_away(admin: AdminStub, ctl: Ctl) -> None:
    draining = route("r3", drain={"active": True, "traffic_percent": 40.0})
    admin.answers["GET", "routes"] = (200, {"routes": [route("r1"), route("r2", maintenance={"active": True}), draining,
                                                          route("r4", hold={"active": True, "until": "2026-01-31T12:00:00Z"})]})
    lines = ctl("routes", "--admin", admin.url).out.splitlines()
    assert "healthy" in lines[1] and "maintenance" in lines[2] and "drain 40%" in lines[3]
    assert "held" in lines[4]


def test_a_search_that_finds_nothing_is_a_bad_answer(admin: AdminStub, ctl: Ctl) -> None:
    admin.answers["GET", "routes"] = (200, {"routes": []})
    outcome = ctl("routes", "no such&thing", "--admin", admin.url)
    assert (outcome.code, outcome.out) == (1, "no routes\n")
    assert admin.asked[0][1].endswith("&q=no%20such%26thing")


def test_a_route_that_is_not_there_is_named_and_exits_with_1(admin: AdminStub, ctl: Ctl) -> None:
    outcome = ctl("route", "r9/../x", "--admin", admin.url)
    assert outcome.code == 1
    assert admin.asked[0][1] == "/api/v1/routes/r9%2F..%2Fx"
    assert outcome.err.startswith("proxyctl: no routes/r9")


@pytest.mark.parametrize(("change", "code"), [
    ({}, 0), ({"health": {"status": "down"}}, 1), ({"circuit": {"state": "open"}}, 1), ({"health": None}, 0)])
def test_a_route_that_takes_no_traffic_exits_with_1(admin: AdminStub, ctl: Ctl, change: dict[str, Any], code: int) -> None:
    admin.answers["GET", "routes/r1"] = (200, route("r1", **change))
    assert ctl("route", "r1", "--admin", admin.url).code == code


def test_a_down_check_and_an_open_circuit_are_bad_answers(admin: AdminStub, ctl: Ctl) -> None:
    admin.answers["GET", "health"] = (200, {"health": [{"route_id": "r1", "status": "down"}]})
    admin.answers["GET", "circuits"] = (200, {"circuits": [{"route_id": "r1", "state": "open"}]})
    assert ctl("health", "--admin", admin.url).code == 1
    assert ctl("circuits", "--admin", admin.url).code == 1


def test_nobody_there_exits_with_3_and_says_where(ctl: Ctl) -> None:
    outcome = ctl("status", "--admin", "http://127.0.0.1:1")
    assert outcome.code == 3
    assert "http://127.0.0.1:1" in outcome.err


@pytest.mark.parametrize("arguments", [("nonsense",), ("drain",), ("run", "--port", "0"), ("status", "--config", "/no/such.ini")])
def test_wrong_usage_exits_with_2(ctl: Ctl, arguments: tuple[str, ...]) -> None:
    assert ctl(*arguments).code == 2


def test_the_admin_address_comes_from_the_settings(admin: AdminStub, ctl: Ctl, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYD_ADMIN_BIND", f"0.0.0.0:{admin.server_address[1]}")
    assert ctl("status").code == 0


def test_events_are_shown_oldest_first_and_then_as_they_happen(admin: AdminStub, ctl: Ctl) -> None:
    admin.stream = (b"retry: 2000\n: hello\n\nevent: circuit_state_changed\n"
                    b'data: {"type": "circuit_state_changed", "route_id": "r7", "data": {"state": "open"}}\n\n')
    outcome = ctl("events", "--admin", admin.url)
    lines = outcome.out.splitlines()
    assert outcome.code == 3 and "ended the stream" in outcome.err
    assert [line.split()[1] for line in lines] == ["backend_health_changed", "drain_completed", "circuit_state_changed"]
    assert "r7" in lines[2] and "state=open" in lines[2]
    assert ctl("events", "--type", "drain_completed", "--no-follow", "--admin", admin.url).out.count("\n") == 1


def test_top_into_a_pipe_is_plain_text_with_rates(admin: AdminStub, ctl: Ctl) -> None:
    outcome = ctl("top", "--count", "2", "--every", "10ms", "--admin", admin.url)
    assert outcome.code == 0
    assert outcome.out.count("req/s") == 2 and "\x1b" not in outcome.out


def test_top_as_json_is_an_object_a_round(admin: AdminStub, ctl: Ctl) -> None:
    lines = ctl("top", "--json", "--count", "2", "--every", "10ms", "--admin", admin.url).out.splitlines()
    rounds = [json.loads(line) for line in lines]
    assert [len(one["routes"]) for one in rounds] == [2, 2]
    assert rounds[0]["routes"][0]["requests_per_second"] == 0 and rounds[0]["status"]["version"] == "0.1.0"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_the_shell_can_read(ctl: Ctl, shell: str) -> None:
    outcome = ctl("completion", shell)
    assert outcome.code == 0 and "proxyctl" in outcome.out and "_ARGCOMPLETE" in outcome.out
    assert ctl("completion", shell, "--json").json == {"shell": shell, "script": outcome.out.removesuffix("\n")}
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=outcome.out, text=True, capture_output=True).stderr == ""


def test_help_loads_neither_completion_nor_tables() -> None:
    code = ("import sys; from proxyd.ctl.main import build; build().format_help(); "
            "print([name for name in ('argcomplete', 'rich') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout == "[]\n", done.stderr


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("terminal", "variables", "shown"), [
    (True, {}, "\x1b[31mdown\x1b[0m\n"), (False, {}, "down\n"), (True, {"NO_COLOR": "1"}, "down\n"), (True, {"TERM": "dumb"}, "down\n")])
def test_colours_need_a_terminal_and_no_no_color(
        monkeypatch: pytest.MonkeyPatch, terminal: bool, variables: dict[str, str], shown: str) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in ({"TERM": "xterm"} | variables).items():
        monkeypatch.setenv(name, value)
    out = Terminal() if terminal else io.StringIO()
    Screen(out=out).wrapped("down", colour="red")
    assert out.getvalue() == shown


def test_a_table_gives_up_its_widest_column_to_fit_the_terminal() -> None:
    out = io.StringIO()
    Screen(out=out, width=40).table(("ID", "DOMAINS", "STATE"), [("r1", "a" * 90, "healthy"), ("r2", "漢字" * 30, "down")], "")
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and all(columns(line) <= 40 for line in lines)
    assert "…" in lines[1] and lines[1].endswith("healthy") and "…" in lines[2]


def test_a_long_table_has_one_header_and_straight_columns_to_its_end() -> None:
    out = io.StringIO()
    Screen(out=out, width=40).table(("ID", "DOMAINS", "STATE"), [(f"r{number}", "a" * (number % 90), "up") for number in range(450)], "")
    lines = out.getvalue().splitlines()
    assert len(lines) == 451 and sum("DOMAINS" in line for line in lines) == 1
    assert {line.rstrip().rindex("up") for line in lines[1:]} == {lines[0].index("STATE")}


def test_a_pipe_gets_whole_cells_in_straight_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    out = io.StringIO()
    Screen(out=out).table(("DOMAINS", "STATE"), [("a" * 500, "healthy"), ("漢字", "down")], "")
    assert out.getvalue().splitlines() == [
        "DOMAINS" + " " * 495 + "STATE", "a" * 500 + "  healthy", "漢字" + " " * 498 + "down"]


def test_what_services_named_themselves_cannot_steer_the_terminal() -> None:
    assert printable("shop\x1b]0;owned\x07\n") == r"shop\x1b]0;owned\x07\n"
    assert printable("ä\u202e\x9b2J\ud800") == r"ä\u202e\x9b2J\ud800"
    out = Terminal()
    Screen(out=out, width=60).pairs({"service": "[red]shop[/red] :smile:\x1b[2J"})
    assert r"[red]shop[/red] :smile:\x1b[2J" in out.getvalue()
    out = Terminal()
    steering = {"service": "shop\x1b\x7f\x9b2J\u202e ä"}
    Screen(out=out).json(steering)
    assert out.getvalue().replace("\n", "").isprintable() and "ä" in out.getvalue() and json.loads(out.getvalue()) == steering


def test_why_shows_each_step_and_is_bad_where_the_request_would_be_refused(admin: AdminStub, ctl: Ctl) -> None:
    step = {"name": "maintenance", "verdict": "refuses", "detail": "in maintenance since noon", "status": 503, "code": "maintenance"}
    found = {"steps": [step], "members": [], "chosen": None, "status": 503, "code": "maintenance"}
    admin.answers["GET", "why"] = (200, found)
    outcome = ctl("--admin", admin.url, "why", "https://shop.test/a?b=c", "--client", "::1", "--method", "PUT", "--field", "A: 1",
                  "--field", "B: 2")
    assert outcome.code == 1 and "in maintenance since noon" in outcome.out and "answered 503 by the proxy: maintenance" in outcome.out
    assert admin.asked[-1][1] == "/api/v1/why?url=https%3A%2F%2Fshop.test%2Fa%3Fb%3Dc&client=%3A%3A1&method=PUT&fields=A%3A+1%0AB%3A+2"
    found |= {"chosen": "r1", "status": None, "code": None}
    outcome = ctl("--admin", admin.url, "why", "shop.test")
    assert outcome.code == 0 and outcome.out.endswith("goes to r1\n")
