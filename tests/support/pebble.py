"""Debian's pebble, a small and strict ACME server, with its DNS server that sends every name to loopback."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support.certificates import Authority
from tests.support.waiting import free_port, wait_for

_DNS_COMMAND = """
import json, sys, urllib.request
action, name, value = sys.argv[1:]
body = {{"host": name + ".", "value": value}} if action == "present" else {{"host": name + "."}}
what = "set-txt" if action == "present" else "clear-txt"
urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:{port}/" + what, json.dumps(body).encode())).read()
"""


class Pebble:
    """A CA that validates at `http_port` and `tls_port` of loopback. `ca_file`: signs its own listener; `trusting()`: trusts what it
    issues."""

    def __init__(self, directory: Path, http_port: int, tls_port: int = 0, lifetime: int = 0, **config: object) -> None:
        if not shutil.which("pebble") or not shutil.which("pebble-challtestsrv"):
            pytest.skip("pebble is not installed (apt-get install pebble)")
        self._directory = directory
        self.authority = authority = Authority(directory, "pebble listener")
        pem = authority.issue("pebble.pem", "localhost", "127.0.0.1").read_bytes()
        self.ca_file = authority.file
        chain, key = directory / "chain.pem", directory / "key.pem"
        at = pem.index(b"-----BEGIN PRIVATE KEY")
        chain.write_bytes(pem[:at])
        key.write_bytes(pem[at:])
        self.port, self._management, dns, self.control = free_port(), free_port(), free_port(), free_port()
        settings: dict[str, object] = {
            "listenAddress": f"127.0.0.1:{self.port}", "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(chain), "privateKey": str(key), "httpPort": http_port, "tlsPort": tls_port or free_port(),
            "ocspResponderURL": "", "externalAccountBindingRequired": False, **config}
        if lifetime:
            settings["certificateValidityPeriod"] = lifetime
        (directory / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self._log = (directory / "pebble.log").open("ab")
        self._dns = subprocess.Popen(
            ["pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", f"127.0.0.1:{dns}", "-http01", "",
             "-https01", "", "-tlsalpn01", "", "-management", f"127.0.0.1:{self.control}"], stdout=self._log, stderr=self._log)
        self._process = subprocess.Popen(
            ["pebble", "-config", str(directory / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}", "-strict"],
            stdout=self._log, stderr=self._log, env={**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20"})
        wait_for(self._answers, 10, "pebble to answer")

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}/dir"

    def dns_command(self) -> str:
        """A program as an operator writes it, which puts TXT records into the CA's DNS."""
        path = self._directory / "dns.py"
        path.write_text(_DNS_COMMAND.format(port=self.control))
        return f"{sys.executable} {path}"

    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts the root of what it issues."""
        return ssl.create_default_context(cadata=self._get(f"https://127.0.0.1:{self._management}/roots/0").decode())

    def log(self) -> str:
        """What it has written."""
        return (self._directory / "pebble.log").read_text()

    def _get(self, url: str) -> bytes:
        with urllib.request.urlopen(url, timeout=5, context=ssl.create_default_context(cafile=str(self.ca_file))) as answer:
            return bytes(answer.read())

    def _answers(self) -> bool:
        try:
            return bool(self._get(self.url))
        except OSError:
            return False

    def stop(self) -> None:
        for process in (self._process, self._dns):
            process.terminate()
            process.wait(5)
        self._log.close()
