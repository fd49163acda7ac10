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

#: Longest time (seconds) that a file which was cut may be mapped: a process that is stopped looks when it goes on.
_HEALED = 20.0


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
    # That is over when nobody maps the file that was cut.
    masters = path.name in (BOARD, CIRCUITS)
    with (stage.excuse("truncate_file", *("refused", "cut", *(["master"] if masters else [])), after=1.0),
          stage.ends("SIGBUS", masters), contextlib.suppress(FileNotFoundError)):
        inode = path.stat().st_ino
        os.truncate(path, int(path.stat().st_size * part))
        stage.wait(lambda: not any(_maps(pid, path, inode) for pid in (*stage.system.worker_pids(), stage.system.master_pid())), _HEALED,
                   f"that nobody maps the cut {path.name}")
        stage.wait_for_master()


def _maps(pid: int, path: Path, inode: int) -> bool:
    """Whether a process maps this very file, also where another one has its name by now."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return False
    # Each has address, mode, offset, device and inode, and a path where there is one.
    return any(fields[4:5] == [str(inode)] and path.name in fields[-1] for fields in (line.split(maxsplit=5) for line in lines))


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
