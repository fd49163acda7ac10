"""What the tests of names run in a process of its own, monkey-patched as workers and the master are: each function is a
scenario that prints what happened as JSON. `python -m tests.net.patched SCENARIO`."""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 - after the patching, as in a worker
import socket  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402

import gevent  # noqa: E402

from proxyd.net import dial as dialling  # noqa: E402
from proxyd.net.resolver import ResolveError, Resolver  # noqa: E402
from tests.support.dns import NameServer  # noqa: E402


def timed(resolver: Resolver, host: str) -> tuple[object, float]:
    """The addresses or the error's text, and the seconds it took."""
    started = time.monotonic()
    try:
        found: object = list(resolver.addresses(host))
    except ResolveError as error:
        found = str(error.strerror)
    return found, time.monotonic() - started


def dead_names_hold_up_nobody(server: NameServer) -> object:
    server.zone["good.test", "A"] = (60, ["127.0.0.1"])
    server.zone["good.test", "AAAA"] = (60, [])
    resolver = Resolver([server.address], timeout=1.0)
    server.silent.update((f"dead{number}.test", kind) for number in range(40) for kind in ("A", "AAAA"))
    dead = [gevent.spawn(timed, resolver, f"dead{number}.test") for number in range(40)]
    gevent.sleep(0.1)
    good = [timed(resolver, host) for host in ("good.test", "localhost", "127.0.0.7", "::1")]
    gevent.joinall(dead)
    return {"good": [found for found, _ in good], "slowest": max(seconds for _, seconds in good),
            "dead": sorted({str(item.value[0]) for item in dead}), "dead_slowest": max(item.value[1] for item in dead)}


def one_query_for_many_waiters_and_the_ttl(server: NameServer) -> object:
    server.zone["app.test", "A"] = (1, ["127.0.0.1"])
    server.zone["app.test", "AAAA"] = (60, ["::1"])
    server.slow["app.test", "A"] = 0.2
    resolver = Resolver([server.address])
    waiters = [gevent.spawn(timed, resolver, name) for name in ("app.test", "APP.test", "app.test.") * 10]
    gevent.joinall(waiters)
    asked = dict(server.asked)
    timed(resolver, "app.test")
    again = server.asked["app.test", "A"]
    server.zone["app.test", "A"] = (1, ["127.0.0.2"])
    gevent.sleep(1.1)
    moved, _ = timed(resolver, "app.test")
    found = sorted({json.dumps(item.value[0]) for item in waiters})
    return {"found": found, "asked": sorted(asked.values()), "again": again, "moved": moved}


def an_aaaa_that_is_never_answered(server: NameServer) -> object:
    server.zone["half.test", "A"] = (60, ["127.0.0.1"])
    server.silent.add(("half.test", "AAAA"))
    return timed(Resolver([server.address], timeout=3.0), "half.test")


def what_fails_is_remembered_shortly(server: NameServer) -> object:
    resolver = Resolver([server.address], timeout=0.5)
    first = [timed(resolver, "nosuch.test")[0] for _ in range(5)]
    return {"said": first, "asked": server.asked["nosuch.test", "A"]}


def old_addresses_while_no_server_answers(server: NameServer) -> object:
    server.zone["kept.test", "A"] = (1, ["127.0.0.1"])
    server.zone["kept.test", "AAAA"] = (1, [])
    resolver = Resolver([server.address], timeout=0.3)
    before, _ = timed(resolver, "kept.test")
    server.silent.update((("kept.test", "A"), ("kept.test", "AAAA")))
    gevent.sleep(1.1)
    during = [timed(resolver, "kept.test") for _ in range(3)]
    return {"before": before, "during": [found for found, _ in during], "later_waits": [seconds for _, seconds in during[1:]]}


def old_addresses_while_too_much_is_asked(server: NameServer) -> object:
    from proxyd.net import resolver as module

    module.QUERIES_AT_MOST = 5
    server.zone["kept.test", "A"] = (1, ["127.0.0.1"])
    server.zone["kept.test", "AAAA"] = (1, [])
    resolver = Resolver([server.address], timeout=5)
    timed(resolver, "kept.test")
    gevent.sleep(1.1)
    server.silent.update((f"dead{number}.test", kind) for number in range(5) for kind in ("A", "AAAA"))
    dead = [gevent.spawn(timed, resolver, f"dead{number}.test") for number in range(5)]
    gevent.sleep(0.1)
    found = [timed(resolver, name)[0] for name in ("kept.test", "new.test")]
    gevent.killall(dead)
    return found


def the_hosts_file_comes_first(server: NameServer) -> object:
    with tempfile.NamedTemporaryFile("w", suffix=".hosts") as file:
        file.write("127.0.0.9 box.test  other.test # ::2 not.this\nnonsense box.test\n::1 box.test\n")
        file.flush()
        resolver = Resolver([server.address], hosts_file=file.name)
        found = {name: timed(resolver, name)[0] for name in ("box.test", "Other.test", "localhost", "deep.localhost")}
    return {"found": found, "asked": len(server.asked)}


def names_are_bounded(server: NameServer) -> object:
    from proxyd.net import resolver as module

    module.NAMES_AT_MOST = 10
    for number in range(50):
        server.zone[f"n{number}.test", "A"] = (60, ["127.0.0.1"])
        server.zone[f"n{number}.test", "AAAA"] = (60, [])
    resolver = Resolver([server.address])
    found = [timed(resolver, f"n{number}.test")[0] for number in range(50)]
    return {"all": found == [["127.0.0.1"]] * 50, "kept": len(resolver._names)}


def a_broken_family_costs_one_head_start(server: NameServer) -> object:
    # A listener with a full queue swallows what is sent to it, as a broken IPv6 does.
    while True:
        full, good = socket.socket(socket.AF_INET6), socket.socket()
        full.bind(("::1", 0))
        port = full.getsockname()[1]
        try:
            good.bind(("127.0.0.1", port))
            break
        except OSError:
            # Somebody else has it there.
            full.close()
            good.close()
    full.listen(0)
    fillers = [socket.socket(socket.AF_INET6) for _ in range(4)]
    for filler in fillers:
        filler.setblocking(False)
        filler.connect_ex(("::1", port))
    good.listen(16)
    server.zone["both.test", "A"] = (60, ["127.0.0.1"])
    server.zone["both.test", "AAAA"] = (60, ["::1"])
    dialling.use_resolver(Resolver([server.address]))
    seconds, peers = [], []
    for _ in range(2):
        started = time.monotonic()
        made = dialling.dial("both.test", port)
        seconds.append(time.monotonic() - started)
        peers.append(made.getpeername()[0])
    return {"peers": peers, "seconds": seconds}


def refused_everywhere(server: NameServer) -> object:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    server.zone["none.test", "A"] = (60, ["127.0.0.1", "127.0.0.2"])
    server.zone["none.test", "AAAA"] = (60, ["::1"])
    dialling.use_resolver(Resolver([server.address]))
    started = time.monotonic()
    try:
        dialling.dial("none.test", port)
    except OSError as error:
        return {"error": type(error).__name__, "seconds": time.monotonic() - started}
    return {"error": None}


if __name__ == "__main__":
    scenario: Callable[[NameServer], object] = globals()[sys.argv[1]]
    print(json.dumps(scenario(NameServer())))
