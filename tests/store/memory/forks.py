"""Child processes for tests of what processes share: forked, with their answer on a pipe."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.signalsets import handle_signals


def in_processes(count: int, work: Callable[[int], Any]) -> list[Any]:
    """The answers of `count` forked processes that all begin `work(number)` at the same moment, and live until all are done."""
    gate_read, gate_write = os.pipe()
    end_read, end_write = os.pipe()
    children = []
    for number in range(count):
        answer_read, answer_write = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(gate_write)
                os.close(end_write)
                os.read(gate_read, 1)
                os.write(answer_write, pickle.dumps(work(number)))
                os.close(answer_write)
                os.read(end_read, 1)
                status = 0
            finally:
                os._exit(status)
        os.close(answer_write)
        children.append((pid, answer_read))
    os.close(gate_read)
    os.close(gate_write)
    os.close(end_read)
    contents = []
    for _, answer_read in children:
        with os.fdopen(answer_read, "rb") as pipe:
            contents.append(pipe.read())
    os.close(end_write)
    for pid, _ in children:
        assert os.waitpid(pid, 0)[1] == 0, "a child process failed"
    return [pickle.loads(content) for content in contents]


@contextmanager
def living(prepare: Callable[[], Any]) -> Iterator[int]:
    """The pid of a forked process that ran `prepare` and now waits to be killed (SIGKILL at the end of `with`)."""
    ready_read, ready_write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            _kept = prepare()
            os.write(ready_write, b"1")
            handle_signals()
        finally:
            os._exit(1)
    os.close(ready_write)
    try:
        assert os.read(ready_read, 1) == b"1", "the child process failed"
        yield pid
    finally:
        os.close(ready_read)
        kill(pid)


def kill(pid: int) -> None:
    """Kill -9, and wait until the process is gone; one that is gone already stays so."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass
