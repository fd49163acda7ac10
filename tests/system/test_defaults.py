"""Options and fields that the settings give to all routes: beneath what a route says, shown as what they are, and changed by a reload."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.config.settings import SettingsError, load
from proxyd.server.checks import check
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

FIRST = """[defaults.options]
timeout = 7s # for all
strip_prefix = /app
health_check_path = /healthz
health_check_interval = 100ms

[defaults.headers]
X-Frame-Options = DENY ; not a comment
X-Own = default

[defaults.request_headers]
X-Edge = {host}
"""


class Place:
    """A system with a config file, and two routes: one says nothing, one says otherwise."""

    def __init__(self, directory: Path, backend: Backend) -> None:
        self.system = System(directory, workers=1, start=False)
        self.file = directory / "proxyd.ini"
        self.system.settings["config"] = self.file
        self.file.write_text(FIRST)
        self.system.start()
        self.silent = self.system.client("silent")
        self.silent_route = self.silent.route("silent.test", backend.url)
        self.saying = self.system.client("saying")
        self.saying_route = self.saying.route("saying.test", backend.url, apply=False)
        for line in ("OPTIONS_SET|SID|ALL|timeout|3s", "OPTIONS_SET|SID|ALL|strip_prefix|", "HEADERS_SET|SID|ALL|x-own|route",
                     "HEADERS_SET|SID|ALL|X-Frame-Options|-", "REQUEST_HEADERS_SET|SID|ALL|X-Edge|mine"):
            self.saying.ok(line)
        self.saying.apply()

    def echoed(self, host: str) -> tuple[str, str | None, dict[str, str]]:
        """The path and the X-Edge that the backend got, and the fields of the answer."""
        answer = self.system.get("/app/echo", host)
        if answer.headers["Content-Type"] == "application/json":
            got = answer.json()
            return got["path"], dict(got["headers"]).get("X-Edge"), dict(answer.headers.items())
        return answer.text, None, dict(answer.headers.items())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    backend = Backend()
    running = Place(tmp_path_factory.mktemp("defaults"), backend)
    yield running
    running.system.stop()
    backend.stop()


def status(client: RegistryClient, route: str) -> dict[str, object]:
    found: dict[str, object] = client.json(f"ROUTE_STATUS|SID|{route}")
    return found


def test_a_route_that_says_nothing_has_what_the_settings_say(place: Place) -> None:
    path, edge, fields = place.echoed("silent.test")
    assert (path, edge, fields["X-Frame-Options"], fields["X-Own"]) == ("/echo", "silent.test", "DENY ; not a comment", "default")
    found = status(place.silent, place.silent_route)
    assert found["upstream_timeout_seconds"] == 7.0
    assert found["defaults"] == {
        "options": {"timeout": "7s", "strip_prefix": "/app", "health_check_path": "/healthz", "health_check_interval": "100ms"},
        "headers": {"X-Frame-Options": "DENY ; not a comment", "X-Own": "default"}, "request_headers": {"X-Edge": "{host}"}}
    wait_for(lambda: status(place.silent, place.silent_route)["healthy"], what="a check that the settings ask for")
    steps = {step["name"]: step["detail"] for step in place.system.admin("/api/v1/why?url=http://silent.test/").json()["steps"]}
    assert steps["defaults"].startswith("[defaults.options] timeout = 7s, strip_prefix = /app")


def test_what_a_route_says_comes_first(place: Place) -> None:
    answer = place.system.get("/app/echo", "saying.test")
    assert answer.text == "backend /app/echo\n"
    assert (answer.headers["X-Own"], answer.headers["X-Frame-Options"]) == ("route", None)
    found = status(place.saying, place.saying_route)
    assert found["upstream_timeout_seconds"] == 3.0
    assert found["defaults"] == {"options": {"health_check_path": "/healthz", "health_check_interval": "100ms"}}
    assert place.system.get("/echo", "saying.test").json()["headers"][-1] != ["X-Edge", "saying.test"]


def test_a_reload_changes_them_for_all_routes(place: Place) -> None:
    before = set(place.system.worker_pids())
    place.file.write_text("[defaults.options]\ntimeout = 9s\n[defaults.headers]\nX-Own = changed\n")
    place.system.signal(signal.SIGHUP)
    wait_for(lambda: not before & set(place.system.worker_pids()) and place.system.ready(), what="new workers")
    path, edge, fields = place.echoed("silent.test")
    assert (edge, fields["X-Own"], "X-Frame-Options" in fields) == (None, "changed", False)
    wait_for(lambda: status(place.silent, place.silent_route)["upstream_timeout_seconds"] == 9.0, what="the master's own view")
    found = status(place.silent, place.silent_route)
    assert found["defaults"] == {"options": {"timeout": "9s"}, "headers": {"X-Own": "changed"}}
    wait_for(lambda: status(place.silent, place.silent_route)["health"]["status"] == "unknown", what="the end of the check")  # type: ignore[index]
    assert "other changed settings" not in place.system.log()


@pytest.mark.parametrize(("content", "told"), [
    ("[defaults.options]\ntimeuot = 3s\n", 'unknown option "timeuot"'), ("[defaults.options]\ntimeout = soon\n", "timeout: "),
    ("[defaults.headers]\nContent-Length = 3\n", "the proxy's own"), ("[defaults.request_headers]\nX_Y = 3\n", '"_"'),
    ("[defaults.headers]\nX = {nobody}\n", "is no variable"), ("[defaults.header]\n", "unknown section"),
    ("[defaults.options]\ntls_ca = none.pem\n", "none.pem"), ("[defaults.options]\nrewrite = /a -> /b\nstrip_prefix = /a\n", "contradict"),
])
def test_the_check_of_the_configuration_looks_at_them(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "proxyd.ini"
    file.write_text(content)
    try:
        problems = check(load(str(file), {}))
    except SettingsError as error:
        problems = error.problems
    assert any(told in problem.message for problem in problems), problems
