"""Which host this is, and whose process ids its processes have.

Hosts that share a database are told apart by a name. A process id says nothing beyond the boot and the namespace of process ids that
gave it: so a worker is known as (host, boot, pid) wherever other hosts read of it.
"""

from __future__ import annotations

import os
import socket
from hashlib import blake2b
from pathlib import Path

from proxyd.base import clock

#: Host, boot and process id of a worker.
WorkerKey = tuple[str, str, int]
_MACHINE_ID = Path("/etc/machine-id")


def machine_name() -> str:
    """A name for this machine that no other one has: its host name, and what tells machines of one host name apart. The machine-id
    itself is not to be shown to others (machine-id(5)), so a hash of it stands there. A container without one has only its host name."""
    name = socket.gethostname().lower() or "host"
    try:
        machine = _MACHINE_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        machine = ""
    return f"{name[:50]}-{blake2b(machine.encode(), digest_size=4, person=b'proxyd').hexdigest()}" if machine else name[:60]


def _boot() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return blake2b(f"{clock.BOOT_ID} {namespace}".encode(), digest_size=6).hexdigest()


#: Of this boot of the kernel and this namespace of process ids.
BOOT = _boot()


def own_key(host: str) -> WorkerKey:
    """The key of this process, as a worker of the host with that name."""
    return host, BOOT, os.getpid()
