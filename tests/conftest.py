"""Fixtures with real parts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from proxyd.net.targets import Targets, use_rules
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import migrate
from tests.support.backends import Backend, RawBackend
from tests.support.postgres import Postgres
from tests.support.redis import Redis
from tests.support.system import System

if "PYTHONPYCACHEPREFIX" not in os.environ and os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
    # Where Python may not keep what it compiled, each of the many processes that the tests start compiles 200 modules anew, and the
    # suite takes a fifth longer. So they keep it, but out of the tree.
    os.environ["PYTHONPYCACHEPREFIX"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "compiled")

# How long an example takes is the machine's affair: on a busy one, a deadline fails tests at random.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


#: Where the files are that take longest. A run over several processes gives out whole files: begun last, one would leave the others idle.
_LONGEST = ("chaos", "soak", "hosts", "deploys", "system", "edge", "scripts", "server", "store", "registry", "docs", "health")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--database postgresql`: the systems and stores that the fixtures make use a server. CI runs the suites of the registry and of the
    store on both."""
    parser.addoption("--database", choices=("sqlite", "postgresql"), default="sqlite", help="what the fixtures' systems and stores use")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the files first that take longest; the others stay in their order. Leave out what is about another database."""
    if config.getoption("--database") != "sqlite":
        for item in items:
            if item.get_closest_marker("sqlite") is not None:
                item.add_marker(pytest.mark.skip(reason="about SQLite itself"))
    first = {name: place for place, name in enumerate(_LONGEST)}
    tests = Path(__file__).parent
    items.sort(key=lambda item: first.get(item.path.relative_to(tests).parts[0], len(_LONGEST)))


@pytest.fixture(autouse=True)
def _no_rules_for_targets() -> Iterator[None]:
    """What a test's worker or check denies is no matter of the next test in this process."""
    yield
    use_rules(Targets())


@pytest.fixture(scope="session")
def _database(request: pytest.FixtureRequest) -> Iterator[Callable[[Path], dict[str, Any]]]:
    """The settings for a new database of a system whose files are in a folder."""
    if request.config.getoption("--database") == "sqlite":
        yield lambda folder: {}
        return
    server = Postgres()
    yield lambda folder: {"database__url": server.new_database(), "database__shared_memory": str(folder)}
    server.close()


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory, _database: Callable[[Path], dict[str, Any]]) -> Iterator[Callable[[], System]]:
    """The proxyd of `system`. A start costs a second of processor time, so that there is another one only where tests left it unwell."""
    running: list[System] = []

    def current() -> System:
        if running and not running[0].recovers():
            running.pop().stop()
        if not running:
            folder = tmp_path_factory.mktemp("system")
            running.append(System(folder, **_database(folder)))
        return running[0]

    yield current
    for one in running:
        one.stop()


@pytest.fixture(scope="module")
def system(_running: Callable[[], System]) -> Iterator[System]:
    """One proxyd with two workers for all tests of a module, and of other modules before and after it: use services and domains of your
    own, and count nothing that is not yours."""
    running = _running()
    yield running
    running.end_sessions()


@pytest.fixture
def new_system(tmp_path: Path, _database: Callable[[Path], dict[str, Any]]) -> Iterator[Callable[..., System]]:
    """Make a proxyd with settings of the test's own."""
    made: list[System] = []

    def make(**settings: Any) -> System:
        folder = tmp_path / f"system{len(made)}"
        made.append(System(folder, **{**(_database(folder) if "database__url" not in settings else {}), **settings}))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def backend() -> Iterator[Backend]:
    """A well-behaved backend."""
    running = Backend()
    yield running
    running.stop()


@pytest.fixture
def new_backend() -> Iterator[Callable[..., Backend]]:
    """Make backends by name."""
    made: list[Backend] = []

    def make(name: str = "backend", port: int = 0) -> Backend:
        made.append(Backend(name, port))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def raw_backend() -> Iterator[Callable[..., RawBackend]]:
    """Make backends that do what the test tells them."""
    made: list[RawBackend] = []

    def make(serve: Callable[..., None]) -> RawBackend:
        made.append(RawBackend(serve))
        return made[-1]

    yield make
    for running in made:
        running.stop()


@pytest.fixture
def store(tmp_path: Path, _database: Callable[[Path], dict[str, Any]]) -> Iterator[Store]:
    """An empty database that is open in this process. SQLite's is p.db in the test's folder."""
    opened = Store(_database(tmp_path).get("database__url", f"sqlite:///{tmp_path}/p.db"))
    opened.open()
    migrate(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server for all tests of a module; each asks it for a database of its own."""
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A running redis-server."""
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port that is listened on but lets no one in: its queue is full, so that the kernel drops each SYN."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        yield listener.getsockname()[1]
        for sock in waiting:
            sock.close()
