"""Why a gate lets a request not pass."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """Status, reason code (the same in log, metric and header), a sentence for a person, and further headers."""

    status: int
    code: str
    detail: str
    headers: tuple[tuple[str, str], ...] = ()
