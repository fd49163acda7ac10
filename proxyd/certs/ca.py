"""One CA, spoken to with the library `acme`: the account, and the steps of an order. It knows no database and no schedule."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import requests
from acme import client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy import errors as josepy_errors
from josepy import jwa, jwk

from proxyd import __version__
from proxyd.certs.chains import certificate_id, check_chain, csr_of
from proxyd.certs.proofs import Hooks, NewOrder, OrderFailed, prove
from proxyd.config.sections import AcmeSettings

_ANSWER_SECONDS = 30.0
#: Longest time for a whole exchange: the library's limit is for each piece that arrives, so that a CA which trickles has no end.
_EXCHANGE_SECONDS = 60.0
_LARGEST_ANSWER = 1 << 20
#: Longest time for the CA to check a challenge, and to issue.
_STEP_SECONDS = 120.0
#: How often a request is sent again, each time twice, whose nonce the CA does not take.
_NONCES = 4
_PAUSE, _LONGEST_PAUSE = 0.25, 10.0


class _Network(client.ClientNetwork):
    """The library's network, with bounds on answers and their time, and the Retry-After of refusals, which the library's errors lack."""

    retry_after = 0.0
    exchange_seconds = _EXCHANGE_SECONDS

    def post(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send again what was refused for its nonce, more often than the library does (RFC 8555 6.5): several orders use nonces up."""
        for _ in range(_NONCES):
            try:
                return super().post(*args, **kwargs)
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
                self._nonces.clear()
        return super().post(*args, **kwargs)

    def _send_request(self, method: str, url: str, *args: Any, **kwargs: Any) -> requests.Response:
        kwargs["stream"] = True
        kwargs["verify"] = self.verify_ssl
        kwargs.setdefault("headers", {}).setdefault("User-Agent", self.user_agent)
        kwargs.setdefault("timeout", self._default_timeout)
        with gevent.Timeout(self.exchange_seconds, requests.ConnectionError(f"no whole answer of {url} in {self.exchange_seconds:g} s")):
            response = self.session.request(method, url, *args, **kwargs)
            body = b""
            try:
                for piece in response.iter_content(65536):
                    body += piece
                    if len(body) > _LARGEST_ANSWER:
                        raise requests.ConnectionError(f"the answer of {url} is too large")
            except BaseException:
                response.close()
                raise
        response._content = body
        response.encoding = "utf-8"
        self.retry_after = _seconds(response) if response.status_code >= 400 else 0.0
        return response


class Authority:
    """The CA of the settings, with an account. Make it with `connect`."""

    def __init__(self, settings: AcmeSettings, key: str, url: str, registered: Callable[[str], None]) -> None:
        """`key`: the account's, as PEM; `url`: the account's, empty for none yet; `registered` is told of a new one. Raises OrderFailed,
        for a file that can't be read."""
        private = load_pem_private_key(key.encode(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        self._key = jwk.JWKEC(key=private)
        self._settings = settings
        self._network = _Network(self._key, alg=jwa.ES256,
                                 verify_ssl=settings.ca_file or True,  # type: ignore[arg-type]
                                 user_agent=f"proxyd/{__version__}", timeout=int(_ANSWER_SECONDS))
        self._client = self._ask(lambda: client.ClientV2(client.ClientV2.get_directory(settings.directory, self._network), self._network))
        self._registered = registered
        if url:
            self._use(url)
        else:
            self._ask(self._take_account)

    def _take_account(self) -> None:
        """Register, and go on with that account."""
        self._network.account = None
        url = self._register()
        self._registered(url)
        self._use(url)

    def _use(self, url: str) -> None:
        self._network.account = messages.RegistrationResource(uri=url, body=messages.Registration())

    def _register(self) -> str:
        settings = self._settings
        binding = None
        if settings.eab_kid:
            try:
                hmac_key = Path(settings.eab_hmac_file).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise OrderFailed(f"[acme] eab_hmac_file: can't read {settings.eab_hmac_file}: {error}") from None
            binding = messages.ExternalAccountBinding.from_data(self._key.public_key(), settings.eab_kid, hmac_key,
                                                                self._client.directory)
        elif self._client.external_account_required():
            raise OrderFailed("the CA demands an external account: set [acme] eab_kid and eab_hmac_file")
        wanted = messages.NewRegistration.from_data(
            email=settings.email or None, terms_of_service_agreed=settings.terms_agreed, external_account_binding=binding)
        try:
            return str(self._client.new_account(wanted).uri)
        except errors.ConflictError as known:
            return str(known.location)

    def obtain(self, domain: str, key: str, order_url: str, replaced: str, hooks: Hooks) -> str:
        """Take an order through all its steps, from where it stands. `key`: the certificate's, as PEM; `replaced`: the chain of the one
        that it follows, or empty. Returns the chain, checked, as PEM. Raises OrderFailed."""

        def obtain() -> str:
            try:
                return self._obtain(domain, key, order_url, replaced, hooks)
            except messages.Error as error:
                if error.code != "accountDoesNotExist":
                    raise
            # The CA has forgotten it, like one that keeps nothing over a restart. Our key stays.
            self._take_account()
            return self._obtain(domain, key, "", replaced, hooks)

        return str(self._ask(obtain))

    def advice(self, chain: str) -> tuple[float, float] | None:
        """When the CA wants a certificate renewed (RFC 9773), and when it is to be asked again, both in Unix seconds. None: it tells
        nobody. Raises OrderFailed."""
        if "renewalInfo" not in self._client.directory.to_partial_json():
            return None
        when, again = self._ask(lambda: self._client.renewal_time(chain.encode()))
        return when.timestamp(), again.timestamp()

    def revoke(self, chain: str, reason: int) -> None:
        """Revoke a certificate of this account (RFC 8555 7.6). `reason`: a code of RFC 5280 5.3.1. Raises OrderFailed."""

        def revoke() -> None:
            try:
                self._client.revoke(x509.load_pem_x509_certificate(chain.encode()), reason)
            except messages.Error as error:
                if error.code != "alreadyRevoked":
                    raise

        self._ask(revoke)

    def _obtain(self, domain: str, key: str, order_url: str, replaced: str, hooks: Hooks) -> str:
        csr = csr_of(domain, key)
        order = self._resume(order_url, csr) if order_url else None
        if order is None:
            order = self._place(domain, csr, replaced)
            hooks.placed(str(order.uri))
        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_PENDING:
                prove(self._client, self._key, self._settings.challenges, authorization, hooks, self._until)
        if self._order(order).body.status == messages.STATUS_PENDING:
            self._until(lambda: self._order(order), lambda found: found.body.status != messages.STATUS_PENDING, "the order to be ready")
        if self._order(order).body.status == messages.STATUS_READY:
            self._client.begin_finalization(order)
        done = self._until(lambda: self._order(order),
                           lambda found: found.body.status not in (messages.STATUS_PROCESSING, messages.STATUS_READY), "the certificate")
        if done.body.status != messages.STATUS_VALID or not done.body.certificate:
            raise OrderFailed(f"the CA did not issue: {done.body.error.detail if done.body.error else 'it gives no reason'}")
        chain = str(self._client._post_as_get(done.body.certificate).text)
        check_chain(chain, domain, key, datetime.datetime.now(datetime.UTC))
        return chain

    def _place(self, domain: str, csr: bytes, replaced: str) -> messages.OrderResource:
        directory, profile = self._client.directory, self._settings.profile
        offered = directory.meta.profiles or {}
        if profile and profile not in offered:
            raise OrderFailed(f'the CA has no profile "{profile}" ([acme] profile); it offers {", ".join(sorted(offered)) or "none"}')
        fields: dict[str, Any] = {
            "identifiers": [messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=domain)], "profile": profile or None}
        known = certificate_id(replaced) if replaced and "renewalInfo" in directory.to_partial_json() else None
        try:
            response = self._client._post(directory["newOrder"], NewOrder(**fields, replaces=known))
        except messages.Error as error:
            # A certificate that is replaced already, or is another CA's (RFC 9773 5), must not keep the name without one.
            if known is None or error.code == "rateLimited":
                raise
            response = self._client._post(directory["newOrder"], NewOrder(**fields))
        return self._with_authorizations(messages.Order.from_json(response.json()), response.headers.get("Location", ""), csr)

    def _with_authorizations(self, body: messages.Order, url: str, csr: bytes) -> messages.OrderResource:
        known = [self._client._authzr_from_response(self._client._post_as_get(item), uri=item) for item in body.authorizations]
        return messages.OrderResource(body=body, uri=url, authorizations=known, csr_pem=csr)

    def _resume(self, url: str, csr: bytes) -> messages.OrderResource | None:
        """An order that was placed before, or None if it leads nowhere any more."""
        try:
            body = messages.Order.from_json(self._client._post_as_get(url).json())
            if body.status == messages.STATUS_INVALID:
                return None
            return self._with_authorizations(body, url, csr)
        except (messages.Error, errors.Error):
            return None

    def _order(self, order: messages.OrderResource) -> messages.OrderResource:
        found: messages.OrderResource = order.update(body=messages.Order.from_json(self._client._post_as_get(order.uri).json()))
        return found

    def _until(self, look: Callable[[], Any], over: Callable[[Any], bool], what: str) -> Any:
        """Look until it is over, at growing intervals."""
        until = time.monotonic() + _STEP_SECONDS
        pause = _PAUSE
        while not over(found := look()):
            if time.monotonic() > until:
                raise OrderFailed(f"waited {_STEP_SECONDS:g} s for {what}; the CA is slow")
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)
        return found

    def _ask(self, function: Callable[[], Any]) -> Any:
        """What the function returns, any failure as OrderFailed."""
        try:
            return function()
        except messages.Error as error:
            told = f"the CA refused: {error.detail or error.code or error}"
            raise OrderFailed(told, self._network.retry_after, error.code == "rateLimited") from None
        except errors.Error as error:
            told = f"the CA's answer can't be used: {type(error).__name__} {str(error)[:300]}"
            raise OrderFailed(told, self._network.retry_after) from None
        except requests.exceptions.SSLError as error:
            raise OrderFailed(f"the CA's own certificate does not verify ([acme] ca_file): {str(error)[:300]}") from None
        except requests.RequestException as error:
            raise OrderFailed(f"the CA can't be reached ([acme] directory): {str(error)[:300]}", away=True) from None
        except (ValueError, KeyError, AttributeError, TypeError, OverflowError, josepy_errors.Error) as error:
            raise OrderFailed(f"the CA's answer can't be read: {type(error).__name__} {str(error)[:300]}") from None


def _seconds(response: requests.Response) -> float:
    now = datetime.datetime.now()
    try:
        return max(0.0, (client.ClientV2.retry_after(response, 0) - now).total_seconds())
    except OverflowError:
        return float("inf")
