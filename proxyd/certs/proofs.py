"""How a CA is shown that a name leads here: one challenge of those that it offers is prepared, answered, and taken away again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from acme import challenges, client, messages
from josepy import jwk
from josepy.json_util import field

from proxyd.net.tlsalpn import PROTOCOL


class OrderFailed(Exception):
    """No certificate; the message says what the CA said, and what to do. `retry_after`: seconds for which the CA wants peace.
    `limited`: it means all orders, not this one. `away`: so does this, since nothing was heard of the CA."""

    def __init__(self, message: str, retry_after: float = 0.0, limited: bool = False, challenge: str = "", away: bool = False) -> None:
        super().__init__(message[:1000])
        self.retry_after = retry_after
        self.limited = limited
        self.away = away
        self.challenge = challenge


@dataclass(frozen=True, slots=True)
class Hooks:
    """What an order does outside: `post` has a challenge answered by all workers (kind, token, answer), `end` ends that, `placed` notes
    the order's URL. `record` makes or removes a TXT record (`present` or `cleanup`, name, value), and raises OrderFailed."""

    post: Callable[[str, str, str], None]
    end: Callable[[str], None]
    placed: Callable[[str], None]
    record: Callable[[str, str, str], None]


@challenges.ChallengeResponse.register
class TlsAlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    """The library knows this challenge no more since 5.0."""

    typ = "tls-alpn-01"


@challenges.Challenge.register
class TlsAlpn(challenges.KeyAuthorizationChallenge):
    """RFC 8737."""

    response_cls = TlsAlpnResponse
    typ = response_cls.typ

    def validation(self, account_key: jwk.JWK, **_: Any) -> str:
        """The key authorization, whose digest is in the certificate."""
        return str(self.key_authorization(account_key))


class NewOrder(messages.NewOrder):
    """An order that may say which certificate it replaces (RFC 9773 5), which the library's can't."""

    replaces: str | None = field("replaces", omitempty=True, default=None)


def prove(ca: client.ClientV2, key: jwk.JWK, kinds: tuple[str, ...], authorization: messages.AuthorizationResource, hooks: Hooks,
          until: Callable[[Callable[[], Any], Callable[[Any], bool], str], Any]) -> None:
    """Show the CA that the name leads here. `kinds`: challenges that the settings allow, the preferred one first; `until` waits.
    Raises OrderFailed."""
    name = str(authorization.body.identifier.value)
    # The library's names of challenges that it does not know are no attribute.
    offered = {item.chall.typ: item for item in authorization.body.challenges
               if not isinstance(item.chall, challenges.UnrecognizedChallenge)}
    kind = next((kind for kind in kinds if kind in offered), None)
    if kind is None:
        raise OrderFailed(f"the CA offers {', '.join(offered) or 'nothing'} for {name}, and [acme] challenges has none of that")
    if kind == "dns-01":
        record, value = offered[kind].chall.validation_domain_name(name), offered[kind].chall.validation(key)
        where = f"for the TXT record {record}"
        begin, end = partial(hooks.record, "present", record, value), partial(hooks.record, "cleanup", record, value)
        advice = "does dns_command wait until all name servers have the record?"
    else:
        token, answer = offered[kind].chall.encode("token"), offered[kind].validation(key)
        begin, end = partial(hooks.post, kind, token, answer), partial(hooks.end, token)
        if kind == "http-01":
            where, advice = f"http://{name}{offered[kind].chall.path}", "does port 80 of the name lead here?"
        else:
            where, advice = f"{name}:443 by {PROTOCOL}", "does port 443 of the name lead here, with nothing before it that ends TLS?"
    begin()
    try:
        ca.answer_challenge(offered[kind], offered[kind].response(key))
        proved = until(lambda: ca.poll(authorization)[0], lambda found: found.body.status != messages.STATUS_PENDING,
                       "the CA to check the challenge")
    finally:
        end()
    if proved.body.status != messages.STATUS_VALID:
        reasons = [item.error.detail for item in proved.body.challenges if item.error is not None]
        raise OrderFailed(f"{kind}: the CA asked {where} and refused what it got: "
                          f"{'; '.join(map(str, reasons)) or 'it gives no reason'}; {advice}", challenge=kind)
