"""The one error of this package: a message that breaks the protocol, or a limit."""

from __future__ import annotations


class ProtocolError(Exception):
    """A message that must not be passed on.

    `status` is the HTTP status to answer the client with (4xx/5xx for its own request, 502 for a backend's
    response), `code` a stable reason code for log, metric and header, `detail` one sentence for a person.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(status, code, detail)
        self.status = status
        self.code = code
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail}"


def shown(text: str) -> str:
    """Untrusted `text` made safe and short enough for a `detail`: escaped, at most 60 characters of it."""
    return ascii(text if len(text) <= 60 else text[:57] + "...")
