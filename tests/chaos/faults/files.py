"""Faults of files: whatever lies in the folder of the database is removed, cut or replaced while it is in use."""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

from proxyd.store.memory.shared import BOARD, CIRCUITS
from tests.chaos.faults.declared import fault
from tests.chaos.stage import Stage


def _chosen(stage: Stage, chance: random.Random) -> Path | None:
    """A file of the folder; the same of a kind for the same seed."""
    names = sorted(path.name for path in stage.var.iterdir() if path.is_file() and not path.name.startswith("filler"))
    return stage.var / chance.choice(names) if names else None


@fault(2, "database", "files", "master")
def remove_file(stage: Stage, chance: random.Random) -> None:
    """A file of the database or of the shared memory is deleted, while there is a master: without one, the database would be lost."""
    path = _chosen(stage, chance)
    if path is None:
        return
    stage.say("remove_file", path.name)
    with stage.excuse("remove_file", "refused", after=3.0), contextlib.suppress(FileNotFoundError):
        path.unlink()
        time.sleep(1.0)


@fault(1, "database", "files")
def truncate_file(stage: Stage, chance: random.Random) -> None:
    """A file of the shared memory is cut to nothing, or to a half."""
    path = stage.var / chance.choice(("proxyd.board", "proxyd.circuits", "proxyd.limits", "proxyd.websockets"))
    part = chance.choice((0.0, 0.5))
    stage.say("truncate_file", f"{path.name} to {part:.0%}")
    # Who touches memory beyond the end of the file is killed by the kernel before it can look: any worker, and the master, which maps two.
    killed = ("refused", "cut", "master") if path.name in (BOARD, CIRCUITS) else ("refused", "cut")
    with stage.excuse("truncate_file", *killed, after=5.0), contextlib.suppress(FileNotFoundError):
        stage.killed.extend(stage.system.worker_pids())
        os.truncate(path, int(path.stat().st_size * part))
        time.sleep(2.0)


@fault(2, "database", "files")
def replace_file(stage: Stage, chance: random.Random) -> None:
    """Another file takes the place of one of the shared memory: one with nothing of sense in it."""
    path = stage.var / chance.choice(("proxyd.board", "proxyd.circuits", "proxyd.limits", "proxyd.websockets"))
    stage.say("replace_file", path.name)
    with stage.excuse("replace_file", "refused", after=3.0):
        other = path.with_name("filler.new")
        other.write_bytes(chance.randbytes(4096))
        other.replace(path)
        time.sleep(2.0)
