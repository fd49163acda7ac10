"""proxyctl against a running proxyd: tail, errors, export and import, doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from proxyd.store.memory.tail import NAME
from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for

TOKEN = "a-token-for-the-prompt"
SITE = "[route web]\ndomains = site.test\nbackends = http://127.0.0.1:1\n"


@dataclass(frozen=True)
class Shop:
    system: System
    backend: Backend

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        # --admin as people write it.
        return subprocess.Popen(
            [sys.executable, "-m", "proxyd.ctl.main", "--admin", f"127.0.0.1:{self.system.admin_port}", *arguments], text=True,
            env=self.system.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def ctl(self, *arguments: str, code: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, (arguments, out, err)
        return out if code == 0 else out + err

    def well(self) -> None:
        """Have requests answered until none of the failures of other tests is a reason for concern."""
        def is_well() -> bool:
            for _ in range(5):
                self.system.get("/", "shop.test")
            status = self.start("status")
            status.communicate(timeout=60)
            return status.returncode == 0

        wait_for(is_well, what="a status without a critical line")

    def by_hand(self) -> dict[str, dict[str, Any]]:
        return {one["domains"][0]: one for one in json.loads(self.ctl("routes", "--json")) if one["source"] == "hand"}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    directory = tmp_path_factory.mktemp("prompt")
    (directory / "token").write_text(f"{TOKEN}\n")
    (directory / "token").chmod(0o600)
    backend = Backend()
    system = System(directory / "system", workers=2, admin__token_file=directory / "token", log__access="off")
    (directory / "system" / "sites").mkdir()
    for number in (1, 2):
        client = system.client("shop", f"shop-{number}")
        client.route("shop.test", backend.url)
        client.apply()
    yield Shop(system, backend)
    system.stop()
    backend.stop()


def test_tail_shows_each_request_as_it_ends_over_a_redeploy_and_costs_nothing_afterwards(shop: Shop) -> None:
    watched = Path(shop.system.directory) / NAME
    tail = shop.start("tail", "shop.test", "--count", "3", "--json")
    wait_for(watched.exists, what="the file that tells workers")

    def heard() -> bool:
        # Workers look ten times a second; both must have seen the file before what they answer is told.
        shop.system.get("/early", "shop.test")
        return bool(tail.poll() is not None)

    wait_for(heard, what="three lines")
    lines = [json.loads(line) for line in tail.communicate(timeout=30)[0].splitlines()]
    assert len(lines) == 3
    assert all((line["host"], line["path"], line["status"], line["service"]) == ("shop.test", "/early", 200, "shop") for line in lines)
    wait_for(lambda: not watched.exists(), what="nobody watches any more")
    failed = shop.start("tail", "shop", "--count", "1", "--failed", "--json")
    wait_for(watched.exists, what="the file that tells workers")
    # A redeploy: other routes, the same place.
    client = shop.system.client("shop", "shop-1")
    client.route("shop.test", shop.backend.url)
    client.apply()

    def failing() -> bool:
        shop.system.get("/fine?secret=1", "shop.test")
        shop.system.get("/status/503?secret=1", "shop.test")
        return failed.poll() is not None

    wait_for(failing, what="a failed request")
    out = failed.communicate(timeout=30)[0]
    assert json.loads(out)["status"] == 503 and "secret" not in out
    assert 'no route has the id, domain or service "nosuch"' in shop.ctl("tail", "nosuch", code=1)


def test_errors_are_named_with_whose_they_are(shop: Shop) -> None:
    shop.system.get("/status/500", "shop.test")
    shop.system.get("/", "nobody.test")
    wait_for(lambda: "nobody.test" in shop.ctl("errors", "--hosts"), what="the unknown host")

    def of_shop() -> set[tuple[int, str]]:
        return {(one["status"], one["made_by"]) for one in json.loads(shop.ctl("errors", "shop", "--since", "1d", "--json"))}

    # It may be another worker that tells of this one.
    found = wait_for(lambda: (500, "backend") in (found := of_shop()) and found, what="the backend's error")
    assert all(made == "backend" for _, made in found)
    wait_for(lambda: "unknown_host" in shop.ctl("errors", "--by", "client"), what="the client's error")
    shop.well()
    assert "nobody.test" in shop.ctl("status")


def test_what_was_exported_is_there_again_after_an_import(shop: Shop, tmp_path: Path) -> None:
    sites = Path(shop.system.directory) / "sites"
    (sites / "web.ini").write_text(SITE)
    shop.ctl("add", "one.test", shop.backend.url, "--option", "timeout=5s", "--limit", "100/minute")
    shop.ctl("add", "two.test", shop.backend.url, "--path", "/api")
    before = shop.by_hand()
    file = tmp_path / "proxyd.json"
    shop.ctl("export", "--output", str(file))
    assert os.stat(file).st_mode & 0o777 == 0o600
    document = json.loads(file.read_text())
    assert document["sites"] == {"web.ini": SITE} and len(document["routes"]) == 2
    assert "nothing to do" in shop.ctl("import", str(file), "--sites", "--prune")
    shop.ctl("remove", "one.test")
    (sites / "web.ini").unlink()
    shop.ctl("add", "three.test", shop.backend.url)
    document["routes"][1]["options"] = {"timeout": "7s"}
    file.write_text(json.dumps(document))
    dry = shop.ctl("import", str(file), "--sites", "--prune", "--dry-run")
    assert "would do 4 steps" in dry and shop.by_hand().keys() == {"two.test", "three.test"}
    shop.ctl("import", str(file), "--sites", "--prune")
    after = shop.by_hand()
    same = ("domains", "path", "priority", "backend", "service", "headers", "request_headers", "rate_limit")
    assert after.keys() == before.keys()
    assert all(after[name][key] == before[name][key] for name in before for key in same)
    assert after["one.test"]["options"] == before["one.test"]["options"] and after["two.test"]["options"] == {"timeout": "7s"}
    assert after["two.test"]["route_id"] == before["two.test"]["route_id"], "changed, not made anew"
    assert (sites / "web.ini").read_text() == SITE


@pytest.mark.parametrize(("change", "said"), [
    ({"format": 2}, "its format is 2"), ({"routes": [{"domains": ["a.test"]}]}, "route 1 has not the keys"),
    ({"routes": [{"domains": "a.test", "backend": "http://127.0.0.1:1"}]}, "domains of route 1 is of another kind"),
    ({"sites": {"../evil.ini": ""}}, 'is not the name of a site file'), ({"sites": {"bad.ini": "[route x]\n"}}, "needs domains")])
def test_an_import_of_something_else_is_refused_before_anything_is_done(shop: Shop, tmp_path: Path, change: dict[str, Any],
                                                                         said: str) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({"format": 1, "routes": [], "sites": {}, "settings": "", **change}))
    assert said in shop.ctl("import", str(file), "--sites", code=1)


def test_doctor_looks_at_configuration_host_and_the_running_system(shop: Shop) -> None:
    shop.well()
    found = json.loads(shop.ctl("doctor", "--json"))
    assert {one["topic"] for one in found} >= {"configuration", "running", "clock", "file modes", "limits", "versions", "disk"}
    assert not [one for one in found if one["state"] == "wrong"]
    table = Path(shop.system.directory) / "sites"
    table.chmod(0o777)
    try:
        assert "chmod o-w" in shop.ctl("doctor", code=1)
    finally:
        table.chmod(0o755)
