"""What `proxyd check` says of several hosts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.config.ini import Problem
from proxyd.config.settings import Settings, load
from proxyd.server import hostchecks
from proxyd.server.hostchecks import hosts, network_file_system, warnings
from proxyd.store.sql.database import Store
from proxyd.store.sql.membership import Membership
from proxyd.store.sql.migrations import migrate
from tests.support.postgres import Postgres
from tests.support.waiting import wait_for

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 21 0:31 / /srv/data rw - nfs4 filer:/data rw,vers=4.2
37 36 8:2 / /srv/data/local rw,relatime shared:3 master:1 - xfs /dev/sdb1 rw
38 21 0:32 / /mnt/two\\040words rw - cifs //filer/share rw
39 21 0:33 / /twice rw - nfs filer:/old rw
40 21 8:3 / /twice rw - ext4 /dev/sdc1 rw
"""


@pytest.mark.parametrize(("directory", "kind"), [
    ("/srv/data", "nfs4"), ("/srv/data/proxyd", "nfs4"), ("/srv/data/local/proxyd", ""), ("/srv/database", ""), ("/var/lib/proxyd", ""),
    ("/mnt/two words/p", "cifs"), ("/twice/p", "")])
def test_the_file_system_of_a_directory_is_found(directory: str, kind: str) -> None:
    assert network_file_system(directory, MOUNTS) == kind


def told(settings: Settings, mounts: str | None = None) -> list[str]:
    return [str(problem) for problem in hosts(settings, lambda section, key, said: Problem("f", 1, f"[{section}] {key}: {said}"), mounts)]


def settings(**environment: str) -> Settings:
    return load("/dev/null", {f"PROXYD_{key.upper()}": value for key, value in environment.items()})


def test_files_that_hosts_would_share_are_refused() -> None:
    (said,) = told(settings(database_url="sqlite:////srv/data/p.db"), MOUNTS)
    assert "[database] url: /srv/data/p.db is on a network file system (nfs4)" in said
    (said,) = told(settings(database_url="sqlite:////var/p.db", database_shared_memory="/srv/data/memory"), MOUNTS)
    assert "[database] shared_memory: /srv/data/memory is on a network file system" in said
    assert told(settings(database_url="sqlite:////srv/data/local/p.db"), MOUNTS) == []
    assert told(settings(database_url="sqlite:////var/p.db")) == []


@pytest.fixture
def other(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The url of a database that has a host `web1` of another boot, which lives."""
    url = postgres.new_database()
    store = Store(url)
    store.open()
    migrate(store)
    over = threading.Event()

    def live() -> None:
        member = Membership(store, "web1")
        while not over.wait(0.1):
            member.look()
        member.close()

    # What is checked runs elsewhere.
    monkeypatch.setattr(hostchecks, "BOOT", "another boot")
    thread = threading.Thread(target=live)
    thread.start()
    wait_for(lambda: postgres.sql("SELECT name FROM hosts", url.rpartition("/")[2]) == "web1", what="the sign of life")
    yield url
    over.set()
    thread.join()
    store.close()


def test_a_name_that_a_living_host_has_is_refused(other: str, tmp_path: Path) -> None:
    shared = {"database_url": other, "database_shared_memory": str(tmp_path)}
    (said,) = told(settings(hosts_name="web1", **shared))
    assert "[hosts] name: another host of this database is called web1, and lives" in said
    assert told(settings(hosts_name="web2", **shared)) == []


def test_a_host_that_is_gone_or_is_this_one_keeps_no_name(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.new_database()
    store = Store(url)
    store.open()
    migrate(store)
    member = Membership(store, "web1")
    member.look()
    chosen = settings(hosts_name="web1", database_url=url, database_shared_memory=str(tmp_path))
    assert told(chosen) == []
    monkeypatch.setattr(hostchecks, "BOOT", "another boot")
    assert told(chosen) == []
    member.close()
    store.close()


def test_limits_that_each_host_counts_alone_are_a_warning(other: str) -> None:
    ((section, said),) = warnings(settings(hosts_name="web2", database_url=other))
    assert section == "ratelimit"
    assert "with web1 and this one, a client gets 2 times each limit" in said
    assert list(warnings(settings(hosts_name="web2", database_url=other, ratelimit_storage="redis://127.0.0.1:1/0"))) == []
    assert list(warnings(settings(hosts_name="web1", database_url=other))) == []


def test_a_server_that_is_not_there_is_no_problem_of_hosts() -> None:
    away = settings(database_url="postgresql://proxyd@127.0.0.1:1/none")
    assert (told(away), list(warnings(away))) == ([], [])
