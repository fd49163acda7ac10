"""Pipes through which bytes of long bodies go from one socket to another (splice(2)): the kernel hands its pages on, and this process
copies nothing. Ten megabytes take half of the processor time that reading and writing them takes.

A pipe is lent for one body. It can hold a megabyte, and between two uses it is empty. Where there is none (the kernel bounds what a user's
pipes hold, and descriptors run out), bodies are read and written.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from proxyd.net.descriptors import taken

#: From so many bytes on, what is left of a body goes through a pipe.
PIPED = 131072
#: What a pipe holds at most, bytes: what a user without privileges may ask for (/proc/sys/fs/pipe-max-size).
SIZE = 1 << 20
#: Smaller ones (the kernel's bound for all pipes of a user is reached) are no better than copies.
_WORTH = 1 << 18
#: How many bodies go through pipes at once, and how many pipes are kept for the next ones. Each has two descriptors.
_AT_MOST, _KEPT = 32, 8


class Pipe:
    """A pipe; `waiting`: the bytes in it."""

    __slots__ = ("reader", "waiting", "writer")

    def __init__(self) -> None:
        """Raises OSError where there can be none of a useful size."""
        self.waiting = 0
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        taken(self.writer)
        try:
            if fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, SIZE) < _WORTH:
                raise OSError(f"a pipe holds less than {_WORTH} bytes")
        except OSError:
            self.close()
            raise

    def fill_from(self, descriptor: int, most: int) -> int:
        """Move some bytes of a socket into the pipe, which is empty. Returns how many, 0 at the end of the stream. Raises OSError,
        BlockingIOError where nothing has come."""
        count = os.splice(descriptor, self.writer, min(most, SIZE), flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        self.waiting += count
        return count

    def empty_into(self, descriptor: int) -> int:
        """Move some of what is waiting into a socket. Returns how much. Raises OSError, BlockingIOError where there is no room."""
        count = os.splice(self.reader, descriptor, self.waiting, flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK)
        self.waiting -= count
        return count

    def close(self) -> None:
        """Give the descriptors back. To be called once."""
        os.close(self.reader)
        os.close(self.writer)


class Pipes:
    """The pipes of a process."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self.lent = 0

    def borrow(self) -> Pipe | None:
        """An empty pipe, or None where there is none to be had. Each is given back."""
        if self.lent >= _AT_MOST:
            return None
        pipe = self._idle.pop() if self._idle else None
        if pipe is None:
            with contextlib.suppress(OSError):
                pipe = Pipe()
        if pipe is not None:
            self.lent += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """What somebody's transfer left in a pipe must not reach anybody else: such a pipe is closed."""
        self.lent -= 1
        if pipe.waiting or len(self._idle) >= _KEPT:
            pipe.close()
        else:
            self._idle.append(pipe)


#: Those of this process.
pipes = Pipes()
