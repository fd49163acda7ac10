"""The files of CAs of clients and of their lists of revoked certificates: what is taken, and what is said of others."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from proxyd.config.settings import load
from proxyd.net.clientcert import read_trust
from proxyd.net.tls import CertificateError
from tests.support.certificates import Authority


def test_each_ca_needs_a_list_that_it_signed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    one, other, forger = Authority(tmp_path, "one"), Authority(tmp_path, "other"), Authority(elsewhere, "one")
    both, lists = tmp_path / "both.pem", tmp_path / "lists.pem"
    both.write_bytes(one.file.read_bytes() + other.file.read_bytes())
    tls = load(None, {"PROXYD_TLS_CLIENT_CA": str(both), "PROXYD_TLS_CLIENT_CRL": str(lists)}).tls
    lists.write_bytes(one.revoking(days=3) + other.revoking())
    trust, ends = read_trust(tls)
    assert trust.lists == lists.read_bytes()
    assert 2 * 86400 < ends - time.time() <= 3 * 86400
    for content, said in ((one.revoking(), "signed by the CA CN=other"), (forger.revoking() + other.revoking(), "signed by the CA CN=one"),
                          (b"half a file", "holds no list"), (one.revoking()[:200] + b"\n-----END X509 CRL-----\n", "can't be read"),
                          (b"x" * (5 << 20), "larger than")):
        lists.write_bytes(content)
        with pytest.raises(CertificateError, match=said):
            read_trust(tls)
    lists.unlink()
    with pytest.raises(CertificateError, match="can't read the lists"):
        read_trust(tls)
