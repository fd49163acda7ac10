"""What a handshake waits for, and for how long."""

from __future__ import annotations

import datetime
import ssl
import time

import gevent

from proxyd.net.localca import LocalAuthority, make
from proxyd.net.served import Served


def served(patience: float) -> Served:
    return Served(lambda _: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), lambda _: True, patience)


def test_a_handshake_waits_for_its_own_name_and_no_longer_than_it_is_patient() -> None:
    short = served(0.05)
    short.expect(["app.example.com"])
    began = time.monotonic()
    short.await_order("app.example.com")
    assert time.monotonic() - began >= 0.04
    long = served(30.0)
    long.expect(["app.example.com", "*.wild.example.com"])
    long.await_order("other.example.com")
    assert long.patience == 30.0
    waiting = [gevent.spawn(long.await_order, name) for name in ("app.example.com", "any.wild.example.com")]
    gevent.sleep(0.01)
    assert not any(one.dead for one in waiting)
    # One has come, and the other one has failed.
    long.expect([])
    gevent.joinall(waiting, 10, raise_error=True)
    assert all(one.dead for one in waiting)
    assert long.patience == 0.0, "nothing is on order"


def test_who_has_a_certificate_or_no_patience_does_not_wait() -> None:
    now = datetime.datetime.now(datetime.UTC)
    chain, key = LocalAuthority.of(*make(now)).issue("app.example.com", now)
    patient = served(30.0)
    patient.take({("app.example.com", "ecdsa256"): (chain, key)}, [("app.example.com", "ecdsa256")], None)
    patient.expect(["app.example.com"])
    none = served(0.0)
    none.expect(["app.example.com"])
    assert none.patience == 0.0
    with gevent.Timeout(10):
        patient.await_order("app.example.com")
        none.await_order("app.example.com")
