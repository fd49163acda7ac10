"""Who may read the files: what proxyd makes is nobody else's business, and a secret that is open to everybody is named."""

from __future__ import annotations

import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.store.memory.shared import FILES, SharedFile
from proxyd.store.sql import migrations
from proxyd.store.sql.database import Store
from proxyd.store.sql.kept import KeptFile
from proxyd.store.sql.lock import MasterLock
from tests.support.certificates import Authority
from tests.support.system import ROOT, System
from tests.support.waiting import free_port


def modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_every_file_is_made_for_owner_and_group_whatever_the_umask_is(tmp_path: Path) -> None:
    folder = tmp_path / "open to all"
    folder.mkdir()
    folder.chmod(0o777)
    store = Store(f"sqlite:///{folder}/p.db")
    lock = MasterLock(store.path, str(folder))
    assert lock.take()
    store.open()
    migrations.migrate(store)
    files = [SharedFile(str(folder / name), 4096, b"test") for name in FILES]
    KeptFile(str(folder / "proxyd.table"), 1, {}).finish()
    try:
        assert modes(folder) == dict.fromkeys(("p.db", "p.db-wal", "p.db-shm", "p.db.lock", "proxyd.table", *FILES), 0o640)
        (folder / "p.db").unlink()
        store.put_back()
        store.call(lambda: None)
        assert modes(folder)["p.db"] == 0o640
    finally:
        for file in files:
            file.close()
        store.close()
        lock.release()


@pytest.mark.usefixtures("umask")
def test_backups_and_what_is_restored_are_so_too(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/p.db")
    store.open()
    migrations.migrate(store)
    store.close()
    environment = {**os.environ, "PROXYD_DATABASE_URL": f"sqlite:///{tmp_path}/p.db", "PYTHONPATH": str(ROOT)}

    def run(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    made = run("scripts/backup_database.py", str(tmp_path / "backups"), "3")
    assert modes(tmp_path / "backups") == {Path(made).name: 0o640}
    (tmp_path / "p.db").unlink()
    (tmp_path / "p.db.lock").unlink(missing_ok=True)
    run("scripts/restore_database.py", made, "restore")
    assert {name: mode for name, mode in modes(tmp_path).items() if "p.db" in name} == {
        "p.db": 0o640, "p.db.lock": 0o640, ".backups-of-p.db": 0o640}


@pytest.mark.parametrize(("found", "kept"), [(0o600, 0o600), (0o660, 0o660), (0o644, 0o640), (0o666, 0o660)])
def test_what_an_operator_gave_to_owner_and_group_stays_and_what_is_open_to_all_is_closed(
        tmp_path: Path, caplog: pytest.LogCaptureFixture, found: int, kept: int) -> None:
    path, board = tmp_path / "p.db", tmp_path / "board"
    Store(f"sqlite:///{path}").open()
    SharedFile(str(board), 4096, b"test").close()
    lock = MasterLock(str(path), str(tmp_path))
    assert lock.take()
    lock.release()
    files = (path, board, Path(lock.path))
    for file in files:
        file.chmod(found)
    with caplog.at_level(logging.WARNING, "proxyd"):
        Store(f"sqlite:///{path}").open()
        SharedFile(str(board), 4096, b"test").close()
        assert lock.take()
        lock.release()
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [kept] * 3
    assert [record.getMessage() for record in caplog.records] == ([] if found == kept else [
        f"{file} was open to everybody (mode {found:04o}): it has mode {kept:04o} now" for file in files])


def test_a_key_or_token_that_everybody_can_read_is_named_at_the_start_and_by_the_check(tmp_path: Path) -> None:
    key = Authority(tmp_path).issue("key.pem", "exact.test")
    tokens, token = tmp_path / "tokens.ini", tmp_path / "token"
    tokens.write_text("")
    token.write_text("abc\n")
    for path in (key, tokens, token):
        Path(path).chmod(0o644)
    system = System(tmp_path / "system", workers=1, tls__bind=f"127.0.0.1:{free_port()}", tls__certificates=key,
                    registry__tokens_file=tokens, admin__token_file=token)
    try:
        for path in (key, tokens, token):
            told = f"{path} has mode 0644, so everybody on this host can read it: chmod 0640 {path}"
            assert system.log().count(told) == 1, system.log()
    finally:
        system.stop()

    def check() -> list[str]:
        done = subprocess.run([sys.executable, "-m", "proxyd", "check"], cwd=tmp_path, env=system.environment, capture_output=True,
                              text=True, timeout=30)
        return [line for line in done.stderr.splitlines() if "everybody" in line]

    assert [line.split()[:3] for line in check()] == [["warning:", f"[{section}]", str(path)] for section, path in (
        ("tls", key), ("registry", tokens), ("admin", token))]
    for path in (key, tokens, token):
        Path(path).chmod(0o640)
    assert check() == []
