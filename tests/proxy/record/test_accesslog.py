"""The access log to the letter: combined format with our fields behind it, or JSON; what others parse."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import gevent
import pytest

from proxyd.config.sections import LogSettings
from proxyd.http1 import HeadLimits, parse_request_head
from proxyd.proxy.record.accesslog import AccessLog, access_log
from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for

AT = datetime(2026, 11, 4, 9, 5, 7, 250000, UTC).timestamp()
LIMITS = HeadLimits(8192, 100, 65536, 65536)
#: The combined log format as log analysers read it, and what we put behind it.
COMBINED = re.compile(
    r'(?P<client>\S+) - - \[(?P<at>\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2} \+0000)\] "(?P<line>[^"]*)" (?P<status>\d{3}) '
    r'(?P<bytes>\d+) "(?P<referer>[^"]*)" "(?P<agent>[^"]*)" route=(?P<route>r\d+|-) upstream=(?P<upstream>\S+) '
    r"upstream_time=(?P<upstream_time>\d+\.\d{4}) time=(?P<time>\d+\.\d{4}) id=(?P<id>\S+) reason=(?P<reason>\S+) host=(?P<host>\S+) "
    r"service=(?P<service>\S+)")


HEAD = b"GET /a?b=c HTTP/1.1\r\nHost: app.test\r\nReferer: http://x/\r\nUser-Agent: curl/8\r\n\r\n"


def record(log: AccessLog, head: bytes = HEAD, **other: object) -> None:
    values = {"client": "192.0.2.7", "status": 200, "sent": 512, "route": "r7", "upstream": "10.0.0.1:3000", "upstream_seconds": 0.01234567,
              "seconds": 0.0156, "request_id": "ab12-3", "reason": "", "service": "shop", **other}
    log.record(parse_request_head(head, LIMITS), **values)  # type: ignore[arg-type]


def line_of(directory: Path, form: str, head: bytes = HEAD, **other: object) -> str:
    """What is written of one request at the instant AT."""
    log = AccessLog(f"{directory}/one.log", form, lambda: AT, bool(other.pop("shortened", False)))
    log.start()
    record(log, head, **other)
    log.flush()
    return (directory / "one.log").read_text("latin-1")


def test_a_line_of_text(tmp_path: Path) -> None:
    assert line_of(tmp_path, "text") == (
        '192.0.2.7 - - [04/Nov/2026:09:05:07 +0000] "GET /a?b=c HTTP/1.1" 200 512 "http://x/" "curl/8" route=r7 '
        "upstream=10.0.0.1:3000 upstream_time=0.0123 time=0.0156 id=ab12-3 reason=- host=app.test service=shop\n")


def test_a_line_of_the_combined_format_alone(tmp_path: Path) -> None:
    assert line_of(tmp_path, "combined") == (
        '192.0.2.7 - - [04/Nov/2026:09:05:07 +0000] "GET /a?b=c HTTP/1.1" 200 512 "http://x/" "curl/8"\n')


@pytest.mark.parametrize(("client", "written"), [
    ("192.0.2.7", "192.0.2.0"), ("2001:db8:1:2::7", "2001:db8:1::"), ("::ffff:192.0.2.7", "::"), ("unix", "unix"), ("", "-")])
def test_addresses_are_shortened_in_all_formats(tmp_path: Path, client: str, written: str) -> None:
    assert line_of(tmp_path, "text", shortened=True, client=client).split()[0] == written
    (tmp_path / "one.log").unlink()
    assert json.loads(line_of(tmp_path, "json", shortened=True, client=client))["client"] == written.replace("-", "")


@pytest.mark.parametrize(("format_", "access_format", "begins"), [
    ("text", "same", "192"), ("json", "same", "{"), ("text", "json", "{"), ("json", "combined", "192")])
def test_the_format_of_the_access_log_is_that_of_the_other_unless_it_is_set(
        tmp_path: Path, format_: str, access_format: str, begins: str) -> None:
    log = access_log(LogSettings(format=format_, access_format=access_format, access=f"{tmp_path}/one.log"))
    log.start()
    record(log)
    log.flush()
    assert (tmp_path / "one.log").read_text().startswith(begins)


def test_what_is_not_known_is_a_dash(tmp_path: Path) -> None:
    what = {"client": "", "status": 404, "sent": 0, "route": "", "upstream": "", "upstream_seconds": 0.0, "reason": "no_route",
            "service": ""}
    assert line_of(tmp_path, "text", b"GET / HTTP/1.0\r\n\r\n", **what) == (
        '- - - [04/Nov/2026:09:05:07 +0000] "GET / HTTP/1.0" 404 0 "-" "-" route=- upstream=- upstream_time=0.0000 time=0.0156 '
        "id=ab12-3 reason=no_route host=- service=-\n")


def test_nothing_that_a_client_sends_ends_a_field_or_a_line(tmp_path: Path) -> None:
    line = line_of(tmp_path, "text", b'GET /"\\ HTTP/1.1\r\nHost: a\r\nUser-Agent: a" 200 \\"b\t\xe9\r\n\r\n')
    assert '"GET /\\x22\\x5c HTTP/1.1"' in line
    assert '"a\\x22 200 \\x5c\\x22b\\x09\xe9"' in line
    assert COMBINED.fullmatch(line.rstrip("\n"))


@pytest.mark.parametrize(("sent", "written"), [
    (b"a\x9b31mb", rb"a\x9b31mb"), (b"\xc2\x9b31m\x80\x9f", rb"\xc2\x9b31m\x80\x9f"), (b"gr\xfc\xdfe", b"gr\xfc\xdfe"),
    ("日本 ÀÛ €".encode(), "日本 ÀÛ €".encode()), (b"\xe0\x80\x9b \xc1\x9b", b"\xe0\\x80\\x9b \xc1\\x9b"),
    ("é\"\u009d".encode(), "é".encode() + rb"\x22\xc2\x9d")])
def test_what_steers_a_terminal_is_escaped_and_other_text_is_not(tmp_path: Path, sent: bytes, written: bytes) -> None:
    line_of(tmp_path, "text", b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: " + sent + b"\r\n\r\n")
    assert b'"-" "' + written + b'" route=' in (tmp_path / "one.log").read_bytes()


def test_a_line_of_json(tmp_path: Path) -> None:
    assert line_of(tmp_path, "json") == (
        '{"at":"2026-11-04T09:05:07.250Z","client":"192.0.2.7","method":"GET","host":"app.test","target":"/a?b=c","protocol":"HTTP/1.1",'
        '"status":200,"bytes":512,"referer":"http://x/","user_agent":"curl/8","route":"r7","upstream":"10.0.0.1:3000",'
        '"upstream_seconds":0.012346,"seconds":0.0156,"request_id":"ab12-3","reason":"",'
        '"service":"shop","user":null}\n')


def test_a_file_that_can_not_be_opened_is_tried_again_and_what_was_lost_is_told(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxyd")
    (tmp_path / "logs").write_text("in the way")
    lost: list[tuple[str, int]] = []
    log = AccessLog(f"{tmp_path}/logs/access.log", "text", lost=lambda route, count: lost.append((route, count)))
    log.start()
    for route in ("r7", "", "r7"):
        record(log, route=route)
        log.flush()
    assert lost == [("r7", 1), ("", 1), ("r7", 1)]
    (tmp_path / "logs").unlink()
    record(log)
    log.flush()
    assert (tmp_path / "logs" / "access.log").read_text().count("\n") == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"can't write the access log {tmp_path}/logs/access.log: File exists",
        f"can't write the access log {tmp_path}/logs/access.log: over; 3 lines were lost"]


def test_a_rotated_file_is_left_for_a_new_one(tmp_path: Path) -> None:
    log = AccessLog(f"{tmp_path}/access.log", "json")
    log.start()
    record(log)
    log.flush()
    (tmp_path / "access.log").rename(tmp_path / "access.log.1")
    log.reopen()
    for _ in range(2):
        record(log)
    log.flush()
    gevent.sleep(0)
    assert [len((tmp_path / name).read_text().splitlines()) for name in ("access.log.1", "access.log")] == [1, 2]


# -- whole


def lines(system: System, mark: str) -> list[str]:
    return [line for line in system.access_log().splitlines() if mark in line]


def test_requests_as_a_whole_system_logs_them(system: System, backend: Backend) -> None:
    route_id = system.client("logged").route("logged.test", backend.url)
    answer = system.get("/bytes/5?mark=one", "logged.test", Referer='http://x/"q', User_Agent="agent/1", X_Request_ID="mine-1")
    system.get("/bytes/5?mark=two", "nobody.test")
    with socket.create_connection(("127.0.0.1", system.proxy_port)) as sock:
        sock.sendall(b"NO HTTP\r\n\r\n")
        refused = re.search(rb"X-Request-ID: (\S+)", sock.recv(65536))
    assert refused
    wait_for(lambda: lines(system, "mark=one") and lines(system, "mark=two") and lines(system, refused[1].decode()), what="the lines")
    one, two, bad = (COMBINED.fullmatch(lines(system, mark)[0]) for mark in ("mark=one", "mark=two", refused[1].decode()))
    assert one and two and bad
    found = one.groupdict()
    at = datetime.strptime(found.pop("at"), "%d/%b/%Y:%H:%M:%S %z")
    assert abs((at - datetime.now(UTC)).total_seconds()) < 10
    assert 0 < float(found.pop("upstream_time")) <= float(found.pop("time")) < 10
    assert found == {
        "client": "127.0.0.1", "line": "GET /bytes/5?mark=one HTTP/1.1", "status": "200", "bytes": "5", "referer": "http://x/\\x22q",
        "agent": "agent/1", "route": route_id, "upstream": f"127.0.0.1:{backend.port}", "id": "mine-1", "reason": "-",
        "host": "logged.test", "service": "logged"}
    assert answer.headers["X-Request-ID"] == "mine-1"
    assert two.group("status", "route", "upstream", "upstream_time", "reason") == ("404", "-", "-", "0.0000", "unknown_host")
    assert (bad["line"], bad["status"], bad["route"]) == ("-", "400", "-")


def test_a_request_that_was_refused_belongs_to_the_route_that_it_matched(system: System, backend: Backend) -> None:
    client = system.client("closed")
    route_id = client.route("closed.test", backend.url)
    client.apply()
    client.send("MAINT_ENTER|SID|ALL|")
    wait_for(lambda: system.get("/?mark=refused", "closed.test").status == 503)
    wait_for(lambda: [line for line in lines(system, "mark=refused") if " 503 " in line], what="the line")
    found = COMBINED.fullmatch(next(line for line in lines(system, "mark=refused") if " 503 " in line))
    assert found and found.group("route", "upstream", "reason") == (route_id, "-", "maintenance")
    assert found.group("host", "service") == ("closed.test", "closed")


def test_requests_as_json(new_system: Callable[..., System], backend: Backend) -> None:
    system = new_system(workers=1, log__format="json")
    route_id = system.client("json").route("json.test", backend.url)
    system.get("/bytes/5", "json.test", User_Agent="agent/1")
    wait_for(lambda: lines(system, "/bytes/5"), what="the line")
    found = json.loads(lines(system, "/bytes/5")[0])
    assert 0 < found.pop("upstream_seconds") <= found.pop("seconds") < 10
    assert found.pop("request_id") and datetime.fromisoformat(found.pop("at"))
    assert found == {"client": "127.0.0.1", "method": "GET", "host": "json.test", "target": "/bytes/5", "protocol": "HTTP/1.1",
                     "status": 200, "bytes": 5, "referer": None, "user_agent": "agent/1", "route": route_id,
                     "upstream": f"127.0.0.1:{backend.port}", "reason": "", "service": "json", "user": None}
    messages = [line for line in system.log().splitlines() if '"logger": "proxyd' in line]
    assert messages and all(json.loads(line)["at"] for line in messages)


def test_the_stamp_is_that_of_each_requests_own_second(tmp_path: Path) -> None:
    instants = [AT, AT + 0.7, AT + 0.75, AT + 2.0, AT - 1.0]
    clock = iter(instants)
    log = AccessLog(f"{tmp_path}/one.log", "text", lambda: next(clock))
    log.start()
    for _ in instants:
        record(log)
    log.flush()
    assert re.findall(r":(\d\d) \+0000", (tmp_path / "one.log").read_text()) == ["07", "07", "08", "09", "06"]
