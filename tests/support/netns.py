"""A network of several hosts on one machine: each host is a network namespace with two legs, on the bridge `front`, where clients and
backends are, and on the bridge `back`, where the database is and hosts speak to each other.

The bridges are in the namespace of this process, which has to be one of its own (`enter`). So nothing can reach any real network. A
namespace lives as long as a process that is in it, and goes with the last one: there is nothing to clean up, however a run ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal

#: The address of this process on each bridge.
FRONT, BACK = "10.77.0.1", "10.78.0.1"
#: In the environment of a process that has a namespace of its own.
_OWN = "NETWORK_OF_ITS_OWN"
#: What nobody has: frames to it are lost without a word.
_NOBODY = "02:00:00:00:00:01"

Way = Literal["both ways", "out", "in"]


def missing() -> str:
    """Why namespaces can't be made here; an empty text where they can."""
    for program in ("ip", "tc", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"there is no program {program}"
    done = subprocess.run(["unshare", "--net", "sh", "-c", "ip link add bridge0 type bridge && ip link add v0 type veth peer name v1"],
                          capture_output=True, text=True, check=False)
    return f"network namespaces are not allowed here: {done.stderr.strip()}" if done.returncode else ""


def enter(module: str, *more: str) -> None:
    """Run `python -m module` again with the same arguments, and `more`, in a network namespace of its own, unless this is it."""
    if not os.environ.get(_OWN):
        os.environ[_OWN] = "yes"
        os.execvp("unshare", ["unshare", "--net", sys.executable, "-m", module, *sys.argv[1:], *more])


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


class Frame:
    """The bridges, and the places on them."""

    def __init__(self) -> None:
        assert os.environ.get(_OWN), "this process has no network of its own"
        self.places: list[Place] = []
        self.front, self.back = FRONT, BACK
        _run("ip", "link", "set", "lo", "up")
        for bridge, address in (("front", FRONT), ("back", BACK)):
            _run("ip", "link", "add", bridge, "type", "bridge")
            _run("ip", "address", "add", f"{address}/24", "dev", bridge)
            _run("ip", "link", "set", bridge, "up")

    def place(self) -> Place:
        """Make one more host."""
        made = Place(self, 11 + len(self.places))
        self.places.append(made)
        return made

    def close(self) -> None:
        """End the namespaces."""
        for place in self.places:
            place.close()


class Place:
    """A network namespace with an address on each bridge; `inside` goes before a command that is to run there."""

    def __init__(self, frame: Frame, number: int) -> None:
        self._frame = frame
        self._number = number
        self.front, self.back = f"10.77.0.{number}", f"10.78.0.{number}"
        #: What a program listens at to be reached over both legs.
        self.bind = "0.0.0.0"
        # It says that it is there when it is in the namespace.
        self._holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000000"], stdout=subprocess.PIPE)
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline()
        self.inside: tuple[str, ...] = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net")
        for leg, address in (("front", self.front), ("back", self.back)):
            _run("ip", "link", "add", f"{leg}{number}", "type", "veth", "peer", "name", leg, "netns", str(self._holder.pid))
            _run("ip", "link", "set", f"{leg}{number}", "master", leg, "up")
            _run(*self.inside, "ip", "address", "add", f"{address}/24", "dev", leg)
            _run(*self.inside, "ip", "link", "set", leg, "up")
        _run(*self.inside, "ip", "link", "set", "lo", "up")

    @contextlib.contextmanager
    def cut_off(self, way: Way) -> Iterator[None]:
        """Lose what goes over `back` to this host, from it, or both, without a word to anybody."""
        leg = f"back{self._number}"
        if way == "both ways":
            _run("ip", "link", "set", leg, "nomaster")
            try:
                yield
            finally:
                _run("ip", "link", "set", leg, "master", "back")
            return
        others = [((), "back", BACK), *((place.inside, "back", place.back) for place in self._frame.places if place is not self)]
        wrong = ([(self.inside, "back", address) for _, _, address in others] if way == "out"
                 else [(inside, device, self.back) for inside, device, _ in others])
        try:
            for inside, device, address in wrong:
                _run(*inside, "ip", "neighbour", "replace", address, "lladdr", _NOBODY, "nud", "permanent", "dev", device)
            yield
        finally:
            for inside, device, address in wrong:
                _run(*inside, "ip", "neighbour", "del", address, "dev", device)

    @contextlib.contextmanager
    def slow(self, rate: str) -> Iterator[None]:
        """Let no more go over `back` in either direction than `rate` (of tc, like 100kbit); what is too much waits for up to a second."""
        ends = (((), f"back{self._number}"), (self.inside, "back"))
        limit = ("root", "tbf", "rate", rate, "burst", "3000", "latency", "1s")
        try:
            for inside, device in ends:
                _run(*inside, "tc", "qdisc", "replace", "dev", device, *limit)
            yield
        finally:
            for inside, device in ends:
                subprocess.run([*inside, "tc", "qdisc", "del", "dev", device, "root"], capture_output=True, check=False)

    def close(self) -> None:
        """End the process that holds it."""
        self._holder.kill()
        self._holder.communicate()
