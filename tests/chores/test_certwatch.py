"""The watch on the certificates: what it says as their end comes near, and when."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from proxyd.base.text import rfc3339
from proxyd.chores.certwatch import CertificateWatch
from proxyd.config.sections import AcmeSettings, RegistrySettings, TlsSettings
from proxyd.config.settings import Settings
from proxyd.events.bus import Event, EventBus
from proxyd.net.tls import read_certificate, tls_listeners
from proxyd.store.sql import certificates
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.migrations import migrate
from tests.support.certificates import Authority

DAY = 86400.0


def test_the_end_is_told_once_at_30_7_and_1_days_and_when_it_is_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = Authority(tmp_path).issue("one.pem", "one.test", days=90)
    ends = read_certificate(str(path)).expires
    bus = EventBus(Store(f"sqlite:///{tmp_path}/p.db"))
    events: list[Event] = []
    bus.subscribe(events.append)
    watch = CertificateWatch(Settings(tls=TlsSettings(bind="127.0.0.1:1", certificates=(str(path),))), bus)
    told = []
    with caplog.at_level(logging.WARNING, "proxyd.tls"):
        for left in (90, 31, 29.9, 15, 7.5, 6.9, 3, 1.1, 0.9, 0.1, -0.1, -5):
            caplog.clear()
            watch.check(ends - left * DAY)
            if caplog.messages:
                told.append((left, caplog.records[0].levelname))
    assert told == [(29.9, "WARNING"), (6.9, "WARNING"), (0.9, "WARNING"), (-0.1, "ERROR")]
    assert [event.data["days"] for event in events if event.type == "certificate_expiring"] == [29.9, 6.9, 0.9, -0.1]


def test_a_renewal_is_an_event_and_begins_anew(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    path = authority.issue("one.pem", "one.test", days=5)
    bus = EventBus(Store(f"sqlite:///{tmp_path}/p.db"))
    events: list[Event] = []
    bus.subscribe(events.append)
    # The registry's own certificate is watched as well.
    watch = CertificateWatch(Settings(registry=RegistrySettings(tls_certificate=str(path))), bus)
    watch.check(time.time())
    path.write_text("half a file")
    watch.check(time.time())
    authority.issue("one.pem", "one.test", days=6)
    watch.check(time.time())
    assert [event.type for event in events] == ["certificate_expiring", "cert_renewed", "certificate_expiring"]
    assert events[1].data["names"] == ["one.test"]


def test_certificates_in_the_database_are_told_of_when_their_renewal_is_late(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(f"sqlite:///{tmp_path}/p.db")
    store.open()
    migrate(store)
    bus = EventBus(store)
    events: list[Event] = []
    bus.subscribe(events.append)
    settings = Settings(tls=TlsSettings(bind="127.0.0.1:1"), acme=AcmeSettings(enabled=True))
    watch = CertificateWatch(settings, bus, store)
    for domain, days in (("long.test", 90), ("short.test", 6)):
        store.call(certificates.keep, {
            "domain": domain, "key_type": "ecdsa256", "chain": "", "private_key": "", "serial": "1f", "issuer": "A CA",
            "not_before": rfc3339(0.0), "not_after": rfc3339(days * DAY)})
        for left in (20, 6.9, 1.9, 0.9, -0.1):
            watch.check_rows((days - left) * DAY)
        # Another master tells of it once more, and the history has it already.
        CertificateWatch(settings, EventBus(store), store).check_rows((days + 1) * DAY)
        store.call(certificates.drop, domain, "ecdsa256")
    history = store.read(lambda: database.execute_sql("SELECT what, domain, serial, file FROM certificate_history ORDER BY id").fetchall())
    store.close()
    assert [(event.data["names"][0], event.data["days"]) for event in events] == [
        ("long.test", 6.9), ("long.test", 0.9), ("long.test", -0.1), ("short.test", 0.9), ("short.test", -0.1)]
    assert events[0].data["path"] == "in the database"
    assert history == [("expired", "long.test", "1f", ""), ("expired", "short.test", "1f", "")]


@pytest.mark.parametrize(("bind", "plain", "found"), [
    ("127.0.0.1:8443", "127.0.0.1:8000", [False, True, False, False]),
    ("localhost:8443", "127.0.0.1:8000", [False, True, False, False]),
    ("0.0.0.0:443", "127.0.0.1:8000", [False, False, True, False]),
    ("unix:/run/tls", "127.0.0.1:8000", [False, False, False, True]),
    ("10.0.0.1:8000", "127.0.0.1:8000", [False, False, False, False]),
    ("127.0.0.1:9999", "unix:/run/plain", [False, False, False, False]),
])
def test_the_https_listener_is_found_however_its_address_is_written(bind: str, plain: str, found: list[bool]) -> None:
    names = [("127.0.0.1", 8000), ("127.0.0.1", 8443), ("::", 443, 0, 0), "/run/tls"]
    assert tls_listeners(names, bind, plain) == found
