"""Failed logins: how long who has to wait."""

from __future__ import annotations

import pytest

from proxyd.base import attempts
from proxyd.base.attempts import FailedAttempts


def test_who_failed_too_often_waits_until_his_first_failure_is_a_minute_old() -> None:
    failed = FailedAttempts(2)
    failed.count("192.0.2.1", 0.0)
    assert failed.wait("192.0.2.1", 10.0) == 0
    failed.count("192.0.2.1", 10.0)
    assert failed.wait("192.0.2.1", 20.0) == 40
    assert failed.wait("192.0.2.1", 59.9) == 1
    assert failed.wait("192.0.2.1", 60.0) == 0


@pytest.mark.parametrize(("address", "whose"), [
    ("2001:db8:0:1:ffff::2", "2001:db8:0:1::/64"), ("[2001:db8::1]", "2001:db8::/64"), ("192.0.2.1", "192.0.2.1"),
    ("::ffff:192.0.2.1", "::ffff:192.0.2.1"), ("unix", "unix")])
def test_an_ipv6_customer_has_64_bits_and_everybody_else_an_address(address: str, whose: str) -> None:
    assert attempts.subject(address) == whose


def test_many_addresses_do_not_make_a_guesser_forgotten_while_he_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "_MAX_SUBJECTS", 3)
    failed = FailedAttempts(3)
    for number in range(3):
        failed.count("192.0.2.1", 1.0)
        failed.count(f"198.51.100.{2 * number}", 1.0)
        failed.count(f"198.51.100.{2 * number + 1}", 1.0)
    assert failed.wait("192.0.2.1", 1.0) > 0
    for number in range(3):
        failed.count(f"203.0.113.{number}", 1.0)
    assert failed.wait("192.0.2.1", 1.0) == 0
