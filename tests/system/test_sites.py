"""Site files: applied at the start, followed while they change, and never worse than their last good version."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for


class SiteFiles:
    """The sites directory of a system; files are put in place whole, as editors and package managers do."""

    def __init__(self, system: System) -> None:
        self._directory = Path(str(system.settings["sites__directory"]))
        self._directory.mkdir(parents=True, exist_ok=True)
        self._system = system

    def write(self, name: str, content: str) -> None:
        fresh = self._directory / f".{name}.new"
        fresh.write_text(content)
        fresh.replace(self._directory / f"{name}.ini")

    def remove(self, name: str) -> None:
        (self._directory / f"{name}.ini").unlink()

    def reread(self) -> None:
        os.kill(self._system.master_pid(), signal.SIGHUP)


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("sites"), workers=1, sites__watch="yes")
    yield running
    running.stop()


@pytest.fixture
def files(followed: System) -> SiteFiles:
    return SiteFiles(followed)


def site(domain: str, *backends: str, more: str = "") -> str:
    return f"[route main]\ndomains = {domain}\nbackends = {' '.join(backends)}\n{more}"


def status(system: System, host: str, expected: int, path: str = "/") -> None:
    wait_for(lambda: system.get(path, host).status == expected, 5, f"{host}{path} to answer {expected}")


def route_ids(system: System, name: str) -> list[str]:
    return [row[0] for row in system.sql("SELECT route_id FROM routes WHERE session_id = ? ORDER BY route_id", f"site:{name}")]


def test_a_site_file_is_applied_when_it_appears(followed: System, files: SiteFiles, backend: Backend) -> None:
    files.write("new", site("new.test", backend.url, more="[headers]\nX-Site = yes\n"))
    status(followed, "new.test", 200)
    assert followed.get("/", "new.test").headers["X-Site"] == "yes"


def test_a_changed_file_takes_effect_and_unchanged_routes_keep_their_ids(
        followed: System, files: SiteFiles, new_backend: Callable[..., Backend]) -> None:
    one, two = new_backend("one"), new_backend("two")
    files.write("change", site("change.test", one.url))
    status(followed, "change.test", 200)
    before = route_ids(followed, "change")
    files.write("change", site("change.test", one.url, more=f"[route more]\ndomains = change.test\npath = /two\nbackends = {two.url}\n"))
    wait_for(lambda: followed.get("/two", "change.test").text.startswith("two"), 5, "the new route")
    assert followed.get("/", "change.test").text.startswith("one")
    after = route_ids(followed, "change")
    assert len(after) == 2
    assert set(before) < set(after)
    files.write("change", site("change.test", two.url))
    wait_for(lambda: followed.get("/", "change.test").text.startswith("two"), 5, "the other backend")
    assert followed.get("/two", "change.test").text.startswith("two /two")
    assert len(route_ids(followed, "change")) == 1


def test_a_broken_file_keeps_its_last_good_version_and_is_named(followed: System, files: SiteFiles, backend: Backend) -> None:
    files.write("broken", site("broken.test", backend.url))
    status(followed, "broken.test", 200)
    files.write("broken", site("broken.test", backend.url, more="[optoins]\ncompression = true\n"))
    wait_for(lambda: "broken.ini:4: unknown section [optoins]" in followed.log(), 5, "the error in the log")
    assert "(the last good version of this file stays)" in followed.log()
    assert followed.get("/", "broken.test").status == 200
    files.write("broken", site("mended.test", backend.url))
    status(followed, "mended.test", 200)
    status(followed, "broken.test", 404)


def test_a_broken_file_does_not_keep_the_others_from_being_applied(followed: System, files: SiteFiles, backend: Backend) -> None:
    files.write("a-broken", "nonsense")
    files.write("b-good", site("good.test", backend.url))
    status(followed, "good.test", 200)
    files.remove("a-broken")


def test_a_removed_and_a_disabled_file_take_their_routes_along(followed: System, files: SiteFiles, backend: Backend) -> None:
    files.write("gone", site("gone.test", backend.url))
    files.write("off", site("off.test", backend.url))
    status(followed, "gone.test", 200)
    status(followed, "off.test", 200)
    files.remove("gone")
    files.write("off", "[site]\nenabled = no\n" + site("off.test", backend.url))
    status(followed, "gone.test", 404)
    status(followed, "off.test", 404)
    files.write("off", site("off.test", backend.url))
    status(followed, "off.test", 200)


def test_several_backends_are_a_pool(followed: System, files: SiteFiles, new_backend: Callable[..., Backend]) -> None:
    one, two = new_backend("one"), new_backend("two")
    files.write("pool", site("pool.test", one.url, two.url))
    status(followed, "pool.test", 200)
    assert {followed.get("/", "pool.test").text.split(" ")[0] for _ in range(20)} == {"one", "two"}


def test_a_place_a_service_holds_is_not_taken_but_waited_for(
        followed: System, files: SiteFiles, new_backend: Callable[..., Backend]) -> None:
    service, static = new_backend("service"), new_backend("static")
    client = followed.client("holds")
    route_id = client.route("holds.test", service.url)
    files.write("waits", site("holds.test", static.url))
    wait_for(lambda: f"is held by service holds (instance i1, route {route_id})" in followed.log(), 5, "the conflict in the log")
    assert followed.get("/", "holds.test").text.startswith("service")
    assert client.command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"
    wait_for(lambda: followed.get("/", "holds.test").text.startswith("static"), 8, "the site to be applied")


def test_a_place_that_stays_taken_is_said_once_and_costs_no_route_ids(
    followed: System, files: SiteFiles, backend: Backend,
) -> None:
    holder = followed.client("holder-for-long")
    holder.route("long.test", backend.url)
    files.write("long", site("long.test", backend.url))
    wait_for(lambda: followed.log().count("is held by service holder-for-long"), 10)
    before = followed.sql("SELECT value FROM counters WHERE name = 'next_route_number'")
    for _ in range(3):
        read = followed.log().count("SIGHUP: site files and certificates read again")
        files.reread()
        wait_for(lambda: followed.log().count("SIGHUP: site files and certificates read again") > read)  # noqa: B023 - at once
    assert followed.log().count("is held by service holder-for-long") == 1
    assert followed.sql("SELECT value FROM counters WHERE name = 'next_route_number'") == before
    holder.ok("CLIENT_SHUTDOWN|SID")
    files.reread()
    status(followed, "long.test", 200)
    files.remove("long")


def test_a_client_can_neither_take_up_nor_replace_the_session_of_a_site(followed: System, files: SiteFiles, backend: Backend) -> None:
    files.write("mine", site("mine.test", backend.url))
    status(followed, "mine.test", 200)
    client = followed.connect()
    assert client.command("RECONNECT|site:mine") == "REREGISTER"
    client.register("mine", "mine")
    assert followed.get("/", "mine.test").status == 200


def test_a_restart_of_the_master_keeps_the_ids_even_of_routes_that_differ_in_their_priority_alone(
        followed: System, files: SiteFiles, backend: Backend) -> None:
    twice = site("twin.test", backend.url, more=f"priority = 5\n[route other]\ndomains = twin.test\nbackends = {backend.url}\n")
    files.write("twin", twice)
    status(followed, "twin.test", 200)
    before = route_ids(followed, "twin")
    assert len(before) == 2
    pid = followed.master_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: followed.master_pid() not in (0, pid) and followed.ready(), what="a new master")
    assert route_ids(followed, "twin") == before
    assert followed.get("/", "twin.test").status == 200
    files.write("twin", twice + "[headers]\nX-Twin = yes\n")
    wait_for(lambda: followed.get("/", "twin.test").headers["X-Twin"] == "yes", 5, "the header")
    assert route_ids(followed, "twin") == before


def test_without_watch_a_file_waits_for_sighup(tmp_path: Path, backend: Backend) -> None:
    system = System(tmp_path, workers=1, sites__watch="no")
    try:
        files = SiteFiles(system)
        files.write("hup", site("hup.test", backend.url))
        assert system.get("/", "hup.test").status == 404
        files.reread()
        status(system, "hup.test", 200)
        system.stop()
        files.remove("hup")
        files.write("start", site("start.test", backend.url))
        system.start()
        assert system.get("/", "hup.test").status == 404
        assert system.get("/", "start.test").status == 200
    finally:
        system.stop()
