"""Turns: one of those that never pause goes on at a time, and others are looked at in between."""

from __future__ import annotations

import time

import gevent
from gevent import socket

from proxyd.net.turns import SLICE, let_others_run


def _busy(name: str, order: list[str], ended: list[bool]) -> None:
    while not ended:
        order.append(name)
        until = time.monotonic() + SLICE
        while time.monotonic() <= until:
            pass
        let_others_run()


def test_whoever_has_little_to_do_waits_for_one_turn_of_many() -> None:
    order: list[str] = []
    ended: list[bool] = []
    busy = [gevent.spawn(_busy, f"busy {number}", order, ended) for number in range(8)]
    near, far = socket.socketpair()

    def echo() -> None:
        while data := far.recv(1):
            far.sendall(data)

    echoing = gevent.spawn(echo)
    gevent.sleep(0)
    rounds = 50
    for _ in range(rounds):
        order.append("asked")
        near.sendall(b"x")
        assert near.recv(1) == b"x"
    near.close()
    ended.append(True)
    gevent.joinall([*busy, echoing], timeout=10, raise_error=True)
    began = order.index("asked")
    turns = sum(name != "asked" for name in order[began : len(order) - 8])
    # The way there and back are two wakings: a turn or two for each, where it was eight.
    assert turns <= rounds * 5


def test_they_go_on_in_turn() -> None:
    order: list[str] = []
    ended: list[bool] = []
    busy = [gevent.spawn(_busy, str(number), order, ended) for number in range(3)]
    while len(order) < 30:
        gevent.sleep(0.001)
    ended.append(True)
    gevent.joinall(busy, timeout=10, raise_error=True)
    assert order[:30] == ["0", "1", "2"] * 10


def test_many_that_have_little_to_do_go_on_together() -> None:
    rounds = 0

    def look() -> None:
        nonlocal rounds
        rounds += 1
        check.start(look)

    ended: list[int] = []

    def work() -> None:
        let_others_run()
        ended.append(rounds)

    little = [gevent.spawn(work) for _ in range(200)]
    check = gevent.get_hub().loop.check()
    check.start(look)
    gevent.joinall(little, timeout=10, raise_error=True)
    check.close()
    assert len(ended) == 200
    # One in a round would be two hundred.
    assert rounds < 100


def test_one_that_is_killed_leaves_the_line() -> None:
    order: list[str] = []
    ended: list[bool] = []
    first, second = (gevent.spawn(_busy, name, order, ended) for name in ("first", "second"))
    gevent.sleep(SLICE)
    first.kill()
    del order[:]
    while len(order) < 3:
        gevent.sleep(0.001)
    second.kill()
    assert set(order) == {"second"}
    # An empty line keeps no loop awake: this returns.
    gevent.sleep(SLICE)


def test_a_loop_that_is_never_idle_lets_them_go_on_after_a_while() -> None:
    order: list[str] = []
    ended: list[bool] = []
    loop = gevent.get_hub().loop

    def again() -> None:
        if not ended:
            loop.run_callback(again)

    loop.run_callback(again)
    busy = gevent.spawn(_busy, "busy", order, ended)
    while len(order) < 3:
        gevent.sleep(0.001)
    ended.append(True)
    busy.join(timeout=10)
    assert busy.dead
