"""What tests of connections to upstreams share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.system import System


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd whose connections are all of one worker."""
    running = System(tmp_path_factory.mktemp("upstream") / "system", workers=1)
    yield running
    running.stop()
