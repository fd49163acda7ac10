"""The answer of a route whose backend is `redirect:` or `respond:`. No other gate comes after it, and no backend is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.proxy.core.answers import reason_phrase, respond
from proxyd.proxy.core.grpc import is_grpc
from proxyd.proxy.core.refusal import ANSWERED, Page, Refusal, refuse
from proxyd.proxy.core.setfields import REMOVED, filled, prepared

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool

_PLAIN, _HTML = "text/plain; charset=utf-8", "text/html; charset=utf-8"


def own_answer(parts: object, ex: Exchange, pool: Pool) -> Refusal | None:
    """Answer for a pool that does so itself. None for one with backends. Raises ClientGone."""
    if pool.members[0].answer is None:
        return None
    member = next((member for member in pool.members if member.enabled), None)
    if member is None or member.answer is None:
        return refuse("route_disabled", "the service is not connected to the registry", (("Retry-After", "5"),))
    answer = member.answer
    if ex.head.path == "*":
        # OPTIONS of the server as a whole has no place that could have moved.
        return Refusal(200, "", "", page=Page("text/plain", b""))
    if is_grpc(ex.head):
        return Refusal(answer.status, "", member.options.respond_text)
    fields: tuple[tuple[str, str], ...] = ()
    if answer.location:
        (location,) = filled(prepared((("Location", answer.location),)), ex, member)
        if location[1] == REMOVED:
            return refuse("request_line_too_long", "the place that this request moves to has too long an address")
        fields = (location,)
    text = member.options.respond_text or f"{answer.status} {reason_phrase(answer.status)}\n"
    page = Page(_HTML if text.startswith("<") else _PLAIN, text.encode())
    respond(ex, answer.status, page, fields, filled(member.headers, ex, member))
    return ANSWERED
