"""Error codes (RFC 9113 7), and the two errors of this package."""

from __future__ import annotations

NO_ERROR = 0
PROTOCOL_ERROR = 1
INTERNAL_ERROR = 2
FLOW_CONTROL_ERROR = 3
STREAM_CLOSED = 5
FRAME_SIZE_ERROR = 6
REFUSED_STREAM = 7
CANCEL = 8
COMPRESSION_ERROR = 9
ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The connection can't go on: it ends with a GOAWAY of this code. `detail` is one sentence for a person."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class StreamFault(Exception):
    """One stream can't go on: it is reset with this code. `detail` is one sentence for a person."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
