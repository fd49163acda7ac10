"""Certificates that an operator imports: what is taken, and what is refused in words."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from proxyd.certs.byhand import read_pair
from tests.support.certificates import Authority

NOW = datetime.datetime.now(datetime.UTC)


def test_chain_and_key_are_taken_in_any_order_for_all_names(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pem = authority.issue("one.pem", "One.test", "*.one.test", "127.0.0.1", kind="rsa").read_text()
    at = pem.index("-----BEGIN PRIVATE KEY")
    for text in (pem, pem[at:] + pem[:at], pem[:at] + authority.file.read_text() + pem[at:]):
        chain, key, names = read_pair(text, NOW)
        assert names == ["one.test", "*.one.test"]
        assert chain.startswith(pem[:at])
        assert "PRIVATE KEY" in key and "PRIVATE KEY" not in chain


def test_what_can_not_be_served_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pem, other = (authority.issue(f"{name}.pem", f"{name}.test").read_text() for name in ("one", "other"))
    at = pem.index("-----BEGIN PRIVATE KEY")
    private = load_pem_private_key(pem[at:].encode(), None)
    locked = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")).decode()
    address = authority.issue("address.pem", "127.0.0.1").read_text()
    for text, said in ((pem[:at], "no private key"), (pem[at:], "no certificate"), (pem[:at] + locked, "encrypted"),
                       (pem[:at] + other[other.index("-----BEGIN PRIVATE KEY"):], "another key"), (address, "0 names"),
                       (authority.issue("old.pem", "old.test", days=-1).read_text(), "not now"), ("", "no private key"),
                       (pem.replace("MII", "MIJ", 1), "no certificate"), (pem[:at] + pem[:at] + pem[at:], "chain is wrong")):
        with pytest.raises(ValueError, match=said):
            read_pair(text, NOW)
