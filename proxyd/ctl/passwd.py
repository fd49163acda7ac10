"""proxyctl passwd: writes a file of users, whole or not at all."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import secrets
import stat
import sys

from proxyd.base import private
from proxyd.config import userfile
from proxyd.ctl.adminhttp import Refused
from proxyd.ctl.screen import Screen


def passwd(screen: Screen, options: argparse.Namespace) -> int:
    """Set a user's password in a file, or remove the user. Raises Refused."""
    if not userfile.NAME.fullmatch(options.user):
        raise Refused(f'"{options.user[:80]}" is not the name of a user: no blanks, no colon, 128 characters at most')
    try:
        content = _read(options.file)
        users = dict(userfile.parse_users(content))
        if options.remove:
            if options.user not in users:
                raise Refused(f"{options.user} is not in {options.file}")
            hashed = ""
        else:
            hashed = userfile.make_hash(_password(), options.kind)
    except ValueError as error:
        raise Refused(f"{options.file}: {error}") from None
    except OSError as error:
        raise Refused(f"can't read {options.file}: {error.strerror}") from None
    _write(options.file, _changed(content, options.user, hashed))
    done = "removed" if options.remove else "changed" if options.user in users else "added"
    if options.json:
        screen.json({"file": options.file, "user": options.user, "done": done})
    else:
        print(f"{options.user} is {done} in {options.file}")
    return 0


def _password() -> str:
    """The password: typed twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != first:
        raise Refused("the two are not the same; nothing was changed")
    return first


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(userfile.MAX_FILE + 1)
    except FileNotFoundError:
        return ""


def _changed(content: str, user: str, hashed: str) -> str:
    """The content with another line for a user, or without any. Comments stay."""
    lines = content.splitlines()
    at = next((number for number, line in enumerate(lines) if line.strip().partition(":")[0] == user), len(lines))
    lines[at:at + 1] = [f"{user}:{hashed}"] if hashed else []
    return "".join(f"{line}\n" for line in lines)


def _write(path: str, content: str) -> None:
    """Replace a file in one step. A new one has mode 0640; of an old one, mode and group stay as far as they can."""
    made = f"{path}.{secrets.token_hex(4)}"
    try:
        before = os.stat(path) if os.path.exists(path) else None
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                if before is not None:
                    with contextlib.suppress(OSError):
                        os.fchown(fd, before.st_uid, before.st_gid)
                os.fchmod(fd, stat.S_IMODE(before.st_mode) if before is not None else private.MODE)
                file.write(content)
                file.flush()
                os.fsync(fd)
            os.replace(made, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(made)
            raise
    except OSError as error:
        raise Refused(f"can't write {path}: {error.strerror}") from None
