"""The operator's program that makes and removes TXT records for dns-01."""

from __future__ import annotations

import logging
import shlex

from gevent import subprocess

log = logging.getLogger("proxyd.certs")

#: Longest run, in seconds.
_SECONDS = 300.0


def record(command: str, action: str, name: str, value: str) -> None:
    """Run it for a record: `present` or `cleanup`. Raises OrderFailed, but for a record that could not be taken away."""
    from proxyd.certs.proofs import OrderFailed

    try:
        done = subprocess.run([*shlex.split(command), action, name, value], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=_SECONDS, check=False)
        said = done.stderr[-300:].decode(errors="replace").strip()
        trouble = f"exit status {done.returncode}: {said}" if done.returncode else ""
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        trouble = str(error)[:300]
    if not trouble:
        return
    if action == "present":
        raise OrderFailed(f"dns-01: [acme] dns_command failed: {trouble}", challenge="dns-01")
    log.warning("[acme] dns_command cleanup of %s failed: %s", name, trouble)
