"""The limit on a request's body. A body announced as larger is refused here, one of unknown length while it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from proxyd.proxy.core.refusal import Refusal, refuse

if TYPE_CHECKING:
    from proxyd.config.settings import Settings
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool


class HasSettings(Protocol):
    """What this gate needs of a worker."""

    settings: Settings


def body_size(parts: HasSettings, ex: Exchange, pool: Pool) -> Refusal | None:
    """413 for a body that is larger than `max_body_size`."""
    limit = pool.members[0].options.max_body_size or parts.settings.proxy.max_body_size
    if limit:
        if ex.head.content_length > limit:
            return refuse("body_too_large", f"the request body is larger than {limit} bytes")
        ex.upstream_limit = limit
    return None
