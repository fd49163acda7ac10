"""Certificates and the files they come from."""

from __future__ import annotations

import time
from pathlib import Path

from proxyd.net.tls import RELOAD_SECONDS, Files


def test_files_that_changed_are_named_once_and_not_looked_at_in_every_moment(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    first.write_text("1")
    files = Files([str(first), str(second)])
    now = time.monotonic() + RELOAD_SECONDS + 1
    assert files.changed(now) == []
    first.write_text("12")
    second.write_text("2")
    assert files.changed(now + RELOAD_SECONDS / 2) == []
    assert files.changed(now + RELOAD_SECONDS) == [str(first), str(second)]
    assert files.changed(now + 2 * RELOAD_SECONDS) == []
    second.unlink()
    assert files.changed(now + 3 * RELOAD_SECONDS) == [str(second)]
