"""Who may register, and what: tokens, what they cover, and the bound on failed attempts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.base.text import hash_of
from proxyd.cli.main import main
from proxyd.registry.auth import EVERYTHING, Gatekeeper, Grant, LoginRefused, new_token, read_tokens
from tests.support.system import System
from tests.support.waiting import wait_for


def tokens_file(path: Path, **grants: tuple[str, str, str]) -> Path:
    """Write a tokens file: name = (token, services, domains)."""
    path.write_text("".join(f"[token {name}]\nhash = {hash_of(token)}\nservices = {services}\ndomains = {domains}\n\n"
                            for name, (token, services, domains) in grants.items()))
    return path


@pytest.fixture
def gate(tmp_path: Path) -> Gatekeeper:
    return Gatekeeper(str(tokens_file(tmp_path / "tokens.ini", shop=("secret", "shop, shop-*", "shop.example, *.shop.example"))), 3)


def test_without_a_tokens_file_everybody_may_claim_everything() -> None:
    grant = Gatekeeper("", 3).admit("any", None, "1.2.3.4", 0.0)
    assert grant is EVERYTHING
    assert grant.covers_service("any")
    assert grant.covers_domain("*")


def test_a_new_token_is_long_and_only_its_hash_is_kept() -> None:
    token, kept = new_token()
    assert len(token) >= 43
    assert kept == hash_of(token)
    assert token not in kept
    assert new_token()[0] != token


@pytest.mark.parametrize(("domain", "covered"), [
    ("shop.example", True), ("a.shop.example", True), ("a.b.shop.example", True), ("*.shop.example", True), ("*.a.shop.example", True),
    ("*", False), ("example", False), ("badshop.example", False), ("*.example", False), ("shop.example.org", False)])
def test_a_grant_covers_the_domains_it_names_and_those_below_its_wildcards(domain: str, covered: bool) -> None:
    assert Grant("shop", ("*",), ("shop.example", "*.shop.example")).covers_domain(domain) is covered


def test_a_wildcard_does_not_cover_the_name_above_it() -> None:
    assert not Grant("a", ("*",), ("*.shop.example",)).covers_domain("shop.example")


@pytest.mark.parametrize(("newer", "older", "may"), [
    (Grant("a"), Grant("a"), True), (Grant("b"), Grant("a"), False), (Grant("b"), EVERYTHING, True), (EVERYTHING, Grant("a"), True)])
def test_only_the_same_token_may_take_a_sessions_place(newer: Grant, older: Grant, may: bool) -> None:
    assert newer.may_replace(older) is may


def test_a_grant_survives_its_text() -> None:
    grant = Grant("a", ("x", "y*"), ("a.example",))
    assert Grant.from_json(grant.to_json()) == grant


def test_the_known_token_is_admitted_with_its_grant(gate: Gatekeeper) -> None:
    grant = gate.admit("shop-7", "secret", "1.2.3.4", 0.0)
    assert (grant.name, grant.domains) == ("shop", ("shop.example", "*.shop.example"))


@pytest.mark.parametrize("token", [None, "", "wrong", 5, ["secret"], {"a": 1}, True])
def test_another_token_of_whatever_type_is_refused_and_not_repeated(gate: Gatekeeper, token: object) -> None:
    with pytest.raises(LoginRefused) as caught:
        gate.admit("shop", token, "1.2.3.4", 0.0)
    assert "wrong" not in str(caught.value)


def test_a_token_covers_the_services_it_names_alone(gate: Gatekeeper) -> None:
    with pytest.raises(LoginRefused, match='may not register as "shopping"'):
        gate.admit("shopping", "secret", "1.2.3.4", 0.0)


@pytest.mark.parametrize(("first", "second", "together"), [
    ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True), ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
    ("[2001:db8::1]", "2001:db8::2", True),
    ("192.0.2.1", "192.0.2.2", False), ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False), ("unix:", "192.0.2.1", False)])
def test_failed_attempts_are_counted_by_address_and_those_of_ipv6_by_the_64_bits_that_one_customer_has(
        gate: Gatekeeper, first: str, second: str, together: bool) -> None:
    for address in (first, first, second):
        with pytest.raises(LoginRefused):
            gate.admit("shop", "wrong", address, 0.0)
    with pytest.raises(LoginRefused, match="too many" if together else "not known"):
        gate.admit("shop", "wrong", second, 1.0)


def test_an_address_that_failed_too_often_waits_a_minute_and_others_do_not(gate: Gatekeeper) -> None:
    for second in range(3):
        with pytest.raises(LoginRefused, match="not known"):
            gate.admit("shop", "wrong", "1.2.3.4", float(second))
    with pytest.raises(LoginRefused, match="too many refused registrations"):
        gate.admit("shop", "wrong", "1.2.3.4", 3.0)
    with pytest.raises(LoginRefused, match="not known"):
        gate.admit("shop", "wrong", "5.6.7.8", 3.0)
    with pytest.raises(LoginRefused, match="not known"):
        gate.admit("shop", "wrong", "1.2.3.4", 63.0)


def test_the_addresses_of_an_ipv6_customer_fail_together_and_ipv4_ones_alone(gate: Gatekeeper) -> None:
    def refusal(address: str) -> str:
        with pytest.raises(LoginRefused) as refused:
            gate.admit("shop", "guess", address, 0.0)
        return str(refused.value)

    failures = [refusal(f"2001:db8:1:2::{number:x}") for number in range(1, 30)]
    assert "too many refused registrations" in failures[-1]
    assert "too many" in refusal("2001:db8:1:2:ffff:ffff:ffff:ffff") and "too many" in refusal("[2001:db8:1:2::99]")
    assert "too many" not in refusal("2001:db8:1:3::1")
    assert not [number for number in range(1, 30) if "too many" in refusal(f"192.0.2.{number}")]
    assert not [number for number in range(1, 30) if "too many" in refusal(f"::ffff:198.51.100.{number}")]


def test_the_right_token_is_never_locked_out_by_others_of_its_address(gate: Gatekeeper) -> None:
    for _ in range(5):
        with pytest.raises(LoginRefused):
            gate.admit("shop", "wrong", "1.2.3.4", 0.0)
    assert gate.admit("shop", "secret", "1.2.3.4", 0.0).name == "shop"


def test_the_file_is_read_again_when_it_changes(gate: Gatekeeper, tmp_path: Path) -> None:
    gate.admit("shop", "secret", "a", 0.0)
    tokens_file(tmp_path / "tokens.ini", other=("another-one", "*", "*"))
    with pytest.raises(LoginRefused):
        gate.admit("shop", "secret", "a", 0.0)
    assert gate.admit("shop", "another-one", "a", 0.0).name == "other"


def test_a_broken_file_leaves_the_tokens_as_they_were_and_is_named_in_the_log(
        gate: Gatekeeper, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate.admit("shop", "secret", "a", 0.0)
    (tmp_path / "tokens.ini").write_text("[token shop]\nhsah = sha256:x\n")
    assert gate.admit("shop", "secret", "a", 0.0).name == "shop"
    assert 'tokens.ini:2: unknown key "hsah"' in caplog.text
    (tmp_path / "tokens.ini").unlink()
    assert gate.admit("shop", "secret", "a", 0.0).name == "shop"


@pytest.mark.parametrize(("content", "problem"), [
    ("[tokens a]\nhash = sha256:x\n", "unknown section [tokens a]"),
    ("[token a]\nhash = secret\n", "hash: not sha256:"),
    ("[token a]\nservices = x\n", "[token a] has no hash"),
    ("[token a]\nhash = sha256:x\ndomains = a b..c\n", "domains:"),
    ("[token a]\nhash = sha256:x\nserv = a\n", 'unknown key "serv"'),
])
def test_every_mistake_in_the_file_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "tokens.ini"
    path.write_text(content)
    assert any(problem in str(found) for found in read_tokens(str(path))[1])


def test_domains_are_compared_in_the_form_routes_have_them(tmp_path: Path) -> None:
    grants, problems = read_tokens(str(tokens_file(tmp_path / "t.ini", a=("x", "*", "Shop.Example"))))
    assert problems == []
    assert grants[hash_of("x")].covers_domain("shop.example")


def test_a_token_without_domains_may_claim_none(tmp_path: Path) -> None:
    path = tmp_path / "t.ini"
    path.write_text(f"[token a]\nhash = {hash_of('x')}\n")
    grant = read_tokens(str(path))[0][hash_of("x")]
    assert not grant.covers_domain("a.example")


def test_a_token_without_services_may_register_none_and_the_others_of_its_file_go_on(
        tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.ini"
    path.write_text(f"[token b]\nhash = {hash_of('x')}\ndomains = b.test\n[token shop]\nhash = {hash_of('y')}\nservices = shop\n")
    gate = Gatekeeper(str(path), 3)
    with pytest.raises(LoginRefused, match='may not register as "shop": it names no services in the tokens file'):
        gate.admit("shop", "x", "1.2.3.4", 0.0)
    assert gate.admit("shop", "y", "1.2.3.4", 0.0).name == "shop"
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"{path}:1: [token b] names no services, so it may register none (services = b allows that one, services = * any)"]


def test_a_token_made_for_domains_registers_as_no_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "b", "--domains", "b.test"]) == 0
    made = capsys.readouterr()
    assert "may register no service yet" in made.err
    path = tmp_path / "t.ini"
    path.write_text(made.out)
    token = made.out.splitlines()[0].rpartition(" ")[2]
    for service in ("shop", "b"):
        with pytest.raises(LoginRefused, match="names no services"):
            Gatekeeper(str(path), 3).admit(service, token, "1.2.3.4", 0.0)
    assert main(["token", "b", "--services", "b,b-*", "--domains", "b.test"]) == 0
    made = capsys.readouterr()
    assert not made.err
    path.write_text(made.out)
    gate = Gatekeeper(str(path), 3)
    token = made.out.splitlines()[0].rpartition(" ")[2]
    assert gate.admit("b-1", token, "1.2.3.4", 0.0).covers_domain("b.test")
    with pytest.raises(LoginRefused, match="may not register"):
        gate.admit("shop", token, "1.2.3.4", 0.0)


# -- the whole system


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    directory = tmp_path_factory.mktemp("guarded")
    path = tokens_file(directory / "tokens.ini", shop=("the-shop-token", "shop*", "*.shop.test"), root=("root-token", "*", "*"))
    running = System(directory / "system", workers=1, registry__tokens_file=str(path), registry__max_failed_logins=3)
    yield running
    running.stop()


def metadata(token: str) -> str:
    return json.dumps({"token": token, "version": "1"})


def test_a_token_admits_and_is_kept_nowhere(guarded: System) -> None:
    client = guarded.client("shop", "kept", metadata("the-shop-token"))
    assert client.json("SESSION_INFO|SID")["metadata"] == {"version": "1"}
    assert guarded.sql("SELECT metadata FROM sessions WHERE instance_name = 'kept'") == [('{"version": "1"}',)]
    assert "the-shop-token" not in guarded.log()
    assert b"the-shop-token" not in b"".join(path.read_bytes() for path in guarded.directory.glob("proxyd.db*"))


def test_a_session_claims_only_what_its_token_covers(guarded: System) -> None:
    client = guarded.client("shop", "claims", metadata("the-shop-token"))
    refused = 'ERROR|domains: the token of this session may not claim "bank.test"'
    route_id = client.ok("ROUTE_ADD|SID|a.shop.test|/|http://127.0.0.1:9|0")
    assert client.command("ROUTE_ADD|SID|bank.test|/|http://127.0.0.1:9|0") == refused
    assert client.command(f"ROUTE_UPDATE|SID|{route_id}|domains|bank.test") == refused
    bulk = json.dumps([{"domains": [name], "backend_url": "http://127.0.0.1:9"} for name in ("b.shop.test", "bank.test")])
    assert client.command(f"ROUTE_ADD_BULK|SID|{bulk}") == refused
    assert [route["domains"] for route in client.json("ROUTE_LIST|SID")] == [["a.shop.test"]]


def test_a_restart_of_the_master_does_not_widen_what_a_session_may_claim(guarded: System) -> None:
    client = guarded.client("shop", "restarted", metadata("the-shop-token"))
    pid = guarded.master_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: guarded.master_pid() not in (0, pid) and guarded.ready(), what="a new master")
    back = guarded.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    back.session_id = client.session_id
    assert back.command("ROUTE_ADD|SID|bank.test|/|http://127.0.0.1:9|0").startswith("ERROR|domains: the token")
    back.route("c.shop.test", "http://127.0.0.1:9")
    assert back.command("CONFIG_DIFF|SID").startswith("DIFF_OK|")


def test_refused_registrations_leave_no_session_and_are_bounded_and_recorded(guarded: System) -> None:
    client = guarded.connect()
    for line in ("REGISTER|shop|no", "REGISTER|shop|no|0|null", f"REGISTER|bank|no|0|{metadata('the-shop-token')}"):
        assert client.command(line).startswith("ERROR|")
    assert client.command(f"REGISTER|shop|no|0|{metadata('guessed')}").startswith("ERROR|too many refused registrations")
    assert client.command("PING|x") == "ERROR|no session"
    assert guarded.sql("SELECT count(*) FROM sessions WHERE instance_name = 'no'") == [(0,)]
    # Those beyond the bound are not recorded: an attacker could fill the disk with them.
    wait_for(lambda: guarded.sql("SELECT count(*) FROM events WHERE type = 'login_refused'") == [(3,)], what="the audit rows")


def test_a_session_is_replaced_by_the_token_that_made_it_alone(guarded: System) -> None:
    holder = guarded.connect()
    holder.register("shop-a", "a-1", metadata("the-shop-token"))
    evictor = guarded.connect()
    answer = evictor.command(f"REGISTER|shop-a|a-1|0|{metadata('root-token')}")
    assert answer == "ERROR|shop-a/a-1 was registered with another token, and only that one may replace it"
    assert holder.command("PING|SID") == "PONG"
    assert evictor.command(f"REGISTER|shop-a|a-1|0|{metadata('the-shop-token')}").startswith("ACK|")
