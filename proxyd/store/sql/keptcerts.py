"""The certificates in a file beside the shared memory: workers start with them where the database can't be read. Keys are encrypted as in
the database, so the file alone gives none away. Like the kept table it is a copy and nothing more."""

from __future__ import annotations

import contextlib
import json
import os
from hashlib import blake2b

from proxyd.base import private
from proxyd.store.sql.certificates import CertificateNews

NAME = "proxyd.certificates"
#: Most certificates in the file, and its largest size when it is read.
MOST, _LARGEST = 10_000, 256 << 20
_MAGIC = b"proxyd certificates 1\n"


def write(path: str, news: CertificateNews) -> None:
    """Write the file anew, in one step. Raises OSError."""
    body = json.dumps(sorted(news.fresh)[:MOST]).encode()
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, private.MODE)
    try:
        os.fchmod(fd, private.MODE)
        with os.fdopen(fd, "wb") as file:
            file.write(_MAGIC + _digest(body) + body)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def read(path: str) -> CertificateNews | None:
    """What the file has, without challenges and as of no version; None if there is none, or if it can't be used."""
    try:
        with open(path, "rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError:
        return None
    body = content[len(_MAGIC) + 16:]
    if len(content) > _LARGEST or content != _MAGIC + _digest(body) + body:
        return None
    fresh = tuple((str(domain), str(kind), str(chain), str(key)) for domain, kind, chain, key in json.loads(body))
    return CertificateNews(0, fresh, frozenset((domain, kind) for domain, kind, _, _ in fresh), {})


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
