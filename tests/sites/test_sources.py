"""Sources of routes beside site files: containers by their labels, from a socket that answers as the Docker API does, and a package's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.base.sourceapi import load_source, parse_sources
from proxyd.sites.containers import said
from proxyd.sites.sitefile import site_of
from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for


def container(name: str, labels: dict[str, str], *ports: int, **networks: str) -> dict[str, Any]:
    """An entry of GET /containers/json (Docker Engine API v1.47, ContainerSummary), with what is of no use here left out."""
    where = {network: {"IPAddress": address, "GlobalIPv6Address": ""} for network, address in networks.items()}
    return {
        "Id": name * 8, "Names": [f"/{name}"], "Image": "app", "ImageID": "sha256:1", "Command": "serve", "Created": 1753500000,
        "Ports": [{"PrivatePort": port, "Type": "tcp"} for port in ports], "Labels": labels, "State": "running", "Status": "Up 2 minutes",
        "HostConfig": {"NetworkMode": "bridge"}, "Mounts": [],
        "NetworkSettings": {"Networks": where}}


def test_labels_become_what_a_site_file_has() -> None:
    shop = container("shop-1", {
        "proxyd.domains": "shop.test", "proxyd.options.timeout": "5s", "proxyd.headers.X-By": "a ; b # c", "proxyd.limits": "5/second",
        "proxyd.routes.api.path": "/api", "proxyd.routes.api.port": "9000", "proxyd.routes.api.options.retry": "yes",
        "com.docker.compose.service": "shop", "other": "1"}, 8080, back="10.0.0.7", front="10.1.0.7")
    assert said([shop, container("db", {"other": "1"}, 5432, back="10.0.0.8")], set()) == {"shop-1": {
        "site": {"service": "shop"}, "route main": {"domains": "shop.test", "backends": "http://10.0.0.7:8080"},
        "options main": {"timeout": "5s"}, "headers main": {"X-By": "a ; b # c"}, "ratelimit main": {"limits": "5/second"},
        "route api": {"path": "/api", "domains": "shop.test", "backends": "http://10.0.0.7:9000"}, "options api": {"retry": "yes"}}}
    site, problems = site_of(said([shop], set())["shop-1"], "source docker:shop-1", "docker:shop-1")
    assert not problems
    assert (site.service, site.routes["main"].headers["X-By"], site.routes["api"].path) == ("shop", "a ; b # c", "/api")


@pytest.mark.parametrize(("labels", "ports", "networks", "backend"), [
    ({}, (80,), {"a": "10.0.0.1"}, "http://10.0.0.1:80"), ({}, (80, 81), {"a": "10.0.0.1"}, None), ({}, (), {"a": "10.0.0.1"}, None),
    ({"proxyd.port": "90", "proxyd.scheme": "https"}, (), {"a": "10.0.0.1"}, "https://10.0.0.1:90"), ({}, (80,), {"a": ""}, None),
    ({"proxyd.network": "b"}, (80,), {"a": "10.0.0.1", "b": "10.0.0.2"}, "http://10.0.0.2:80"),
    ({"proxyd.network": "c"}, (80,), {"a": "10.0.0.1"}, None), ({"proxyd.port": "90"}, (), {"host": ""}, "http://127.0.0.1:90"),
    ({"proxyd.host": "fd00::1"}, (80,), {}, "http://[fd00::1]:80"), ({"proxyd.domain": "x"}, (80,), {"a": "10.0.0.1"}, None)])
def test_where_a_container_is(labels: dict[str, str], ports: tuple[int, ...], networks: dict[str, str], backend: str | None) -> None:
    found = said([container("c", {"proxyd.domains": "c.test", **labels}, *ports, **networks)], set())
    assert (found["c"]["route main"]["backends"] if found else None) == backend


def test_a_control_character_and_an_unknown_section_are_refused() -> None:
    _, problems = site_of({"route main": {"domains": "a.test\n[options]", "backends": "http://10.0.0.1"}, "nothing": {}}, "source x", "x:y")
    assert {problem.message.partition(" (")[0] for problem in problems} >= {"[route main] domains: the value holds a control character",
                                                                           "unknown section [nothing]"}


def test_the_examples_of_the_document() -> None:
    document = (Path(__file__).resolve().parents[2] / "docs/sources.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(example, "example", "exec"), scope)
    (sections,) = next(scope["inventory"]()).values()
    site, problems = site_of(sections, "source inventory", "wiki")
    assert (problems, site.routes["main"].options) == ([], {"timeout": "5s"})
    labels = dict(re.findall(r"^      (proxyd\.\S+): \"?([^\"\n]*)\"?$", document, re.MULTILINE))
    site, problems = site_of(said([container("shop", labels, 80, a="10.0.0.1")], set())["shop"], "source docker:shop", "shop")
    assert (problems, site.routes["main"].options, site.routes["api"].rate_limits) == ([], {"health_check_path": "/healthz"}, [(100, 60.0)])
    assert site.routes["api"].backends == ("http://10.0.0.1:9000",) and len(labels) == 6


@pytest.mark.parametrize("value", ["a b a", "/etc/x", "1x"])
def test_what_names_no_source_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="source"):
        parse_sources(value)
    with pytest.raises(ValueError, match="no installed package has a source"):
        load_source("none")


class Daemon:
    """Answers as the Docker API does: its version, its containers, and events for as long as somebody listens."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.containers: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self._listening: list[socket.socket] = []
        self._server: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(self.path))
        self._server.listen()
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def stop(self) -> None:
        """Go away, as a daemon does that is restarted."""
        assert self._server is not None
        self.path.unlink()
        for sock in (self._server, *self._listening):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        self._listening.clear()

    def changed(self, *containers: dict[str, Any]) -> None:
        """The containers are these now, and whoever listens is told."""
        self.containers = list(containers)
        event = json.dumps({"Type": "container", "Action": "start", "Actor": {"ID": "x", "Attributes": {}}, "time": 1}).encode() + b"\n"
        for sock in self._listening:
            sock.sendall(b"%x\r\n%b\r\n" % (len(event), event))

    def _accept(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(server.accept()[0],), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            while piece := sock.recv(65536):
                data += piece
                while b"\r\n\r\n" in data:
                    head, _, data = data.partition(b"\r\n\r\n")
                    target = head.split()[1].decode()
                    self.asked.append(target)
                    if "/events" in target:
                        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                        self._listening.append(sock)
                        continue
                    said = {"ApiVersion": "1.47", "MinAPIVersion": "1.24"} if target.endswith("/version") else self.containers
                    body = json.dumps(said).encode()
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nApi-Version: 1.47\r\nContent-Length: %d\r\n\r\n%b"
                                 % (len(body), body))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    pytest.importorskip("docker")
    running = Daemon(tmp_path_factory.mktemp("d") / "docker.sock")
    yield running
    with contextlib.suppress(OSError):
        running.stop()


MORE = """
import os, time
def files():
    while True:
        names = sorted(os.listdir(os.environ["DEMO_SOURCE"]))
        if "broken" in names:
            raise KeyError("secret")
        yield {name: {"route main": {"domains": f"{name}.demo.test", "backends": "respond:204"}} for name in names}
        time.sleep(0.1)
"""


@pytest.fixture(scope="module")
def system(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    packages = tmp_path_factory.mktemp("packages")
    (packages / "demo_source.py").write_text(MORE)
    info = packages / "demo_source-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-source\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[proxyd.sources]\ndemo = demo_source:files\n")
    (packages / "said").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(packages), os.environ.get("PYTHONPATH")))))
        patch.setenv("DOCKER_HOST", f"unix://{daemon.path}")
        patch.setenv("DEMO_SOURCE", str(packages / "said"))
        running = System(tmp_path_factory.mktemp("system"), workers=1, sites__sources="docker, demo")
        running.settings["said"] = packages / "said"
        yield running
        running.stop()


def status(system: System, host: str) -> int:
    return system.get(host=host).status


def test_routes_come_and_go_with_containers(system: System, daemon: Daemon, backend: Backend) -> None:
    def one(name: str, **labels: str) -> dict[str, Any]:
        own = {f"proxyd.{key.replace('__', '.')}": value for key, value in labels.items()}
        return container(name, {"proxyd.domains": f"{name}.test", **own}, backend.port, bridge="127.0.0.1")

    daemon.changed(one("web"), one("wrong", options__timeout="soon"), container("silent", {}, 80, bridge="127.0.0.1"))
    wait_for(lambda: status(system, "web.test") == 200, 20, "the container's route")
    assert status(system, "wrong.test") == 404
    assert any("source docker:wrong" in str(problem) and "soon" in str(problem) for problem in json.loads(
        system.admin("/api/v1/status").body)["problems"])
    routes = system.sql("SELECT route_id FROM routes WHERE domains = '[\"web.test\"]'")
    # A replica comes, the label of the other one is mended; the route that did not change keeps its id.
    daemon.changed(one("web"), one("web2", domains="web.test"), one("wrong", options__timeout="5s"))
    wait_for(lambda: status(system, "wrong.test") == 200, 20, "the mended container")
    assert routes[0] in system.sql("SELECT route_id FROM routes WHERE domains = '[\"web.test\"]'")
    # The daemon is restarted: routes stay meanwhile, and what has changed by then follows.
    daemon.stop()
    wait_for(lambda: "the source docker of routes fails" in system.log(), 20, "the word about the loss")
    assert status(system, "web.test") == 200
    daemon.containers = [one("wrong", options__timeout="5s")]
    daemon.start()
    wait_for(lambda: status(system, "web.test") == 404, 30, "the end of the route")
    assert status(system, "wrong.test") == 200


def test_a_source_of_a_package_and_one_that_fails(system: System) -> None:
    directory = Path(str(system.settings["said"]))
    (directory / "one").touch()
    wait_for(lambda: status(system, "one.demo.test") == 204, 20, "the site of the package")
    (directory / "broken").touch()
    wait_for(lambda: "the source demo of routes fails" in system.log(), 20, "the word about the fault")
    (directory / "one").unlink()
    assert status(system, "one.demo.test") == 204
    (directory / "broken").unlink()
    wait_for(lambda: status(system, "one.demo.test") == 404, 30, "the end of the site")
