"""Answers to a CA that checks, over plain HTTP, that a name leads here (RFC 8555 8.3)."""

from __future__ import annotations

from collections.abc import Mapping

from proxyd.proxy.core.refusal import Page, Refusal

PREFIX = "/.well-known/acme-challenge/"


def challenge_answer(challenges: Mapping[str, str], path: str) -> Refusal | None:
    """The answer to a request for a token on order; None for any other request, which goes its way."""
    found = challenges.get(path[len(PREFIX):])
    return Refusal(200, "", "", page=Page("application/octet-stream", found.encode())) if found is not None else None
