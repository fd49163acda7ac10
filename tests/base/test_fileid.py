"""A file is told from every other one, also from one that was deleted and had its number."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxyd.base import fileid
from proxyd.base.fileid import identity, identity_of, same


@pytest.fixture(params=["statx", "stat"])
def known(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the system tells when a file was made."""
    if request.param == "stat":
        monkeypatch.setattr(fileid, "_statx", None)
    return bool(request.param == "statx")


def test_a_file_is_the_same_by_name_by_descriptor_and_under_another_name(tmp_path: Path, known: bool) -> None:
    path = tmp_path / "a"
    path.write_text("x")
    found = identity(str(path))
    status = os.stat(path)
    assert found is not None and found[:2] == (status.st_dev, status.st_ino) and bool(found[2]) == known
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert identity_of(descriptor) == found
    finally:
        os.close(descriptor)
    path.write_text("changed")
    os.link(path, tmp_path / "b")
    path.rename(tmp_path / "c")
    assert identity(str(tmp_path / "b")) == identity(str(tmp_path / "c")) == found
    assert identity(str(path)) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        identity_of(descriptor)


def test_a_new_file_is_another_even_with_the_number_of_a_deleted_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    seen = set()
    for _ in range(20):
        path.write_text("x")
        made = identity(str(path))
        # The kernel's clock for files moves on every few milliseconds.
        began = path.stat().st_mtime_ns
        path.unlink()
        while True:
            path.write_text("x")
            if path.stat().st_mtime_ns != began:
                break
        path.unlink()
        assert made not in seen
        seen.add(made)


@pytest.mark.parametrize(("one", "other", "expected"), [
    ((1, 2, 3), (1, 2, 3), True), ((1, 2, 3), (1, 2, 4), False), ((1, 2, 3), (1, 3, 3), False), ((1, 2, 0), (1, 2, 4), True),
    ((1, 2, 4), (1, 2, 0), True), ((1, 2, 0), (2, 2, 0), False), (None, (1, 2, 3), False), ((1, 2, 3), None, False), (None, None, False)])
def test_where_the_time_is_not_known_the_number_has_to_do(
        one: fileid.Identity, other: fileid.Identity, expected: bool) -> None:
    assert same(one, other) is expected
