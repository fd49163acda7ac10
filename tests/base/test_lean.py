"""What keeps starts short, in processes of their own, since each can be patched once."""

from __future__ import annotations

import subprocess
import sys


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
        "      'GeventDidPatchAllEvent' in told, events.notify_and_call_entry_points is search)") == "True [] True True\n"


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


def test_no_worker_loads_libraries_that_it_does_not_use() -> None:
    assert run(
        "import sys\n"
        "import proxyd.server.worker, proxyd.server.application\n"
        "print([name for name in ('redis', 'acme', 'jinja2', 'flask') if name in sys.modules])") == "[]\n"
