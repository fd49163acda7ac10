"""What a worker begins with where the database can't be read: the certificates that the master has kept in a file."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Callable
from pathlib import Path

import gevent

from proxyd.chores.certkeeper import CertificateKeeper
from proxyd.config.sections import TlsSettings
from proxyd.net.localca import LocalAuthority, make
from proxyd.net.served import Served
from proxyd.net.tls import server_context
from proxyd.proxy.route.certsync import CertificateSync
from proxyd.store.memory.board import Board
from proxyd.store.sql import certificates, keptcerts
from proxyd.store.sql.database import Store
from proxyd.store.sql.keybox import Keybox
from proxyd.store.sql.keybox import make as make_key
from proxyd.store.sql.migrations import migrate


def until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.02)


def test_kept_certificates_are_served_without_a_database_and_what_is_torn_is_not_used(tmp_path: Path) -> None:
    key_file, kept = str(tmp_path / "certificates.key"), tmp_path / keptcerts.NAME
    make_key(key_file)
    box = Keybox(key_file)
    store = Store(f"sqlite:///{tmp_path}/p.db")
    store.open()
    migrate(store)
    now = datetime.datetime.now(datetime.UTC)
    root = make(now)
    issue = LocalAuthority.of(*root).issue
    for domain, (chain, key) in ((certificates.LOCAL_CA, root), ("app.example.com", issue("app.example.com", now))):
        store.call(certificates.keep, {
            "domain": domain, "key_type": "ecdsa256", "chain": chain, "private_key": box.lock(key), "serial": "1f", "issuer": "A CA",
            "not_before": "2026-01-01T00:00:00.000Z", "not_after": "2027-01-01T00:00:00.000Z"})
    board = Board(str(tmp_path))
    keeper = CertificateKeeper(True, store, board, str(tmp_path))
    keeper.start()
    until(kept.exists)
    content = kept.read_bytes()
    assert b"PRIVATE KEY" not in content and kept.stat().st_mode & 0o777 == 0o640
    # A file that somebody has removed is written anew, and one certificate less is another file.
    kept.unlink()
    until(kept.exists)
    board.post_certificates(store.call(certificates.drop, "app.example.com", "ecdsa256"))
    until(lambda: kept.read_bytes() != content)
    keeper.stop()
    store.close()

    def begins_with(content: bytes) -> Served:
        kept.write_bytes(content)
        away = Store(f"sqlite:///{tmp_path}/nowhere/p.db", 0.1)
        served = Served(lambda _: server_context(TlsSettings()), lambda _: False)
        sync = CertificateSync(away, board, served, key_file, 60.0, str(kept))
        sync.start()
        sync.stop()
        return served

    served = begins_with(content)
    assert served.names == {"app.example.com"}
    assert isinstance(served.context_for("app.example.com"), ssl.SSLContext)
    assert served.context_for("dev.test"), "by the local CA"
    assert not begins_with(content[:-2]).names
    assert not begins_with(b"").names
    assert not begins_with(content.replace(b"app.example", b"bad.example")).names
