"""What keeps starts short, in processes of their own, since each can be patched once."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_all_is_patched_and_no_package_is_read_for_it() -> None:
    assert run(
        "from importlib import metadata\n"
        "asked = []\n"
        "metadata.entry_points = lambda **named: asked.append(named) or ()\n"
        "from proxyd.base import lean\n"
        "from gevent import events, monkey\n"
        "search = events.notify_and_call_entry_points\n"
        "told = []\n"
        "events.subscribers.append(lambda event: told.append(type(event).__name__))\n"
        "lean.patch_all()\n"
        "print(all(map(monkey.is_module_patched, ('socket', 'ssl', 'threading', 'time', 'select', 'subprocess'))), asked,\n"
        "      'GeventDidPatchAllEvent' in told, events.notify_and_call_entry_points is search,\n"
        "      __import__('gevent').spawn(int).spawning_stack)") == "True [] True True None\n"


def test_what_is_left_out_of_one_import_can_be_had_by_the_next() -> None:
    # bisect stands for a library that another one uses where it is installed.
    assert run(
        "import sys\n"
        "from proxyd.base.lean import without\n"
        "sys.modules.pop('bisect', None)\n"
        "with without('bisect', 'os'):\n"
        "    import os\n"
        "    try:\n"
        "        import bisect\n"
        "    except ImportError:\n"
        "        print('absent')\n"
        "import bisect\n"
        "print(bisect.bisect([1], 2), os.sep)") == "absent\n1 /\n"


def test_what_is_made_to_stay_is_not_looked_at_over_and_over() -> None:
    assert run(
        "import gc\n"
        "from proxyd.base.lean import uncollected\n"
        "seen = []\n"
        "gc.callbacks.append(lambda phase, info: seen.append(phase))\n"
        "with uncollected(), uncollected():\n"
        "    kept = [[number] for number in range(10_000)]\n"
        "    print(len(seen))\n"
        "print(gc.isenabled())\n"
        "kept += [[number] for number in range(10_000)]\n"
        "print(len(seen) > 10)") == "0\nTrue\nTrue\n"


#: Loaded where they are configured, and not where they are merely installed: each is one to four MiB in each process.
IDLE = ("redis", "acme", "jinja2", "flask", "docker", "psycopg2", "psycopg", "cryptography", "bcrypt")


@pytest.mark.parametrize("modules", ["proxyd.server.worker, proxyd.server.application, proxyd.server.gunicorn_conf",
                                     "proxyd.server.master"])
def test_no_process_loads_libraries_that_it_does_not_use(modules: str) -> None:
    assert run(
        "import sys\n"
        "from proxyd.base.lean import patch_all\n"
        "patch_all()\n"
        f"import {modules}\n"
        f"print([name for name in {IDLE} if name in sys.modules])") == "[]\n"


def test_peewee_gets_the_driver_of_a_server_when_one_is_used() -> None:
    assert run(
        "import sys\n"
        "from proxyd.store.sql import postgres\n"
        "before = 'psycopg2' in sys.modules\n"
        "made = postgres.server('postgresql://nobody@127.0.0.1:9/none', 1.0)\n"
        "made._adapter.check_driver()\n"
        "import peewee, psycopg2\n"
        "print(before, made._adapter.txn_idle == 0, peewee.psycopg2 is psycopg2)") == "False True True\n"


#: Prints what the modules of a worker, imported in advance, have kept of the standard library that is patched later.
KEPT = """
import functools, gc, sys, threading, types
from gevent import monkey
from gevent._hub_local import get_hub_if_exists
from gevent.local import local
from proxyd.base import lean
from proxyd.server.gunicorn_conf import WORKERS_NEED
from proxyd.server.supervisor import MASTER_NEEDS
lean.preload(*WORKERS_NEED)
lean.preload(*MASTER_NEEDS)
assert threading.active_count() == 1, "a thread of the arbiter would be missing in its children"
assert get_hub_if_exists() is None, "a hub of the arbiter would be forked"
before = dict(sys.modules)
lean.patch_all()
print("imported later:", [name for name in sys.modules if name.startswith("proxyd.") and name not in before])
old = {id(value): (name, of) for name, values in monkey.saved.items() for of, value in values.items() if callable(value)}
own = {"posix", *monkey.saved, *(name for name in before if name.split(".")[0] in ("gevent", "greenlet") or name.startswith("_"))}

def kept(value, depth=0):
    if id(value) in old:
        yield old[id(value)]
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            yield from kept(part)
    elif isinstance(value, types.FunctionType):
        for part in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            yield from kept(part)
    elif isinstance(value, type) and depth < 2:
        for base in value.__mro__[1:]:
            if id(base) in old:
                yield old[id(base)]
        for part in vars(value).values():
            yield from kept(part.__func__ if isinstance(part, (staticmethod, classmethod)) else part, depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)) and depth < 2 and len(value) < 1000:
        for part in value:
            yield from kept(part, depth + 1)

for name, module in sorted(before.items()):
    if name in own or module is None:
        continue
    for of, value in list(vars(module).items()):
        for library, what in kept(value):
            # What is made of it elsewhere is found there.
            if name != library and (id(value) in old or getattr(value, "__module__", name) == name):
                print(f"{name}.{of}: {library}.{what}")
"""

#: Those that are meant.
MEANT = {
    # It never runs: workers are replaced by signals.
    "gunicorn.reloader",
    # Progress on a terminal, which the oldest `limits` that is allowed brings along.
    "rich.live", "rich.progress",
    # A queue makes its locks when it is made.
    "urllib3.connectionpool", "requests.packages.urllib3.connectionpool",
    # Locks that are held for a few instructions, in which nobody gives way, and thread numbers.
    "asyncio.base_futures", "functools", "prometheus_client.metrics", "prometheus_client.registry", "prometheus_client.values", "reprlib",
    "tempfile", "wrapt.synchronization",
    # A thread of its own, which no greenlet may hold up.
    "proxyd.store.sql.lifesign",
    # For programs that replace the library's resolver by this one, and want it back.
    "dns.resolver",
    # Our resolver gives it another one.
    "dns.query",
    # They ask the kernel at once, and do not wait.
    "proxyd.net.peer", "proxyd.net.stream", "proxyd.net.tlsstream", "proxyd.proxy.core.busywatch", "proxyd.server.accept",
    "proxyd.store.sql.postgres",
    # A wait of a tenth of a millisecond for another process, which must not give way.
    "proxyd.store.memory.shared",
}


def test_a_library_that_was_imported_in_advance_asks_over_tls() -> None:
    # The SSLContext of the library calls itself without end where it was kept.
    assert run(
        "from proxyd.base import lean\n"
        "lean.preload('requests')\n"
        "lean.patch_all()\n"
        "from urllib3.util.ssl_ import create_urllib3_context\n"
        "import ssl\n"
        "print(type(create_urllib3_context()) is ssl.SSLContext)") == "True\n"


def test_what_is_imported_in_advance_keeps_nothing_that_is_patched_later() -> None:
    first, *found = run(KEPT).splitlines()
    assert first == "imported later: []"
    assert [line for line in found if line.split(": ")[0].rpartition(".")[0] not in MEANT] == []
