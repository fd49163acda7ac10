"""Routes by hand of a running proxyd: `proxyctl add` and `remove`, traffic, and a master that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for


def test_a_route_by_hand_serves_outlives_the_master_and_is_removed(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("an admin token for routes\n")
    (tmp_path / "token").chmod(0o600)
    backend = Backend("by hand")
    system = System(tmp_path / "system", workers=1, admin__token_file=tmp_path / "token")

    def ctl(*words: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-m", "proxyd.ctl.main", *words], env=system.environment, capture_output=True, text=True,
                              timeout=60)
        return done.returncode, done.stdout + done.stderr

    try:
        assert system.client("other").route("other.test", backend.url)
        code, said = ctl("add", "hand.test,www.hand.test", backend.url, "--option", "timeout=7s", "--limit", "1000/minute")
        assert code == 0 and f"hand.test,www.hand.test/ to {backend.url}" in said, said
        route_id = said.partition(":")[0]
        # The answer came when every worker had it.
        assert system.get(host="www.hand.test").status == 200
        assert ctl("add", "hand.test", backend.url, "--service", "another")[0] == 1

        first = system.master_pid()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: system.ready() and system.master_pid() != first, 30)
        assert system.get(host="hand.test").status == 200
        shown = system.admin(f"/api/v1/routes/{route_id}").json()
        assert (shown["source"], shown["options"]) == ("hand", {"timeout": "7s"})

        code, said = ctl("remove", "other.test")
        assert code == 1 and "is not one by hand: other/i1 declares it" in said
        assert ctl("remove", f"{route_id},r999")[0] == 1 and system.get(host="hand.test").status == 200
        assert ctl("remove", "hand.test") == (0, f"{route_id}: removed\n")
        assert system.get(host="hand.test").status == 404
    finally:
        system.stop()
        backend.stop()
