"""What a step of the request path returns if the proxy itself must answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxyd.base.reasons import REASONS

#: The route's counter that a refusal adds to, if it has one of its own.
CounterName = Literal["", "rate_limited", "circuit_rejected", "drain_rejected", "maintenance_hits", "queue_rejected", "hold_rejected"]


@dataclass(frozen=True, slots=True)
class Page:
    """A finished body."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Refusal:
    """Status, reason code (the same in log, metric and header), a sentence for a person, and further headers.

    `page` replaces the usual body. An empty `code` means an answer that refuses nothing.
    """

    status: int
    code: str
    detail: str
    headers: tuple[tuple[str, str], ...] = ()
    counter: CounterName = ""
    page: Page | None = None


#: In place of a refusal: the answer is out.
ANSWERED = Refusal(0, "", "")


def refuse(code: str, detail: str, headers: tuple[tuple[str, str], ...] = (), counter: CounterName = "") -> Refusal:
    """A refusal with the status of its reason."""
    return Refusal(REASONS[code].status, code, detail, headers, counter)
