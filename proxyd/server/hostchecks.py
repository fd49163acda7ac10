"""What `proxyd check` says of hosts: files that can't be shared, a name that another host has, limits that nobody adds up."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from proxyd.base.hosts import BOOT
from proxyd.config.ini import Problem
from proxyd.config.settings import Settings
from proxyd.store.sql.database import Store, StoreError, sqlite_path
from proxyd.store.sql.membership import BEAT
from proxyd.store.sql.models import Host

#: (section, key, message) -> the problem at the place where the setting was set.
At = Callable[[str, str, str], Problem]
#: File systems whose files other hosts may have open, as the kernel calls them.
_NETWORK = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs", "lustre",
                      "gpfs", "ocfs2", "gfs2", "beegfs"))
_PATIENCE = 1.0


def hosts(settings: Settings, at: At, mounts: str | None = None) -> Iterator[Problem]:
    """What can't work with several hosts. `mounts`: text in the form of /proc/self/mountinfo, the kernel's if None. A database server
    that does not answer is no problem here: nothing needs to run."""
    if mounts is None:
        mounts = _mounts()
    path = _sqlite(settings)
    if path is not None and (kind := network_file_system(os.path.dirname(os.path.abspath(path)), mounts)):
        yield at("database", "url", f"{path} is on a network file system ({kind}), and SQLite's log works on one host alone: put it on a "
                 "disk of this host, or use PostgreSQL for several hosts")
    directory = settings.shared_memory_directory()
    if (kind := network_file_system(os.path.abspath(directory), mounts)) and (path is None or settings.database.shared_memory):
        yield at("database", "shared_memory", f"{directory} is on a network file system ({kind}): each host needs a directory of its own, "
                 "on a disk of its own or in memory")
    if path is None and (told := _double(settings)):
        yield at("hosts", "name", told)


def warnings(settings: Settings) -> Iterator[tuple[str, str]]:
    """Section and sentence of what works, but may not be what anybody wants."""
    if _sqlite(settings) is not None or settings.ratelimit.storage != "shared":
        return
    others = [name for name, _, _ in _hosts(settings) if name != settings.host_name()]
    if others:
        yield "ratelimit", (f"storage = shared counts on each host alone: with {', '.join(others[:3])} and this one, a client gets "
                            f"{len(others) + 1} times each limit; count in a Redis that all hosts share (redis://host:port/db)")


def network_file_system(directory: str, mounts: str) -> str:
    """The type of the file system that has a directory, if it is one of a network; else empty. `mounts` as in `hosts`."""
    found, kind = "", ""
    for line in mounts.splitlines():
        mount, _, source = line.partition(" - ")
        fields = mount.split(" ")
        if len(fields) < 5 or not source:
            continue
        # The kernel writes white space and the backslash in octal.
        point = fields[4].replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
        inside = directory == point or directory.startswith(point.rstrip("/") + "/")
        # Of two mounts on one place, the later one is seen.
        if inside and len(point) >= len(found):
            found, kind = point, source.split(" ")[0]
    return kind if kind in _NETWORK else ""


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""


def _sqlite(settings: Settings) -> str | None:
    """The file of an SQLite database; None for a server, and empty for a url that is neither."""
    try:
        path = sqlite_path(settings.database.url)
    except StoreError:
        return ""
    return path if path is not None or settings.database.url.startswith(("postgresql://", "postgres://")) else ""


def _hosts(settings: Settings) -> list[tuple[str, str, int]]:
    """Name, boot and beat of the database's hosts, as far as it answers."""
    store = Store(settings.database.url, _PATIENCE)
    try:
        with contextlib.suppress(StoreError):
            return store.read(lambda: [(row.name, row.boot, row.beat) for row in Host.select()])
        return []
    finally:
        store.close()


def _double(settings: Settings) -> str:
    """What to tell where another host that lives has the name of this one."""
    name = settings.host_name()

    def row() -> tuple[str, str, int] | None:
        return next((item for item in _hosts(settings) if item[0] == name), None)

    before = row()
    if before is None or before[1] == BOOT:
        return ""
    time.sleep(BEAT * 2.5)
    after = row()
    if after is None or after[1] == BOOT or after == before:
        return ""
    return f"another host of this database is called {name}, and lives: give each a name of its own"
