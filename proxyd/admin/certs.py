"""The endpoints that change certificates."""

from __future__ import annotations

from proxyd.admin.acting import done
from proxyd.admin.context import Context
from proxyd.admin.http import Request, RequestRefused, Response, as_json
from proxyd.admin.state import CertificateActions


def _actions(context: Context) -> CertificateActions:
    actions = context.state.certificate_actions
    if actions is None:
        raise RequestRefused(409, "conflict", "this process has no certificates")
    return actions


def take(context: Context, request: Request) -> Response:
    """Import a certificate with its key, for all its names."""
    actor = context.guard.check_action(request)
    pem = request.json_object()["pem"]
    names: list[str] = []
    done(context, "", lambda: names.extend(_actions(context).take(pem, actor)))
    return as_json({"done": f"certificate for {', '.join(names)} imported"})


def renew(context: Context, request: Request, domain: str) -> Response:
    """Order the certificates of a name anew."""
    actor = context.guard.check_action(request)
    return done(context, f"the certificate for {domain[:300]} is being ordered", _actions(context).renew, domain, actor)


def revoke(context: Context, request: Request, domain: str) -> Response:
    """Have the CA revoke the certificates of a name."""
    actor = context.guard.check_action(request)
    reason = request.json_object()["reason"]
    return done(context, f"the certificate for {domain[:300]} is revoked", _actions(context).revoke, domain, reason, actor)


def remove(context: Context, request: Request, domain: str) -> Response:
    """Show the certificates of a name no more."""
    actor = context.guard.check_action(request)
    return done(context, f"the certificate for {domain[:300]} is removed", _actions(context).remove, domain, actor)
