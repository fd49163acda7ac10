"""What `proxyd check` says of [acme]."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.config.settings import load
from proxyd.server.acmechecks import acme, warnings
from proxyd.server.startchecks import Places
from proxyd.store.sql import keybox
from tests.support.dns import NameServer

GOOD = {"PROXYD_ACME_ENABLED": "yes", "PROXYD_ACME_TERMS_AGREED": "yes", "PROXYD_ACME_EMAIL": "ops@example.com",
        "PROXYD_TLS_BIND": "127.0.0.1:443", "PROXYD_PROXY_BIND": "127.0.0.1:80"}


def told(directory: Path, **changed: str) -> list[str]:
    environment = {**GOOD, "PROXYD_DATABASE_URL": f"sqlite:///{directory}/proxyd.db", **changed}
    return [problem.message for problem in acme(load(None, environment), Places(None).problem)]


@pytest.mark.parametrize(("changed", "expected"), [
    ({}, []),
    ({"PROXYD_TLS_BIND": ""}, ["[acme] enabled: nobody listens for HTTPS"]),
    ({"PROXYD_TLS_BIND": "", "PROXYD_ACME_ENABLED": "no"}, []),
    ({"PROXYD_ACME_TERMS_AGREED": "no"}, ["[acme] terms_agreed: "]),
    ({"PROXYD_ACME_EMAIL": ""}, ["[acme] email: no email"]),
    ({"PROXYD_ACME_DIRECTORY": "http://ca.test/dir"}, ["[acme] directory: "]),
    ({"PROXYD_ACME_DOMAINS": "a_b..c"}, ["[acme] domains: "]),
    ({"PROXYD_PROXY_BIND": "127.0.0.1:8000"}, ["[acme] challenges: no public port 80"]),
    ({"PROXYD_PROXY_BIND": "127.0.0.1:8000", "PROXYD_ACME_CHALLENGES": "tls-alpn-01", "PROXYD_TLS_BIND": "0.0.0.0:8443"},
     ["[acme] challenges: no public port 443"]),
    ({"PROXYD_ACME_CA_FILE": "/nowhere/ca.pem"}, ["[acme] ca_file: can't read"]),
    ({"PROXYD_ACME_EAB_KID": "kid"}, ["[acme] eab_hmac_file: "]),
    ({"PROXYD_ACME_EAB_HMAC_FILE": "/nowhere/hmac"}, ["[acme] eab_kid: ", "[acme] eab_hmac_file: can't read"]),
    ({"PROXYD_ACME_CHALLENGES": "dns-01", "PROXYD_PROXY_BIND": "127.0.0.1:8000"}, ["[acme] dns_command: the challenge dns-01"]),
    ({"PROXYD_ACME_CHALLENGES": "dns-01", "PROXYD_ACME_DNS_COMMAND": "/nowhere/dns.sh"}, ["[acme] dns_command: /nowhere/dns.sh is not"]),
    ({"PROXYD_ACME_KEY_FILE": "/nowhere/certificates.key"}, ["[acme] key_file: "]),
])
def test_each_obstacle_is_named_with_its_setting(tmp_path: Path, changed: dict[str, str], expected: list[str]) -> None:
    found = told(tmp_path, **changed)
    assert len(found) == len(expected), found
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True)), found


def test_a_key_file_that_others_read_or_that_holds_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "certificates.key"
    keybox.make(str(path))
    assert told(tmp_path) == []
    path.chmod(0o640)
    assert "chmod 0600" in told(tmp_path)[0]
    path.write_text("nothing")
    path.chmod(0o600)
    assert "it is not replaced" in told(tmp_path)[0]


def test_another_key_file_opens_nothing(tmp_path: Path) -> None:
    for name in ("one", "other"):
        keybox.make(str(tmp_path / name))
    before = (tmp_path / "one").read_bytes()
    keybox.make(str(tmp_path / "one"))
    assert (tmp_path / "one").read_bytes() == before
    locked = keybox.Keybox(str(tmp_path / "one")).lock("secret")
    assert keybox.Keybox(str(tmp_path / "one")).unlock(locked) == "secret"
    with pytest.raises(keybox.KeyboxError, match="bring that one back"):
        keybox.Keybox(str(tmp_path / "other")).unlock(locked)


def test_names_that_lead_elsewhere_are_a_warning(tmp_path: Path) -> None:
    server = NameServer()
    server.zone |= {("here.example.com", "A"): (60, ["127.0.0.1"]), ("else.example.com", "A"): (60, ["192.0.2.7", "127.0.0.1"])}
    environment = {**GOOD, "PROXYD_DATABASE_URL": f"sqlite:///{tmp_path}/proxyd.db", "PROXYD_DNS_SERVERS": "{}:{}".format(*server.address),
                   "PROXYD_ACME_DOMAINS": "here.example.com, else.example.com, none.example.com, *.example.com, app.test"}
    try:
        found = [sentence for _, sentence in warnings(load(None, environment))]
        assert len(found) == 2
        assert "else.example.com leads to 192.0.2.7, which" in found[0]
        assert "none.example.com has no address" in found[1]
        assert not list(warnings(load(None, {**environment, "PROXYD_ACME_CHALLENGES": "dns-01"})))
    finally:
        server.close()
