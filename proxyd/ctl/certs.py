"""`proxyctl certs`: the certificates in the database, which [acme] orders, and what an operator does with them; and those in files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from proxyd.ctl.adminhttp import Admin, Refused, segment
from proxyd.ctl.screen import Screen, ago, printable
from proxyd.ctl.show import BAD, OK, certificate_files

#: Longest file that is sent.
_LARGEST = 60_000


def certs(admin: Admin, screen: Screen, options: argparse.Namespace) -> int:
    """List them, or do what the action says. BAD where an order has failed."""
    if options.action in (None, "list"):
        return _list(admin, screen)
    if options.action == "import":
        answer = admin.act("POST", "certificates", {"pem": _read(options.file)})
    elif options.action == "remove":
        answer = admin.act("DELETE", f"certificates/{segment(options.domain)}")
    else:
        body = {"reason": options.reason} if options.action == "revoke" else None
        answer = admin.act("POST", f"certificates/{segment(options.domain)}/{options.action}", body)
    if screen.as_json:
        screen.json(answer)
    else:
        screen.line(printable(str(answer.get("done"))))
    return OK


def _read(file: str) -> str:
    try:
        content = sys.stdin.read(_LARGEST + 1) if file == "-" else Path(file).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"can't read {file}: {error}") from None
    if len(content) > _LARGEST:
        raise Refused(f"{file} is larger than {_LARGEST} bytes")
    return content


def _list(admin: Admin, screen: Screen) -> int:
    found: list[dict[str, Any]] = admin.get("certificates").get("certificates") or []
    if screen.as_json:
        screen.json(found)
    else:
        _tables(screen, found, admin.get("status").get("certificates") or [], time.time())
    return BAD if any(one.get("error") for one in found) else OK


def _tables(screen: Screen, found: list[dict[str, Any]], files: list[dict[str, Any]], now: float) -> None:
    if found or not files:
        screen.table(("DOMAIN", "STATE", "EXPIRES", "ISSUER", "NEXT TRY", "ERROR"), [
            (one.get("domain"), one.get("state"), ago(one.get("not_after") or "", now), one.get("issuer"),
             ago(one.get("next_attempt") or "", now), one.get("error")) for one in found], "no certificates", ("ISSUER", "NEXT TRY"))
    if found and files:
        screen.line()
    if files:
        certificate_files(screen, files, now)
