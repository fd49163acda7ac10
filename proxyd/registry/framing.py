"""Framing of the registry protocol, without I/O: bytes in, lines out; answers in, bytes out."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

#: Go's bufio.Scanner accepts less than 64 KiB, line end included.
MAX_ANSWER = 65535
MAX_COMPRESSED = 1 << 20
TRANSACTION = "txn-"
_RETURN = ord("\r")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: Characters that no line may hold unescaped (the json module escapes those below a space), and surrogates, which UTF-8 can't encode.
_ESCAPED = re.compile(r"[|\x7f-\x9f\ud800-\udfff]")


class LineError(Exception):
    """A line that can't be a command. `fatal`: the connection must close."""

    def __init__(self, message: str, fatal: bool = False) -> None:
        super().__init__(message)
        self.fatal = fatal


class LineReader:
    """Cuts received bytes into lines."""

    def __init__(self, max_line: int) -> None:
        self._max = max_line
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Add received bytes."""
        self._buffer += data

    def holds(self, command: bytes) -> bool:
        """Whether a whole line that begins with `command` was received and not taken yet."""
        start = 0 if self._buffer.startswith(command) else self._buffer.find(b"\n" + command) + 1
        return (start > 0 or self._buffer.startswith(command)) and self._buffer.find(b"\n", start) >= 0

    @property
    def waiting(self) -> int:
        """How many bytes were received and not taken yet."""
        return len(self._buffer)

    def next_line(self) -> bytes | None:
        """The next complete line without its end, or None. Raises LineError (fatal) for one that is too long."""
        end = self._buffer.find(b"\n")
        length = end if end >= 0 else len(self._buffer)
        if length > self._max and (length > self._max + 1 or self._buffer[self._max] != _RETURN):
            raise LineError(f"line too long (max {self._max} bytes)", fatal=True)
        if end < 0:
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[:end + 1]
        return line.removesuffix(b"\r")


def decode(line: bytes) -> str:
    """The text of a line. Raises LineError for invalid UTF-8 and control characters."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"invalid UTF-8 at byte {error.start}") from None
    found = _CONTROL.search(text)
    if found:
        raise LineError(f"control character 0x{ord(found[0]):02x} at character {found.start()}")
    return text


def to_json(value: Any) -> str:
    """JSON on one line. Its `|` are escaped, because clients split lines at every `|`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if text.isascii():
        return text.replace("|", "\\u007c").replace("\x7f", "\\u007f")
    return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def compressed(text: str) -> str:
    """base64(gzip(text)), for answers that are too long for a line."""
    return base64.b64encode(gzip.compress(text.encode(), 6)).decode()


def answer_line(answer: str, transaction: str = "", compressed: bool = False) -> bytes:
    """The bytes of an answer, with the transaction id behind its first field. An answer that is too long becomes an error."""
    if transaction:
        first, bar, rest = answer.partition("|")
        answer = f"{first}|{transaction}{bar}{rest}"
    line = _printable(answer).encode("utf-8", "replace") + b"\n"
    limit = MAX_COMPRESSED if compressed else MAX_ANSWER
    if len(line) > limit:
        hint = "" if compressed else ", ask for compressed"
        return answer_line(f"ERROR|response too large ({len(line) - 1} bytes){hint}", transaction)
    return line


def _printable(answer: str) -> str:
    """The answer without control characters: it may repeat a client's value, and must not span lines."""
    return answer if answer.isprintable() else _CONTROL.sub("?", answer)
