"""One CA, spoken to with the library `acme`: the account, and the steps of an order. It knows no database and no schedule."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import requests
from acme import client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from josepy import errors as josepy_errors
from josepy import jwa, jwk

from proxyd import __version__
from proxyd.config.sections import AcmeSettings

_ANSWER_SECONDS = 30.0
_LARGEST_ANSWER = 1 << 20
#: Longest time for the CA to check a challenge, and to issue.
_STEP_SECONDS = 120.0
#: How often a request is sent again, each time twice, whose nonce the CA does not take.
_NONCES = 4
_PAUSE, _LONGEST_PAUSE = 0.25, 10.0


class OrderFailed(Exception):
    """No certificate; the message says what the CA said, and what to do. `retry_after`: seconds for which the CA wants peace.
    `limited`: it means all orders, not this one."""

    def __init__(self, message: str, retry_after: float = 0.0, limited: bool = False, challenge: str = "") -> None:
        super().__init__(message[:1000])
        self.retry_after = retry_after
        self.limited = limited
        self.challenge = challenge


class _Network(client.ClientNetwork):
    """The library's network, with a bound on answers, and the Retry-After of refusals, which the library's errors lack."""

    retry_after = 0.0

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
        response = self.session.request(method, url, *args, **kwargs)
        body = b""
        until = time.monotonic() + _ANSWER_SECONDS
        for piece in response.iter_content(65536):
            body += piece
            if len(body) > _LARGEST_ANSWER or time.monotonic() > until:
                response.close()
                raise requests.ConnectionError(f"the answer of {url} is too large or too slow")
        response._content = body
        response.encoding = "utf-8"
        self.retry_after = _seconds(response) if response.status_code >= 400 else 0.0
        return response


@dataclass(frozen=True, slots=True)
class Hooks:
    """What an order does outside: `post` has a challenge answered by all workers (token, answer), `end` ends that, `placed` notes the
    order's URL. `record` makes or removes a TXT record (`present` or `cleanup`, name, value), and raises OrderFailed."""

    post: Callable[[str, str], None]
    end: Callable[[str], None]
    placed: Callable[[str], None]
    record: Callable[[str, str, str], None]


class Authority:
    """The CA of the settings, with an account. Make it with `connect`."""

    def __init__(self, settings: AcmeSettings, key: str, url: str) -> None:
        """`key`: the account's, as PEM; `url`: the account's, empty for none yet. Raises OrderFailed, for a file that can't be read."""
        private = load_pem_private_key(key.encode(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        self._key = jwk.JWKEC(key=private)
        self._settings = settings
        self._network = _Network(self._key, alg=jwa.ES256,
                                 verify_ssl=settings.ca_file or True,  # type: ignore[arg-type]
                                 user_agent=f"proxyd/{__version__}", timeout=int(_ANSWER_SECONDS))
        self._client = self._ask(lambda: client.ClientV2(client.ClientV2.get_directory(settings.directory, self._network), self._network))
        self.url = url or self._ask(self._register)
        self._network.account = messages.RegistrationResource(uri=self.url, body=messages.Registration())

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

    def obtain(self, domain: str, key: str, order_url: str, hooks: Hooks) -> str:
        """Take an order through all its steps, from where it stands. `key`: the certificate's, as PEM. Returns the chain, checked, as
        PEM. Raises OrderFailed."""
        return str(self._ask(lambda: self._obtain(domain, key, order_url, hooks)))

    def _obtain(self, domain: str, key: str, order_url: str, hooks: Hooks) -> str:
        csr = csr_of(domain, key)
        order = self._resume(order_url, csr) if order_url else None
        if order is None:
            order = self._client.new_order(csr)
            hooks.placed(str(order.uri))
        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_PENDING:
                self._prove(authorization, hooks)
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

    def _resume(self, url: str, csr: bytes) -> messages.OrderResource | None:
        """An order that was placed before, or None if it leads nowhere any more."""
        try:
            body = messages.Order.from_json(self._client._post_as_get(url).json())
            if body.status == messages.STATUS_INVALID:
                return None
            known = [self._client._authzr_from_response(self._client._post_as_get(item), uri=item) for item in body.authorizations]
        except (messages.Error, errors.Error):
            return None
        return messages.OrderResource(body=body, uri=url, authorizations=known, csr_pem=csr)

    def _order(self, order: messages.OrderResource) -> messages.OrderResource:
        found: messages.OrderResource = order.update(body=messages.Order.from_json(self._client._post_as_get(order.uri).json()))
        return found

    def _prove(self, authorization: messages.AuthorizationResource, hooks: Hooks) -> None:
        """Show the CA that the name leads here."""
        name = str(authorization.body.identifier.value)
        offered = {item.chall.typ: item for item in authorization.body.challenges}
        kind = next((kind for kind in self._settings.challenges if kind in offered), None)
        if kind is None:
            raise OrderFailed(f"the CA offers {', '.join(offered) or 'nothing'} for {name}, and [acme] challenges has none of that")
        if kind == "dns-01":
            record, value = offered[kind].chall.validation_domain_name(name), offered[kind].chall.validation(self._key)
            where = f"for the TXT record {record}"
            begin, end = partial(hooks.record, "present", record, value), partial(hooks.record, "cleanup", record, value)
            advice = "does dns_command wait until all name servers have the record?"
        else:
            token, answer = offered[kind].chall.encode("token"), offered[kind].validation(self._key)
            where = f"http://{name}{offered[kind].chall.path}"
            begin, end = partial(hooks.post, token, answer), partial(hooks.end, token)
            advice = "does port 80 of the name lead here?"
        begin()
        try:
            self._client.answer_challenge(offered[kind], offered[kind].response(self._key))
            proved = self._until(lambda: self._client.poll(authorization)[0],
                                 lambda found: found.body.status != messages.STATUS_PENDING, "the CA to check the challenge")
        finally:
            end()
        if proved.body.status != messages.STATUS_VALID:
            reasons = [item.error.detail for item in proved.body.challenges if item.error is not None]
            raise OrderFailed(f"{kind}: the CA asked {where} and refused what it got: "
                              f"{'; '.join(map(str, reasons)) or 'it gives no reason'}; {advice}", challenge=kind)

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
            raise OrderFailed(f"the CA can't be reached ([acme] directory): {str(error)[:300]}") from None
        except (ValueError, KeyError, AttributeError, josepy_errors.Error) as error:
            raise OrderFailed(f"the CA's answer can't be read: {type(error).__name__} {str(error)[:300]}") from None


def _seconds(response: requests.Response) -> float:
    now = datetime.datetime.now()
    return max(0.0, (client.ClientV2.retry_after(response, 0) - now).total_seconds())


def new_key(kind: str) -> str:
    """A private key as PEM: `ecdsa256` or `rsa2048`."""
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa256" else rsa.generate_private_key(65537, 2048)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def csr_of(domain: str, key: str) -> bytes:
    """The request for one name, as PEM."""
    private: Any = load_pem_private_key(key.encode(), None)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False).sign(private, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def check_chain(chain: str, domain: str, key: str, now: datetime.datetime) -> x509.Certificate:
    """The leaf of a chain that is for this name and key, valid now, each signed by the next. Raises OrderFailed."""
    try:
        found = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        raise OrderFailed("the CA sent something else than a chain of certificates") from None
    leaf = found[0]
    private: Any = load_pem_private_key(key.encode(), None)
    if leaf.public_key() != private.public_key():
        raise OrderFailed("the CA's certificate is for another key")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if domain not in [name.lower() for name in names]:
        raise OrderFailed(f"the CA's certificate is for other names: {', '.join(names[:5])}")
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise OrderFailed(f"the CA's certificate is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}, not now: is this "
                          "host's clock right?")
    for one, signer in zip(found, found[1:], strict=False):
        try:
            one.verify_directly_issued_by(signer)
        except Exception:
            raise OrderFailed("the CA's chain is wrong: a certificate in it is not signed by the next one") from None
    return leaf
