"""When a certificate is ordered, and when again."""

from __future__ import annotations

import datetime

import gevent
import pytest

from proxyd.certs.chains import check_chain, new_key
from proxyd.certs.names import matches
from proxyd.certs.proofs import OrderFailed
from proxyd.certs.schedule import Advice, backoff, pause, renewal
from proxyd.net.localca import LocalAuthority, make

DAY = 86400.0


@pytest.mark.parametrize(("lifetime", "before", "left"), [
    (90 * DAY, 0.0, 30 * DAY), (6 * DAY, 0.0, 2 * DAY), (90 * DAY, 10 * DAY, 10 * DAY), (6 * DAY, 30 * DAY, 3 * DAY),
])
def test_a_third_of_the_lifetime_is_left_at_a_renewal_or_what_the_setting_says(lifetime: float, before: float, left: float) -> None:
    assert renewal(1000.0, 1000.0 + lifetime, before) == 1000.0 + lifetime - left


def test_pauses_grow_and_stay_within_five_failures_an_hour() -> None:
    waits = [min(backoff(attempt) for _ in range(50)) for attempt in range(1, 9)]
    assert waits[0] >= 48
    assert waits == sorted(waits[:5]) + waits[5:]
    assert sum(waits[:4]) > 3600
    assert max(backoff(100) for _ in range(50)) <= 1.2 * 12 * 3600


def test_a_ca_that_advises_is_followed_but_not_beyond_the_last_tenth() -> None:
    ends = 90 * DAY
    assert renewal(0.0, ends, 0.0, advised=20 * DAY) == 20 * DAY
    assert renewal(0.0, ends, 0.0, advised=70 * DAY) == 70 * DAY
    assert renewal(0.0, ends, 0.0, advised=ends + DAY) == 81 * DAY
    assert renewal(0.0, ends, 30 * DAY, advised=70 * DAY) == 60 * DAY, "the operator's own setting is the latest"
    assert renewal(0.0, ends, 30 * DAY, advised=10 * DAY) == 10 * DAY


def test_a_certificate_that_ends_soon_is_tried_for_more_often_and_no_ca_puts_it_off_for_ever() -> None:
    assert pause(20, 0.0, 8 * 3600.0) == 2 * 3600.0
    assert pause(20, 0.0, -5.0) == 900.0
    assert pause(1, float("inf"), 3600.0) == 7 * DAY
    assert pause(1, 3600.0, 60.0) == 3600.0


def test_a_ca_that_always_says_now_is_followed_once_an_hour() -> None:
    key = ("app.example.com", "ecdsa256")
    advice = Advice(lambda _: (500.0, 0.0), (), lambda _: None)

    def ask(now: float) -> float:
        with gevent.Timeout(10):
            while (found := advice.of(key)) is None:
                advice.look([key], now)
                gevent.sleep(0.01)
        return found

    assert ask(1000.0) == 500.0
    advice.forget(key, 1000.0)
    assert advice.of(key) is None
    assert ask(1010.0) == 4600.0
    advice.stop()


@pytest.mark.parametrize(("domain", "patterns", "expected"), [
    ("app.example.com", ("*.example.com",), True), ("a.b.example.com", ("*.example.com",), True),
    ("example.com", ("*.example.com",), False),
    ("example.com", ("example.com",), True), ("badexample.com", ("*.example.com",), False), ("any.net", ("*",), True),
])
def test_a_pattern_stands_for_the_names_below_it(domain: str, patterns: tuple[str, ...], expected: bool) -> None:
    assert matches(domain, patterns) is expected


def test_a_chain_is_taken_only_for_its_name_its_key_and_its_time() -> None:
    now = datetime.datetime.now(datetime.UTC)
    root, root_key = make(now)
    chain, key = LocalAuthority.of(root, root_key).issue("app.example.com", now)
    check_chain(chain + root, "app.example.com", key, now)
    stranger, _ = make(now)
    for pem, name, private, when, said in (
            (chain + root, "other.example.com", key, now, "other names"),
            (chain + root, "app.example.com", new_key("ecdsa256"), now, "key"),
            (chain + root, "app.example.com", key, now + datetime.timedelta(days=400), "not now"),
            (chain + stranger, "app.example.com", key, now, "chain is wrong"), ("nothing", "app.example.com", key, now, "something else")):
        with pytest.raises(OrderFailed, match=said):
            check_chain(pem, name, private, when)
