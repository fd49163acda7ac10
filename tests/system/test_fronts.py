"""The front configurations in conf/fronts, in the real programs, before a real proxyd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.http2 import Http2Client
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, listens, wait_for

FRONTS = ROOT / "conf" / "fronts"


@dataclass(frozen=True)
class Behind:
    """A proxyd that trusts a front on this host, and a certificate for the front."""

    system: System
    authority: Authority
    certificate: Path


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    directory = tmp_path_factory.mktemp("fronts")
    authority = Authority(directory)
    system = System(directory / "system", workers=1, proxy__trusted_proxies="127.0.0.1, ::1", proxy__redirect_https="yes")
    yield Behind(system, authority, authority.issue("example.pem", "www.example.com"))
    system.stop()


def replaced(name: str, *pairs: tuple[str, str]) -> str:
    """A front's file with other places in it; each must be there to be replaced."""
    text = (FRONTS / name).read_text()
    for old, new in pairs:
        assert old in text, f"{name} has no {old}"
        text = text.replace(old, new)
    return text


def haproxy(directory: Path, port: int, behind: Behind) -> list[str]:
    (directory / "haproxy.cfg").write_text(replaced(
        "haproxy.cfg", (":443 ssl", f"127.0.0.1:{port} ssl"), ("/etc/haproxy/certs/", str(behind.certificate)),
        ("127.0.0.1:8000", f"127.0.0.1:{behind.system.proxy_port}")))
    return ["haproxy", "-db", "-f", str(directory / "haproxy.cfg")]


def nginx(directory: Path, port: int, behind: Behind) -> list[str]:
    site = replaced(
        "nginx.conf", ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"), ("127.0.0.1:8000", f"127.0.0.1:{behind.system.proxy_port}"),
        ("/etc/ssl/example.com/fullchain.pem", str(behind.certificate)), ("/etc/ssl/example.com/privkey.pem", str(behind.certificate)))
    temporary = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (directory / "nginx.conf").write_text(f"daemon off;\nmaster_process off;\npid {directory}/pid;\nerror_log {directory}/error.log;\n"
                                          f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{site}}}\n")
    return ["nginx", "-c", str(directory / "nginx.conf")]


def caddy(directory: Path, port: int, behind: Behind) -> list[str]:
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\thttps_port " + f"{port}\n\tdefault_bind 127.0.0.1\n" + "}\n"
    (directory / "Caddyfile").write_text(options + replaced(
        "Caddyfile", ("tls you@example.com", f"tls {behind.certificate} {behind.certificate}"),
        ("127.0.0.1:8000", f"127.0.0.1:{behind.system.proxy_port}")))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]


@pytest.mark.parametrize("front", [haproxy, nginx, caddy])
def test_a_front_speaks_http2_and_tells_who_the_client_is_whatever_he_says_himself(
    front: Callable[..., list[str]], behind: Behind, backend: Backend, tmp_path: Path,
) -> None:
    if shutil.which(front.__name__) is None:
        pytest.skip(f"no {front.__name__} here")
    system, port = behind.system, free_port()
    system.client().route("www.example.com", backend.url)
    process = subprocess.Popen(front(tmp_path, port, behind), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)})
    try:
        wait_for(lambda: process.poll() is None and listens(port), 15, "the front")
        client = Http2Client(port, behind.authority.trusting(), "www.example.com")
        lies = [("forwarded", "for=6.6.6.6;proto=http"), ("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "http")]
        answer = client.ask("GET", "/echo", headers=lies)
        assert answer.status == 200, answer
        seen = {name.lower(): value for name, value in json.loads(answer.body)["headers"]}
        assert "6.6.6.6" not in json.dumps(seen)
        assert seen["x-forwarded-for"] == "127.0.0.1, 127.0.0.1"
        assert (seen["x-forwarded-proto"], seen["x-forwarded-host"], seen["host"]) == ("https", "www.example.com", "www.example.com")
        assert len(client.ask("POST", "/echo", b"x" * 300_000).body) > 300_000
        client.close()
    finally:
        process.terminate()
        process.wait(10)


def test_no_front_makes_traffic_depend_on_the_master() -> None:
    for path in FRONTS.iterdir():
        assert "8282" not in path.read_text(), f"{path.name} asks the admin HTTP, which the master serves"
