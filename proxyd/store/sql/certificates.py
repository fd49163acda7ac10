"""The rows of automatic HTTPS: certificates, orders under way or failed, challenges to answer, accounts at CAs. Everything here runs
in the database thread. Private keys are encrypted (`keybox.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peewee import BigIntegerField, CompositeKey, TextField

from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.base.urls import is_local_name
from proxyd.store.sql import certhistory
from proxyd.store.sql.changes import bump
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.query import dicts, tuples
from proxyd.store.sql.snapshot import counter
from proxyd.store.sql.upsert import upsert

#: The counter whose value is the version of certificates and challenges.
COUNTER = "certificates_version"
#: In place of a domain: the local CA.
LOCAL_CA = "(local CA)"
#: States of an order.
ORDERING, FAILED = "ordering", "failed"


class StoredCertificate(StoredTable):
    """One certificate with its key. `domain`: the name that it was ordered for, or `(local CA)`."""

    domain = TextField()
    key_type = TextField()
    chain = TextField()
    private_key = TextField()
    serial = TextField()
    issuer = TextField()
    not_before = TextField()
    not_after = TextField()
    version = BigIntegerField(index=True)

    class Meta:
        table_name = "certificates"
        primary_key = CompositeKey("domain", "key_type")


class CertificateOrder(StoredTable):
    """An order under way (`ordering`), or the last one that failed (`failed`). It goes when the certificate is there."""

    domain = TextField()
    key_type = TextField()
    state = TextField()
    order_url = TextField(default="")
    private_key = TextField(default="")
    challenge = TextField(default="")
    error = TextField(default="")
    attempts = BigIntegerField(default=0)
    next_attempt = TextField(null=True)

    class Meta:
        table_name = "certificate_orders"
        primary_key = CompositeKey("domain", "key_type")


class AcmeChallenge(StoredTable):
    """What the workers answer to a CA that asks for `token`."""

    token = TextField(primary_key=True)
    answer = TextField()
    domain = TextField()
    posted_at = TextField()

    class Meta:
        table_name = "acme_challenges"


class AcmeAccount(StoredTable):
    """The account at one CA."""

    directory = TextField(primary_key=True)
    url = TextField()
    private_key = TextField()

    class Meta:
        table_name = "acme_accounts"


@dataclass(frozen=True, slots=True)
class CertificateNews:
    """What a worker takes up: the certificates that are new since its version, all that there are, and all challenges:
    what is answered by token, and the name that it proves. `ordered`: names that have none yet, and whose first order is under way."""

    version: int
    fresh: tuple[tuple[str, str, str, str], ...]
    there: frozenset[tuple[str, str]]
    challenges: Mapping[str, tuple[str, str]]
    ordered: frozenset[str] = frozenset()


def news(since: int) -> CertificateNews:
    """Certificates after version `since` as (domain, key type, chain, encrypted key), and the rest."""
    version = counter(COUNTER)
    model = StoredCertificate
    fresh = [(one, kind, chain, key) for one, kind, chain, key in tuples(
        model.select(model.domain, model.key_type, model.chain, model.private_key).where(
            model.version > (since if since <= version else 0)))]
    there = frozenset((domain, kind) for domain, kind in tuples(model.select(model.domain, model.key_type)))
    challenges = {token: (answer, domain) for token, answer, domain in tuples(
        AcmeChallenge.select(AcmeChallenge.token, AcmeChallenge.answer, AcmeChallenge.domain))}
    orders = CertificateOrder
    ordered = frozenset(domain for (domain,) in tuples(orders.select(orders.domain).where(
        orders.state == ORDERING, orders.attempts == 0))) - {domain for domain, _ in there}
    return CertificateNews(version, tuple(fresh), there, challenges, ordered)


def current() -> int:
    """The version of certificates and challenges."""
    return counter(COUNTER)


def certificates() -> list[dict[str, Any]]:
    """All certificates, without their keys."""
    model = StoredCertificate
    return dicts(model.select(model.domain, model.key_type, model.serial, model.issuer, model.not_before, model.not_after))


def serials() -> frozenset[tuple[str, str, str]]:
    """What tells one set of certificates from another: names, kinds of keys, serial numbers."""
    model = StoredCertificate
    return frozenset((domain, kind, serial) for domain, kind, serial in tuples(model.select(model.domain, model.key_type, model.serial)))


def chain(domain: str, key_type: str) -> str:
    """A certificate with those of its issuers, as PEM; empty without one."""
    model = StoredCertificate
    row = model.select(model.chain).where(model.domain == domain, model.key_type == key_type).first()
    return str(row.chain) if row is not None else ""


def orders() -> list[dict[str, Any]]:
    """All orders."""
    return dicts(CertificateOrder.select())


def local_ca() -> dict[str, Any] | None:
    """The row of the local CA."""
    return next(iter(dicts(StoredCertificate.select().where(StoredCertificate.domain == LOCAL_CA))), None)


def any_secret() -> str | None:
    """Some text that is encrypted, to try a key file with."""
    for model in (StoredCertificate, AcmeAccount):
        row = model.select(model.private_key).first()
        if row is not None:
            return str(row.private_key)
    return None


def keep(row: dict[str, Any], told: dict[str, Any] | None = None) -> int:
    """Write a certificate, and drop its order; `told` is what the history says of it. Returns the version."""
    if told is not None:
        certhistory.write(told)
    version = bump(COUNTER)
    upsert(StoredCertificate, [{**row, "version": version}])
    CertificateOrder.delete().where(CertificateOrder.domain == row["domain"], CertificateOrder.key_type == row["key_type"]).execute()
    return version


def drop(domain: str, key_type: str, told: dict[str, Any] | None = None) -> int:
    """Delete a certificate; `told` is what the history says of it. Returns the version."""
    if told is not None:
        certhistory.write(told)
    StoredCertificate.delete().where(StoredCertificate.domain == domain, StoredCertificate.key_type == key_type).execute()
    return bump(COUNTER)


def note_order(row: dict[str, Any]) -> None:
    """Write how an order stands. All columns must be there."""
    upsert(CertificateOrder, [row])


def turn_order(row: dict[str, Any], told: dict[str, Any] | None = None) -> int:
    """The same for another state, which workers are to know; `told` is what the history says of it. Returns the version."""
    if told is not None:
        certhistory.write(told)
    upsert(CertificateOrder, [row])
    return bump(COUNTER)


def forget_orders(keys: Iterable[tuple[str, str]]) -> int:
    """Drop orders of names that are no more wanted. Returns the version."""
    for domain, key_type in keys:
        CertificateOrder.delete().where(CertificateOrder.domain == domain, CertificateOrder.key_type == key_type).execute()
    return bump(COUNTER)


def post_challenge(token: str, answer: str, domain: str, now: float) -> int:
    """Have a challenge answered, and no other of that name: a handshake can show one proof. Returns the version."""
    AcmeChallenge.delete().where(AcmeChallenge.domain == domain).execute()
    upsert(AcmeChallenge, [{"token": token, "answer": answer, "domain": domain, "posted_at": rfc3339(now)}])
    return bump(COUNTER)


def end_challenge(token: str) -> int:
    """Answer it no more. Returns the version."""
    AcmeChallenge.delete().where(AcmeChallenge.token == token).execute()
    return bump(COUNTER)


def end_challenges_of(domain: str) -> None:
    """Forget the challenges of a name. The next version that is posted is without them."""
    AcmeChallenge.delete().where(AcmeChallenge.domain == domain).execute()


def end_challenges(before: float) -> None:
    """Drop what a master that was killed left behind."""
    AcmeChallenge.delete().where(AcmeChallenge.posted_at < rfc3339(before)).execute()


def account(directory: str) -> dict[str, Any] | None:
    """The account at a CA."""
    return next(iter(dicts(AcmeAccount.select().where(AcmeAccount.directory == directory))), None)


def keep_account(row: dict[str, Any]) -> None:
    """Write it."""
    upsert(AcmeAccount, [row])


def status(domains: Iterable[str] | None, now: float) -> list[dict[str, Any]]:
    """What CERT_STATUS says of each domain, or of all that have a certificate or an order. `now`: Unix seconds."""
    wanted = None if domains is None else list(domains)
    model = StoredCertificate
    mine = _by_domain(model.select(model.domain, model.issuer, model.not_after), model, wanted)
    waiting = _by_domain(CertificateOrder.select(), CertificateOrder, wanted)
    if wanted is None:
        wanted = sorted((mine.keys() | waiting.keys()) - {LOCAL_CA})
    return [_status(domain, mine.get(domain, []), waiting.get(domain, []), now) for domain in wanted]


#: Domains in one query.
_AT_ONCE = 500


def _by_domain(query: Any, model: Any, domains: list[str] | None) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    pieces = [query] if domains is None else [
        query.where(model.domain.in_(domains[at:at + _AT_ONCE])) for at in range(0, len(domains), _AT_ONCE)]
    for piece in pieces:
        for row in dicts(piece):
            found.setdefault(row["domain"], []).append(row)
    return found


def _status(domain: str, mine: list[dict[str, Any]], waiting: list[dict[str, Any]], now: float) -> dict[str, Any]:
    good = [row for row in mine if parse_rfc3339(row["not_after"]) > now]
    last = min(good or mine, key=lambda row: str(row["not_after"]), default=None)
    order = next((row for row in waiting if row["error"]), waiting[0] if waiting else None)
    state = "valid" if good else order["state"] if order is not None else "none"
    if is_local_name(domain) and last is None:
        state, last = "valid", {"not_after": None, "issuer": LOCAL_CA}
    return {
        "domain": domain, "state": state, "not_after": last["not_after"] if last is not None else None,
        "issuer": last["issuer"] if last is not None else "", "challenge": order["challenge"] if order is not None else "",
        "error": order["error"] if order is not None else "", "next_attempt": order["next_attempt"] if order is not None else None}
