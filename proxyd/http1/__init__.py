"""HTTP/1.1 messages without I/O: bytes in, heads and payload out, RFC 9110 and RFC 9112.

Everything that decides where a message ends is here, and there is one reading of it: whatever could be
read in two ways is refused with a reason code (`ProtocolError`), never repaired.

May import: base. Begin with `grammar`, then `request` and `response`.
"""

from proxyd.http1.chunked import LAST_CHUNK, ChunkedDecoder, encode_chunk, encode_last_chunk
from proxyd.http1.errors import ProtocolError
from proxyd.http1.grammar import REQUEST_LIMITS, RESPONSE_LIMITS, HeadLimits, find_head_end
from proxyd.http1.reading import BodyReader, HeadReader, whole_head
from proxyd.http1.request import PROTOCOLS, RequestHead, forget_fields, parse_request_head
from proxyd.http1.response import ResponseHead, parse_response_head

__all__ = [
    "LAST_CHUNK",
    "PROTOCOLS",
    "REQUEST_LIMITS",
    "RESPONSE_LIMITS",
    "BodyReader",
    "ChunkedDecoder",
    "HeadLimits",
    "HeadReader",
    "ProtocolError",
    "RequestHead",
    "ResponseHead",
    "encode_chunk",
    "encode_last_chunk",
    "find_head_end",
    "forget_fields",
    "parse_request_head",
    "parse_response_head",
    "whole_head",
]
