"""Which addresses are no targets: denied networks in all their forms, and our own ports wherever they listen."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest

from proxyd.base.text import parse_networks
from proxyd.config.settings import Settings
from proxyd.net.targets import TargetDenied, Targets

LINK_LOCAL = Targets.of(Settings())
DENIED = Targets(parse_networks("127.0.0.5, 2001:db8::/32"))


def own(*binds: str) -> Targets:
    return Targets((), [("admin HTTP", bind) for bind in binds])


@pytest.mark.parametrize("url", [
    "http://169.254.169.254", "http://169.254.0.1:8080/latest", "http://[fe80::1]:80", "https://[febf::1]", "ws://169.254.169.254:1",
    "http://[::ffff:169.254.169.254]", "http://[::ffff:a9fe:a9fe]:80"])
def test_link_local_addresses_are_none_by_default(url: str) -> None:
    with pytest.raises(ValueError, match=r"which \[registry\] deny_targets names"):
        LINK_LOCAL.check_url(url)


@pytest.mark.parametrize(("address", "network"), [
    ("0.0.0.0", "127.0.0.0/8"), ("::ffff:0.0.0.0", "127.0.0.1"), ("::", "::1"), ("0.0.0.0", "0.0.0.0/32"), ("::", "::/128")])
def test_where_the_kernel_takes_an_address_for_loopback_it_is_denied_with_loopback(address: str, network: str) -> None:
    assert "deny_targets" in (Targets(parse_networks(network)).refusal(address, 80) or "")
    assert Targets(parse_networks("192.0.2.0/24, 2001:db8::/32")).refusal(address, 80) is None


@pytest.mark.parametrize("url", ["http://169.253.1.1", "http://127.0.0.1:3000", "http://[2001:db8::1]", "http://metadata.test"])
def test_others_are(url: str) -> None:
    LINK_LOCAL.check_url(url)


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:8282", "http://127.0.0.1:8181/x", "http://localhost:8282", "http://LOCALHOST.:8282", "http://admin.localhost:8282",
    "http://[::ffff:127.0.0.1]:8282", "http://[::ffff:7f00:1]:8282", "http://0.0.0.0:8282", "http://[::]:8282", "https://127.0.0.1:8282"])
def test_our_own_ports_are_none_where_they_listen_by_default(url: str) -> None:
    with pytest.raises(ValueError, match="proxyd's own (registry|admin HTTP)"):
        LINK_LOCAL.check_url(url)


def _own_address() -> str:
    """An address of this host that is not loopback, if it has one. Connecting a datagram socket sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.mark.parametrize("bind", ["0.0.0.0:8282", "[::]:8282", "localhost:8282"])
def test_a_wildcard_is_every_address_of_this_host_and_no_other(bind: str) -> None:
    rules = own(bind)
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", _own_address(), "0.0.0.0", "::"):
        assert rules.refusal(address, 8282), address
        assert rules.refusal(address, 8283) is None
    assert rules.refusal("192.0.2.1", 8282) is None
    assert rules.refusal("2001:db8::1", 8282) is None


def test_a_port_on_one_address_is_that_address_alone() -> None:
    rules = own("127.0.0.3:8282", "[::1]:8283", "[::ffff:127.0.0.4]:8284", "unix:/run/admin.sock")
    assert rules.refusal("127.0.0.3", 8282) and rules.refusal("::1", 8283) and rules.refusal("127.0.0.4", 8284)
    assert rules.refusal("127.0.0.4", 8282) is None and rules.refusal("127.0.0.1", 8283) is None


def test_of_a_name_the_addresses_that_may_be_are_left() -> None:
    assert DENIED.allowed(("127.0.0.5", "127.0.0.6", "::ffff:127.0.0.5", "2001:db8::1"), 80) == ["127.0.0.6"]
    assert DENIED.allowed(("127.0.0.6",), 80) == ("127.0.0.6",)
    with pytest.raises(TargetDenied, match=r"127\.0\.0\.5 is in 127\.0\.0\.5/32"):
        DENIED.allowed(("127.0.0.5", "2001:db8::1"), 80)


@pytest.mark.parametrize(("path", "allowed"), [
    ("/healthz", True), ("tcp://", True), ("tcp://127.0.0.6:80", True), ("", True), ("tcp://127.0.0.5:80", False),
    ("tcp://[2001:db8::1]:80", False)])
def test_a_check_elsewhere_is_looked_at_too(path: str, allowed: bool) -> None:
    if allowed:
        DENIED.check_health(path)
    else:
        with pytest.raises(ValueError, match="deny_targets"):
            DENIED.check_health(path)


def test_an_admin_http_that_does_not_run_has_no_port() -> None:
    rules = Targets.of(replace(Settings(), admin=replace(Settings().admin, enabled=False)))
    assert rules.refusal("127.0.0.1", 8282) is None
    assert rules.refusal("127.0.0.1", 8181)


def test_only_unix_sockets_that_the_setting_names_are_targets() -> None:
    rules = Targets((), [("admin HTTP", "unix:/run/apps/admin.sock")], ("/run/apps", "/srv/one.sock"))
    for url in ("unix:/run/apps/a.sock", "unix:/run/apps/x/b.sock:/base", "unix:/srv/one.sock"):
        rules.check_url(url)
    for url, why in (("unix:/run/apps/admin.sock", "proxyd's own admin HTTP"), ("unix:/run/docker.sock", "unix_targets"),
                     ("unix:/run/appsx/a.sock", "unix_targets"), ("unix:/srv/two.sock", "unix_targets")):
        with pytest.raises(ValueError, match=why):
            rules.check_url(url)
    assert "unix_targets" in (Targets().unix_refusal("/run/apps/a.sock") or "")
