"""Trailers of HTTP/2 in the form of HTTP/1.1's."""

from __future__ import annotations

from proxyd.http1 import ProtocolError
from proxyd.http1.errors import shown
from proxyd.http1.fieldnames import may_be_trailer
from proxyd.http2.events import Field
from proxyd.http2.fields import read_trailers

_MAX_TRAILERS = 100


def trailers(fields: list[Field], status: int) -> list[tuple[str, str]]:
    """Trailers as they are passed on; names with underscores are left out. Raises StreamFault, and ProtocolError with the status."""
    if len(fields) > _MAX_TRAILERS:
        raise ProtocolError(status, "trailers_too_large", "the trailer section is too large")
    kept = []
    for raw_name, value in read_trailers(fields):
        name = raw_name.decode("latin-1")
        if not may_be_trailer(name):
            raise ProtocolError(status, "forbidden_trailer", f"the field {shown(name)} can't be a trailer")
        if "_" not in name:
            kept.append((name, value.decode("latin-1")))
    return kept
