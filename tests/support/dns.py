"""A name server on loopback whose answers a test sets, and which counts what it was asked."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

from dns import flags, message, rcode, rdataclass, rdatatype, rrset


class NameServer:
    """`zone`: name and type to (TTL, addresses); `silent` names get no answer, `slow` ones theirs after some seconds.

    It runs in threads, which are greenlets in a process that is monkey-patched. `asked` counts the questions by name and type.
    """

    def __init__(self) -> None:
        self.zone: dict[tuple[str, str], tuple[int, list[str]]] = {}
        self.silent: set[tuple[str, str]] = set()
        self.slow: dict[tuple[str, str], float] = {}
        self.asked: dict[tuple[str, str], int] = {}
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._sock.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, client = self._sock.recvfrom(4096)
                if not data:
                    return
                threading.Thread(target=self._answer, args=(data, client), daemon=True).start()

    def _answer(self, data: bytes, client: tuple[str, int]) -> None:
        query = message.from_wire(data)
        question = query.question[0]
        key = question.name.to_text(omit_final_dot=True), rdatatype.to_text(question.rdtype)
        self.asked[key] = self.asked.get(key, 0) + 1
        if key in self.silent:
            return
        time.sleep(self.slow.get(key, 0.0))
        reply = message.make_response(query)
        reply.flags |= flags.RA
        if key in self.zone:
            ttl, addresses = self.zone[key]
            if addresses:
                reply.answer.append(rrset.from_text(question.name, ttl, rdataclass.IN, question.rdtype, *addresses))
        elif not any(name == key[0] for name, _ in self.zone):
            reply.set_rcode(rcode.NXDOMAIN)
        with contextlib.suppress(OSError):
            self._sock.sendto(reply.to_wire(), client)

    def close(self) -> None:
        """Answer nothing any more."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
